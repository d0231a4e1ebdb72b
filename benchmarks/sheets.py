"""Sheets of what the face mesh draws, to be looked at: portraits x extreme expressions, or x frames of real drivers.

    python benchmarks/sheets.py PICTURE|FOLDER ... --out SHEET.png [--drivers FILE ...] [--count N] [--crop PLACE]

Without drivers, a row of the sheet is a portrait, then ``EXTREMES``. With drivers, portrait i follows driver i (in a
circle), and a row is the portrait, then ``--frames`` of the driver's frames beside what they make of it (of a motion
template, only the latter). ``--crop``
shows only the mouth, the eyes or the lower face, enlarged. Pictures in which no face is found are left out, and named.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from importlib import resources
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.face.motion import BLENDSHAPE_NAMES, MotionFeatures
from flashportrait.inputs import (
    FaceChoice,
    FramedPortrait,
    Framing,
    MotionControls,
    frame_portrait,
    load_motion,
    shape_motion,
)
from flashportrait.media.clip import open_clip
from flashportrait.result import to_pictures
from flashportrait.rig.landmarks import IRISES, OUTER_LIPS

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
EXTREMES: dict[str, dict[str, float]] = {
    "own": {},
    "jaw": {"jawOpen": 0.9},
    "smile": {"mouthSmile": 0.9, "mouthUpperUp": 0.5, "mouthLowerDown": 0.3, "eyeSquint": 0.4},
    "laugh": {"jawOpen": 0.5, "mouthSmile": 0.9, "mouthUpperUp": 0.6, "eyeSquint": 0.6, "yaw": 15},
    "pucker": {"mouthPucker": 0.9, "mouthFunnel": 0.3, "browInnerUp": 0.5},
    "oh": {"jawOpen": 0.45, "mouthFunnel": 0.7, "mouthPucker": 0.4, "browOuterUp": 0.7},
    "teeth": {"mouthUpperUp": 0.8, "mouthLowerDown": 0.8, "mouthStretch": 0.6, "jawOpen": 0.1, "browDown": 0.8},
    "closed": {"eyeBlink": 1.0, "mouthPress": 0.5, "mouthFrown": 0.6},
    "wink": {"eyeBlinkLeft": 1.0, "eyeSquintLeft": 0.7, "mouthLeft": 0.7, "mouthSmileLeft": 0.7},
    "wide": {"eyeWide": 0.9, "eyeLookUp": 0.6, "browInnerUp": 0.9, "jawOpen": 0.3, "pitch": 15},
    "left": {"yaw": 32, "eyeLookOutLeft": 0.8, "eyeLookInRight": 0.8, "jawOpen": 0.2},
    "right": {"yaw": -32, "jawOpen": 0.6, "roll": -15},
    "down": {"pitch": -20, "eyeLookDown": 0.7, "mouthRollLower": 0.6, "mouthRollUpper": 0.5, "roll": 12},
}
"""Expressions by name, others at the portrait's rest; angles in degrees; actions without a side are meant of both."""
CROPS = {"mouth": 0.42, "eyes": 0.62, "lower": 0.75, "face": 1.25}
"""Side of what is shown, in units of the face's height."""


def extreme_rows(own: Tensor) -> Tensor:
    """``EXTREMES`` as motion rows [t 57] of a portrait whose own row is ``own`` [57]."""
    rows = own.repeat(len(EXTREMES), 1)
    for row, actions in zip(rows, EXTREMES.values(), strict=True):
        if actions:
            row[6:] = 0
        for name, value in actions.items():
            if name in ("yaw", "pitch", "roll"):
                row[("yaw", "pitch", "roll").index(name)] = np.radians(value)
            for column, known in enumerate(BLENDSHAPE_NAMES):
                if known in (name, name + "Left", name + "Right"):
                    row[6 + column] = value
    return rows


def portraits(paths: list[Path], count: int | None, size: int) -> Iterator[FramedPortrait]:
    """Portraits made ready to be drawn as squares, evenly chosen from files and folders."""
    files = [file for path in paths for file in (_pictures(path) if path.is_dir() else [path])]
    if count is not None and count < len(files):
        files = [files[place] for place in np.linspace(0, len(files) - 1, count).round().astype(int)]
    index = resources.files("flashportrait").joinpath("assets/nano/model_index.json").read_text()
    framing = Framing(**json.loads(index)["framing"])
    for file in files:
        try:
            yield frame_portrait(file, framing, FaceChoice(), size, "face")
        except UserError as error:
            print(f"{file.name} is left out: {error}", file=sys.stderr)


def _pictures(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in ENDINGS)


def crop_box(framed: FramedPortrait, place: str | None) -> tuple[int, int, int, int] | None:
    """Left, top, right and bottom of what is shown, in the pixels drawn; None for all."""
    if place is None:
        return None
    canvas, rig = framed.drawn_on()
    points = canvas.landmarks[:, :2] * (canvas.size[0] / canvas.texture.shape[1])
    centre = {"mouth": list(OUTER_LIPS), "eyes": [IRISES[0][0], IRISES[1][0]], "lower": [17], "face": [4]}[place]
    height = points[rig.oval, 1].amax() - points[rig.oval, 1].amin()
    half = float(CROPS[place] * height / 2)
    x, y = points[centre].mean(0).tolist()
    return round(x - half), round(y - half), round(x + half), round(y + half)


