"""What is kept for a user on one machine: the folder of settings, and that the rule of consent was said."""

from __future__ import annotations

import os
import sys
from pathlib import Path

CONSENT = (
    "animate only people who agreed to it, and show results as what they are: they are marked as made by AI "
    "(docs/responsible-use.md; this is said once)"
)
"""The rule of consent, in one line."""

CONSENT_FILE = "consent-rule-shown"


def config_folder() -> Path:
    """Where settings of this user are kept: ``FLASHPORTRAIT_CONFIG``, or the platform's folder for them."""
    if chosen := os.environ.get("FLASHPORTRAIT_CONFIG"):
        return Path(chosen)
    if sys.platform == "win32":
        parent = Path(os.environ.get("APPDATA", Path.home() / "AppData" / "Roaming"))
    elif sys.platform == "darwin":
        parent = Path.home() / "Library" / "Application Support"
    else:
        parent = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return parent / "flashportrait"


def consent_rule() -> str | None:
    """The rule of consent, the first time that it is asked for on this machine; later None.

    Where the folder can't be written to, every time is the first.
    """
    file = config_folder() / CONSENT_FILE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x"):
            return CONSENT
    except FileExistsError:
        return None if file.is_file() else CONSENT
    except OSError:
        return CONSENT
