"""What a confined process can't do any more; each is tried in a process of its own."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flashportrait.confinement import PROTECTIONS, Confinement, confine

CONTEXT = multiprocessing.get_context("spawn")


def confined(limits: Confinement, action: Callable[..., Any], *arguments: Any) -> tuple[tuple[str, ...], Any, int]:
    """What holds, what an action gives or raises after that, and the process's exit code."""
    queue = CONTEXT.SimpleQueue()
    process = CONTEXT.Process(target=_act, args=(queue, limits, action, arguments))
    process.start()
    process.join(60)
    code = process.exitcode or 0
    held, result = ((), None) if queue.empty() else queue.get()
    return held, result, code


def _act(queue: Any, limits: Confinement, action: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    held = confine(limits)
    try:
        result: Any = action(*arguments)
    except Exception as error:  # noqa: BLE001 - that is what is asked for
        result = type(error).__name__
    queue.put((held, result))


def read(path: Path) -> str:
    return path.read_text()


def write(path: Path) -> str:
    path.write_text("new")
    return "written"


def write_to_device(path: Path) -> str:
    with path.open("r+b", buffering=0) as device:
        device.write(b"a")
        return "written and read" if device.read(1) == b"\0" else "written"


def connect(port: int) -> str:
    with socket.create_connection(("127.0.0.1", port), 5):
        return "connected"


def hold(size: int) -> str:
    return f"held {len(bytearray(size))}"


def spin() -> None:
    while True:
        pass


def offered(*protections: str) -> None:
    """Skip where the system doesn't offer them."""
    held, *_ = confined(Confinement(1 << 32, 60, readable=()), int)
    missing = set(protections) - set(held)
    if missing:
        pytest.skip(f"this system can't limit {', '.join(sorted(missing))}")


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A folder to be written to, and a secret elsewhere."""
    (tmp_path / "own").mkdir()
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    return tmp_path / "own", secret


def test_what_holds_is_told_by_known_names():
    held, _, code = confined(Confinement(1 << 32, 60, readable=()), int)
    assert code == 0
    assert set(held) <= set(PROTECTIONS)
    if sys.platform == "linux":
        assert {"memory", "time"} <= set(held)


def test_nothing_is_taken_that_is_left():
    assert confined(Confinement(network=True), int)[0] in ((), ("files",))


def test_only_files_that_were_named_can_be_read(files: tuple[Path, Path]):
    offered("files")
    own, secret = files
    (own / "mine.txt").write_text("mine")
    limits = Confinement(readable=(own,))
    assert confined(limits, read, own / "mine.txt")[1] == "mine"
    assert confined(limits, read, secret)[1] == "PermissionError"
    assert confined(Confinement(), read, secret)[1] == "secret"


def test_only_folders_that_were_named_can_be_written_to(files: tuple[Path, Path]):
    offered("files")
    own, secret = files
    limits = Confinement(writable=(own, own / "made"))
    assert confined(limits, write, own / "new.txt")[1] == "written"
    assert confined(limits, write, own / "made" / "new.txt")[1] == "written"
    assert confined(limits, write, secret)[1] == "PermissionError"
    assert confined(limits, os.unlink, secret)[1] == "PermissionError"
    assert confined(limits, os.symlink, secret, own.parent / "link")[1] == "PermissionError"
    assert secret.read_text() == "secret"


def test_only_devices_that_were_named_can_be_used():
    offered("files")
    zeros = Path("/dev/zero")
    assert confined(Confinement(), write_to_device, zeros)[1] == "PermissionError"
    assert confined(Confinement(devices=(zeros,)), write_to_device, zeros)[1] == "written and read"
    assert confined(Confinement(devices=(zeros,)), write_to_device, Path("/dev/full"))[1] == "PermissionError"


def test_a_link_out_of_a_folder_leads_nowhere(files: tuple[Path, Path]):
    offered("files")
    own, secret = files
    (own / "link.txt").symlink_to(secret)
    assert confined(Confinement(readable=(own,)), read, own / "link.txt")[1] == "PermissionError"


def test_no_other_can_be_spoken_to():
    offered("network")
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert confined(Confinement(network=True), connect, port)[1] == "connected"
        assert confined(Confinement(), connect, port)[1] in ("PermissionError", "OSError", "ConnectionRefusedError")


def test_memory_is_limited():
    offered("memory")
    assert confined(Confinement(memory=1 << 30), hold, 1 << 20)[1] == f"held {1 << 20}"
    assert confined(Confinement(memory=1 << 30), hold, 2 << 30)[1] == "MemoryError"


def test_a_process_that_computes_for_too_long_is_killed():
    offered("time")
    assert confined(Confinement(cpu_seconds=1), spin)[2] < 0
