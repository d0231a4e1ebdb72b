"""API keys: who may use the service, and how much of it.

A key has 256 random bits, so that a plain SHA-256 of it can be kept: there is nothing to guess that a slow hash would
have to protect, and every request is checked.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from flashportrait.errors import UserError

PREFIX = "fp_"


@dataclass(frozen=True)
class Key:
    """Of one client."""

    name: str
    """By which the client is known in the list of jobs."""
    sha256: str
    """Of the key, in hexadecimal."""
    waiting: int = 20
    """Jobs of this key that may wait or run at a time."""
    daily: int = 1000
    """Jobs that may be posted with it within 24 hours."""


ANYONE = Key("anyone", "", waiting=1000, daily=1_000_000)
"""Stands for every client of a server that asks for no keys."""


class Keys:
    """The keys of a file, ``{"keys": [{"name": ..., "sha256": ..., "waiting": ..., "daily": ...}]}``.

    The file is read again when it changes, so that keys come and go while the server runs.

    Args:
        file: None for a server that asks for none.

    Raises:
        UserError: it can't be read, or isn't such a file.
    """

    def __init__(self, file: Path | None) -> None:
        self._file, self._read_at = file, -1
        self._keys: tuple[Key, ...] = ()
        self._refresh()

    @property
    def needed(self) -> bool:
        """Whether clients have to show one."""
        return self._file is not None

    def owner(self, shown: str | None) -> Key | None:
        """Whose key it is; None for no one's."""
        if not self.needed:
            return ANYONE
        self._refresh()
        digest = digest_of(shown or "")
        found = None
        for key in self._keys:  # all of them, so that the time says nothing
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def named(self, name: str) -> Key | None:
        """The key of that name, if it is still there."""
        if not self.needed:
            return ANYONE
        return next((key for key in self._keys if key.name == name), None)

    def _refresh(self) -> None:
        if self._file is None:
            return
        try:
            changed = self._file.stat().st_mtime_ns
            if changed != self._read_at:
                self._keys, self._read_at = read_keys(self._file), changed
        except OSError as error:
            raise UserError(
                f"the key file '{self._file}' can't be read ({error.strerror or error}): make one with "
                "`flashportrait serve --new-key NAME --key-file FILE`"
            ) from error


def read_keys(file: Path) -> tuple[Key, ...]:
    """The keys in a file.

    Raises:
        OSError: it can't be read.
        UserError: it isn't a file of keys.
    """
    try:
        keys = tuple(Key(**entry) for entry in json.loads(file.read_text())["keys"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"'{file}' is not a file of keys ({error}): make one with --new-key NAME") from error
    if len({key.name for key in keys}) < len(keys):
        raise UserError(f"'{file}' has two keys of one name: give each a name of its own")
    return keys


def add_key(file: Path, name: str, **quotas: Any) -> str:
    """Make a key, add its hash to the file, and return it: it is not kept anywhere.

    Raises:
        UserError: there is one of that name, or the file is something else.
    """
    keys = read_keys(file) if file.exists() else ()
    if any(key.name == name for key in keys):
        raise UserError(f"'{file}' has a key named '{name}': choose another name, or remove that entry")
    made = PREFIX + secrets.token_urlsafe(32)
    entries = [asdict(key) for key in (*keys, Key(name, digest_of(made), **quotas))]
    part = file.with_name(f".{file.name}.part")
    file.parent.mkdir(parents=True, exist_ok=True)
    part.touch(0o600)
    part.write_text(json.dumps({"keys": entries}, indent=1) + "\n")
    part.replace(file)
    return made


def digest_of(key: str) -> str:
    """What is kept of a key."""
    return hashlib.sha256(key.encode()).hexdigest()
