"""The square crop around a portrait's face, placed as the models expect it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from flashportrait.errors import UserError
from flashportrait.face.blendshapes import FaceLandmarker, FaceObservation
from flashportrait.face.motion import BLENDSHAPES
from flashportrait.face.tracker import Box, check_face_box, choose_face

FACE_FRACTION = 0.5
"""Height of the face, hairline to chin, in units of the crop's side."""
FACE_CENTER = (0.5, 0.46)
"""Position of the head's centre in units of the crop's side: 4% above the middle, to leave room for the shoulders."""
LEEWAY = 0.08
"""How far a face may lie from where it should, in units of the crop's side, if that keeps the crop in the picture. Hair
and shoulders that go on are worth more than a face in the middle."""
FAR_TURN, FAR_TILT = 30, 28
"""Degrees beyond which a portrait shows too little of one side of the face to be moved well."""
SMALL_FACE = 64
"""Pixels from hairline to chin below which a face is soft."""
CUT_OFF = 0.06
"""Share of a face that may lie outside the picture before it is spoken of."""
NEARBY = 1.6
"""Distance of another face, in units of the face's height, within which it moves too."""
MARGIN_BLUR = 0.04
"""Blur of what is made up outside the picture, in units of the crop's side."""


@dataclass(frozen=True)
class PortraitCrop:
    """A portrait as the models take it."""

    image: Image.Image
    """RGB, square."""
    box: Box
    """Where it lies in the source: x0, y0, x1, y1 in pixels; it may reach beyond the picture."""
    row: np.ndarray
    """The portrait's own motion row, itself the reference of position and scale  float32 [57]"""
    face: FaceObservation | None
    """The face, in the source's pixels; None where only its box is known."""
    warning: str | None = None
    """One line for the user, if something had to be assumed."""


def align_portrait(
    image: Image.Image | np.ndarray,
    landmarker: FaceLandmarker,
    face: int | None = None,
    face_box: Sequence[float] | None = None,
    size: int = 256,
    face_fraction: float = FACE_FRACTION,
    center: tuple[float, float] = FACE_CENTER,
) -> PortraitCrop:
    """Crop a portrait (RGB) to a square of ``size`` pixels with its face at ``center`` and ``face_fraction`` high.

    Where the square would reach beyond the picture, it is moved by up to ``LEEWAY`` of its side to stay inside.

    ``face`` (from 1, left to right) or ``face_box`` (x0, y0, x1, y1 in pixels) choose among several faces. With a face
    box the portrait may be a drawing that the landmarker can't read: it is then taken as neutral and frontal, which
    ``PortraitCrop.warning`` says. Raises ``UserError`` when there is no face, or none of that number.
    """
    pixels = np.asarray(image.convert("RGB") if isinstance(image, Image.Image) else image)
    height, width = pixels.shape[:2]
    if face_box is not None:
        face_box = check_face_box(face_box)
        x0, y0, x1, y1 = face_box
        if min(x1, width) <= max(x0, 0) or min(y1, height) <= max(y0, 0):
            raise UserError(f"the face box {face_box} lies outside the picture of {width}x{height}; give one inside it")
    search = "until_found" if face is None and face_box is None else "all"
    faces = landmarker.detect(pixels, search)
    chosen = choose_face(pixels, faces, landmarker, face, face_box)
    if chosen is not None:
        face_center, face_size, warning = chosen.center, chosen.size, None
        row = chosen.motion_row(face_center, face_size)
    elif face_box is not None:
        x0, y0, x1, y1 = face_box
        face_center, face_size = ((x0 + x1) / 2, (y0 + y1) / 2), y1 - y0
        row = np.zeros(BLENDSHAPES.width, dtype=np.float32)
        warning = "no landmarks found inside the face box; the portrait is taken as neutral and facing the camera"
    else:
        raise UserError(
            f"no face found in the portrait of {width}x{height}; a face at least 20 px high is needed: "
            "choose another picture, or say where the face is with --portrait-box X0,Y0,X1,Y1"
        )
    side = face_size / face_fraction
    left, top = face_center[0] - center[0] * side, face_center[1] - center[1] * side
    if chosen is not None:  # without landmarks a face is known by where the crop puts it
        left, top = (_moved_inside(*edge, side) for edge in ((left, width), (top, height)))
    box = (left, top, left + side, top + side)
    if chosen is not None:
        others = [other for other in faces if math.dist(other.center, chosen.center) > chosen.size / 4]
        warning = "; ".join(_cautions(chosen, others, (width, height))) or None
    return PortraitCrop(crop_square(pixels, box, size), box, row, chosen, warning)


