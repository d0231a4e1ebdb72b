"""Where results go: refused before any work if they can't go there, and there only when they are whole."""

from __future__ import annotations

import contextlib
import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from flashportrait.errors import UserError

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/{1,2}[^/]")
"""How an address begins; names of drives have one letter."""

FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def check_place(path: Path, suffixes: Iterable[str], inputs: Iterable[str | Path] = ()) -> None:
    """Refuse a place where a file can't or mustn't be written.

    Args:
        path: the file to write.
        suffixes: the endings that its name may have, lower case.
        inputs: files that it must not be, by any name.

    Raises:
        UserError: another ending, a missing or closed folder, a folder, or one of `inputs`.
    """
    suffixes = list(suffixes)
    if path.suffix.lower() not in suffixes:
        raise UserError(f"'{path}' is no kind of file that can be written here: end its name in {', '.join(suffixes)}")
    check_folder(path)
    if path.is_dir():
        raise UserError(f"'{path}' is a folder: give the name of a file to write")
    for source in map(Path, inputs):
        if path.exists() and source.exists() and path.samefile(source):
            raise UserError(f"'{path}' is also an input, and would be overwritten: give another name")


def check_address(path: Path) -> None:
    """Refuse an address of the web; a path made from one has lost a slash.

    Raises:
        UserError: what to do in its stead.
    """
    if ADDRESS.match(str(path)):
        raise UserError(f"'{path}' is an address, and addresses are not fetched: download it, and give the file")


def check_folder(path: Path) -> None:
    """Refuse a place whose folder is missing, or closed to us.

    Raises:
        UserError: which of the two.
    """
    folder = path.parent
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}' for '{path.name}': make it first")
    if not os.access(folder, os.W_OK):
        raise UserError(f"the folder '{folder}' can't be written to: choose another")


def part_of(path: Path) -> Path:
    """The hidden name beside `path` under which it grows."""
    return path.with_name(f".{path.stem}.part{path.suffix}")


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path to write to; it is renamed to `path` if the block ends without an error, else removed.

    Raises:
        UserError: the disk is full.
    """
    part = part_of(path)
    try:
        with disk_errors(path):
            yield part
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Say that the disk is full, where that is why `path` can't be written."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_ERRNOS:
            raise UserError(f"the disk is full: '{path}' was not written; make room in '{path.parent}'") from error
        raise
