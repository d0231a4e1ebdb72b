"""Everything in the picture but the head: background, body, falling hair, glasses."""

from __future__ import annotations

import torch
from torch import Tensor

from flashportrait.avatars.camera import Camera, Rays, Window
from flashportrait.avatars.identity import BLOBS, Identity
from flashportrait.avatars.shapes import coverage, over, per_row, per_row_color, segment_distance, smoothstep

NECK_TOP = (0.0, -0.55, -0.1)
"""Where the neck meets the head, head space."""


def draw_behind(identity: Identity, camera: Camera) -> Tensor:
    """Background, hair behind the neck, neck, clothes and hair before the shoulders.  [n 3 size size]"""
    picture = _background(identity, camera)
    long_haired = (identity.hair_length > 0).nonzero().flatten()
    if len(long_haired):
        picture[long_haired] = _falling_hair(picture[long_haired], identity[long_haired], camera[long_haired])
    body = _body_window(camera)
    part = body.cut(picture)
    body.paste(_clothes(_neck(part, identity, camera, body), identity, camera, body), picture)
    if len(long_haired):
        picture[long_haired] = _side_hair(picture[long_haired], identity[long_haired], camera[long_haired])
    return picture


def draw_glasses(
    picture: Tensor, identity: Identity, camera: Camera, window: Window, rays: Rays, depth: Tensor
) -> Tensor:
    """Glasses over a window [n 3 h w] that shows the head ``depth`` [n h w] along the rays."""
    wearers = (identity.glasses > 0).nonzero().flatten()
    if not len(wearers):
        return picture
    picture = picture.clone()
    rows = wearers.tolist()
    part = Window([window.left[row] for row in rows], [window.top[row] for row in rows], window.width, window.height)
    seen = Rays(rays.origin[wearers], rays.direction[wearers], rays.pixel[wearers])
    picture[wearers] = _glasses(picture[wearers], identity[wearers], camera[wearers], part, seen, depth[wearers])
    return picture


def _background(identity: Identity, camera: Camera) -> Tensor:
    line = torch.linspace(-1, 1, camera.size, device=camera.extent.device)
    right, down = line[None, None, :], line[None, :, None]
    position = (0.5 + 0.5 * down)[:, None].expand(-1, -1, -1, camera.size)
    picture = torch.lerp(per_row_color(identity.background_top), per_row_color(identity.background_bottom), position)
    lit = identity.blob_color.abs().sum((1, 2)).nonzero().flatten()
    for blob in range(BLOBS if len(lit) else 0):
        x, y = (identity.blob_position[lit, blob, axis, None, None] for axis in (0, 1))
        radius = per_row(identity.blob_radius[lit, blob])
        glow = smoothstep(1.4 * radius, 0.5 * radius, torch.hypot(right - x, down - y))
        picture[lit] += per_row_color(identity.blob_color[lit, blob]) * glow[:, None]
    return picture.clamp_(0, 1)


def _body_anchor(camera: Camera) -> tuple[Tensor, Tensor]:
    """The pit of the neck, which follows the head a little.  [n 1 1] each"""
    follow = camera.rest + 0.3 * (camera.center - camera.rest)
    return per_row(follow[:, 0]), per_row(follow[:, 1]) - 1.28


def _body_window(camera: Camera) -> Window:
    """The part of the picture below the heads."""
    _, head_y = camera.project(NECK_TOP)
    first = int(((0.5 - head_y.flatten() / camera.extent) * camera.size).min().clamp(0, camera.size - 1))
    count = len(camera.extent)
    return Window([0] * count, [first] * count, camera.size, camera.size - first)


