"""Where an avatar's head is in the picture, how it is turned, and which rays see it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flashportrait.avatars.controls import COLUMNS
from flashportrait.avatars.geometry import FACE_HEIGHT, FRONTAL_PITCH, PIVOT
from flashportrait.avatars.identity import Identity


@dataclass(frozen=True)
class Camera:
    """The view of each row. The picture plane lies at the resting head's depth; lengths are head units."""

    size: int
    """Side of the picture in pixels."""
    extent: Tensor
    """Side of the picture.  [n]"""
    center: Tensor
    """The head's pivot: right, up and forward of the picture's middle.  [n 3]"""
    rest: Tensor
    """Where the pivot rests, motion apart.  [n 3]"""
    scale: Tensor
    """[n]"""
    rotation: Tensor
    """From head to picture axes (x right, y up, z to the viewer).  [n 3 3]"""
    distance: Tensor
    """From the camera to the picture plane.  [n]"""

    @classmethod
    def of(cls, identity: Identity, motion: Tensor, size: int) -> Camera:
        """The camera that looks at ``identity`` (n rows) in the poses of motion rows [n 57]."""
        extent = FACE_HEIGHT / identity.face_size
        zero = torch.zeros_like(extent)
        rest = torch.stack([identity.center_x * extent, -identity.center_y * extent, zero], dim=-1)
        shift = torch.stack([motion[:, COLUMNS["x"]], -motion[:, COLUMNS["y"]], zero], dim=-1)
        yaw, pitch, roll = (motion[:, COLUMNS[name]] for name in ("yaw", "pitch", "roll"))
        return cls(
            size=size,
            extent=extent,
            center=rest + shift * FACE_HEIGHT,
            rest=rest,
            scale=motion[:, COLUMNS["log_scale"]].exp(),
            rotation=rotation_matrix(yaw, pitch + FRONTAL_PITCH, roll),
            distance=identity.camera_distance,
        )

    def __getitem__(self, rows: Tensor) -> Camera:
        """The views of some rows."""
        parts = {name: getattr(self, name)[rows] for name in ("extent", "center", "rest", "scale", "rotation")}
        return Camera(size=self.size, distance=self.distance[rows], **parts)

    @property
    def pixel(self) -> Tensor:
        """Width of a pixel in the picture plane.  [n 1 1]"""
        return (self.extent / self.size)[:, None, None]

    def plane(self, window: Window | None = None) -> tuple[Tensor, Tensor]:
        """Positions of a window's pixels in the picture plane, right and up of its middle.  x [n 1 w], y [n h 1]"""
        window = window or Window.whole(len(self.extent), self.size)
        left, top = (torch.tensor(edge, device=self.extent.device)[:, None] for edge in (window.left, window.top))
        line = torch.arange(max(window.height, window.width), device=self.extent.device) + 0.5
        x = (left + line[: window.width]) / self.size - 0.5
        y = 0.5 - (top + line[: window.height]) / self.size
        return (x * self.extent[:, None])[:, None, :], (y * self.extent[:, None])[:, :, None]

    def rays(self, window: Window) -> Rays:
        """The rays of a window's pixels, in head space."""
        x, y = (axis.expand(-1, window.height, window.width) for axis in self.plane(window))
        flat = torch.stack([x, y, torch.zeros_like(x)], dim=1).flatten(2)
        eye = torch.stack([torch.zeros_like(self.distance), torch.zeros_like(self.distance), self.distance], dim=-1)
        ray = flat - eye[:, :, None]
        inverse = self.rotation.transpose(1, 2)
        pivot = flat.new_tensor(PIVOT)[None, :, None]
        origin = inverse @ (flat - self.center[:, :, None]) / self.scale[:, None, None] + pivot
        direction = inverse @ (ray / ray.norm(dim=1, keepdim=True))
        shape = (len(x), 3, window.height, window.width)
        return Rays(origin.view(shape), direction.view(shape), self.pixel / self.scale[:, None, None])

    def project(self, point: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
        """Where a point of head space shows in the picture plane.  [n 1 1] each"""
        local = self.center.new_tensor(point) - self.center.new_tensor(PIVOT)
        placed = self.center + self.scale[:, None] * (self.rotation @ local)
        factor = self.distance / (self.distance - placed[:, 2])
        return (placed[:, 0] * factor)[:, None, None], (placed[:, 1] * factor)[:, None, None]


@dataclass(frozen=True)
class Rays:
    """What each pixel looks along, in head space."""

    origin: Tensor
    """Where the rays cross the picture plane.  [n 3 h w]"""
    direction: Tensor
    """Unit vectors away from the camera.  [n 3 h w]"""
    pixel: Tensor
    """Width of a pixel at the head, head units.  [n 1 1]"""

    def at(self, depth: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Points [n h w] each, ``depth`` [n h w] behind the picture plane."""
        x, y, z = torch.addcmul(self.origin, depth[:, None], self.direction).unbind(1)
        return x, y, z

    def cut(self, window: Window) -> Rays:
        """The rays of a smaller window of these."""
        return Rays(window.cut(self.origin), window.cut(self.direction), self.pixel)


@dataclass(frozen=True)
class Window:
    """A rectangle of each row's picture, all of one size, so that work goes where the head is."""

    left: list[int]
    top: list[int]
    width: int
    height: int

    @classmethod
    def whole(cls, count: int, size: int) -> Window:
        """The whole picture."""
        return cls([0] * count, [0] * count, size, size)

    @classmethod
    def around(cls, camera: Camera, point: tuple[float, float, float], reach: tuple[float, float], margin: Tensor):
        """A rectangle around a point of head space, ``reach`` head units and ``margin`` [n] to each side."""
        x, y = camera.project(point)
        per_unit = camera.size / camera.extent
        columns = camera.size / 2 + x.flatten() * per_unit
        rows = camera.size / 2 - y.flatten() * per_unit
        sides = [2 * ((r + margin) * camera.scale * per_unit).max().item() for r in reach]
        width, height = (min(camera.size, math.ceil(side / 4) * 4) for side in sides)
        left = (columns - width / 2).round().long().clamp(0, camera.size - width)
        top = (rows - height / 2).round().long().clamp(0, camera.size - height)
        return cls(left.tolist(), top.tolist(), width, height)

    def inside(self, outer: Window) -> Window:
        """This window's place inside a larger one, moved to lie within it."""
        width, height = min(self.width, outer.width), min(self.height, outer.height)
        left = [min(max(a - b, 0), outer.width - width) for a, b in zip(self.left, outer.left, strict=True)]
        top = [min(max(a - b, 0), outer.height - height) for a, b in zip(self.top, outer.top, strict=True)]
        return Window(left, top, width, height)

    def cut(self, picture: Tensor) -> Tensor:
        """The window's part of each picture.  [n c H W] -> [n c h w]"""
        places = zip(picture, self.left, self.top, strict=True)
        return torch.stack([row[:, y : y + self.height, x : x + self.width] for row, x, y in places])

    def paste(self, part: Tensor, picture: Tensor) -> None:
        """Put ``part`` [n c h w] back into ``picture`` [n c H W], in place."""
        for row, piece, x, y in zip(picture, part, self.left, self.top, strict=True):
            row[:, y : y + self.height, x : x + self.width] = piece


def rotation_matrix(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """R_y(yaw) R_x(-pitch) R_z(-roll), in axes x right, y up, z to the viewer.  [n 3 3]"""
    cos_y, sin_y, cos_p, sin_p, cos_r, sin_r = (f(a) for a in (yaw, pitch, roll) for f in (torch.cos, torch.sin))
    one, zero = torch.ones_like(yaw), torch.zeros_like(yaw)
    rows_y = torch.stack([cos_y, zero, sin_y, zero, one, zero, -sin_y, zero, cos_y], dim=-1)
    rows_x = torch.stack([one, zero, zero, zero, cos_p, sin_p, zero, -sin_p, cos_p], dim=-1)
    rows_z = torch.stack([cos_r, sin_r, zero, -sin_r, cos_r, zero, zero, zero, one], dim=-1)
    return rows_y.view(-1, 3, 3) @ rows_x.view(-1, 3, 3) @ rows_z.view(-1, 3, 3)
