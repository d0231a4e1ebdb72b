"""Light, and everything in the picture but the head: background, body, falling hair, glasses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from flashportrait.avatars.features import coverage
from flashportrait.avatars.geometry import segment_distance, smoothstep
from flashportrait.avatars.identity import BLOBS, Identity

if TYPE_CHECKING:
    from flashportrait.avatars.renderer import Camera


def _col(value: Tensor) -> Tensor:
    return value[:, None, None]


def _rgb(value: Tensor) -> Tensor:
    return value[:, :, None, None]


def _over(base: Tensor, color: Tensor, alpha: Tensor) -> Tensor:
    return torch.lerp(base, color, alpha[:, None])


def light_skin(albedo: Tensor, normal: Tensor, wet: Tensor, camera: Camera, identity: Identity) -> Tensor:
    """Soft wrapped light whose shadow edge is warm, as light scattered in skin is; a gleam; a rim.  [n 3 h w]"""
    key = (camera.rotation.transpose(1, 2) @ identity.key_direction[:, :, None])[:, :, :, None]
    facing = (normal * key).sum(1)
    view = -(normal * torch.stack(camera.direction, dim=1)).sum(1)
    wrapped = ((facing[:, None] + normal.new_tensor([0.5, 0.32, 0.26])[:, None, None]) / 1.38).clamp_min(0)
    up = (normal * camera.rotation[:, 1, :, None, None]).sum(1)
    ambient = _rgb(identity.ambient_color) * (0.82 + 0.18 * up)[:, None]
    light = _rgb(identity.key_color) * wrapped + ambient
    flat = (_rgb(identity.key_color) * 0.62 + _rgb(identity.ambient_color)) * (
        0.86 + 0.14 * smoothstep(-0.05, 0.12, facing)[:, None]
    )
    light = torch.lerp(flat, light, _col(identity.softness)[:, None])
    half = 2 * facing[:, None] * normal - key
    mirror = -(half * torch.stack(camera.direction, dim=1)).sum(1).clamp(-1, 1)
    mirror = mirror.clamp_min(0)
    gleam = (0.13 * _col(identity.gloss) * mirror**12 + 0.35 * wet[:, 0] * mirror**30) * _col(identity.softness)
    rim = _col(identity.rim_light) * (1 - view).clamp(0, 1) ** 3 * smoothstep(-0.2, 0.6, up + facing)
    return albedo * light + (gleam + 0.5 * rim)[:, None] * _rgb(identity.key_color)


def light_hair(normal: Tensor, strand: Tensor, camera: Camera, identity: Identity) -> Tensor:
    """Hair: strands of varied tone with a soft band of gleam.  [n 3 h w]"""
    key = (camera.rotation.transpose(1, 2) @ identity.key_direction[:, :, None])[:, :, :, None]
    facing = (normal * key).sum(1)
    tone = 1 + 0.16 * torch.sin(43 * strand) + 0.10 * torch.sin(97 * strand + 1)
    light = 0.45 + 0.6 * (0.5 + 0.5 * facing).clamp_min(0) ** 1.5
    light = torch.lerp(0.85 + 0.1 * smoothstep(0.0, 0.1, facing), light, _col(identity.softness))
    band = torch.exp(-(((normal[:, 1] - 0.45) / 0.2) ** 2)) * (0.5 + 0.5 * torch.sin(61 * strand))
    gleam = 0.28 * _col(identity.hair_gloss) * _col(identity.softness) * band * facing.clamp_min(0)
    bright = _rgb(identity.key_color + identity.ambient_color)
    return _rgb(identity.hair_color) * (tone * light)[:, None] * bright + gleam[:, None] * _rgb(identity.key_color)


def draw_behind(identity: Identity, camera: Camera) -> Tensor:
    """Background, hair behind the neck, neck, clothes and hair before the shoulders.  [n 3 h w]"""
    picture = _background(identity, camera)
    picture = _falling_hair(picture, identity, camera)
    picture = _neck(picture, identity, camera)
    picture = _clothes(picture, identity, camera)
    return _side_hair(picture, identity, camera)


def _background(identity: Identity, camera: Camera) -> Tensor:
    size = camera.x.shape[-1]
    line = torch.linspace(-1, 1, size, device=camera.x.device)
    down, right = torch.meshgrid(line, line, indexing="ij")
    picture = torch.lerp(
        _rgb(identity.background_top), _rgb(identity.background_bottom), (0.5 + 0.5 * down)[None, None]
    )
    for blob in range(BLOBS):
        x, y = (identity.blob_position[:, blob, axis, None, None] for axis in (0, 1))
        radius = _col(identity.blob_radius[:, blob])
        glow = smoothstep(1.4 * radius, 0.5 * radius, torch.hypot(right - x, down - y))
        picture = picture + _rgb(identity.blob_color[:, blob]) * glow[:, None]
    return picture.clamp(0, 1)


def _body_anchor(identity: Identity, camera: Camera) -> tuple[Tensor, Tensor]:
    """The pit of the neck, which follows the head a little.  [n 1 1] each"""
    follow = camera.rest + 0.3 * (camera.center - camera.rest)
    return _col(follow[:, 0]), _col(follow[:, 1]) - 1.28


def _neck(picture: Tensor, identity: Identity, camera: Camera) -> Tensor:
    foot_x, foot_y = _body_anchor(identity, camera)
    head_x, head_y = camera.project((0.0, -0.55, -0.1))
    t = ((head_y - camera.y) / (head_y - foot_y + 0.2)).clamp(0, 1)
    middle = torch.lerp(head_x, foot_x, t)
    half = _col(identity.neck_width * camera.scale) * (0.43 + 0.02 * t + 0.3 * smoothstep(0.7, 1.1, t))
    across = (camera.x - middle) / half
    inside = coverage((across.abs() - 1) * half, camera.unit * 1.2) * (camera.y < head_y)
    curve = torch.sqrt((1 - across * across).clamp_min(0))
    chin_x, chin_y = camera.project((0.0, -1.1, 0.6))
    shadow = torch.exp(-(((camera.x - chin_x) / 0.55) ** 2)) * smoothstep(0.5, 0.05, chin_y - camera.y)
    light = (0.5 + 0.42 * curve + 0.18 * across * _col(identity.key_direction[:, 0])) * (1 - 0.62 * shadow)
    light = torch.lerp(0.78 - 0.16 * shadow, light, _col(identity.softness))
    level = _rgb(identity.key_color * 0.75 + identity.ambient_color)
    return _over(picture, _rgb(identity.skin_color) * light[:, None] * level, inside)


def _clothes(picture: Tensor, identity: Identity, camera: Camera) -> Tensor:
    foot_x, foot_y = _body_anchor(identity, camera)
    x, y = camera.x - foot_x, camera.y - foot_y
    width = 1.55 * _col(identity.shoulder_width)
    across = (x / width).abs()
    top = 0.08 - 0.42 * _col(identity.shoulder_slope) * across**1.5 - 2.2 * (across - 0.92).clamp_min(0) ** 1.2
    deep = _col(identity.neckline)
    opening = 0.47 * _col(identity.neck_width) + 0.05
    bowl = 0.16 - (0.12 + 0.9 * deep) * (1 - (x / opening).abs() ** (2.2 - 1.1 * deep))
    neckline = torch.where(x.abs() < opening, bowl, 0.16 - 0.5 * (x.abs() - opening))
    edge = torch.minimum(top + 0.12, neckline)
    distance = (y - edge) * 0.8
    inside = coverage(distance, camera.unit * camera.scale[:, None, None] * 1.2)
    stripes = _col(identity.stripes) * smoothstep(-0.1, 0.1, torch.sin(18 * y + 2 * x * x))
    color = torch.lerp(_rgb(identity.clothes_color), _rgb(identity.clothes_accent), stripes[:, None])
    band = _col(identity.collar) * smoothstep(0.1, 0.085, -distance) * smoothstep(1.9, 1.6, x.abs() / opening)
    color = torch.lerp(color, _rgb(identity.clothes_accent), band[:, None])
    round_x = (x / width).clamp(-1, 1)
    light = 0.62 + 0.32 * torch.sqrt(1 - 0.9 * round_x * round_x) + 0.2 * round_x * _col(identity.key_direction[:, 0])
    light = light - 0.16 * smoothstep(0.1, 0.0, -distance) + 0.04 * torch.sin(6 * x + 4 * y + 1)
    light = torch.lerp(torch.full_like(light, 0.9), light, _col(identity.softness))
    level = _rgb(identity.key_color * 0.6 + identity.ambient_color)
    return _over(picture, color * light[:, None] * level, inside)


def _hair_tone(camera: Camera, identity: Identity, across: Tensor) -> Tensor:
    strands = torch.sin(30 * across + 1.5 * torch.sin(3 * camera.y)) * 0.5 + torch.sin(71 * across) * 0.3
    light = 0.52 + 0.12 * strands
    level = identity.key_color * 0.6 + identity.ambient_color
    return _rgb(identity.hair_color * level) * light[:, None]


def _falling_hair(picture: Tensor, identity: Identity, camera: Camera) -> Tensor:
    """Long hair behind head and neck."""
    crown_x, crown_y = camera.project((0.0, 0.1, -0.45))
    foot_x, foot_y = _body_anchor(identity, camera)
    length = _col(identity.hair_length)
    end_y = crown_y - 0.3 - length
    t = ((crown_y - camera.y) / (crown_y - end_y)).clamp(0, 1)
    middle = torch.lerp(crown_x, 0.5 * (crown_x + foot_x), t)
    volume = _col(identity.hair_volume)
    half = _col(camera.scale) * (0.84 + volume + 0.12 * torch.sin(3.1 * t) + 0.1 * _col(identity.hair_curl) * t)
    half = half + 0.03 * (0.3 + _col(identity.hair_curl)) * torch.sin(9 * camera.y + _col(identity.phase[:, 1]))
    across = (camera.x - middle) / half
    bottom = camera.y - end_y - 0.12 * across * across
    distance = torch.maximum((across.abs() - 1) * half, -bottom)
    distance = torch.where(camera.y > crown_y, torch.hypot(camera.x - crown_x, camera.y - crown_y) - half, distance)
    inside = coverage(distance, camera.unit * 1.5) * (length > 0)
    return _over(picture, _hair_tone(camera, identity, across), inside)


def _side_hair(picture: Tensor, identity: Identity, camera: Camera) -> Tensor:
    """Long hair before the shoulders, on both sides of the neck."""
    length = _col((identity.hair_length - 0.6).clamp_min(0))
    for sign in (1.0, -1.0):
        top_x, top_y = camera.project((0.72 * sign, -0.2, -0.15))
        t = ((top_y - camera.y) / (0.8 + length)).clamp(0, 1)
        middle = top_x + 0.12 * sign * torch.sin(3 * t) + 0.05 * _col(identity.hair_curl) * torch.sin(9 * camera.y)
        half = (0.2 + 0.5 * _col(identity.hair_volume)) * torch.sqrt((1 - t**3).clamp_min(0)) * _col(camera.scale)
        across = (camera.x - middle) / half.clamp_min(0.02)
        inside = coverage((across.abs() - 1) * half, camera.unit * 1.5) * (t < 1) * (camera.y < top_y) * (length > 0)
        shade = _hair_tone(camera, identity, 0.5 * across) * (1.15 - 0.3 * across * across)[:, None]
        picture = _over(picture, shade, inside)
    return picture


def draw_glasses(picture: Tensor, identity: Identity, camera: Camera, depth: Tensor) -> Tensor:
    """Rims in a plane before the eyes, and temples to the ears."""
    plane = 1.0
    ray = (plane - camera.origin[2]) / camera.direction[2].clamp(max=-0.05)
    x = camera.origin[0] + ray * camera.direction[0]
    y = camera.origin[1] + ray * camera.direction[1] + 0.03
    wear = _col(identity.glasses) * (ray < depth + 0.12)
    size = _col(identity.glasses_size)
    half_x, half_y = 0.27 * size, 0.23 * size
    corner = _col(identity.glasses_roundness) * half_y
    qx, qy = (x.abs() - 0.36).abs() - half_x + corner, y.abs() - half_y + corner
    box = torch.hypot(qx.clamp_min(0), qy.clamp_min(0)) + torch.maximum(qx, qy).clamp(max=0) - corner
    thick = _col(identity.glasses_width)
    bridge = segment_distance(x.abs(), y, (0.0, 0.06), (0.1, 0.05))
    rim = torch.minimum(box.abs(), bridge) - thick
    lens = coverage(box, camera.unit) * wear
    glass = 0.55 + 0.35 * smoothstep(0.1, -0.1, (x * 0.7 + y * 1.0 - 0.3).abs() - 0.1)
    picture = _over(picture, glass[:, None].expand_as(picture), lens * _col(identity.lens_tint))
    frame = coverage(rim, camera.unit) * wear
    for sign in (1.0, -1.0):
        start, end = camera.project((0.62 * sign, 0.02, plane)), camera.project((0.8 * sign, 0.0, -0.1))
        temple = segment_distance(camera.x, camera.y, start, end) / _col(camera.scale) - thick
        outward = _col(camera.rotation[:, 0, 2]) * sign
        frame = torch.maximum(frame, coverage(temple, camera.unit) * _col(identity.glasses) * (outward < 0.12))
    return _over(picture, _rgb(identity.glasses_color), frame)
