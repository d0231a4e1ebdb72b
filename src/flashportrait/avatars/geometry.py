"""The shape of an avatar's head: a star-shaped surface, its radius given for every direction.

Directions are written as two face coordinates (u, v), Lambert's azimuthal equal-area projection about the straight
look ahead: u to the subject's left, v up, the whole sphere in a disc of radius 2. Features are placed, shaped and
painted in these coordinates, so they stay in register with the surface under any head pose.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.avatars.controls import Controls
from flashportrait.avatars.identity import Identity
from flashportrait.avatars.shapes import bump, per_row, segment_distance, smoothstep

CHANNELS = ("radius", "normal_x", "normal_y", "normal_z", "hair", "strand", "tone", "redness", "beard")
"""What a head map holds: the surface radius, its normal, then what is painted on it (see ``build_head_map``)."""
MAP_REACH = 2.0
"""Face coordinates at the edges of a head map."""
PIVOT = (0.0, -0.27, 0.42)
"""The head's centre, about which it turns and where motion rows place it, head units from the head's origin."""
FRONTAL_PITCH = 0.1
"""How far this head must look up for the landmarker to read a pitch of 0."""
FACE_HEIGHT = 1.71
"""Hairline to chin of the average face, head units."""

EYE = (0.385, -0.005)
"""Middle of the subject's left eye, face coordinates."""
MOUTH_V = -0.65
"""Height of the line between the lips, face coordinates."""
_SHARPNESS = 22.0
"""Of the seams between cranium, face and chin, per head unit."""


def build_head_map(identity: Identity, controls: Controls, resolution: int) -> Tensor:
    """The head of each row over a grid of face coordinates in [-MAP_REACH, MAP_REACH].  [n len(CHANNELS) m m]

    hair: > 0 where hair grows, growing inwards from the hairline; strand: a coordinate that runs across strands;
    tone: factor of brightness (creases, hollows); redness in [0, 1]; beard: density in [0, 1].
    """
    device = controls.jaw_drop.device
    line = ((torch.arange(resolution, device=device) + 0.5) / resolution * 2 - 1) * MAP_REACH
    # Kept apart along their axes: Gaussians then cost one product a cell.
    u, v = line[None, None, :], line[None, :, None]
    squared = (u * u + v * v).clamp(max=3.999)
    z = 1 - squared / 2
    factor = torch.sqrt(1 - squared / 4)
    direction = (u * factor, v * factor, z)
    skull = _skull_radius(direction, identity, controls)
    relief = _relief(u, v, identity, controls)
    hair = _hair_distance(u, v, direction, identity)
    strand = _strand_coordinate(u, v, direction, identity)
    beard = _beard_density(u, v, identity, controls)
    radius = skull + relief + _hair_thickness(u, v, hair, strand, identity)
    radius = radius + per_row(identity.beard_length) * beard * (1 - 0.8 * bump(u, v, (0, -0.62), (0.2, 0.09)))
    normal = _normals(direction, radius)
    tone, redness = _complexion(u, v, identity, controls)
    channels = [radius, *normal, hair, strand, tone, redness, beard]
    return torch.stack([channel.expand(len(radius), resolution, resolution) for channel in channels], dim=1)


def sample_map(head_map: Tensor, u: Tensor, v: Tensor, channels: slice) -> Tensor:
    """Channels of a head map at face coordinates [n h w].  [n c h w]"""
    grid = torch.stack([u, v], dim=-1).mul_(1 / MAP_REACH)
    return F.grid_sample(head_map[:, channels], grid, mode="bilinear", padding_mode="border", align_corners=False)


def _skull_radius(direction: tuple[Tensor, Tensor, Tensor], identity: Identity, controls: Controls) -> Tensor:
    """Cranium, face and chin: the smooth maximum of three ellipsoids' radii."""
    wide, tall, long = per_row(identity.skull_width), per_row(identity.skull_height), per_row(identity.face_length)
    jaw, chin = per_row(identity.jaw_width), per_row(identity.chin_width)
    drop, aside, forward = controls.jaw_drop, controls.jaw_aside, controls.jaw_forward
    zero = torch.zeros_like(drop)
    cranium = _ellipsoid_exit(direction, (zero, 0.28 + zero, -0.12 + zero), (0.75 * wide, 0.88 * tall, 0.99 + zero))
    face = _ellipsoid_exit(
        direction,
        (0.4 * aside, -0.25 * long - 0.12 * drop, 0.09 + zero),
        (0.68 * wide * (0.45 + 0.55 * jaw), 0.92 * long + 0.12 * drop, 0.79 + zero),
    )
    lower = _ellipsoid_exit(
        direction,
        (aside, -0.5 * long - 0.62 * drop, 0.3 + forward - 0.12 * drop),
        (0.3 + 0.08 * chin, 0.7 * long + 0.38 * drop, 0.5 + 0.03 * drop),
    )
    radii = torch.stack([cranium, face, lower])
    return torch.logsumexp(radii * _SHARPNESS, dim=0) / _SHARPNESS