def _neck(picture: Tensor, identity: Identity, camera: Camera, window: Window) -> Tensor:
    x, y = camera.plane(window)
    foot_x, foot_y = _body_anchor(camera)
    head_x, head_y = camera.project(NECK_TOP)
    t = ((head_y - y) / (head_y - foot_y + 0.2)).clamp(0, 1)
    half = per_row(identity.neck_width * camera.scale) * (0.43 + 0.02 * t + 0.3 * smoothstep(0.7, 1.1, t))
    across = (x - torch.lerp(head_x, foot_x, t)) / half
    inside = coverage((across.abs() - 1) * half, 1.2 * camera.pixel) * (y < head_y)
    curve = torch.sqrt((1 - across * across).clamp_min(0))
    chin_x, chin_y = camera.project((0.0, -1.1, 0.6))
    shadow = torch.exp(-(((x - chin_x) / 0.55) ** 2)) * smoothstep(0.5, 0.05, chin_y - y)
    light = (0.5 + 0.42 * curve + 0.18 * across * per_row(identity.key_direction[:, 0])) * (1 - 0.62 * shadow)
    light = torch.lerp(0.78 - 0.22 * shadow, light, per_row(identity.softness))
    level = per_row_color(identity.key_color * 0.75 + identity.ambient_color)
    return over(picture, per_row_color(identity.skin_color) * level * light[:, None], inside)


def _clothes(picture: Tensor, identity: Identity, camera: Camera, window: Window) -> Tensor:
    foot_x, foot_y = _body_anchor(camera)
    x, y = camera.plane(window)
    x, y = x - foot_x, y - foot_y
    width = 1.55 * per_row(identity.shoulder_width)
    across = (x / width).abs()
    top = 0.08 - 0.42 * per_row(identity.shoulder_slope) * across**1.5 - 2.2 * (across - 0.92).clamp_min(0) ** 1.2
    deep = per_row(identity.neckline)
    opening = 0.47 * per_row(identity.neck_width) + 0.05
    bowl = 0.16 - (0.12 + 0.9 * deep) * (1 - (x / opening).abs() ** (2.2 - 1.1 * deep))
    neckline = torch.where(x.abs() < opening, bowl, 0.16 - 0.5 * (x.abs() - opening))
    distance = (y - torch.minimum(top + 0.12, neckline)) * 0.8
    inside = coverage(distance, 1.2 * camera.pixel)
    stripes = per_row(identity.stripes) * smoothstep(-0.1, 0.1, torch.sin(18 * y + 2 * x * x))
    color = torch.lerp(per_row_color(identity.clothes_color), per_row_color(identity.clothes_accent), stripes[:, None])
    band = per_row(identity.collar) * smoothstep(0.1, 0.085, -distance) * smoothstep(1.9, 1.6, x.abs() / opening)
    color = torch.lerp(color, per_row_color(identity.clothes_accent), band[:, None])
    round_x = (x / width).clamp(-1, 1)
    light = (
        0.62 + 0.32 * torch.sqrt(1 - 0.9 * round_x * round_x) + 0.2 * round_x * per_row(identity.key_direction[:, 0])
    )
    light = light - 0.16 * smoothstep(0.1, 0.0, -distance)
    light = torch.lerp(torch.full_like(light, 0.9), light, per_row(identity.softness))
    level = per_row_color(identity.key_color * 0.6 + identity.ambient_color)
    return over(picture, color * (level * light[:, None]), inside)


def _hair_tone(identity: Identity, across: Tensor, y: Tensor) -> Tensor:
    strands = torch.sin(30 * across + 1.5 * torch.sin(3 * y)) * 0.5 + torch.sin(71 * across) * 0.3
    level = identity.key_color * 0.6 + identity.ambient_color
    return per_row_color(identity.hair_color * level) * (0.68 + 0.13 * strands)[:, None]


