"""A real server on a real socket, in a process of its own, for the service's tests."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

START_SECONDS = 60.0


class Server:
    """One server; ``client`` speaks with it, ``data`` is its folder."""

    def __init__(self, *words: object) -> None:
        self.data = str(words[words.index("--data") + 1])
        command = [sys.executable, "-m", "flashportrait", "serve", "--port", "0", *map(str, words)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        while line and "serving on" not in line:
            line = self.process.stderr.readline()
        found = re.search(r"http://\S+", line)
        assert found, f"the server did not start: {line}"
        self.client = httpx.Client(base_url=found[0], timeout=60)

    def wait(self, id: str, until: Callable[[dict[str, Any]], object], seconds: float = 120) -> dict[str, Any]:
        """A job's status once something holds of it."""
        deadline = time.monotonic() + seconds
        while True:
            told = self.client.get(f"/v1/jobs/{id}").json()
            if until(told):
                return told
            assert time.monotonic() < deadline, told
            time.sleep(0.05)

    def ended(self, id: str) -> dict[str, Any]:
        """A job's status once it has ended."""
        return self.wait(id, lambda told: told["state"] not in ("queued", "running"))

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """End it, and return its exit code."""
        self.client.close()
        self.process.send_signal(how)
        self.process.communicate(timeout=90)
        return self.process.returncode


@contextmanager
def serving(*words: object) -> Iterator[Server]:
    """A server that ends with the block."""
    server = Server(*words)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)


def files(portrait: Path, driving: Path) -> dict[str, Any]:
    """The files of a form."""
    return {
        "portrait": (portrait.name, portrait.read_bytes()),
        "driving": (driving.name, driving.read_bytes()),
    }
