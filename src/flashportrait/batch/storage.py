"""Files that are not local, by fsspec: s3://, gs://, memory:// and whatever else it knows."""

from __future__ import annotations

import getpass
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from flashportrait.errors import UserError


def is_address(value: Any) -> bool:
    """Whether a file is given by an address, such as ``s3://bucket/name``, rather than by a path."""
    return isinstance(value, str) and "://" in value


def name_of(address: str) -> str:
    """The last part of an address."""
    return PurePosixPath(address.partition("://")[2]).name


def scratch(address: str) -> Path:
    """Where this machine keeps its copy of an address: the same place each time, so that a run can go on there."""
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    return scratch_root() / digest / name_of(address)


def scratch_root() -> Path:
    """This machine's folder for what is kept for a while."""
    return Path(tempfile.gettempdir()) / f"flashportrait-{getpass.getuser()}"


def make_scratch(local: Path) -> None:
    """Make the folder of a :func:`scratch` file, closed to other users."""
    for folder in (local.parent.parent, local.parent):
        folder.mkdir(exist_ok=True, mode=0o700)


def exists(address: str) -> bool:
    """Whether there is a file.

    Raises:
        UserError: the storage can't be reached, or its library isn't installed.
    """
    with _opened(address) as (system, path):
        return bool(system.isfile(path))


def matching(pattern: str) -> list[str]:
    """Addresses of the files that match a pattern such as ``s3://bucket/*.jpg``, sorted.

    Raises:
        UserError: the storage can't be reached, or its library isn't installed.
    """
    with _opened(pattern) as (system, path):
        return sorted(system.unstrip_protocol(each) for each in system.glob(path))


def identity(address: str) -> str:
    """A text that changes with a file's content, as far as its storage tells."""
    with _opened(address) as (system, path):
        return f"{system.ukey(path)}"


def size(address: str) -> int:
    """Bytes of a file."""
    with _opened(address) as (system, path):
        return int(system.size(path))


def fetch(address: str, local: Path) -> None:
    """Copy a file here, whole or not at all."""
    make_scratch(local)
    part = local.with_name(f"{local.name}.{os.getpid()}.part")
    try:
        with _opened(address) as (system, path):
            system.get_file(path, str(part))
        os.replace(part, local)
    finally:
        part.unlink(missing_ok=True)


def store(local: Path, address: str) -> None:
    """Copy a local file there."""
    with _opened(address) as (system, path):
        system.makedirs(system._parent(path), exist_ok=True)
        system.put_file(str(local), path)


def read_text(address: str) -> str:
    """A small file's content.

    Raises:
        FileNotFoundError: there is none.
    """
    if not is_address(address):
        return Path(address).read_text()
    with _opened(address) as (system, path):
        return system.cat_file(path).decode()


def write_text(address: str, content: str) -> None:
    """Write a small file, whole or not at all."""
    if is_address(address):
        with _opened(address) as (system, path):
            system.makedirs(system._parent(path), exist_ok=True)
            system.pipe_file(path, content.encode())
        return
    file = Path(address)
    file.parent.mkdir(exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with part.open("w") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(part, file)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _opened(address: str) -> Iterator[tuple[Any, str]]:
    """The file system of an address, and the path in it; what goes wrong inside is one line."""
    import fsspec

    try:
        yield fsspec.core.url_to_fs(address)
    except FileNotFoundError:
        raise
    except UserError:
        raise
    except Exception as error:  # each storage library has its own errors
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"'{address}' can't be reached ({reason})") from error
