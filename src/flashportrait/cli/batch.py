"""``flashportrait batch``: many jobs from a table, or every portrait with every driver."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flashportrait.batch import Batch, BatchError, Fleet, Outcome, Progress, Row, check_jobs, pair_jobs, read_jobs
from flashportrait.batch.storage import is_address, write_text
from flashportrait.batch.task import FILES, STATUSES
from flashportrait.cli.console import Console, clock
from flashportrait.cli.options import add_settings, by_option
from flashportrait.errors import UserError
from flashportrait.job import Job, JobError, read_settings

EXIT_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where the jobs come from, who runs them, and settings that all of them share."""
    parser.epilog = (
        "Columns of a jobs file are named as the settings below. A job's own value counts before the one here."
    )
    parser.add_argument("jobs", nargs="?", type=Path, metavar="JOBS", help="a table: .csv, .jsonl, .json or .yaml")
    pairs = parser.add_argument_group("jobs without a table: each portrait with each driver")
    pairs.add_argument("--portraits", nargs="+", metavar="FILES", help="pictures, or patterns such as 'a/*.jpg'")
    pairs.add_argument("--drivings", nargs="+", metavar="FILES", help="videos or templates, or patterns")
    pairs.add_argument("--out", metavar="DIR", help="folder for the results, named after what there are several of")
    files = parser.add_argument_group("files of all jobs")
    files.add_argument("--portrait", default=argparse.SUPPRESS, metavar="FILE", help="one picture for all")
    files.add_argument("--driving", default=argparse.SUPPRESS, metavar="FILE", help="one video or template for all")
    running = parser.add_argument_group("running")
    running.add_argument("-j", "--workers", type=positive, metavar="N", help="jobs at a time; default: 1")
    running.add_argument(
        "--resume", action="store_true", help="go on with a batch: skip finished jobs, go on with others"
    )
    running.add_argument("--report", type=Path, metavar="FILE", help="write what became of each job, as JSON")
    running.add_argument(
        "--ray", metavar="ADDRESS", help="run on a Ray cluster, or 'local'; -j then counts all its workers"
    )
    add_settings(parser, only=[name for name in Job.settings() if name not in FILES])


