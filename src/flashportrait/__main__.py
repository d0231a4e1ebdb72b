"""``python -m flashportrait``."""

from __future__ import annotations

import sys

from flashportrait.cli import main

if __name__ == "__main__":
    sys.exit(main())
