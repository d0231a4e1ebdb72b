"""docs/service.md: its commands and its client, run as they are written."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from batches import frames_of
from serving import Server

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "service.md").read_text()
ADDRESS = "http://127.0.0.1:8000"


def block(language: str) -> str:
    """The page's one block in that language."""
    found = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
    assert len(found) == 1
    return found[0]


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_the_commands_work_as_they_are_written(server: Server, tmp_path: Path):
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    script = block("bash").replace(ADDRESS, str(server.client.base_url).rstrip("/"))
    told = subprocess.run(["bash", "-euc", script], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stderr
    assert "event: done" in told.stdout
    assert frames_of(tmp_path / "result.mp4").shape == (150, 256, 256, 3)


def test_the_client_works_as_it_is_written(server: Server, tmp_path: Path):
    program = tmp_path / "client.py"
    program.write_text(block("python"))
    portrait, driving = ROOT / "examples" / "portrait_1.jpg", ROOT / "examples" / "driving_photo.mp4"
    command = [sys.executable, program, portrait, driving, tmp_path / "out.mp4", str(server.client.base_url)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ})
    assert told.returncode == 0, told.stderr
    assert "decode" in told.stderr
    assert frames_of(tmp_path / "out.mp4").shape == (150, 256, 256, 3)
    refused = subprocess.run([*command[:2], driving, *command[3:]], capture_output=True, text=True, timeout=120)
    assert (
        refused.stderr.strip()
        == "'driving_photo.mp4' is not a picture that can be read: give a JPEG, PNG, WebP or HEIC file"
    )
