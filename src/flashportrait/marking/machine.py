"""What is kept for a user on one machine: that the rule of consent was said."""

from __future__ import annotations

from flashportrait.files import user_folder

CONSENT = (
    "animate only people who agreed to it, and show results as what they are: they are marked as made by AI "
    "(docs/responsible-use.md; this is said once)"
)
"""The rule of consent, in one line."""

CONSENT_FILE = "consent-rule-shown"


def consent_rule() -> str | None:
    """The rule of consent, the first time that it is asked for on this machine; later None.

    Where the folder can't be written to, every time is the first.
    """
    file = user_folder("config") / CONSENT_FILE
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x"):
            return CONSENT
    except FileExistsError:
        return None if file.is_file() else CONSENT
    except OSError:
        return CONSENT
