"""Errors meant for the person at the keyboard."""

from __future__ import annotations


class UserError(ValueError):
    """Something the user can mend: one line saying what was found, what was needed and what to do.

    The command line prints the message alone and exits with code 2; Python callers see a ``ValueError``.
    """
