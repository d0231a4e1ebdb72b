"""What the face landmarker reads from drawn people, against what they perform.

    python benchmarks/avatars.py [--quick] [--count N] [--json FILE]

Each picture is another person in another pose with another expression, of any strength (``sample_performance`` of kind
``random``), 256 px. Figures are correlations over all pictures, of readings with rows; ``frontal`` takes only heads
turned by less than 17 degrees to a side, ``slope`` is that of the readings over the rows.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from flashportrait.avatars import render, sample_identities, sample_performance
from flashportrait.avatars.controls import COLUMNS
from flashportrait.face.blendshapes import FaceLandmarker

SIDE = 256
SEED = 5
FRONTAL = 0.3
"""Radians of yaw."""
Signal = Callable[[np.ndarray], np.ndarray]


def mean(*names: str) -> Signal:
    """Mean of coefficients over rows [n 57]; a name without its side means both."""
    columns = [COLUMNS[each] for name in names for each in _sides(name)]
    return lambda rows: rows[:, columns].mean(axis=1)


def difference(plus: tuple[str, ...], minus: tuple[str, ...]) -> Signal:
    """The mean of some coefficients less that of others."""
    return lambda rows: mean(*plus)(rows) - mean(*minus)(rows)


def _sides(name: str) -> list[str]:
    return [name] if name in COLUMNS else [f"{name}Left", f"{name}Right"]


SIGNALS: dict[str, Signal] = {
    **{name: mean(name) for name in ("yaw", "pitch", "roll")},
    "jaw": mean("jawOpen"),
    "blink": mean("eyeBlink"),
    "smile": mean("mouthSmile"),
    "brows up": mean("browInnerUp", "browOuterUp"),
    "inner brows up": mean("browInnerUp"),
    "gaze aside": difference(("eyeLookOutLeft", "eyeLookInRight"), ("eyeLookInLeft", "eyeLookOutRight")),
    "gaze up": difference(("eyeLookUp",), ("eyeLookDown",)),
}


def read_people(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows performed and rows read of the pictures in which a face was found.  [n 57] each"""
    generator = torch.Generator().manual_seed(SEED)
    people = sample_identities(count, generator)
    rows = sample_performance(count, kind="random", generator=generator)
    landmarker, performed, read = FaceLandmarker(), [], []
    for person in range(count):
        frame = render(people[person], rows[person : person + 1], SIDE).frames[0]
        faces = landmarker.detect(frame.permute(1, 2, 0).mul(255).round().byte().numpy())
        if not faces:
            continue
        face = max(faces, key=lambda each: each.size)
        center = tuple((0.5 + float(axis[person])) * SIDE for axis in (people.center_x, people.center_y))
        read.append(face.motion_row(center, float(people.face_size[person]) * SIDE))
        performed.append(rows[person].numpy())
    return np.array(performed), np.array(read)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="300 people")
    parser.add_argument("--count", type=int, metavar="N", help="people to draw; 2000 unless given")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    count = args.count or (300 if args.quick else 2000)
    performed, read = read_people(count)
    frontal = np.abs(performed[:, COLUMNS["yaw"]]) < FRONTAL
    print(f"faces found: {len(read)} of {count}\n{'':16}{'all':>8}{'frontal':>9}{'slope':>7}")
    results: dict[str, dict[str, float]] = {"found": {"share": len(read) / count}}
    for name, signal in SIGNALS.items():
        asked, seen = signal(performed), signal(read)
        results[name] = {
            "all": float(np.corrcoef(asked, seen)[0, 1]),
            "frontal": float(np.corrcoef(asked[frontal], seen[frontal])[0, 1]),
            "slope": float(np.polyfit(asked, seen, 1)[0]),
        }
        print(f"{name:16}{results[name]['all']:8.2f}{results[name]['frontal']:9.2f}{results[name]['slope']:7.2f}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