def sheet_row(framed: FramedPortrait, rows: Tensor, place: str | None, tile: int) -> list[Image.Image]:
    """Tiles of one portrait with motion rows [t 57]."""
    canvas, rig = framed.drawn_on()
    box = crop_box(framed, place)
    drawn = to_pictures(rig.draw(rows, canvas.size))
    return [_tile(frame, box, tile) for frame in drawn]


def _tile(frame: np.ndarray, box: tuple[int, int, int, int] | None, side: int) -> Image.Image:
    picture = Image.fromarray(frame)
    return (picture if box is None else picture.crop(box)).resize((side, side), Image.Resampling.LANCZOS)


def driven(framed: FramedPortrait, motion: MotionFeatures, controls: MotionControls, frames: np.ndarray) -> Tensor:
    """Motion rows [t 57] that a portrait takes from a driver at some of its frames."""
    shaped = shape_motion(motion, controls, framed.row)
    return torch.from_numpy(shaped.values[frames])


def evenly(motion: MotionFeatures, count: int) -> np.ndarray:
    """Numbers of ``count`` frames, evenly chosen."""
    return np.linspace(0, len(motion) - 1, count + 2).round().astype(int)[1:-1]


def read_drivers(
    paths: list[Path], count: int, tile: int, choose: Callable[[MotionFeatures, int], np.ndarray] = evenly
) -> list[tuple[MotionFeatures, np.ndarray, list[Image.Image]]]:
    """Of each driver: its motion, the numbers of the frames shown, and these frames (of a motion template, none)."""
    drivers = []
    for path in paths:
        motion = load_motion(path, "blendshapes", FaceChoice(), progress=False)
        shown = choose(motion, count)
        frames = islice(open_clip(path), int(shown.max()) + 1) if path.suffix != ".safetensors" else ()
        pictures = {
            number: _square(Image.fromarray(frame)).resize((tile, tile))
            for number, frame in enumerate(frames)
            if number in shown
        }
        drivers.append((motion, shown, [pictures[number] for number in shown if number in pictures]))
    return drivers


def _square(picture: Image.Image) -> Image.Image:
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 3
    return picture.crop((left, top, left + side, top + side))


def assemble(rows: list[list[Image.Image]], labels: list[str], names: list[str] | None = None) -> Image.Image:
    """A picture of tiles with labels above its columns, and names of rows (numbers unless given) at its left."""
    side, margin = rows[0][0].width, 14
    sheet = Image.new("RGB", (max(map(len, rows)) * side + 22, len(rows) * side + margin), "white")
    pen = ImageDraw.Draw(sheet)
    for column, label in enumerate(labels):
        pen.text((22 + column * side + 2, 1), label, fill="black")
    for number, row in enumerate(rows):
        pen.text((2, margin + number * side + 2), names[number] if names else str(number), fill="black")
        for column, tile in enumerate(row):
            sheet.paste(tile, (22 + column * side, margin + number * side))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", type=Path, metavar="PICTURE|FOLDER")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    parser.add_argument("--drivers", nargs="+", type=Path, default=[], metavar="FILE")
    parser.add_argument("--frames", type=int, default=6, help="of each driver; default 6")
    parser.add_argument("--motion", default="adapted", help="absolute, adapted or relative; default adapted")
    parser.add_argument("--count", type=int, help="of the pictures, evenly chosen; default all")
    parser.add_argument("--size", type=int, default=512, help="side of what is drawn; default 512")
    parser.add_argument("--tile", type=int, default=160, help="side of a tile; default 160")
    parser.add_argument("--crop", choices=CROPS)
    args = parser.parse_args()
    drivers = read_drivers(args.drivers, args.frames, args.tile)
    controls = MotionControls(motion=args.motion)
    rows = []
    for number, framed in enumerate(portraits(args.pictures, args.count, args.size)):
        if not drivers:
            rows.append(sheet_row(framed, extreme_rows(torch.from_numpy(framed.row)), args.crop, args.tile))
            continue
        motion, shown, pictures = drivers[number % len(drivers)]
        tiles = sheet_row(framed, driven(framed, motion, controls, shown), args.crop, args.tile)
        own = sheet_row(framed, torch.from_numpy(framed.row)[None], args.crop, args.tile)
        shown_beside = [[picture] for picture in pictures] or [[]] * len(tiles)
        rows.append(
            [*own, *(tile for beside, drawn in zip(shown_beside, tiles, strict=True) for tile in (*beside, drawn))]
        )
    if not rows:
        sys.exit("no face was found in the pictures given")
    assemble(rows, list(EXTREMES) if not drivers else []).save(args.out)


if __name__ == "__main__":
    main()
