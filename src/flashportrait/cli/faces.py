"""``flashportrait faces``: number the faces in a picture or video."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from flashportrait.cli.console import Console
from flashportrait.cli.options import table

if TYPE_CHECKING:
    import numpy as np

SHEET_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The medium and the sheet."""
    parser.add_argument("media", type=Path, metavar="MEDIA", help="a picture or a video")
    parser.add_argument("-o", "--output", type=Path, metavar="SHEET", help="draw the sheet here: .png, .jpg or .webp")


def run(args: argparse.Namespace, console: Console) -> int:
    """List the faces, and draw them if asked."""
    from flashportrait.media.place import check_place, written_whole

    if args.output is not None:
        check_place(args.output, SHEET_SUFFIXES, [args.media])
    frames, reduced = _frames(args.media)

    from flashportrait.face.blendshapes import FaceLandmarker
    from flashportrait.face.sheet import contact_sheet

    sheet, faces = contact_sheet(frames, FaceLandmarker())
    for face in faces:  # in pixels of the file, as --face-box and --portrait-box are
        face |= {"box": [round(value * reduced) for value in face["box"]], "size": round(face["size"] * reduced)}
    if args.output is not None:
        with written_whole(args.output) as part:
            sheet.save(part)
    headings = ("face", "frame", "box", "size", "score", "yaw", "pitch", "roll")
    text = table([[face[name] for name in headings] for face in faces], headings)
    console.result({"output": args.output, "faces": faces}, text)
    return 0


def _frames(path: Path) -> tuple[Iterable[np.ndarray], float]:
    """The frames of a clip, or a picture as the only one, and by how much they are smaller than the file's."""
    import numpy as np

    from flashportrait.media.clip import is_still, open_clip
    from flashportrait.media.portrait import load_portrait, reduction

    if is_still(path):
        portrait = load_portrait(path)
        return [np.asarray(portrait)], reduction(portrait)
    return open_clip(path), 1.0