def _ellipsoid_exit(direction: Sequence[Tensor], center: Sequence[Tensor], axes: Sequence[Tensor]) -> Tensor:
    """How far from the origin, which lies inside, a ray leaves an ellipsoid."""
    a = sum((d / axis) ** 2 for d, axis in zip(direction, axes, strict=True))
    b = sum(d * c / axis**2 for d, c, axis in zip(direction, center, axes, strict=True))
    c = sum((c / axis) ** 2 for c, axis in zip(center, axes, strict=True)) - 1
    return (b + torch.sqrt(torch.clamp_min(torch.as_tensor(b * b - a * c), 0))) / a


def _relief(u: Tensor, v: Tensor, identity: Identity, controls: Controls) -> Tensor:
    """What brows, eyes, nose, lips, cheeks and ears add to the skull's radius."""
    side = u.abs()
    eye_u = EYE[0] * per_row(identity.eye_spacing)
    relief = -0.085 * per_row(identity.eye_depth) * bump(side, v, (eye_u - 0.03, 0.03), (0.17, 0.1))
    relief = relief + 0.10 * bump(side, v, (eye_u, -0.01), (0.115, 0.08))
    relief = relief + 0.035 * bump(side, v, (0.34, 0.21), (0.26, 0.07))
    relief = relief + 0.035 * per_row(identity.cheekbones) * bump(side, v, (0.64, -0.22), (0.2, 0.13))
    hollow = per_row(identity.cheek_fullness) - 0.03 * per_row(identity.age) + controls.puff
    relief = relief + hollow * bump(side, v, (0.56, -0.6), (0.2, 0.17))
    relief = relief + 0.065 * controls.side(u, controls.cheek) * bump(side, v, (0.43, -0.32), (0.14, 0.1))
    relief = relief + _nose(u, v, identity, controls) + _muzzle(u, v, identity, controls)
    fold = segment_distance(side, v, (0.2, -0.38), (0.39, -0.72))
    depth = 0.012 + 0.014 * per_row(identity.age) + 0.03 * controls.side(u, controls.smile)
    relief = relief - depth * torch.exp(-0.5 * (fold / 0.045) ** 2)
    ear = _ear_distance(u, v, identity)
    bare = 1 - per_row(identity.hair_sides)
    return relief + bare * (0.13 * smoothstep(1.05, 0.6, ear) - 0.04 * smoothstep(0.6, 0.2, ear))


def _ear_distance(u: Tensor, v: Tensor, identity: Identity) -> Tensor:
    """0 in the middle of an ear, 1 at its edge."""
    size = per_row(identity.ear_size)
    return torch.hypot((u.abs() - 1.46 - 0.25 * (v + 0.2)) / (0.15 * size), (v + 0.22) / (0.27 * size))


def _nose(u: Tensor, v: Tensor, identity: Identity, controls: Controls) -> Tensor:
    side = u.abs()
    v = v / per_row(identity.nose_length) + 0.02 * controls.sneer
    rise = ((0.1 - v) / 0.46).clamp(0, 1)
    under = torch.sigmoid((v + 0.43) / 0.028)
    wide = per_row(identity.nose_width)
    ridge = torch.exp(-0.5 * (u / (0.06 + 0.035 * wide * rise)) ** 2) * under
    height = 0.045 * per_row(identity.nose_bridge) * smoothstep(0.16, 0.02, v) + 0.25 * rise**1.3
    ala = bump(side, v, (0.1 * wide + 0.012 * controls.sneer, -0.405), (0.045 + 0.01 * wide, 0.04))
    return per_row(identity.nose_projection) * (height * ridge + 0.075 * ala)


