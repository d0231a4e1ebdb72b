"""``flashportrait evaluate hard``: a set of hard performances whose right answer is known."""

from __future__ import annotations

import argparse
from pathlib import Path

from flashportrait.cli.console import Console
from flashportrait.errors import UserError

EXIT_DIFFERS = 1
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
MOST_SECONDS, LEAST_SIZE, MOST_SIZE = 3600.0, 128, 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where, how much of it, and what it is made of."""
    parser.epilog = (
        "Interrupted, it goes on where it stopped when it is called again; --count 4 builds the first four, and a "
        "larger count goes on from there. See docs/protocols.md."
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the set")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="performances; default: 100")
    parser.add_argument(
        "--first", type=int, default=1, metavar="N", help="number of the first, to share the work out; default: 1"
    )
    parser.add_argument(
        "--seconds", default="60:180", metavar="LEAST:MOST", help="length of a performance; default: 60:180"
    )
    parser.add_argument("--size", type=int, default=384, metavar="PIXELS", help="side of the pictures; default: 384")
    parser.add_argument("--seed", type=int, default=0, help="of people and performances; default: 0")
    parser.add_argument(
        "--portraits", type=Path, metavar="DIR", help="pictures that perform on the rig; default: drawn ones"
    )
    parser.add_argument("--threads", type=int, metavar="N", help="frames drawn at once; default: all cores")
    parser.add_argument(
        "--check",
        nargs="?",
        const="",
        metavar="TABLE",
        help="build nothing: compare what is there with a table of hashes; default: the standard set's performances",
    )


def run(args: argparse.Namespace, console: Console) -> int:
    """Build what is missing, or check what is there."""
    seconds = _seconds(args.seconds)
    limits = {"count": (1, 10_000), "first": (1, 10_000), "size": (LEAST_SIZE, MOST_SIZE), "threads": (1, 1024)}
    for name, (least, most) in limits.items():
        value = getattr(args, name)
        if value is not None and not least <= value <= most:
            raise UserError(f"--{name} is {value}: give {least} to {most}")
    if args.size % 2:
        raise UserError(f"--size is {args.size}: give an even number, as videos need")
    if args.check is not None:
        return _check(args, console)

    import torch

    from flashportrait.evaluation.hard.build import HardSet
    from flashportrait.evaluation.hard.recipe import Recipe

    if args.threads:
        torch.set_num_threads(args.threads)
    recipe = Recipe(seconds, args.size, args.seed, _portraits(args.portraits, args.size, console))
    built = HardSet(args.out, recipe)
    due = built.missing(args.first, args.count)
    frames = sum(recipe.length(number) for number in due)
    minutes = frames / 25 / 60
    console.note(
        f"{args.count} performances, {args.count - len(due)} of them there already; {minutes:.1f} minutes of video to "
        "draw twice; interrupted, the same command goes on"
    )
    with console.bar(2 * frames, "drawing") as bar:
        for number in due:
            built.build(number, bar.update)
    built.write_tables()
    rows = built.table()
    manifest = args.out / "manifest.csv"
    summary = {"manifest": str(manifest), "performances": len(rows), "built": len(due)}
    console.result(
        summary,
        f"{manifest}: {len(rows)} performances; animate and score them: flashportrait evaluate cross {manifest}",
    )
    return 0


def _seconds(text: str) -> tuple[float, float]:
    """Shortest and longest performance, from ``60:180`` or ``90``."""
    least, _, most = text.partition(":")
    try:
        bounds = float(least), float(most or least)
    except ValueError:
        raise UserError(
            f"--seconds is {text!r}: give a length, or the shortest and the longest, as in 60:180"
        ) from None
    if not 0.2 <= bounds[0] <= bounds[1] <= MOST_SECONDS:
        raise UserError(f"--seconds is {text!r}: give 0.2 to {MOST_SECONDS:g} seconds, the shorter length first")
    return bounds


def _portraits(folder: Path | None, size: int, console: Console) -> tuple[Path, ...]:
    """Pictures of a folder in which a face can be put on the rig; others are told."""
    from flashportrait.evaluation.hard.build import usable_portrait

    if folder is None:
        return ()
    if not folder.is_dir():
        raise UserError(f"there is no folder '{folder}' of portraits")
    usable = []
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)
    with console.bar(len(paths), "portraits", unit="pictures") as bar:
        for path in paths:
            try:
                usable_portrait(path, size)
                usable.append(path)
            except UserError as error:
                console.warn(f"{error}; it is left out")
            bar.update()
    if len(usable) < 2:
        raise UserError(
            f"{len(usable)} pictures in '{folder}' can perform: give two or more, one to animate, one to act"
        )
    return tuple(usable)


def _check(args: argparse.Namespace, console: Console) -> int:
    """Compare what is there with a table."""
    from flashportrait.evaluation.hard.build import TABLE, read_table
    from flashportrait.evaluation.hard.content import compare
    from flashportrait.evaluation.hard.recipe import standard_rows

    found = read_table(args.out / TABLE)
    expected = read_table(Path(args.check)) if args.check else {row["name"]: row for row in standard_rows()}
    faults, rounded = {}, 0
    for name, row in found.items():
        if name not in expected:
            faults[name] = ["not in the table"]
        elif wrong := compare(row, expected[name]):
            faults[name] = wrong
        elif expected[name].get("truth"):
            rounded += any(row[column] != expected[name][column] for column in ("driving", "truth"))
    for name, wrong in faults.items():
        console.error(f"{name}: {'; '.join(wrong)}")
    summary = {"compared": len(found), "differ": faults, "same_but_for_rounding": rounded}
    what = "performances and pictures" if args.check else "performances (the standard table has no pictures)"
    text = f"{len(found)} compared, {len(faults)} differ: {what}"
    console.result(summary, text + f"; pictures of {rounded} differ by rounding" * bool(rounded))
    return EXIT_DIFFERS if faults else 0