def run(args: argparse.Namespace, console: Console) -> int:
    """Check all jobs, run those that are due, and tell what became of each."""
    started = time.monotonic()
    if args.resume and getattr(args, "restart", False):
        raise UserError("--resume goes on and --restart begins anew: give one of them")
    try:
        tasks = check_jobs(*_jobs(args))
    except BatchError as error:
        return refuse(error, console)
    batch = Batch(tasks, resume=args.resume)
    _refuse_leftovers(batch.outcomes, args.resume)
    try:
        run_batch(batch, console, args.workers, args.ray)
    finally:
        report = describe(batch.outcomes, time.monotonic() - started)
        if args.report is not None:
            write_text(str(args.report), json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    console.result(report, told(report))
    return EXIT_FAILED if report["failed"] else 0


def run_batch(batch: Batch, console: Console, workers: int | None = None, ray: str | None = None) -> None:
    """Run what is due of a batch, showing how far it is.

    Args:
        batch: its outcomes are complete when this ends, however it ends.
        console: told of it.
        workers: jobs at a time; 1 unless given.
        ray: address of a Ray cluster that runs them.
    """
    with _Bar(console) as bar:
        batch.on_progress = bar
        bar.begin(batch.outcomes)
        if batch.due:
            with _fleet(ray, workers, batch.due) as fleet:
                batch.run(fleet)


def positive(text: str) -> int:
    """A number for argparse."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number from 1 up")
    return int(text)


def _jobs(args: argparse.Namespace) -> tuple[list[Row], dict[str, Any], Path]:
    """Rows, the settings of all, and the folder from which the rows' paths start."""
    common = _common(args)
    if args.jobs is not None:
        if args.portraits or args.drivings or args.out:
            raise UserError("give a jobs file, or --portraits, --drivings and --out: not both")
        return read_jobs(args.jobs), common, args.jobs.parent
    faces = args.portraits or [str(common[name]) for name in ("portrait",) if name in common]
    clips = args.drivings or [str(common[name]) for name in ("driving",) if name in common]
    if not (faces and clips and args.out):
        raise UserError(
            "there is nothing to do: give a jobs file, or portraits (--portraits 'a/*.jpg' or --portrait FILE), "
            "drivers (--drivings or --driving) and --out DIR"
        )
    rows = pair_jobs(faces, clips, args.out)
    if not is_address(args.out):
        Path(args.out).mkdir(parents=True, exist_ok=True)
    return rows, common, Path()


def _common(args: argparse.Namespace) -> dict[str, Any]:
    """Settings given on the command line.

    Raises:
        UserError: values that can't be honoured, all of them, by the options' names.
    """
    given = {name: value for name, value in vars(args).items() if name in Job.settings()}
    files = {name: given.pop(name) for name in FILES if name in given}
    values, problems = read_settings(given)
    if problems:
        raise by_option(JobError(problems))
    return {**values, **files}


def refuse(error: BatchError, console: Console) -> int:
    """Show all mistakes, a line each."""
    from flashportrait.cli import EXIT_USAGE

    for problem in error.problems:
        console.error(problem)
    count = len(error.problems)
    console.error(f"nothing was started: {count} {'mistake' if count == 1 else 'mistakes'} to mend")
    return EXIT_USAGE


def _refuse_leftovers(outcomes: Sequence[Outcome], resume: bool) -> None:
    """Refuse to begin where an earlier batch got somewhere, unless told what to do with that.

    Raises:
        UserError: finished or unfinished jobs are there.
    """
    finished = sum(outcome.status == "done before" for outcome in outcomes)
    unfinished = sum(outcome.task.is_unfinished for outcome in outcomes if not outcome.task.job.restart)
    if not resume and (finished or unfinished):
        raise UserError(
            f"of {len(outcomes)} jobs {finished} are finished and {unfinished} are interrupted: "
            "go on with --resume, or make all anew with --restart"
        )


@contextmanager
def _fleet(ray: str | None, workers: int | None, due: int) -> Iterator[Fleet]:
    """Those who run the jobs; they share a folder for the drivers' motion while they do."""
    from tempfile import TemporaryDirectory

    if ray is not None:
        from flashportrait.batch.cluster import RayFleet

        fleet: Fleet = RayFleet(ray, workers)
        try:
            yield fleet
        finally:
            fleet.close()
        return
    from flashportrait.batch import ProcessFleet

    with TemporaryDirectory(prefix="flashportrait-") as motions:
        fleet = ProcessFleet(min(workers or 1, due), Path(motions))
        try:
            yield fleet
        finally:
            fleet.close()


class _Bar:
    """Shows how far the batch is: one bar, and a line for each job that has ended; a context manager."""

    def __init__(self, console: Console) -> None:
        self._console, self._failed = console, 0
        self._bar: Any = None

    def begin(self, outcomes: Sequence[Outcome]) -> None:
        """Say what there is to do."""
        before = sum(outcome.status == "done before" for outcome in outcomes)
        self._console.note(f"{len(outcomes)} jobs" + f", {before} of them done before" * bool(before))
        self._bar = self._console.bar(1, "batch", "")
        self._bar.bar_format = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}"

    def __call__(self, progress: Progress) -> None:
        """Show it."""
        if progress.message is not None:
            line = progress.message if progress.task is None else f"{progress.task.source}: {progress.message}"
            (self._console.warn if progress.level == "warning" else self._console.note)(line)
        if progress.outcome is not None:
            self._failed += progress.outcome.status == "failed"
            self._ended(progress.outcome)
        left = "" if progress.seconds_left is None else f", about {clock(progress.seconds_left)} left"
        failed = f", {self._failed} failed" * bool(self._failed)
        self._bar.set_postfix_str(f"{progress.jobs_done}/{progress.jobs} jobs{failed}{left}", refresh=False)
        self._bar.update(progress.fraction - self._bar.n)

    def _ended(self, outcome: Outcome) -> None:
        if outcome.status == "failed":
            self._console.error(f"{outcome.task.source}: {outcome.error}")
        elif outcome.status == "done":
            frames = outcome.summary["frames"] if outcome.summary else 0
            self._console.note(
                f"{outcome.task.source}: {outcome.task.output}: {frames} frames, {outcome.seconds:.1f} s"
            )

    def __enter__(self) -> _Bar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def describe(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """What became of all jobs, fit for JSON."""
    count = {status: sum(outcome.status == status for outcome in outcomes) for status in STATUSES}
    return {
        **{status.replace(" ", "_"): number for status, number in count.items()},
        "seconds": round(seconds, 3),
        "jobs": [outcome.to_dict() for outcome in outcomes],
    }


def told(report: dict[str, Any]) -> str:
    """The report in a line."""
    parts = [f"{report[status.replace(' ', '_')]} {status}" for status in STATUSES if report[status.replace(" ", "_")]]
    return f"{len(report['jobs'])} jobs: {', '.join(parts)}; {report['seconds']:.1f} s"
