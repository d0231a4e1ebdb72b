"""Light on skin and hair. Normals and rays are in head space."""

from __future__ import annotations

import torch
from torch import Tensor

from flashportrait.avatars.camera import Camera, Rays
from flashportrait.avatars.identity import Identity
from flashportrait.avatars.shapes import per_row, per_row_color, smoothstep


def light_skin(albedo: Tensor, normal: Tensor, wet: Tensor, rays: Rays, camera: Camera, identity: Identity) -> Tensor:
    """Soft wrapped light whose shadow edge is warm, as light scattered in skin is; a gleam; a rim.  [n 3 h w]"""
    key = _key_in_head(camera, identity)
    facing, up = _dots(normal, key, camera.rotation[:, 1])
    away = (normal * rays.direction).sum(1)
    softness = per_row(identity.softness)
    wrapped = ((facing[:, None] + normal.new_tensor([0.5, 0.32, 0.26])[:, None, None]) / 1.38).clamp_min(0)
    shade = torch.lerp(0.53 + 0.087 * smoothstep(-0.05, 0.12, facing)[:, None], wrapped, softness[:, None])
    ambient = per_row_color(identity.ambient_color) * (0.84 + 0.16 * softness * up)[:, None]
    light = torch.addcmul(ambient, per_row_color(identity.key_color), shade)
    (key_along,) = _dots(rays.direction, key)
    mirror = (key_along - 2 * facing * away).clamp(0, 1)
    gleam = softness * (0.13 * per_row(identity.gloss) * mirror**12 + 0.35 * wet * mirror**30)
    rim = 0.5 * per_row(identity.rim_light) * (1 + away).clamp(0, 1) ** 3 * smoothstep(-0.2, 0.6, up + facing)
    return torch.addcmul(albedo * light, (gleam + rim)[:, None], per_row_color(identity.key_color))


def light_hair(normal: Tensor, strand: Tensor, camera: Camera, identity: Identity) -> Tensor:
    """Hair: strands of varied tone with a soft band of gleam.  [n 3 h w]"""
    (facing,) = _dots(normal, _key_in_head(camera, identity))
    tone = 1 + 0.16 * torch.sin(43 * strand) + 0.10 * torch.sin(97 * strand + 1)
    light = 0.45 + 0.6 * (0.5 + 0.5 * facing).clamp_min(0) ** 1.5
    light = torch.lerp(0.85 + 0.1 * smoothstep(0.0, 0.1, facing), light, per_row(identity.softness))
    band = torch.exp(-(((normal[:, 1] - 0.45) / 0.2) ** 2)) * (0.5 + 0.5 * torch.sin(61 * strand))
    gleam = 0.28 * per_row(identity.hair_gloss) * per_row(identity.softness) * band * facing.clamp_min(0)
    lit = per_row_color(identity.hair_color * (identity.key_color + identity.ambient_color)) * (tone * light)[:, None]
    return torch.addcmul(lit, gleam[:, None], per_row_color(identity.key_color))


def _key_in_head(camera: Camera, identity: Identity) -> Tensor:
    """Direction to the main light in head space.  [n 3]"""
    return (camera.rotation.transpose(1, 2) @ identity.key_direction[:, :, None])[:, :, 0]


def _dots(field: Tensor, *vectors: Tensor) -> tuple[Tensor, ...]:
    """Dot products of a field [n 3 h w] with each vector [n 3].  [n h w] each"""
    products = torch.stack(vectors, dim=1) @ field.flatten(2)
    return products.unflatten(2, field.shape[2:]).unbind(1)
