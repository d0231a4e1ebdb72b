"""``flashportrait resume``: go on with an animation that was interrupted."""

from __future__ import annotations

import argparse
from pathlib import Path

from flashportrait.cli.animate import perform
from flashportrait.cli.console import Console
from flashportrait.cli.work import stored_arguments


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, and what may differ between the two runs without changing the frames."""
    parser.add_argument("work", type=Path, metavar="OUT.work", help="the folder that the interrupted run left")
    parser.add_argument("--keep-work", action="store_true", help="keep the folder at the end")


def run(args: argparse.Namespace, console: Console) -> int:
    """Call `animate` as it was called before; it finds what is done already."""
    from flashportrait.workdir import WorkDirectory

    work = WorkDirectory.open(args.work)
    stored = stored_arguments(work, quiet=args.quiet, keep_work=args.keep_work)
    return perform(stored, console, lambda _: work)
