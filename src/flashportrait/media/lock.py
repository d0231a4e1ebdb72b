"""One process at a time in a folder."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

from flashportrait.errors import UserError

LOCK_NAME = "lock"
"""Name of the lock's file. That it is there says nothing: the system drops a lock with the process that held it."""

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
    try:
        folder.mkdir(exist_ok=True)
        lock.acquire(blocking=False)
    except Timeout:
        raise InUse(refusal) from None
    except NotImplementedError:
        logger.warning("'%s' is on a file system without locks: see to it that no other run writes there", folder)
    except FileExistsError:
        raise UserError(f"{folder} is in the way and is no work directory of ours; move it away") from None
    except OSError as error:
        raise UserError(f"'{folder}' can't be written ({error.strerror or error}): choose another output") from error
    try:
        yield
    finally:
        # Where a file that is open can't be removed, it is once it is closed.
        with contextlib.suppress(OSError):
            file.unlink()
        lock.release()
        with contextlib.suppress(OSError):
            file.unlink()
        with contextlib.suppress(OSError):
            folder.rmdir()
