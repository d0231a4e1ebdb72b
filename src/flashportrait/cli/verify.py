"""``flashportrait verify``: what a file says of its origin, and whether that is intact."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from flashportrait.cli.console import Console

if TYPE_CHECKING:
    from flashportrait.marking.reading import Origin

EXIT_INTACT, EXIT_NONE, EXIT_BROKEN = 0, 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and whom to trust."""
    parser.epilog = (
        "Exit code 0: Content Credentials are there and intact, by whichever program; 1: there are none; 2: they are "
        "broken, or the file can't be read. Nothing is fetched. A label in the picture can't be read."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="a video or picture, of this program or any other")
    parser.add_argument("--trust", type=Path, metavar="PEM", help="certificates of authorities to trust")


def run(args: argparse.Namespace, console: Console) -> int:
    """Read, check, and tell."""
    from flashportrait.marking.reading import BROKEN, INTACT, read_origin

    origin = read_origin(args.file, args.trust)
    console.result(origin.to_dict(), "\n".join(lines(origin)))
    return {INTACT: EXIT_INTACT, BROKEN: EXIT_BROKEN}.get(origin.state, EXIT_NONE)


def lines(origin: Origin) -> list[str]:
    """What was found, for people."""
    from flashportrait.marking.reading import BROKEN, NONE

    tag = "says that it was made by AI (IPTC trainedAlgorithmicMedia)" if origin.iptc_tag else "says nothing of AI"
    unsigned = f"metadata     {tag}; anyone can write or remove that"
    if origin.state == NONE:
        return [f"{origin.file}: no Content Credentials", unsigned]
    found = [f"{origin.file}: Content Credentials, {origin.state}"]
    found += [f"changed      {line}" for line in origin.changes]
    said = {
        "made by": f"{origin.program or 'an unnamed program'}{f', model {origin.model}' if origin.model else ''}",
        "when": origin.when and f"{origin.when} by the signer's clock",
        "actions": ", ".join(origin.actions),
        "source type": origin.source_type,
    }
    found += [f"{heading:<12} {text}" for heading, text in said.items() if text]
    for source in origin.ingredients:
        digest = f", SHA-256 {source.sha256}" if source.sha256 else ""
        found.append(f"made from    {source.name} ({source.role}){digest}")
    if origin.signer:
        found.append(f"signed by    {origin.signer}: {_trust(origin)}")
    if origin.state == BROKEN and origin.program:
        found.append("None of this can be relied on: the file and its credentials no longer belong together.")
    return [*found, unsigned]


def _trust(origin: Origin) -> str:
    if origin.trusted:
        return "trusted, by an authority you named"
    if origin.local:
        return "not trusted: a certificate made on someone's machine, which nobody vouches for"
    return "not trusted: by no authority that was named (--trust PEM)"
