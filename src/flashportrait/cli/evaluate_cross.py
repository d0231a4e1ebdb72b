"""``flashportrait evaluate cross``: cross-reenactment, in which one person's performance drives another's portrait."""

from __future__ import annotations

import argparse
from pathlib import Path

from flashportrait.batch import pair_jobs
from flashportrait.cli.console import Console
from flashportrait.cli.evaluating import add_running_options, animate, conclude, read_entries
from flashportrait.errors import UserError
from flashportrait.evaluation.protocols import Entry, write_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """A manifest, or portraits and drivers, and the settings of the jobs."""
    parser.epilog = (
        "Results that a manifest names and that are not there are made; those of other methods stay as they are. "
        "Interrupted, it goes on where it stopped. Where the manifest has a truth, the driver's motion is taken as it "
        "is (--motion absolute) unless told otherwise."
    )
    parser.add_argument("manifest", nargs="?", type=Path, metavar="MANIFEST", help="a table: .csv or .jsonl")
    pairs = parser.add_argument_group("without a manifest: each portrait with each driver")
    pairs.add_argument("--portraits", nargs="+", metavar="FILES", help="pictures, or patterns such as 'a/*.jpg'")
    pairs.add_argument("--drivings", nargs="+", metavar="FILES", help="videos, or patterns")
    pairs.add_argument("--out", type=Path, metavar="DIR", help="folder of results and manifest")
    add_running_options(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Read or write the manifest, and animate."""
    paired = args.portraits, args.drivings, args.out
    if args.manifest is not None and any(paired):
        raise UserError("give a manifest, or --portraits, --drivings and --out: not both")
    if args.manifest is not None:
        manifest, entries = args.manifest, read_entries(args.manifest)
    elif all(paired):
        manifest = args.out / "manifest.csv"
        rows = [row.values for row in pair_jobs(args.portraits, args.drivings, str(args.out / "results"))]
        entries = [Entry(*(Path(row[name]) for name in ("portrait", "driving", "output"))) for row in rows]
        args.out.mkdir(parents=True, exist_ok=True)
        write_manifest(manifest, entries)
    else:
        raise UserError("there is nothing to do: give a manifest, or --portraits, --drivings and --out DIR")
    code = animate(entries, [entry.driving for entry in entries], args, console)
    return conclude(manifest, entries, code, console)
