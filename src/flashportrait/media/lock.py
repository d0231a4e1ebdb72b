"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from flashportrait.errors import UserError

if TYPE_CHECKING:
    from filelock import BaseFileLock

LOCK_NAME = "lock"
"""Name of the lock's file. That it is there says nothing: the system drops a lock with the process that held it."""

ATTEMPTS = 20
"""Times to try while the folder comes and goes."""

logger = logging.getLogger(__name__)


class InUse(UserError):
    """Another process holds the folder."""


@contextlib.contextmanager
def held(folder: Path, refusal: str) -> Iterator[None]:
    """Keep other processes from holding ``folder``, which is made if it isn't there; removed after if it is empty.

    Raises:
        InUse: ``refusal``, if another process (or another run of this one) holds it.
        UserError: it can't be written.
    """
    from filelock import FileLock, Timeout

    file = folder / LOCK_NAME
    lock = FileLock(file, thread_local=False)
    for _ in range(ATTEMPTS):
        try:
            _acquire(folder, lock)
            break
        except Timeout:
            raise InUse(refusal) from None
        except (FileNotFoundError, FileExistsError):
            # A run that has just ended took the empty folder with it, or else a file is in its place.
            if folder.exists() and not folder.is_dir():
                raise UserError(f"{folder} is in the way and is no work directory of ours; move it away") from None
    else:
        raise InUse(refusal)
    try:
        yield
    finally:
        _remove(file, lock)
        with contextlib.suppress(OSError):
            folder.rmdir()


def _acquire(folder: Path, lock: BaseFileLock) -> None:
    """Make the folder and take its lock, at once or not at all."""
    from filelock import Timeout

    try:
        folder.mkdir(exist_ok=True)
        lock.acquire(blocking=False)
    except (FileNotFoundError, FileExistsError, Timeout):
        raise
    except NotImplementedError:
        logger.warning("'%s' is on a file system without locks: see to it that no other run writes there", folder)
    except OSError as error:
        raise UserError(f"'{folder}' can't be written ({error.strerror or error}): choose another output") from error


def _remove(file: Path, lock: BaseFileLock) -> None:
    """Remove a lock's file while it is still held, since after that it may be another's."""
    try:
        file.unlink(missing_ok=True)
    except OSError:  # Windows, where it is open
        lock.release()
        with contextlib.suppress(OSError):
            file.unlink()
    else:
        lock.release()
