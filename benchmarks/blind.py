"""Blind sheets: how resting faces look with adapted, absolute and relative motion, without knowing which is which.

    python benchmarks/blind.py PICTURE|FOLDER ... --drivers FILE ... --out DIR [--frames N] [--seed N]
    python benchmarks/blind.py --out DIR --verdict TEXT

Picture i follows driver i (in a circle). Of each pair DIR gets a sheet: the driver's frames, of which the first is its
most neutral, and below them three rows A, B and C in an order drawn at random; ``key.json`` says what they are. Look at
the sheets, write a line a pair, ``number letter``, ``number BA`` where two are alike, ``number -`` where none is best,
and give it as the verdict: it counts how often each kind of motion was chosen.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from flashportrait.face.motion import MotionFeatures
from flashportrait.inputs import MOTIONS, FramedPortrait, MotionControls
from sheets import assemble, driven, portraits, read_drivers, sheet_row

LETTERS = "ABC"
KEY = "key.json"


def moments(motion: MotionFeatures, count: int) -> np.ndarray:
    """Numbers of frames: the most neutral, then ``count - 1`` evenly chosen."""
    spread = np.linspace(0, len(motion) - 1, count + 1).round().astype(int)[1:-1]
    return np.array([motion.neutral_frame(), *spread])


def sheet(
    framed: FramedPortrait,
    motion: MotionFeatures,
    shown: np.ndarray,
    pictures: list[Image.Image],
    order: Sequence[str],
) -> Image.Image:
    """The driver's frames, and a row for each kind of motion in ``order``."""
    rows = [
        sheet_row(framed, driven(framed, motion, MotionControls(motion=kind), shown), "face", pictures[0].width)
        for kind in order
    ]
    return assemble([pictures, *rows], [], ["", *LETTERS])


def tally(verdict: str, key: dict[str, list[str]]) -> Counter[str]:
    """How often each kind of motion was chosen; one of several alike counts by its share.

    Raises:
        ValueError: a line is not ``number letters`` of a pair in the key.
    """
    chosen: Counter[str] = Counter()
    for line in filter(None, map(str.strip, verdict.splitlines())):
        number, _, letters = line.partition(" ")
        if number not in key or not letters or set(letters) - set(LETTERS + "-"):
            raise ValueError(f"{line!r} found; a line is a pair's number and letters of {LETTERS}, or -")
        for letter in letters.replace("-", ""):
            chosen[key[number][LETTERS.index(letter)]] += 1 / len(letters)
        chosen["none"] += letters == "-"
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="*", type=Path, metavar="PICTURE|FOLDER")
    parser.add_argument("--drivers", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--frames", type=int, default=4, help="of each driver; default 4")
    parser.add_argument("--tile", type=int, default=300, help="side of a tile; default 300")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--verdict", type=Path, metavar="TEXT")
    args = parser.parse_args()
    if args.verdict:
        try:
            chosen = tally(args.verdict.read_text(), json.loads((args.out / KEY).read_text()))
        except (OSError, ValueError) as error:
            sys.exit(str(error))
        print("  ".join(f"{kind} {chosen[kind]:.1f}" for kind in (*MOTIONS, "none")))
        return
    if not args.pictures or not args.drivers:
        sys.exit("give pictures and --drivers")
    if templates := [path.name for path in args.drivers if path.suffix == ".safetensors"]:
        sys.exit(f"{templates[0]} is a motion template; give clips, so that the driver can be seen")
    args.out.mkdir(parents=True, exist_ok=True)
    draw, key = random.Random(args.seed), {}
    drivers = read_drivers(args.drivers, args.frames, args.tile, moments)
    for number, framed in enumerate(portraits(args.pictures, None, 512)):
        motion, shown, pictures = drivers[number % len(drivers)]
        order = draw.sample(MOTIONS, len(MOTIONS))
        key[str(number + 1)] = order
        sheet(framed, motion, shown, pictures, order).save(args.out / f"{number + 1:02}.png")
    (args.out / KEY).write_text(json.dumps(key, indent=1) + "\n")


if __name__ == "__main__":
    main()