def _falling_hair(picture: Tensor, identity: Identity, camera: Camera) -> Tensor:
    """Long hair behind head and neck."""
    x, y = camera.plane()
    crown_x, crown_y = camera.project((0.0, 0.1, -0.45))
    foot_x, _ = _body_anchor(camera)
    end_y = crown_y - 0.3 - per_row(identity.hair_length)
    t = ((crown_y - y) / (crown_y - end_y)).clamp(0, 1)
    curl = per_row(identity.hair_curl)
    half = 0.84 + per_row(identity.hair_volume) + 0.12 * torch.sin(3.1 * t) + 0.1 * curl * t
    half = per_row(camera.scale) * half + 0.03 * (0.3 + curl) * torch.sin(9 * y + per_row(identity.phase[:, 1]))
    across = (x - torch.lerp(crown_x, 0.5 * (crown_x + foot_x), t)) / half
    distance = torch.maximum((across.abs() - 1) * half, end_y + 0.12 * across * across - y)
    distance = torch.where(y > crown_y, torch.hypot(x - crown_x, y - crown_y) - half, distance)
    return over(picture, _hair_tone(identity, across, y), coverage(distance, 1.5 * camera.pixel))


def _side_hair(picture: Tensor, identity: Identity, camera: Camera) -> Tensor:
    """Long hair before the shoulders, on both sides of the neck."""
    x, y = camera.plane()
    length = per_row((identity.hair_length - 0.6).clamp_min(0))
    for sign in (1.0, -1.0):
        top_x, top_y = camera.project((0.72 * sign, -0.2, -0.15))
        t = ((top_y - y) / (0.8 + length)).clamp(0, 1)
        middle = top_x + 0.12 * sign * torch.sin(3 * t) + 0.05 * per_row(identity.hair_curl) * torch.sin(9 * y)
        half = (0.2 + 0.5 * per_row(identity.hair_volume)) * torch.sqrt((1 - t**3).clamp_min(0)) * per_row(camera.scale)
        across = (x - middle) / half.clamp_min(0.02)
        inside = coverage((x - middle).abs() - half, 1.5 * camera.pixel) * ((t < 1) & (y < top_y))
        shade = _hair_tone(identity, 0.5 * across, y) * (1.15 - 0.3 * across * across)[:, None]
        picture = over(picture, shade, inside)
    return picture


def _glasses(picture: Tensor, identity: Identity, camera: Camera, window: Window, rays: Rays, depth: Tensor) -> Tensor:
    """Rims in a curved sheet before the eyes, and temples to the ears."""
    front, wrap = 0.98, 0.2
    toward = rays.direction[:, 2].clamp(max=-0.05)
    ray = (front - rays.origin[:, 2]) / toward
    x, _, _ = rays.at(ray)
    ray = (front - wrap * x.clamp(-1, 1) ** 2 - rays.origin[:, 2]) / toward
    x, y, _ = rays.at(ray)
    y = y + 0.09
    visible = (ray < depth + 0.12).float()
    size = per_row(identity.glasses_size)
    half_x, half_y = 0.27 * size, 0.19 * size
    corner = per_row(identity.glasses_roundness) * half_y
    qx, qy = (x.abs() - 0.36).abs() - half_x + corner, y.abs() - half_y + corner
    box = torch.hypot(qx.clamp_min(0), qy.clamp_min(0)) + torch.maximum(qx, qy).clamp(max=0) - corner
    thick = per_row(identity.glasses_width)
    rim = torch.minimum(box.abs(), segment_distance(x.abs(), y, (0.0, 0.06), (0.1, 0.05))) - thick
    sheen = 0.55 + 0.35 * smoothstep(0.1, -0.1, (x * 0.7 + y * 1.0 - 0.3).abs() - 0.1)
    picture = over(
        picture, sheen[:, None].expand_as(picture), coverage(box, rays.pixel) * visible * per_row(identity.lens_tint)
    )
    frame = coverage(rim, rays.pixel) * visible
    plane_x, plane_y = camera.plane(window)
    for sign in (1.0, -1.0):
        start, end = camera.project((0.62 * sign, 0.02, 0.88)), camera.project((0.8 * sign, 0.0, -0.1))
        temple = segment_distance(plane_x, plane_y, start, end) / per_row(camera.scale) - thick
        turned_away = per_row(camera.rotation[:, 0, 2]) * sign < 0.12
        frame = torch.maximum(frame, coverage(temple, rays.pixel) * turned_away)
    return over(picture, per_row_color(identity.glasses_color), frame)
