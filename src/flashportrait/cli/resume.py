"""``flashportrait resume``: go on with an animation that was interrupted."""

from __future__ import annotations

import argparse
from pathlib import Path

from flashportrait.cli.console import EXIT_SOUND, Console
from flashportrait.cli.parallel import add_gpus_option, with_processes
from flashportrait.cli.progress import ProgressBars
from flashportrait.job import ModelCache, resume, stored_device


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The folder, and what may differ between the two runs without changing the frames."""
    parser.add_argument("work", type=Path, metavar="OUT.work", help="the folder that the interrupted run left")
    parser.add_argument("--keep-work", action="store_true", help="keep the folder at the end")
    add_gpus_option(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the job that the folder holds; what is done already is found there."""

    def work(models: ModelCache | None) -> int:
        with ProgressBars(console) as bars:
            summary = resume(args.work, keep_work=args.keep_work, models=models, on_progress=bars)
        console.result(summary.to_dict(), str(summary))
        return 0 if summary.sound_lost is None else EXIT_SOUND

    return with_processes(args, stored_device(args.work), work)
