"""Hashes of files, and where a user's own lie."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Literal

import pytest

from flashportrait import files
from flashportrait.files import sha256_of, user_folder


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
