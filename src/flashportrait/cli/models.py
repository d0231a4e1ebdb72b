"""``flashportrait models``: every weight, its role, licence and hash, and where it is."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from flashportrait.cli.console import Console
from flashportrait.cli.options import table


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the table."""
    from flashportrait.files import user_folder
    from flashportrait.weights.hub import WEIGHTS, locate_weight

    weights = []
    for weight in WEIGHTS.values():
        path = locate_weight(weight.name)
        weights.append(
            {
                "name": weight.name,
                "role": weight.role,
                "licence": weight.licence,
                "sha256": weight.sha256,
                "bytes": weight.size if path is None else size_on_disk(path),
                "source": weight.source,
                "path": None if path is None else str(path),
                "variable": weight.variable,
                "downloadable": bool(weight.url or weight.carrier),
            }
        )
    console.result({"weights": weights, "cache": str(user_folder("cache"))}, describe(weights))
    return 0


def describe(weights: list[dict[str, Any]]) -> str:
    """A table with one line a weight, then what the roles are and where from."""
    rows = [
        (
            weight["name"],
            "absent" if weight["path"] is None else "present",
            "" if weight["bytes"] is None else f"{weight['bytes'] / 1e6:.1f} MB",
            (weight["sha256"] or "not pinned")[:16],
            weight["licence"],
        )
        for weight in weights
    ]
    summary = table(rows, ("weight", "state", "size", "sha256", "licence"))
    details = [
        f"{weight['name']}: {weight['role']}\n  from {weight['source']}\n  {weight['path'] or _how_to_get(weight)}"
        for weight in weights
    ]
    return f"{summary}\n\n" + "\n".join(details)


def size_on_disk(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


def _how_to_get(weight: dict[str, Any]) -> str:
    by_itself = f"`flashportrait download {weight['name']}`, or " if weight["downloadable"] else ""
    return f"absent: {by_itself}set {weight['variable']} to its path"