def _muzzle(u: Tensor, v: Tensor, identity: Identity, controls: Controls) -> Tensor:
    """Lips and chin."""
    mouth = MOUTH_V + per_row(identity.mouth_height)
    pout = controls.pout
    spread = 0.15 - 0.05 * pout
    lower = mouth - controls.gap_lower
    relief = 0.05 * bump(u, v, (controls.mouth_aside, mouth), (0.24, 0.14))
    relief = relief + (0.035 + 0.07 * pout) * bump(u, v, (controls.mouth_aside, mouth + 0.045), (spread, 0.04))
    relief = relief + (0.045 + 0.07 * pout) * bump(u, v, (controls.mouth_aside, lower - 0.05), (spread, 0.042))
    relief = relief - 0.035 * bump(u, v, (controls.jaw_aside, lower - 0.14), (0.17, 0.035))
    chin = (controls.jaw_aside, -0.87 * per_row(identity.face_length) - controls.jaw_drop * 0.55)
    return relief + 0.05 * per_row(identity.chin_depth) * bump(u, v, chin, (0.15 * per_row(identity.chin_width), 0.09))


def _hair_distance(u: Tensor, v: Tensor, direction: Sequence[Tensor], identity: Identity) -> Tensor:
    """Signed distance to the hairline in face coordinates, > 0 in the hair."""
    azimuth = torch.atan2(u, direction[2] * torch.sqrt(u * u + v * v).clamp_min(1e-3) / _sine(direction[2])).abs()
    front = smoothstep(1.25, 0.55, azimuth)
    behind = smoothstep(1.66, 1.98, azimuth)
    beside = 0.02 - 0.6 * per_row(identity.hair_sides) * smoothstep(1.1, 1.4, azimuth)
    line = beside + (per_row(identity.hairline) - beside) * front
    line = line + (-0.42 - 0.4 * per_row(identity.hair_sides) - line) * behind
    recession = per_row(identity.hair_recession) * bump(azimuth, v, (0.5, 0.7), (0.2, 10.0))
    part = (u - 0.5 * per_row(identity.hair_part)) * torch.sign(per_row(identity.hair_part))
    fringe = per_row(identity.hair_fringe) * smoothstep(1.0, 0.5, azimuth) * (0.65 + 0.35 * torch.tanh(-4 * part))
    phase = identity.phase
    waves = torch.sin(9 * u + per_row(phase[:, 0])) * 0.5 + torch.sin(23 * u + per_row(phase[:, 1])) * 0.3
    hair = direction[1] - line - recession + fringe + 0.025 * (0.5 + per_row(identity.hair_curl)) * waves * front
    return hair - (1 - per_row(identity.hair_sides)) * smoothstep(1.25, 0.95, _ear_distance(u, v, identity))


def _sine(cosine: Tensor) -> Tensor:
    return torch.sqrt(1 - cosine * cosine).clamp_min(1e-3)


def _strand_coordinate(u: Tensor, v: Tensor, direction: Sequence[Tensor], identity: Identity) -> Tensor:
    """Runs across the strands, which fall from the parting."""
    part = 0.4 * per_row(identity.hair_part)
    fall = torch.atan2(u - part, (v - 0.9).abs() * 0.6 + 0.6) + 0.25 * direction[2]
    phase = identity.phase
    curl = per_row(identity.hair_curl)
    return fall + curl * 0.12 * torch.sin(7 * v + 5 * u + per_row(phase[:, 2])) + 0.03 * torch.sin(11 * v)


def _hair_thickness(u: Tensor, v: Tensor, hair: Tensor, strand: Tensor, identity: Identity) -> Tensor:
    grown = smoothstep(-0.01, 0.22, hair)
    locks = torch.sin(16 * strand + per_row(identity.phase[:, 3])) + 0.6 * torch.sin(37 * strand)
    bumps = per_row(identity.hair_curl) * torch.sin(17 * u) * torch.sin(15 * v + 3 * u)
    return grown * (per_row(identity.hair_volume) * (1 + 0.35 * bumps) + 0.012 * locks)


def _beard_density(u: Tensor, v: Tensor, identity: Identity, controls: Controls) -> Tensor:
    """Stubble to full beard along the jaw, and the moustache."""
    side = u.abs()
    mouth = MOUTH_V + per_row(identity.mouth_height)
    reach = smoothstep(-0.08, 0.3, side * 0.62 - 0.54 - v) * smoothstep(1.5, 1.2, side)
    jaw = torch.maximum(reach, smoothstep(0.04, 0.14, mouth - controls.gap_lower - 0.1 - v))
    upper = mouth + controls.lip_upper + 0.075
    moustache = bump(side, v, (0.1, upper - 0.12 * side), (0.14, 0.035)) * 1.2
    return torch.maximum(per_row(identity.beard) * jaw, per_row(identity.moustache) * moustache.clamp(max=1))


