"""A numbered contact sheet of the faces in a picture or clip: the numbers that ``--face`` takes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from flashportrait.errors import UserError
from flashportrait.face.blendshapes import FaceLandmarker, FaceObservation
from flashportrait.face.crop import FACE_CENTER, crop_square
from flashportrait.face.tracker import THOROUGH_EVERY

SHEET_SIDE = 1280
"""Longest side of the frame on the sheet in pixels."""
TILE_SIDE = 160
"""Side of the enlarged faces under the frame in pixels."""
COLOURS = ("#ffd000", "#00c8ff", "#ff5a8c", "#6be36b", "#c490ff", "#ff9440")


def contact_sheet(frames: Iterable[np.ndarray], landmarker: FaceLandmarker) -> tuple[Image.Image, list[dict[str, Any]]]:
    """Number the faces of the first frame that shows any; a picture is a clip of one frame.

    Takes uint8 RGB frames [h w 3] and reads no further than needed. Returns the sheet, and of each face its ``face``
    number (from 1, left to right), ``frame``, ``box`` and ``size`` in pixels, ``score``, and ``yaw``, ``pitch`` and
    ``roll`` in degrees. Raises ``UserError`` when no frame shows a face.
    """
    count = 0
    for count, frame in enumerate(frames, start=1):
        thorough = (count - 1) % THOROUGH_EVERY == 0
        if thorough or landmarker.detect(frame, "whole"):
            faces = landmarker.detect(frame, "all")
            if faces:
                entries = [_describe(number, count - 1, face) for number, face in enumerate(faces, start=1)]
                return _draw(frame, faces), entries
    raise UserError(
        f"no face found in {count} frames; a face at least 20 px high is needed: choose another picture or video, "
        "or say where the face is with --face-box X0,Y0,X1,Y1 when animating"
    )


def _describe(number: int, frame: int, face: FaceObservation) -> dict[str, Any]:
    """A face in plain numbers."""
    angles = {name: round(float(np.degrees(getattr(face, name))), 1) for name in ("yaw", "pitch", "roll")}
    box = [round(value) for value in face.box]
    return {
        "face": number,
        "frame": frame,
        "box": box,
        "size": round(face.size),
        "score": round(face.score, 3),
        **angles,
    }


def _draw(frame: np.ndarray, faces: list[FaceObservation]) -> Image.Image:
    """The frame with numbered boxes, and below it the faces, enlarged, under their numbers."""
    height, width = frame.shape[:2]
    scale = min(1.0, SHEET_SIDE / max(height, width))
    picture = Image.fromarray(np.ascontiguousarray(frame))
    picture = picture.resize((max(1, round(width * scale)), max(1, round(height * scale))), Image.Resampling.LANCZOS)
    sheet_width = max(picture.width, TILE_SIDE)
    columns = sheet_width // TILE_SIDE
    rows = -(-len(faces) // columns)
    sheet = Image.new("RGB", (sheet_width, picture.height + rows * TILE_SIDE), "#202020")
    sheet.paste(picture, (0, 0))
    draw = ImageDraw.Draw(sheet)
    for index, face in enumerate(faces):
        colour = COLOURS[index % len(COLOURS)]
        box = tuple(value * scale for value in face.box)
        draw.rectangle(box, outline=colour, width=2)
        _label(draw, box[0], box[1], str(index + 1), colour, below=box[1] < 20)
        side = 2 * face.size
        left, top = face.center[0] - FACE_CENTER[0] * side, face.center[1] - FACE_CENTER[1] * side
        tile = crop_square(frame, (left, top, left + side, top + side), TILE_SIDE)
        x, y = index % columns * TILE_SIDE, picture.height + index // columns * TILE_SIDE
        sheet.paste(tile, (x, y))
        draw.rectangle((x, y, x + TILE_SIDE - 1, y + TILE_SIDE - 1), outline=colour, width=2)
        _label(draw, x, y, str(index + 1), colour, below=True)
    return sheet


def _label(draw: ImageDraw.ImageDraw, x: float, y: float, text: str, colour: str, below: bool) -> None:
    """A number on a patch of colour, above the point or below it."""
    font = ImageFont.load_default(size=16)
    x0, y0, x1, y1 = draw.textbbox((0, 0), text, font=font)
    width, height = x1 - x0 + 8, y1 - y0 + 6
    x, y = max(0.0, x), max(0.0, y if below else y - height)
    draw.rectangle((x, y, x + width, y + height), fill=colour)
    draw.text((x + 4 - x0, y + 3 - y0), text, fill="black", font=font)
