"""``flashportrait animate``: a portrait and a driving video or motion template to an animated portrait."""

from __future__ import annotations

import argparse

from flashportrait.cli.console import EXIT_SOUND, Console
from flashportrait.cli.options import add_settings, given_settings
from flashportrait.cli.parallel import add_gpus_option, with_processes
from flashportrait.cli.progress import ProgressBars
from flashportrait.job import ModelCache
from flashportrait.job import run as run_job


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All settings of a job, of which only the files are needed."""
    parser.epilog = "While OUT.mp4 is made it grows as .OUT.part.mp4 beside it, which players can open already."
    add_settings(parser, positional=("portrait", "driving"), short={"output": "-o"})
    add_gpus_option(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Animate from the start, keeping progress beside the output until it is whole."""
    job = given_settings(args)

    def work(models: ModelCache | None) -> int:
        with ProgressBars(console) as bars:
            summary = run_job(job, models=models, on_progress=bars)
        console.result(summary.to_dict(), str(summary))
        return 0 if summary.sound_lost is None else EXIT_SOUND

    return with_processes(args, job.device, work)
