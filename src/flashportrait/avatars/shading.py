"""Light on skin and hair. Normals and rays are in head space."""

from __future__ import annotations

import torch
from torch import Tensor

from flashportrait.avatars.camera import Camera, Rays
from flashportrait.avatars.geometry import smoothstep
from flashportrait.avatars.identity import Identity


def _col(value: Tensor) -> Tensor:
    return value[:, None, None]


def _rgb(value: Tensor) -> Tensor:
    return value[:, :, None, None]


def light_skin(albedo: Tensor, normal: Tensor, wet: Tensor, rays: Rays, camera: Camera, identity: Identity) -> Tensor:
    """Soft wrapped light whose shadow edge is warm, as light scattered in skin is; a gleam; a rim.  [n 3 h w]"""
    key = (camera.rotation.transpose(1, 2) @ identity.key_direction[:, :, None])[:, :, :, None]
    facing = (normal * key).sum(1)
    view = -(normal * rays.direction).sum(1)
    wrapped = ((facing[:, None] + normal.new_tensor([0.5, 0.32, 0.26])[:, None, None]) / 1.38).clamp_min(0)
    up = (normal * camera.rotation[:, 1, :, None, None]).sum(1)
    ambient = _rgb(identity.ambient_color) * (0.82 + 0.18 * up)[:, None]
    light = _rgb(identity.key_color) * wrapped + ambient
    flat = (_rgb(identity.key_color) * 0.62 + _rgb(identity.ambient_color)) * (
        0.86 + 0.14 * smoothstep(-0.05, 0.12, facing)[:, None]
    )
    light = torch.lerp(flat, light, _col(identity.softness)[:, None])
    half = 2 * facing[:, None] * normal - key
    mirror = -(half * rays.direction).sum(1).clamp(-1, 1)
    mirror = mirror.clamp_min(0)
    gleam = (0.13 * _col(identity.gloss) * mirror**12 + 0.35 * wet * mirror**30) * _col(identity.softness)
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
