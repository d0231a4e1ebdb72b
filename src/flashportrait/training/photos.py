"""Photographs with landmarks as training data: reading, choosing, varying and animating them."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.face.blendshapes import ROW_INDICES
from flashportrait.rig.landmarks import LANDMARKS
from flashportrait.rig.mesh import load_face_mesh, mirrored_coefficients
from flashportrait.rig.photo import WarpResult, animate_photo
from flashportrait.rig.pose import head_angles, head_pose_limits

__all__ = ["Photo", "PhotoSet", "WarpResult", "animate_photo", "fit_motion", "mirror_row", "photo_row"]

MAX_OWN_ANGLES = (math.radians(18), math.radians(20), math.radians(25))
"""Photos turned further than this show too little of one side of the face to be animated."""
ZOOM_RANGE = (1.0, 1.2)
"""A photo is never shrunk or shifted off its frame: there is nothing beyond its border."""
HUE_RANGE = math.radians(8)
GAIN_SPREAD = 0.06
CONTRAST_RANGE = (0.8, 1.2)
BRIGHTNESS_RANGE = 0.08
GAMMA_RANGE = (0.75, 1.35)


@dataclass(frozen=True)
class Photo:
    """One photograph of a face."""

    image: Tensor
    """[3 h h] in [0, 1]"""
    landmarks: Tensor
    """[478 3] x, y and depth (away from the camera) in the image's pixels"""
    row: Tensor
    """[57] the photo's own motion row"""

    def to(self, device: str) -> Photo:
        return Photo(self.image.to(device), self.landmarks.to(device), self.row.to(device))


def photo_row(landmarks: Tensor, coefficients: Tensor) -> Tensor:
    """Motion rows [... 57] of photos: head angles from landmarks [... 478 3], then coefficients [... 51] in row order.

    A photo is its own reference, so its place and scale are zero.
    """
    angles = head_angles(landmarks.float())
    return torch.cat((angles, torch.zeros_like(angles), coefficients.float()), -1)


def mirror_row(rows: Tensor) -> Tensor:
    """Motion rows [... 57] as seen in a mirror: left and right swapped, yaw, roll and x reversed."""
    signs = rows.new_tensor([-1.0, 1.0, -1.0, -1.0, 1.0, 1.0])
    return torch.cat((rows[..., :6] * signs, rows[..., 6:][..., mirrored_coefficients()]), -1)


def fit_motion(own_row: Tensor, motion: Tensor) -> Tensor:
    """A performance [t 57] turned as a whole, so that as much of it as possible is within reach of a photo.

    Each head pose column is shifted by the least constant that brings its range within ``head_pose_limits``, or centres
    it there if it is too wide.
    """
    lowest, highest = head_pose_limits(own_row)
    head = motion[:, :6]
    low, high = head.amin(0), head.amax(0)
    up, down = lowest - low, high - highest
    shift = up.clamp_min(0) - down.clamp_min(0)
    fits = high - low <= highest - lowest
    centred = (lowest + highest - low - high) / 2
    return torch.cat((head + torch.where(fits, shift, centred), motion[:, 6:]), 1)


