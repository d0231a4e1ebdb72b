"""Clips whose truth is known, for judging the embedded model: people drawn by formula, photographs, made portraits."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from flashportrait.avatars.renderer import render
from flashportrait.canvas import Canvas
from flashportrait.errors import UserError
from flashportrait.evaluation.fitting import draw_portrait
from flashportrait.face.blendshapes import FaceLandmarker
from flashportrait.inputs import FramedPortrait
from flashportrait.rig.photo import PhotoRig
from flashportrait.training.data import made_portrait, sample_motion, small_motion
from flashportrait.training.photos import Photo, PhotoSet, fit_motion, photo_row

SEED = 40_000
"""Of the first clip: far from the seeds that training draws."""
SIZE = 256
KINDS = ("talking", "mixed", "large", "keyframes")
KEYFRAME_SPACING = (8, 24)
"""Slower than in training, nearer to people."""
FAR_TURN = (math.radians(25), math.radians(45))
"""Yaw of drawn people where a photograph's mesh has little left to show."""


@dataclass(frozen=True)
class Case:
    """A portrait, the performance that drives it, and what it should look like."""

    framed: FramedPortrait
    rows: Tensor
    """[t 57]"""
    truth: Tensor
    """[t 3 s s] in [0, 1]"""
    places: dict[str, Tensor]
    """[t 1 s s] bool by name: where the frames are compared."""


def far_turned_cases(count: int, frames: int) -> Iterator[Case]:
    """People drawn by formula, turned by 25 to 45 degrees: the truth is exact in three dimensions."""
    for index in range(count):
        generator = torch.Generator().manual_seed(SEED + index)
        identity, framed = draw_portrait(generator, SIZE)
        rows = sample_motion(KINDS[index % len(KINDS)], frames, generator, KEYFRAME_SPACING)
        rows[:, 0] = torch.linspace(*FAR_TURN, frames) * (1 if index % 2 else -1)
        drawn = render(identity, rows, size=SIZE)
        yield Case(framed, rows, drawn.frames, _places(drawn.face_mask, drawn.lip_mask, drawn.eye_mask))


def direct_cases(photos: PhotoSet, count: int, frames: int) -> Iterator[Case]:
    """Photographs warped to performances within the warp's reach: what the mesh draws is the truth."""
    for index, photo in _chosen(photos, count):
        generator = torch.Generator().manual_seed(SEED + index)
        rows = fit_motion(photo.row, sample_motion(KINDS[index % len(KINDS)], frames, generator, KEYFRAME_SPACING))
        warped = PhotoRig(photo.image, photo.landmarks, photo.row).animate(rows, SIZE)
        places = _places(warped.face_mask, warped.lip_mask, warped.eye_mask)
        yield Case(framed_photo(photo), warped.motion, warped.frames, places)


def reversed_cases(photos: PhotoSet, count: int, frames: int) -> Iterator[Case]:
    """Portraits made from photographs by warping, driven back: the truth is the photograph, moved very little."""
    for index, photo in _chosen(photos, count):
        generator = torch.Generator().manual_seed(SEED + index)
        portrait = made_portrait(photo, generator)
        performed = sample_motion(KINDS[index % len(KINDS)], frames, generator, KEYFRAME_SPACING)
        rows = small_motion(photo.row, performed)
        truth = PhotoRig(photo.image, photo.landmarks, photo.row).animate(rows, SIZE)
        framed = framed_photo(portrait)
        places = _places(truth.face_mask, truth.lip_mask, truth.eye_mask)
        places["stretched"] = framed.drawn_on()[1].stretched(truth.motion, SIZE)
        yield Case(framed, truth.motion, truth.frames, places)


def framed_photo(photo: Photo) -> FramedPortrait:
    """A photograph of the training sets' framing as the model takes portraits, drawn at the network's size."""
    pixels = F.interpolate(photo.image[None], (SIZE, SIZE), mode="bilinear", antialias=True)
    canvas = Canvas(photo.image, photo.landmarks, (SIZE, SIZE), (0, 0, SIZE, SIZE))
    return FramedPortrait(pixels, photo.row.numpy(), canvas)


class GeneratedFaces:
    """Portraits without landmarks.npz, read here; pictures without a face are left out."""

    def __init__(self, folder: Path, count: int) -> None:
        landmarker = FaceLandmarker()
        self._photos: list[Photo] = []
        for path in sorted(folder.glob("*.jpg")):
            if len(self._photos) == count:
                break
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            if faces := landmarker.detect(pixels):
                landmarks = torch.from_numpy(faces[0].landmarks)
                row = photo_row(landmarks, torch.from_numpy(faces[0].expression))
                image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
                self._photos.append(Photo(image, landmarks, row))
        if not self._photos:
            raise UserError(f"no picture in {folder} shows a face; give a folder of portraits")

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Photo:
        return self._photos[index]


def _chosen(photos: PhotoSet | GeneratedFaces, count: int) -> Iterator[tuple[int, Photo]]:
    places = np.linspace(0, len(photos) - 1, min(count, len(photos))).round().astype(int)
    return ((index, photos[int(place)]) for index, place in enumerate(places))


def _places(face: Tensor, lips: Tensor, eyes: Tensor) -> dict[str, Tensor]:
    return {"face": face > 0.5, "mouth": lips > 0.5, "eyes": eyes > 0.5}
