"""What all parts need of the file system: a file's hash, a file that grows, and where this user's files lie."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import BinaryIO, Literal

CHUNK_BYTES = 1 << 20
GROW_SECONDS = 0.2
"""Between two looks at a file that grows."""


def sha256_of(files: Path | Iterable[Path], start: bytes = b"") -> str:
    """SHA-256, in hexadecimal, of a file's content, or of several files' one after another; read in pieces.

    Args:
        files: one or several.
        start: what goes before them.

    Raises:
        OSError: one can't be read; ``filename`` says which.
    """
    digest = hashlib.sha256(start)
    for file in [files] if isinstance(files, Path) else files:
        with file.open("rb") as stream:
            while chunk := stream.read(CHUNK_BYTES):
                digest.update(chunk)
    return digest.hexdigest()


async def growing(file: BinaryIO, grows: Callable[[], bool], block: int = 1 << 18) -> AsyncIterator[bytes]:
    """The content of an open file that another process writes to, as it comes, and to its end; the file is closed then.

    Args:
        file: open for reading; it stays readable when it is renamed meanwhile.
        grows: whether more may come. It is asked before the file is read, so that what came last is not missed.
        block: bytes that are read at a time.
    """
    import asyncio

    with file:
        while True:
            more = grows()
            while content := await asyncio.to_thread(file.read, block):
                yield content
            if not more:
                return
            await asyncio.sleep(GROW_SECONDS)


def user_folder(kind: Literal["cache", "config"]) -> Path:
    """This user's folder of flashportrait's files: ``FLASHPORTRAIT_CACHE`` or ``_CONFIG``, or the platform's place."""
    if chosen := os.environ.get(f"FLASHPORTRAIT_{kind.upper()}"):
        return Path(chosen).expanduser()
    home = Path.home()
    if sys.platform == "win32":
        variable, local = {"cache": ("LOCALAPPDATA", "Local"), "config": ("APPDATA", "Roaming")}[kind]
        parent = Path(os.environ.get(variable, home / "AppData" / local))
    elif sys.platform == "darwin":
        parent = home / "Library" / {"cache": "Caches", "config": "Application Support"}[kind]
    else:
        variable = f"XDG_{kind.upper()}_HOME"
        parent = Path(os.environ.get(variable) or home / {"cache": ".cache", "config": ".config"}[kind])
    return parent / "flashportrait"