class PhotoSet:
    """A folder of square portraits with ``landmarks.npz``: landmarks [n 478 3] in pixels, blendshapes [n 52].

    Rows of the arrays are in the order of the sorted file names. Only photos turned by less than ``MAX_OWN_ANGLES``
    are kept. Pictures stay compressed in memory.
    """

    def __init__(self, folder: str | Path) -> None:
        """Raises ``UserError`` when the folder holds no such photos."""
        folder = Path(folder)
        paths = sorted(folder.glob("*.jpg"))
        arrays_path = folder / "landmarks.npz"
        if not paths or not arrays_path.is_file():
            raise UserError(f"{folder} holds {len(paths)} .jpg files; give a folder of them with landmarks.npz")
        with np.load(arrays_path) as arrays:
            landmarks = torch.from_numpy(arrays["landmarks"].astype(np.float32))
            coefficients = torch.from_numpy(arrays["blendshapes"].astype(np.float32)[:, ROW_INDICES])
        if landmarks.shape != (len(paths), LANDMARKS, 3) or len(coefficients) != len(paths):
            found = tuple(landmarks.shape)
            raise UserError(f"{arrays_path} holds landmarks {found} for {len(paths)} photos; run the landmarker again")
        rows = photo_row(landmarks, coefficients)
        kept = (rows[:, :3].abs() <= rows.new_tensor(MAX_OWN_ANGLES)).all(1).nonzero().squeeze(1)
        self.names = [paths[index].name for index in kept]
        self.landmarks = landmarks[kept]
        """[n 478 3] pixels"""
        self.rows = rows[kept]
        """[n 57] the photos' own motion rows"""
        self._files = [paths[index].read_bytes() for index in kept]

    def __len__(self) -> int:
        return len(self.names)

    def split(self, one_in: int = 16) -> tuple[PhotoSet, PhotoSet]:
        """(the most, one in ``one_in``): people to train on, and people to judge by, the same in every run."""
        held_out = [index for index in range(len(self)) if index % one_in == 0]
        return self._subset([index for index in range(len(self)) if index % one_in]), self._subset(held_out)

    def _subset(self, indices: list[int]) -> PhotoSet:
        part = copy.copy(self)
        part.names = [self.names[index] for index in indices]
        part._files = [self._files[index] for index in indices]
        part.landmarks, part.rows = self.landmarks[indices], self.rows[indices]
        return part

    def __getitem__(self, index: int) -> Photo:
        with Image.open(io.BytesIO(self._files[index])) as picture:
            pixels = np.array(picture.convert("RGB"))
        image = torch.from_numpy(pixels).permute(2, 0, 1).float() / 255
        return Photo(image, self.landmarks[index], self.rows[index])

    def sample(self, generator: torch.Generator, vary: bool = True) -> Photo:
        """A photo at random; with ``vary``, mirrored half the time, moved a little and recoloured."""
        photo = self[int(torch.randint(len(self), (), generator=generator))]
        return vary_photo(photo, generator) if vary else photo


def vary_photo(photo: Photo, generator: torch.Generator) -> Photo:
    """The photo mirrored half the time, zoomed and shifted a little, and in other light."""
    if torch.rand((), generator=generator) < 0.5:
        photo = mirror_photo(photo)
    return recolour(reframe(photo, generator), generator)


def mirror_photo(photo: Photo) -> Photo:
    """The photo in a mirror, landmarks and row included."""
    side = photo.image.shape[-1]
    landmarks = photo.landmarks[load_face_mesh().mirror] * photo.landmarks.new_tensor([-1.0, 1.0, 1.0])
    return Photo(photo.image.flip(-1), landmarks + landmarks.new_tensor([side, 0.0, 0.0]), mirror_row(photo.row))


def reframe(photo: Photo, generator: torch.Generator) -> Photo:
    """The photo zoomed in ``ZOOM_RANGE`` and shifted as far as that leaves its frame filled."""
    side = photo.image.shape[-1]
    zoom = _uniform(ZOOM_RANGE, generator)
    shift = (torch.rand(2, generator=generator) - 0.5) * (zoom - 1)
    matrix = torch.stack((torch.tensor([1 / zoom, 0.0]), torch.tensor([0.0, 1 / zoom])))
    grid = F.affine_grid(torch.cat((matrix, (-2 * shift / zoom)[:, None]), 1)[None], [1, 3, side, side], False)
    image = F.grid_sample(photo.image[None], grid, padding_mode="border", align_corners=False)[0]
    centre = torch.tensor([side / 2, side / 2, 0.0])
    offset = torch.cat((shift * side, torch.zeros(1)))
    return Photo(image, (photo.landmarks - centre) * zoom + centre + offset, photo.row)


def recolour(photo: Photo, generator: torch.Generator) -> Photo:
    """The photo with another gamma, contrast, brightness, white balance and a small turn of hue."""
    image = photo.image.clamp_min(1e-4) ** _uniform(GAMMA_RANGE, generator)
    gain = 1 + GAIN_SPREAD * torch.randn(3, 1, 1, generator=generator)
    turn = _hue_rotation((2 * float(torch.rand((), generator=generator)) - 1) * HUE_RANGE)
    image = torch.einsum("ij,jhw->ihw", turn, image * gain)
    middle = image.mean()
    offset = (2 * torch.rand((), generator=generator) - 1) * BRIGHTNESS_RANGE
    image = (image - middle) * _uniform(CONTRAST_RANGE, generator) + middle + offset
    return Photo(image.clamp(0, 1), photo.landmarks, photo.row)


def _hue_rotation(angle: float) -> Tensor:
    """Rotation of RGB about the grey axis (Rodrigues).  [3 3]"""
    cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
    return torch.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def _uniform(bounds: tuple[float, float], generator: torch.Generator) -> float:
    low, high = bounds
    return low + (high - low) * float(torch.rand((), generator=generator))