def _cautions(face: FaceObservation, others: Sequence[FaceObservation], size: tuple[int, int]) -> list[str]:
    """What will look wrong when a face of a picture of that width and height is animated."""
    cautions = []
    turned, tilted = abs(np.degrees(face.yaw)), abs(np.degrees(face.pitch))
    if turned > FAR_TURN:
        cautions.append(
            f"the face is turned by {turned:.0f} degrees: its far side is guessed; use a more frontal portrait"
        )
    if tilted > FAR_TILT:
        cautions.append(f"the face is tilted by {tilted:.0f} degrees: parts are guessed; use a more level portrait")
    if face.size < SMALL_FACE:
        cautions.append(f"the face is {face.size:.0f} px high: the result is as soft as that; use a larger picture")
    x0, y0, x1, y1 = face.box
    outside = max(-x0, -y0, x1 - size[0], y1 - size[1]) / face.size
    if outside > CUT_OFF:
        cautions.append("part of the face lies outside the picture: what is missing is guessed")
    if any(math.dist(face.center, other.center) < NEARBY * face.size for other in others):
        cautions.append("another face is near: it will be pulled along a little")
    return cautions


def _moved_inside(start: float, length: int, side: float) -> float:
    """The start of a stretch of ``side``, moved by up to ``LEEWAY`` of it towards lying in [0, length]."""
    before, beyond = max(0.0, -start), max(0.0, start + side - length)
    # A stretch that is longer than the picture has as much beyond it on either side.
    wanted = (before - beyond) / (2 if before > 0 and beyond > 0 else 1)
    return start + min(max(wanted, -LEEWAY * side), LEEWAY * side)


def crop_square(pixels: np.ndarray, box: Box, size: int) -> Image.Image:
    """A square of a uint8 RGB picture [h w 3], resized to ``size``; beyond the picture its blurred mirror image."""
    height, width = pixels.shape[:2]
    scale = size / (box[2] - box[0])
    x0, y0, x1, y1 = max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height))
    # Whole output pixels, so that the part inside the picture meets the made-up part without a gap.
    left, top = round((x0 - box[0]) * scale), round((y0 - box[1]) * scale)
    right, bottom = max(left + 1, round((x1 - box[0]) * scale)), max(top + 1, round((y1 - box[1]) * scale))
    part = Image.fromarray(np.ascontiguousarray(pixels[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]))
    inside = part.resize(
        (right - left, bottom - top),
        Image.Resampling.LANCZOS,
        box=(x0 - int(x0), y0 - int(y0), x1 - int(x0), y1 - int(y0)),
    )
    if inside.size == (size, size):
        return inside
    margins = ((top, size - bottom), (left, size - right), (0, 0))
    mirrored = Image.fromarray(np.pad(np.asarray(inside), margins, mode="symmetric"))
    radius = MARGIN_BLUR * size
    blurred = mirrored.filter(ImageFilter.GaussianBlur(radius))
    blurred.paste(inside, (left, top), _soft_edges(inside.size, margins, radius))
    return blurred


def _soft_edges(size: tuple[int, int], margins: Sequence[tuple[int, int]], radius: float) -> Image.Image:
    """Opacity of the true part: rises from 0 over ``radius`` pixels at the edges beyond which there is a margin."""

    def rise(length: int, margin: tuple[int, int]) -> np.ndarray:
        from_start, from_end = np.arange(length) + 0.5, length - np.arange(length) - 0.5
        opacity = np.ones(length)
        for distance, pixels in ((from_start, margin[0]), (from_end, margin[1])):
            if pixels > 0:
                opacity = np.minimum(opacity, distance / radius)
        return opacity

    opacity = np.minimum(rise(size[1], margins[0])[:, None], rise(size[0], margins[1])[None])
    return Image.fromarray((255 * np.clip(opacity, 0, 1)).astype(np.uint8))
