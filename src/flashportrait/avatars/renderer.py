"""Draws avatars: rays meet the head's star-shaped surface, which is then painted and lit."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from flashportrait.avatars import scene
from flashportrait.avatars.camera import Camera, Rays, Window
from flashportrait.avatars.controls import Controls, expression_controls
from flashportrait.avatars.features import Paint, paint_face
from flashportrait.avatars.geometry import CHANNELS, build_head_map, sample_map
from flashportrait.avatars.identity import Identity
from flashportrait.avatars.patch import Patch
from flashportrait.avatars.shading import light_hair, light_skin
from flashportrait.avatars.shapes import coverage, over, per_row_color, smoothstep


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
    head_map = build_head_map(identity, controls, 40 + 3 * size // 8)
    camera = Camera.of(identity, motion, size)
    frames = scene.draw_behind(identity, camera)
    margin = 1.4 * identity.hair_volume + identity.beard_length
    head = Window.around(camera, (0.0, -0.1, 0.0), (1.15, 1.5), margin)
    rays = camera.rays(head)
    # Finer pixels need a closer approach: two more steps for each doubling beyond 128.
    hit = _march(head_map, rays, margin, steps=max(7, round(2 * math.log2(size) - 7)))
    face = Window.around(camera, (0.0, -0.35, 0.75), (0.82, 0.98), torch.zeros_like(margin)).inside(head)
    color, masks = _shade_head(head_map, hit, rays, face, camera, identity, controls)
    part = torch.lerp(head.cut(frames), color, hit.alpha[:, None])
    head.paste(scene.draw_glasses(part, identity, camera, head, rays, hit.depth), frames)
    whole = frames.new_zeros(len(frames), 3, size, size)
    head.paste(masks * hit.alpha[:, None], whole)
    return RenderResult(_expose(frames), *whole.split(1, dim=1))


def _expose(light: Tensor) -> Tensor:
    """Tone curve with a soft shoulder: dark and middle tones unchanged, highlights compressed below 1."""
    squared = light.clamp_min(0).square()
    return (light.clamp_min(0) * 1.06 / (1 + squared * squared).sqrt().sqrt()).clamp_(0, 1)


@dataclass(frozen=True)
class Hit:
    """Where rays meet the head, or pass it most closely.  [n h w] each"""

    u: Tensor
    v: Tensor
    depth: Tensor
    """Along the ray from the picture plane, head units."""
    alpha: Tensor
    """Share of the pixel that the head covers."""


def _march(head_map: Tensor, rays: Rays, margin: Tensor, steps: int) -> Hit:
    """Follow each ray from an ellipsoid around the head to the surface.

    Each step is the radial distance left over the cosine at which the ray approaches the head's origin, but no
    long leap, which could jump over an ear.
    """
    depth = _enter_bounds(rays, margin)
    squared, along = (rays.origin * rays.origin).sum(1), (rays.origin * rays.direction).sum(1)
    nearest = torch.full_like(depth, 9.0)
    best, half_pixel = depth, 0.5 * rays.pixel
    for _ in range(steps):
        radius = torch.addcmul(squared, depth, 2 * along + depth).sqrt_()
        u, v = face_coordinates(rays, depth, radius)
        left = radius - sample_map(head_map, u, v, slice(0, 1))[:, 0]
        # Half a pixel is a hit; what comes later is truer than the edge that a ray has just passed.
        best = torch.where(left < torch.maximum(nearest, half_pixel), depth, best)
        nearest = torch.minimum(nearest, left)
        slowness = radius.div_((along + depth).neg_().clamp_min_(0.3))
        depth = depth + torch.maximum(torch.minimum(left * slowness, left + 0.05), left)
    radius = torch.addcmul(squared, best, 2 * along + best).sqrt_()
    u, v = face_coordinates(rays, best, radius)
    return Hit(u, v, best, coverage(nearest - rays.pixel, 1.2 * rays.pixel))


def _enter_bounds(rays: Rays, margin: Tensor) -> Tensor:
    """Depth at which rays enter an ellipsoid around the head, or pass it most closely.  [n h w]"""
    axes = rays.origin.new_tensor([1.0, 1.4, 1.28])[:, None, None] + margin[:, None, None, None]
    origin = (rays.origin - rays.origin.new_tensor([0.0, -0.12, 0.05])[:, None, None]) / axes
    direction = rays.direction / axes
    a, b = (direction * direction).sum(1), (origin * direction).sum(1)
    c = (origin * origin).sum(1) - 1
    return (-b - torch.sqrt((b * b - a * c).clamp_min(0))) / a


def face_coordinates(rays: Rays, depth: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Face coordinates of the points at ``depth``, whose distance from the origin is ``radius``.  [n h w] each"""
    (x, y, z), (dx, dy, dz) = rays.origin.unbind(1), rays.direction.unbind(1)
    factor = torch.addcmul(z, depth, dz).add_(radius).mul_(radius).mul_(0.5).clamp_min_(1e-4).rsqrt_()
    return torch.addcmul(x, depth, dx).mul_(factor), torch.addcmul(y, depth, dy).mul_(factor)


def _shade_head(
    head_map: Tensor, hit: Hit, rays: Rays, face: Window, camera: Camera, identity: Identity, controls: Controls
) -> tuple[Tensor, Tensor]:
    """Colour of the head [n 3 h w], and where its face, lips and eyes are [n 3 h w]."""
    sampled = sample_map(head_map, hit.u, hit.v, slice(1, None))
    surface = dict(zip(CHANNELS[1:], sampled.unbind(1), strict=True))
    normal = sampled[:, :3]
    hair = smoothstep(-0.02, 0.035, surface["hair"] + 0.015 * torch.sin(70 * surface["strand"]))
    skin = _skin(surface, hit, identity)
    paint = _paint_window(skin, hit, rays, face, identity, controls)
    wet = torch.zeros_like(skin[:, :1])
    masks = (1 - hair)[:, None].repeat(1, 3, 1, 1)
    face.paste(paint.albedo, skin)
    face.paste(paint.wet, wet)
    elsewhere = torch.zeros_like(masks[:, 1:])
    face.paste(torch.cat([paint.lips, paint.eyes], dim=1), elsewhere)
    masks[:, 1:] *= elsewhere
    lit = light_skin(skin, normal, wet[:, 0], rays, camera, identity)
    return torch.lerp(lit, light_hair(normal, surface["strand"], camera, identity), hair[:, None]), masks


def _skin(surface: dict[str, Tensor], hit: Hit, identity: Identity) -> Tensor:
    red = surface["redness"][:, None] * hit.u.new_tensor([0.02, -0.10, -0.09])[:, None, None]
    skin = per_row_color(identity.skin_color) * (surface["tone"][:, None] + red)
    strokes = 0.95 + 0.05 * torch.sin(90 * hit.u + 6 * torch.sin(7 * hit.v + 5 * hit.u))
    beard = (0.85 * surface["beard"] * strokes).clamp(0, 1)
    return over(skin, identity.brow_color * 0.8, beard)


def _paint_window(skin: Tensor, hit: Hit, rays: Rays, face: Window, identity: Identity, controls: Controls) -> Paint:
    place = face.cut(torch.stack([hit.u, hit.v, rays.direction[:, 0], rays.direction[:, 1]], dim=1))
    return paint_face(face.cut(skin), Patch(*place.unbind(1), pixel=1.05 * rays.pixel), identity, controls)
