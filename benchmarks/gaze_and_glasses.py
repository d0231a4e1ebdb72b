"""What photographs show of gaze and of glasses: where the constants of ``face.resting`` and ``rig.glasses`` come from.

    python benchmarks/gaze_and_glasses.py PICTURE|FOLDER ... [--count N] [--sheet PNG] [--json FILE]

``gaze``: how far the coefficients of gaze change with yaw and pitch of the head, a radian, over portraits turned by
``NEARLY_FRONTAL`` at most (the median slope of all pairs, Theil-Sen, since some people look aside), and their
correlation. ``glasses``: in how many portraits glasses are seen. ``--sheet`` has their eyes, surest first, to be looked
at. Pictures in which no face is found are left out, and named.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flashportrait.face.motion import BLENDSHAPE_NAMES, BLENDSHAPES
from flashportrait.face.resting import GAZES
from flashportrait.result import to_pictures
from flashportrait.rig.glasses import glasses_seen
from sheets import assemble, crop_box, portraits

NEARLY_FRONTAL = np.radians(12)
SIDE = 512
COLUMNS, TILE = 14, 112


def gaze(rows: np.ndarray) -> np.ndarray:
    """Mean over both eyes of the coefficients of looking to where yaw and pitch grow, of motion rows [n 57].  [n 2]"""
    columns = np.array([[[BLENDSHAPE_NAMES.index(name) for name in eye] for eye in angle] for angle in GAZES])
    up, down = np.moveaxis(rows[:, BLENDSHAPES.head_pose + columns], -1, 0)
    return (up - down).mean(-1)


def median_slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of the lines through all pairs of points [n], the median (Theil 1950, Sen 1968)."""
    first, second = np.triu_indices(len(x), 1)
    apart = x[second] - x[first]
    known = np.abs(apart) > 1e-6
    return float(np.median((y[second] - y[first])[known] / apart[known]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE|FOLDER")
    parser.add_argument("--count", type=int, help="portraits, evenly chosen; all unless given")
    parser.add_argument("--sheet", type=Path, metavar="PNG")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    rows, sure, eyes = [], [], []
    for framed in portraits(args.pictures, args.count, SIDE):
        canvas, rig = framed.drawn_on()
        rows.append(framed.row)
        sure.append(glasses_seen(canvas.texture, canvas.landmarks))
        if args.sheet:
            own = Image.fromarray(to_pictures(rig.draw(rig.own_row[None], canvas.size))[0])
            eyes.append(own.crop(crop_box(framed, "eyes")).resize((TILE, TILE)))
    angles, looks = np.array(rows)[:, :2], gaze(np.array(rows))
    results: dict[str, Any] = {"portraits": len(rows), "glasses": int((np.array(sure) > 0.5).sum())}
    for axis, name in enumerate(("yaw", "pitch")):
        near = np.abs(angles[:, axis]) < NEARLY_FRONTAL
        results[name] = {
            "portraits": int(near.sum()),
            "slope": median_slope(angles[near, axis], looks[near, axis]),
            "correlation": float(np.corrcoef(angles[near, axis], looks[near, axis])[0, 1]),
        }
        told = "  ".join(
            f"{key} {value:.2f}" if key != "portraits" else f"{value} portraits" for key, value in results[name].items()
        )
        print(f"gaze by {name}: {told}")
    print(f"glasses seen in {results['glasses']} of {len(rows)}")
    if args.sheet:
        surest = [eyes[place] for place in np.argsort(sure)[::-1]]
        assemble([surest[start : start + COLUMNS] for start in range(0, len(surest), COLUMNS)], []).save(args.sheet)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
