"""``flashportrait download``: fetch weights into the cache and verify them."""

from __future__ import annotations

import argparse

from flashportrait.cli.console import Console
from flashportrait.errors import UserError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Which weights."""
    parser.add_argument("weights", nargs="+", metavar="WEIGHT", help="names as listed by `flashportrait models`")


def run(args: argparse.Namespace, console: Console) -> int:
    """Fetch each weight that is not there yet, and say where it is and under which licence."""
    from flashportrait.weights.hub import WEIGHTS, find_weight

    unknown = sorted(set(args.weights) - set(WEIGHTS))
    if unknown:
        raise UserError(f"there is no weight named {', '.join(unknown)}: choose from {', '.join(WEIGHTS)}")
    paths = {name: str(find_weight(name)) for name in args.weights}
    lines = [f"{name}: {path} (licence: {WEIGHTS[name].licence})" for name, path in paths.items()]
    console.result({"weights": paths}, "\n".join(lines))
    return 0
