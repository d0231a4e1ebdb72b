"""Hashes of files, files that grow, and where a user's own lie."""

from __future__ import annotations

import asyncio
import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest

from flashportrait import files
from flashportrait.files import growing, sha256_of, user_folder


def test_files_are_hashed_one_after_another(tmp_path: Path):
    first, second = tmp_path / "a", tmp_path / "b"
    first.write_bytes(b"one" * 1_000_000)
    second.write_bytes(b"two")
    assert sha256_of(first) == hashlib.sha256(first.read_bytes()).hexdigest()
    whole = b"start" + first.read_bytes() + second.read_bytes()
    assert sha256_of([first, second], b"start") == hashlib.sha256(whole).hexdigest()


def test_a_file_that_can_not_be_read_is_named(tmp_path: Path):
    with pytest.raises(OSError, match="gone") as refusal:
        sha256_of([tmp_path / "gone"])
    assert refusal.value.filename == str(tmp_path / "gone") or refusal.value.filename == tmp_path / "gone"


def test_what_is_written_last_to_a_growing_file_is_not_missed(tmp_path: Path):
    path = tmp_path / "growing"
    path.write_bytes(b"one")
    looks = 0

    def grows() -> bool:
        """It ends right after it has been asked for the second time, having written once more."""
        nonlocal looks
        looks += 1
        if looks == 2:
            with path.open("ab") as file:
                file.write(b"two")
            path.rename(tmp_path / "whole")
        return looks < 2

    async def read() -> list[bytes]:
        return [block async for block in growing(path.open("rb"), grows)]

    with ThreadPoolExecutor() as pool:  # a thread of its own: a browser that other tests drive keeps a loop in this one
        assert pool.submit(asyncio.run, read()).result() == [b"one", b"two"]


@pytest.mark.parametrize(
    ("kind", "platform", "variable"),
    [
        ("cache", "linux", "XDG_CACHE_HOME"),
        ("cache", "win32", "LOCALAPPDATA"),
        ("config", "linux", "XDG_CONFIG_HOME"),
        ("config", "win32", "APPDATA"),
    ],
)
def test_folders_are_the_platforms(
    kind: Literal["cache", "config"], platform: str, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv(f"FLASHPORTRAIT_{kind.upper()}", raising=False)
    monkeypatch.setattr(files.sys, "platform", platform)
    monkeypatch.setenv(variable, str(tmp_path))
    assert user_folder(kind) == tmp_path / "flashportrait"
    monkeypatch.setenv(f"FLASHPORTRAIT_{kind.upper()}", str(tmp_path / "own"))
    assert user_folder(kind) == tmp_path / "own"