def _complexion(u: Tensor, v: Tensor, identity: Identity, controls: Controls) -> tuple[Tensor, Tensor]:
    """Brightness factor and redness of the skin."""
    side, age = u.abs(), per_row(identity.age)
    smile, squint = controls.side(u, controls.smile), controls.side(u, controls.squint)
    eye_u = EYE[0] * per_row(identity.eye_spacing)
    mouth = MOUTH_V + per_row(identity.mouth_height)
    dark = 0.14 * bump(side, v, (eye_u - 0.06, 0.05), (0.15, 0.07))
    dark = dark + 0.10 * (0.4 + age) * bump(side, v, (eye_u - 0.02, -0.11), (0.12, 0.035))
    dark = dark + 0.22 * bump(u, v, (0.0, -0.475 * per_row(identity.nose_length)), (0.09, 0.03))
    dark = dark + 0.20 * bump(u, v, (controls.jaw_aside, mouth - controls.gap_lower - 0.125), (0.13, 0.026))
    fold = segment_distance(side, v, (0.2, -0.4), (0.37, -0.7))
    dark = dark + (0.04 + 0.14 * age + 0.16 * smile) * torch.exp(-0.5 * (fold / 0.022) ** 2)
    crow = bump(side, v, (0.66, 0.0), (0.05, 0.06)) * torch.cos(v * 70).clamp_min(0)
    dark = dark + (0.1 * age + 0.12 * squint + 0.1 * smile * age) * crow
    lines = torch.cos((v - 0.42) * 52 + 0.6 * torch.cos(4 * u)).clamp_min(0) ** 3
    brow = bump(u, v, (0.0, 0.42), (0.34, 0.1)) * lines
    dark = dark + (0.12 * (age - 0.35).clamp_min(0) + 0.18 * (0.4 + age) * controls.brow_raise) * brow
    frown = torch.exp(-0.5 * ((side - 0.06) / 0.018) ** 2) * bump(u, v, (0.0, 0.17), (1.0, 0.07))
    dark = dark + (0.06 * age + 0.28 * controls.brow_lower) * frown
    dark = dark + 0.16 * controls.sneer * bump(side, v, (0.09, -0.02), (0.06, 0.05))
    ear = _ear_distance(u, v, identity)
    dark = dark + 0.25 * smoothstep(0.6, 0.2, ear)
    spots = torch.sin(31 * u + per_row(identity.phase[:, 0])) * torch.sin(29 * v + per_row(identity.phase[:, 1]))
    spots = spots * torch.sin(19 * u + 23 * v + per_row(identity.phase[:, 2]))
    freckles = per_row(identity.freckles) * smoothstep(0.2, 0.6, spots) * bump(side, v, (0.3, -0.25), (0.35, 0.15))
    mottle = 0.02 * torch.sin(5 * u + per_row(identity.phase[:, 3])) * torch.sin(6 * v + per_row(identity.phase[:, 0]))
    blush = per_row(identity.blush) * (0.8 + 0.4 * smile)
    redness = blush * bump(side, v, (0.5, -0.3), (0.2, 0.15)) + 0.5 * blush * bump(u, v, (0, -0.36), (0.1, 0.08))
    return (1 - dark - 0.16 * freckles + mottle).clamp(0.3, 1.1), (redness + 0.25 * smoothstep(1.1, 0.9, ear)).clamp(
        0, 1
    )


def _normals(direction: tuple[Tensor, Tensor, Tensor], radius: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit normals of the surface, by central differences over the map."""
    point = [d * radius for d in direction]
    along_u = [F.pad(p[:, :, 2:] - p[:, :, :-2], (1, 1), mode="replicate") for p in point]
    along_v = [F.pad(p[:, 2:] - p[:, :-2], (0, 0, 1, 1)) for p in point]
    x = along_u[1] * along_v[2] - along_u[2] * along_v[1]
    y = along_u[2] * along_v[0] - along_u[0] * along_v[2]
    z = along_u[0] * along_v[1] - along_u[1] * along_v[0]
    length = torch.sqrt(x * x + y * y + z * z).clamp_min(1e-7)
    return x / length, y / length, z / length
