"""Decodes a file and says what is in it; run in a confined process only, which this module is loaded for."""

from __future__ import annotations

import io
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ai_edge_litert.interpreter as _litert  # noqa: F401 - loaded here so that no process has to
import av
import numpy as np
from PIL import Image

from flashportrait.errors import UserError
from flashportrait.face.blendshapes import FaceLandmarker
from flashportrait.face.motion import MotionFeatures
from flashportrait.face.sheet import contact_sheet
from flashportrait.intake.limits import PREVIEW_SIDE, Kind, Limits
from flashportrait.media.clip import is_animation, is_still, open_clip
from flashportrait.media.picture import DECODER_ERRORS, prepare_plugins
from flashportrait.media.portrait import load_portrait, reduction
from flashportrait.media.probe import open_video

SEARCHED_FRAMES = 250
"""Of a driver, how many are looked at for a face."""
SEARCHED_TIME = 0.5
"""Of the time that looking may take, the part after which no further frame is searched for a face."""


def look(path: Path, kind: Kind, limits: Limits, landmarker: Path | None) -> dict[str, Any]:
    """What is in a file, as values of JSON under the names of ``Inspection``.

    Raises:
        UserError: why it can't be taken.
    """
    deadline = time.monotonic() + SEARCHED_TIME * limits.time
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # there is a limit of our own
        found = _portrait(path, limits) if kind == "portrait" else _driver(path, limits)
    frames, scale = found.pop("pictures"), found.pop("scale", 1.0)
    if landmarker is None:
        shown = next(iter(frames), None)
    else:
        shown = _search(frames, scale, found, kind, FaceLandmarker(landmarker), deadline)
    found["preview"] = _preview(shown).hex() if shown is not None else ""
    return {"kind": kind, "faces": [], "face_frame": 0, **found}


def _portrait(path: Path, limits: Limits) -> dict[str, Any]:
    _check_picture_size(path, limits)
    portrait = load_portrait(path)
    scale = reduction(portrait)
    return {
        "media": "picture",
        "width": round(portrait.width * scale),
        "height": round(portrait.height * scale),
        "frames": 1,
        "rate": 0.0,
        "seconds": 0.0,
        "has_sound": False,
        "warnings": [],
        "pictures": [np.asarray(portrait)],
        "scale": scale,
    }


def _driver(path: Path, limits: Limits) -> dict[str, Any]:
    if _is_template(path):
        motion = MotionFeatures.load(path)
        facts = _checked_length(path, len(motion), float(motion.rate), limits)
        return {
            "media": "template",
            "width": 0,
            "height": 0,
            "has_sound": False,
            "warnings": [],
            "pictures": [],
        } | facts
    if is_still(path):
        raise UserError(f"'{path}' is one picture: give a video, an animation or a motion template")
    moving_picture = is_animation(path)
    if moving_picture:
        _check_picture_size(path, limits)
    else:
        _check_header(path, limits)
    reader = open_clip(path)
    info = reader.info
    facts = _checked_length(path, len(reader), float(info.rate), limits)
    return {
        "media": "animation" if moving_picture else "video",
        "width": info.width,
        "height": info.height,
        "has_sound": info.has_audio,
        "warnings": list(reader.warnings),
        "pictures": reader,
    } | facts


def _checked_length(path: Path, frames: int, rate: float, limits: Limits) -> dict[str, Any]:
    seconds = frames / rate
    if seconds > limits.seconds:
        raise UserError(f"'{path}' lasts {seconds:.0f} s: at most {limits.seconds:g} s are taken, so cut it")
    if frames > limits.frames:
        raise UserError(f"'{path}' has {frames} frames: at most {limits.frames} are taken, so cut it")
    return {"frames": frames, "rate": rate, "seconds": seconds}


def _check_header(path: Path, limits: Limits) -> None:
    """Refuse by what a video states of itself, before anything of it is decoded."""
    with open_video(path) as (container, stream):
        width, height = stream.codec_context.width, stream.codec_context.height
        if width * height > limits.pixels:
            raise UserError(_too_many_pixels(path, width, height, limits))
        seconds = (container.duration or 0) / av.time_base
        if seconds > limits.seconds + 1:
            raise UserError(f"'{path}' lasts {seconds:.0f} s: at most {limits.seconds:g} s are taken, so cut it")


def _check_picture_size(path: Path, limits: Limits) -> None:
    """Refuse by what a picture states of itself; what isn't one is left to those who read it."""
    prepare_plugins(path)
    try:
        with Image.open(path) as image:
            width, height = image.size
            frames = getattr(image, "n_frames", 1)
    except Image.DecompressionBombError as error:
        raise UserError(
            f"'{path}' has too many pixels: at most {limits.pixels // 1_000_000} million are taken"
        ) from error
    except DECODER_ERRORS:
        return
    if width * height > limits.pixels:
        raise UserError(_too_many_pixels(path, width, height, limits))
    if frames > limits.frames:
        raise UserError(f"'{path}' has {frames} frames: at most {limits.frames} are taken, so cut it")


def _too_many_pixels(path: Path, width: int, height: int, limits: Limits) -> str:
    return f"'{path}' is {width}x{height} pixels: at most {limits.pixels // 1_000_000} million are taken, so reduce it"


def _is_template(path: Path) -> bool:
    """Whether a file begins as a safetensors file does: the length of a header, and then the header, JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def _search(
    frames: Any, scale: float, found: dict[str, Any], kind: Kind, landmarker: FaceLandmarker, deadline: float
) -> np.ndarray | None:
    """Note the faces of the first frame that shows any, and return that frame, or the first one.

    Raises:
        UserError: there is no face in a picture.
    """
    seen: list[np.ndarray] = []

    def searched() -> Iterator[np.ndarray]:
        for number, frame in enumerate(frames):
            if number >= SEARCHED_FRAMES or (number and time.monotonic() > deadline):
                return
            seen[1:] = [frame]
            yield frame

    try:
        _, faces = contact_sheet(searched(), landmarker)
    except UserError:
        if kind == "portrait":
            raise
        if found["media"] != "template":
            found["warnings"].append("no face was found at the clip's beginning")
        return seen[0] if seen else None
    found["faces"] = [(face["face"], [round(value * scale) for value in face["box"]]) for face in faces]
    found["face_frame"] = faces[0]["frame"]
    return seen[-1]


def _preview(frame: np.ndarray) -> bytes:
    picture = Image.fromarray(np.ascontiguousarray(frame))
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()
