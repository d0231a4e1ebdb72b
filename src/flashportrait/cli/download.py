"""``flashportrait download``: fetch a model or a single weight, resumed and verified."""

from __future__ import annotations

import argparse
from pathlib import Path

from flashportrait.cli.console import Console
from flashportrait.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What, whereto, wherefrom."""
    parser.add_argument("name", metavar="NAME", help="14b, or a weight's name as listed by `flashportrait models`")
    parser.add_argument("--to", type=Path, metavar="DIR", help="folder to fill with a model; default: the cache")
    parser.add_argument("--from", dest="source", type=Path, metavar="DIR", help="copy a model from here, without a hub")


def run(args: argparse.Namespace, console: Console) -> int:
    """Fetch what is not there yet, and say where it is."""
    from flashportrait.weights.download import MODELS, download_model
    from flashportrait.weights.hub import WEIGHTS, find_weight

    if args.name in MODELS:
        path = download_model(args.name, args.to, args.source, report=console.note)
    elif args.name not in WEIGHTS:
        raise UserError(f"there is no weight named {args.name}: choose from {', '.join((*MODELS, *WEIGHTS))}")
    elif args.to or args.source:
        raise UserError(f"--to and --from are for whole models ({', '.join(MODELS)}); {args.name} goes to the cache")
    else:
        path = find_weight(args.name)
        console.note(f"licence of {args.name}: {WEIGHTS[args.name].licence}")
    console.result({"name": args.name, "path": str(path)}, f"{args.name}: {path}")
    return 0
