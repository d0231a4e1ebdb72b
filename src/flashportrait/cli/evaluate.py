"""``flashportrait evaluate``: score results, of any method."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flashportrait.cli.console import Console
from flashportrait.cli.evaluating import figure, read_entries, save_report, score
from flashportrait.cli.options import table
from flashportrait.errors import UserError
from flashportrait.evaluation.paper_extractors import PaperFiles
from flashportrait.evaluation.protocols import Entry
from flashportrait.files import user_folder

EXIT_PROBLEMS = 1
PARTS = ("portrait", "driving", "result", "truth")
VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".gif")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to score, and where the report goes."""
    parser.epilog = (
        "A manifest is a table (.csv, .jsonl) with the columns portrait, driving, result and, where it "
        "is known, truth; a folder holds subfolders, one an item, with files of these names. docs/evaluation.md says "
        "what each figure is."
    )
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="a table, or a folder of items")
    parser.add_argument(
        "--json",
        nargs="?",
        const=True,
        default=False,
        metavar="FILE",
        help="write the report to FILE as JSON; without FILE to stdout",
    )
    parser.add_argument("--html", type=Path, metavar="FILE", help="write a page with plots, frames, the worst moments")
    parser.add_argument(
        "--profile",
        choices=("open", "paper"),
        default="open",
        help="open: extractors from the package index (default); paper: SMIRK, ArcFace and I3D, from your files",
    )
    files = parser.add_argument_group("files of --profile paper", "no package carries them; each has its own licence")
    files.add_argument("--smirk", type=Path, metavar="FILE", help="SMIRK_em1.pt: expression and pose")
    files.add_argument("--arcface", type=Path, metavar="FILE", help="w600k_r50.onnx or glintr100.onnx: identity")
    files.add_argument("--i3d", type=Path, metavar="FILE", help="i3d_torchscript.pt: FVD, with --fvd")
    parser.add_argument("--without", action="append", choices=("lpips",), default=[], help="leave a metric out")
    parser.add_argument(
        "--fvd", action="store_true", help="measure FVD as well, of the whole set; half a second a frame or so"
    )
    parser.add_argument(
        "--cache",
        type=Path,
        metavar="DIR",
        help="where what is read of videos is kept by their content; default: the user's cache",
    )
    parser.add_argument("--no-cache", action="store_true", help="keep nothing")


def run(args: argparse.Namespace, console: Console) -> int:
    """Score all items; tell, and write the report."""
    from flashportrait.media.place import check_place, written_whole

    paper = paper_files(args)
    as_file = Path(args.json) if isinstance(args.json, str) else None
    for file, suffix in ((as_file, ".json"), (args.html, ".html")):
        if file is not None:
            check_place(file, (suffix,), [args.manifest])
    entries = read_folder(args.manifest) if args.manifest.is_dir() else read_entries(args.manifest)
    cache = None if args.no_cache else args.cache or user_folder("cache") / "evaluate"
    report, items = score(entries, console, cache, args.without, args.fvd, paper)
    if as_file is not None:
        save_report(as_file, report)
    if args.html is not None:
        from flashportrait.evaluation.page import render

        with written_whole(args.html) as part:
            part.write_text(render(report, items), encoding="utf-8")
    console.result(report, f"profile {report['profile']}\n{describe(report)}")
    return EXIT_PROBLEMS if any(item.problems for item in items) else 0


def paper_files(args: argparse.Namespace) -> PaperFiles | None:
    """The files of the profile ``paper``; None in the other.

    Raises:
        UserError: one that is needed isn't given, or one is given to the other profile.
    """
    if args.profile == "paper":
        return PaperFiles.checked(args.smirk, args.arcface, args.i3d, args.fvd)
    given = [f"--{name}" for name in ("smirk", "arcface", "i3d") if getattr(args, name) is not None]
    if given:
        raise UserError(f"{', '.join(given)}: only the profile paper reads it; add --profile paper")
    return None


def describe(report: dict[str, Any]) -> str:
    """The summary as a table for people."""
    rows = []
    for name, found in report["summary"].items():
        if found is None or name not in report["metrics"]:
            continue
        metric = report["metrics"][name]
        if name == "fvd":
            rows.append(["FVD", figure(found["value"]), "", f"{found['clips']} clips", "truth or driver"])
            continue
        interval = (
            "" if found["interval"] is None else f"{figure(found['interval'][0])} to {figure(found['interval'][1])}"
        )
        rows.append(
            [
                metric["title"],
                f"{figure(found['mean'])} {metric['unit']}".strip(),
                interval,
                str(found["items"]),
                metric["of"],
            ]
        )
    return table(rows, ("metric", "mean", "95% interval", "items", "of"))


def read_folder(folder: Path) -> list[Entry]:
    """Items of a folder: its subfolders, each with ``portrait.*``, ``driving.*``, ``result.*`` and perhaps ``truth.*``.

    Raises:
        UserError: there are none, or some lack a file; all of them.
    """
    entries, mistakes = [], []
    for item in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
        files = {name: sorted(item.glob(f"{name}.*")) for name in PARTS}
        kinds = {name: PICTURES if name == "portrait" else VIDEOS for name in PARTS}
        found = {name: [file for file in files[name] if file.suffix.lower() in kinds[name]] for name in PARTS}
        lacking = [name for name in PARTS[:3] if not found[name]]
        several = [name for name in PARTS if len(found[name]) > 1]
        if lacking:
            mistakes.append(f"{item.name} lacks {', '.join(lacking)}")
        elif several:
            mistakes.append(f"{item.name} has several of {', '.join(several)}")
        else:
            entries.append(Entry(**{name: paths[0] for name, paths in found.items() if paths}))
    if mistakes:
        raise UserError(f"'{folder}' has {len(mistakes)} bad items: {'; '.join(mistakes)}")
    if not entries:
        raise UserError(f"'{folder}' holds no items: give a manifest, or subfolders with portrait, driving and result")
    return entries
