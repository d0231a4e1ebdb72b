"""Starting the processes of a job on this machine, and ending all of them when one dies."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

from flashportrait.errors import UserError

POLL_SECONDS = 0.2
GRACE_SECONDS = 5.0
"""For ending by itself, before a process is killed."""


def launch(processes: int, arguments: Sequence[str]) -> int:
    """Run ``python -m flashportrait ARGUMENTS`` as so many processes of one job; returns the leader's exit code.

    The leader has this process's streams; what the others have to say goes to standard error.

    Raises:
        UserError: one of the others died; all are ended then.
    """
    port = _free_port()
    running = [_start(rank, processes, port, arguments) for rank in range(processes)]
    try:
        while (code := running[0].poll()) is None:
            for rank, process in enumerate(running[1:], start=1):
                if process.poll() not in (None, 0):
                    # The leader hears of it too, through its closed connections, and says how to go on.
                    _wait(running[:1])
                    raise UserError(f"process {rank} of {processes} {_ending(process.returncode)}; all were ended")
            time.sleep(POLL_SECONDS)
        _wait(running[1:])
        return code if code >= 0 else 128 - code
    except KeyboardInterrupt:
        _wait(running)  # the terminal interrupted them as well
        raise
    finally:
        for process in running:
            if process.poll() is None:
                process.terminate()
        _wait(running)
        for process in running:
            if process.poll() is None:
                process.kill()
                process.wait()


def _start(rank: int, processes: int, port: int, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    place = {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(processes),
        "LOCAL_WORLD_SIZE": str(processes),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, "-m", "flashportrait", *arguments]
    output = None if rank == 0 else subprocess.DEVNULL
    return subprocess.Popen(command, env={**os.environ, **place}, stdout=output)


def _wait(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    """Give processes some time to end by themselves."""
    deadline = time.monotonic() + GRACE_SECONDS
    for process in processes:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            return


def _ending(code: int) -> str:
    return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"failed with exit code {code}"


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
