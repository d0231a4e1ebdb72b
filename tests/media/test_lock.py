"""One process at a time in a folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from flashportrait.errors import UserError
from flashportrait.media.lock import InUse, held


def test_a_held_folder_is_refused_and_free_afterwards(tmp_path: Path) -> None:
    folder = tmp_path / "out.mp4.work"
    with held(folder, "busy"), pytest.raises(InUse, match="busy"), held(folder, "busy"):
        pass
    assert not folder.exists()
    with held(folder, "busy"):
        (folder / "kept").write_text("stays")
    assert [path.name for path in folder.iterdir()] == ["kept"]


def test_what_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("a file")
    with pytest.raises(UserError, match="in the way"), held(tmp_path / "file", "busy"):
        pass
    assert (tmp_path / "file").read_text() == "a file"


def test_processes_that_take_turns_never_meet(tmp_path: Path) -> None:
    code = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from flashportrait.media.lock import InUse, held\n"
        "folder, flag = Path(sys.argv[1]), sys.argv[2]\n"
        "for _ in range(300):\n"
        "    try:\n"
        "        with held(folder, 'busy'):\n"
        "            os.close(os.open(flag, os.O_CREAT | os.O_EXCL))\n"
        "            os.unlink(flag)\n"
        "    except InUse:\n"
        "        pass\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "work"), str(tmp_path / "flag")]
    processes = [subprocess.Popen(words) for _ in range(2)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    assert not list(tmp_path.iterdir())
