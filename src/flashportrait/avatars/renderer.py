"""Draws avatars: rays meet the head's star-shaped surface, which is then painted and lit."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flashportrait.avatars import scene
from flashportrait.avatars.controls import COLUMNS, Controls, expression_controls
from flashportrait.avatars.features import coverage, paint_face
from flashportrait.avatars.geometry import (
    CHANNELS,
    FACE_HEIGHT,
    PIVOT,
    build_head_map,
    face_coordinates,
    sample_map,
    smoothstep,
)
from flashportrait.avatars.identity import Identity

MARCH_STEPS = 9


@dataclass(frozen=True)
class RenderResult:
    """Pictures and what is where in them; all in [0, 1]."""

    frames: Tensor
    """[n 3 size size]"""
    face_mask: Tensor
    """The face's skin and features.  [n 1 size size]"""
    lip_mask: Tensor
    """The lips and what lies between them.  [n 1 size size]"""
    eye_mask: Tensor
    """Both eyes with their lids.  [n 1 size size]"""


@torch.no_grad()
def render(identity: Identity, motion: Tensor, size: int = 128) -> RenderResult:
    """Draw ``identity`` (n rows, or one for all) performing the motion rows [n 57] of layout ``BLENDSHAPES``.

    x, y and log_scale displace the head from where the identity rests, in units of its face height.
    """
    if len(identity) not in (1, len(motion)):
        raise ValueError(f"{len(identity)} identities for {len(motion)} motion rows: give one, or one for each row")
    if len(identity) != len(motion):
        identity = identity.expand(len(motion))
    motion = motion.to(identity.skull_width)
    controls = expression_controls(identity, motion)
    head_map = build_head_map(identity, controls, 48 + 3 * size // 8)
    camera = Camera.of(identity, motion, size)
    hit = _march(head_map, camera, identity)
    picture = scene.draw_behind(identity, camera)
    color, paint, skin = _shade_head(head_map, hit, camera, identity, controls)
    picture = torch.lerp(picture, color, hit.alpha[:, None])
    picture = scene.draw_glasses(picture, identity, camera, hit.depth)
    masks = hit.alpha[:, None] * skin[:, None]
    return RenderResult(picture.clamp(0, 1), masks, paint.lips * masks, paint.eyes * masks)


@dataclass(frozen=True)
class Camera:
    """Where the head is, how it is turned and which ray each pixel looks along."""

    x: Tensor
    """Picture plane at the head's depth, head units right of the middle.  [n size size]"""
    y: Tensor
    """The same, up."""
    unit: Tensor
    """Width of a pixel in head units of this head.  [n 1 1]"""
    center: Tensor
    """The head's pivot in that plane.  [n 3]"""
    rest: Tensor
    """Where the pivot rests, expression and motion apart.  [n 3]"""
    scale: Tensor
    """[n]"""
    rotation: Tensor
    """Head to picture axes.  [n 3 3]"""
    origin: tuple[Tensor, Tensor, Tensor]
    """Ray origins in head space.  [n size size] each"""
    direction: tuple[Tensor, Tensor, Tensor]
    """Unit ray directions in head space."""
    distance: Tensor
    """Camera to picture plane, head units.  [n]"""

    @classmethod
    def of(cls, identity: Identity, motion: Tensor, size: int) -> Camera:
        """The camera of each row."""
        extent = FACE_HEIGHT / identity.face_size
        line = (torch.arange(size, device=motion.device) + 0.5) / size - 0.5
        y, x = torch.meshgrid(-line, line, indexing="ij")
        x, y = x[None] * extent[:, None, None], y[None] * extent[:, None, None]
        zero = torch.zeros_like(extent)
        rest = torch.stack([identity.center_x * extent, -identity.center_y * extent, zero], dim=-1)
        shift = torch.stack([motion[:, COLUMNS["x"]], -motion[:, COLUMNS["y"]], zero], dim=-1)
        center = rest + shift * FACE_HEIGHT
        scale = motion[:, COLUMNS["log_scale"]].exp()
        rotation = rotation_matrix(*(motion[:, COLUMNS[name]] for name in ("yaw", "pitch", "roll")))
        distance = identity.camera_distance
        inverse = rotation.transpose(1, 2)
        flat = torch.stack([x, y, torch.zeros_like(x)], dim=1).flatten(2)
        pivot = motion.new_tensor(PIVOT)[None, :, None]
        origin = inverse @ (flat - center[:, :, None]) / scale[:, None, None] + pivot
        ray = flat - torch.stack([zero, zero, distance], dim=-1)[:, :, None]
        direction = inverse @ (ray / ray.norm(dim=1, keepdim=True))
        shape = (len(motion), 3, size, size)
        return cls(
            x=x,
            y=y,
            unit=(extent / size / scale)[:, None, None],
            center=center,
            rest=rest,
            scale=scale,
            rotation=rotation,
            origin=origin.reshape(shape).unbind(1),
            direction=direction.reshape(shape).unbind(1),
            distance=distance,
        )

    def project(self, point: tuple[float, float, float]) -> tuple[Tensor, Tensor]:
        """Where a point of head space shows in the picture plane.  [n 1 1] each"""
        local = self.center.new_tensor(point) - self.center.new_tensor(PIVOT)
        placed = self.center + self.scale[:, None] * (self.rotation @ local)
        factor = self.distance / (self.distance - placed[:, 2])
        return (placed[:, 0] * factor)[:, None, None], (placed[:, 1] * factor)[:, None, None]


def rotation_matrix(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """R_y(yaw) R_x(-pitch) R_z(-roll), in axes x right, y up, z to the viewer.  [n 3 3]"""
    cos_y, sin_y, cos_p, sin_p, cos_r, sin_r = (f(a) for a in (yaw, pitch, roll) for f in (torch.cos, torch.sin))
    one, zero = torch.ones_like(yaw), torch.zeros_like(yaw)
    rows_y = torch.stack([cos_y, zero, sin_y, zero, one, zero, -sin_y, zero, cos_y], dim=-1)
    rows_x = torch.stack([one, zero, zero, zero, cos_p, sin_p, zero, -sin_p, cos_p], dim=-1)
    rows_z = torch.stack([cos_r, sin_r, zero, -sin_r, cos_r, zero, zero, zero, one], dim=-1)
    return rows_y.view(-1, 3, 3) @ rows_x.view(-1, 3, 3) @ rows_z.view(-1, 3, 3)


@dataclass(frozen=True)
class Hit:
    """Where rays meet the head, or pass it most closely.  [n size size] each"""

    u: Tensor
    v: Tensor
    depth: Tensor
    """Along the ray from the picture plane, head units."""
    alpha: Tensor
    """Share of the pixel that the head covers."""


def _march(head_map: Tensor, camera: Camera, identity: Identity) -> Hit:
    """Walk each ray from an ellipsoid around the head to the surface.

    Each step is the radial distance left over the cosine at which the ray approaches the origin.
    """
    margin = identity.hair_volume[:, None, None] * 1.5 + identity.beard_length[:, None, None]
    axes = (1.0 + margin, 1.4 + margin, 1.28 + margin)
    center = (0.0, -0.12, 0.05)
    origin = [(o - c) / axis for o, c, axis in zip(camera.origin, center, axes, strict=True)]
    direction = [d / axis for d, axis in zip(camera.direction, axes, strict=True)]
    a = sum(d * d for d in direction)
    b = sum(o * d for o, d in zip(origin, direction, strict=True))
    c = sum(o * o for o in origin) - 1
    depth = (-b - torch.sqrt((b * b - a * c).clamp_min(0))) / a
    nearest = torch.full_like(depth, 9.0)
    best = depth
    for _ in range(MARCH_STEPS):
        point = [o + depth * d for o, d in zip(camera.origin, camera.direction, strict=True)]
        u, v, radius = face_coordinates(*point)
        left = radius - sample_map(head_map, u, v, slice(0, 1))[:, 0]
        best = torch.where(left < nearest, depth, best)
        nearest = torch.minimum(nearest, left)
        approach = -sum(p * d for p, d in zip(point, camera.direction, strict=True)) / radius
        depth = depth + 0.9 * left / approach.clamp_min(0.35)
    point = [o + best * d for o, d in zip(camera.origin, camera.direction, strict=True)]
    u, v, _ = face_coordinates(*point)
    return Hit(u, v, best, coverage(nearest - 0.5 * camera.unit, 1.2 * camera.unit))


def _shade_head(
    head_map: Tensor, hit: Hit, camera: Camera, identity: Identity, controls: Controls
) -> tuple[Tensor, object, Tensor]:
    """Colour of the head, its paint, and where it is skin."""
    surface = dict(zip(CHANNELS[1:], sample_map(head_map, hit.u, hit.v, slice(1, None)).unbind(1), strict=True))
    pixel = camera.unit * 1.05
    red = surface["redness"][:, None] * hit.u.new_tensor([0.02, -0.10, -0.09])[:, None, None]
    skin = identity.skin_color[:, :, None, None] * (surface["tone"][:, None] + red)
    beard_color = (identity.brow_color * 0.8)[:, :, None, None]
    strokes = 0.86 + 0.14 * torch.sin(70 * hit.u + 9 * torch.sin(2.5 * hit.v + 2 * hit.u.abs()))
    skin = torch.lerp(skin, beard_color, (0.85 * surface["beard"] * strokes).clamp(0, 1)[:, None])
    slope = camera.direction[0], camera.direction[1]
    paint = paint_face(skin, hit.u, hit.v, slope, pixel, identity, controls)
    hair = smoothstep(-0.02, 0.035, surface["hair"] + 0.015 * torch.sin(70 * surface["strand"]))
    normal = torch.stack([surface["normal_x"], surface["normal_y"], surface["normal_z"]], dim=1)
    skin_lit = scene.light_skin(paint.albedo, normal, paint.wet, camera, identity)
    hair_lit = scene.light_hair(normal, surface["strand"], camera, identity)
    color = torch.lerp(skin_lit, hair_lit, hair[:, None])
    return color, paint, 1 - hair
