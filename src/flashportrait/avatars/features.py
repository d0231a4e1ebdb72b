"""What is painted crisply on the face: eyes, brows, nostrils, lips, mouth and hairline, as signed distances.

All functions take face coordinates u, v [n h w] and ``pixel``, a pixel's width in them [n 1 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flashportrait.avatars.controls import Controls
from flashportrait.avatars.geometry import EYE, MOUTH_V, smoothstep
from flashportrait.avatars.identity import Identity

CORNEA = 0.045
"""How far the iris stands before the plane of the lids' corners, face coordinates."""


@dataclass(frozen=True)
class Paint:
    """The face's colours before light.  albedo [n 3 h w]; the others [n 1 h w] in [0, 1]"""

    albedo: Tensor
    wet: Tensor
    """How much a place gleams like an eye or a lip."""
    lips: Tensor
    """The lips and what lies between them."""
    eyes: Tensor
    """The eyes with their lids."""


def coverage(distance: Tensor, pixel: Tensor) -> Tensor:
    """Share of a pixel inside a shape, given the signed distance of its centre (> 0 outside)."""
    return (0.5 - distance / pixel).clamp(0, 1)


def paint_face(
    skin: Tensor,
    u: Tensor,
    v: Tensor,
    slope: tuple[Tensor, Tensor],
    pixel: Tensor,
    identity: Identity,
    controls: Controls,
) -> Paint:
    """Paint the features over ``skin`` [n 3 h w]; ``slope`` is the view ray's inward drift along u and v."""
    albedo = _nostrils(skin, u, v, pixel, identity, controls)
    albedo, eye_wet, eyes = _eyes(albedo, u, v, slope, pixel, identity, controls)
    albedo = _brows(albedo, u, v, pixel, identity, controls)
    albedo, lip_wet, lips = _mouth(albedo, u, v, slope, pixel, identity, controls)
    wet = torch.maximum(eye_wet, lip_wet)
    return Paint(albedo, wet[:, None], lips[:, None], eyes[:, None])


def _col(value: Tensor) -> Tensor:
    return value[:, None, None]


def _over(base: Tensor, color: Tensor, alpha: Tensor) -> Tensor:
    """``color`` [n 3], [3] or [n 3 h w] laid over ``base`` [n 3 h w] with opacity ``alpha`` [n h w]."""
    if color.dim() < 4:
        color = color.reshape(-1, 3, 1, 1)
    return torch.lerp(base, color.to(base), alpha[:, None])


def _nostrils(base: Tensor, u: Tensor, v: Tensor, pixel: Tensor, identity: Identity, controls: Controls) -> Tensor:
    wide = _col(identity.nose_width)
    at_v = -0.438 * _col(identity.nose_length) + 0.02 * controls.sneer
    distance = torch.hypot((u.abs() - 0.068 * wide) / 1.7, v - at_v - 0.12 * (u.abs() - 0.068)) - 0.017
    return _over(base, base.new_tensor([0.16, 0.06, 0.05]), 0.75 * coverage(distance, pixel + 0.012))


def _eyes(
    base: Tensor,
    u: Tensor,
    v: Tensor,
    slope: tuple[Tensor, Tensor],
    pixel: Tensor,
    identity: Identity,
    controls: Controls,
) -> tuple[Tensor, Tensor, Tensor]:
    side, blink = u.abs(), controls.side(u, controls.blink)
    squint, wide = controls.side(u, controls.squint), controls.side(u, controls.wide)
    gaze_up = controls.side(u, controls.gaze_up)
    size = _col(identity.eye_size)
    middle_u, half = EYE[0] * _col(identity.eye_spacing), 0.177 * size
    s = (side - middle_u) / half
    arch = (1 - (s + 0.08) ** 2).clamp_min(0) ** 0.75
    corner_v = EYE[1] + _col(identity.eye_tilt) * s
    opening = size * _col(identity.eye_openness)
    up_open = 0.09 * opening * (1 + 1.1 * wide - 0.45 * squint + 0.28 * gaze_up.clamp_min(0))
    down = 0.056 * opening * (1 - 0.75 * squint - 0.3 * gaze_up)
    upper = corner_v + (up_open * (1 - blink) - 0.97 * down * blink) * arch
    lower = corner_v - down * (1 - s * s).clamp_min(0)
    opened = coverage(torch.maximum(v - upper, lower - v), pixel) * coverage((s.abs() - 1) * half, pixel)

    crease_v = corner_v + (up_open + 0.042 + 0.02 * (1 - blink)) * arch
    inside = smoothstep(1.08, 0.8, s.abs())
    crease = torch.exp(-(((v - crease_v) / 0.016) ** 2)) * inside * _col(identity.lid_crease)
    lid = coverage(torch.maximum(v - crease_v, lower - v), pixel + 0.03) * inside
    shade = (0.3 - 0.22 * blink) * crease + 0.05 * lid
    color = base * (1 - shade)[:, None]
    shadow_color = torch.lerp(identity.skin_color, identity.clothes_color, 0.35) * 0.75
    color = _over(color, shadow_color, 0.7 * _col(identity.eye_shadow) * lid)

    gaze_u = middle_u + 0.102 * controls.side(u, controls.gaze_out)
    gaze_v = EYE[1] + 0.018 + 0.078 * gaze_up
    radius = 0.068 * _col(identity.iris_size) * size.sqrt()
    # The cornea stands before the lids' corners, so a turned head shows it further round.
    du, dv = side - torch.sign(u) * CORNEA * slope[0] - gaze_u, v - CORNEA * slope[1] - gaze_v
    distance = torch.hypot(du, dv)
    ball = 1 - 0.35 * s * s - 0.3 * smoothstep(0.05, 0.0, upper - v)
    white = base.new_tensor([0.88, 0.86, 0.85])[:, None, None] * ball[:, None]
    pattern = 0.75 + 0.55 * smoothstep(0.0, -1.0, dv / radius) - 0.5 * smoothstep(0.75, 1.0, distance / radius)
    iris = identity.iris_color[:, :, None, None] * pattern[:, None]
    eye = torch.lerp(white, iris, coverage(distance - radius, pixel)[:, None])
    eye = eye * (1 - 0.93 * coverage(distance - 0.42 * radius, pixel))[:, None]
    eye = eye * (1 - 0.4 * smoothstep(0.045, 0.0, upper - v))[:, None]
    glint = torch.hypot(du * torch.sign(u) + 0.35 * radius, dv - 0.4 * radius) - 0.2 * radius
    eye = _over(eye, base.new_ones(3), 0.9 * coverage(glint, pixel))
    color = torch.lerp(color, eye, opened[:, None])

    lash = _col(identity.lashes)
    thickness = (0.011 + 0.014 * lash) * (0.55 + 0.45 * smoothstep(-1, 0.7, s))
    line = coverage((v - upper - 0.006).abs() - thickness, pixel) * smoothstep(1.12, 0.92, s.abs())
    dark = identity.brow_color * 0.35
    color = _over(color, dark, (0.65 + 0.3 * lash) * line)
    under = coverage((v - lower).abs() - 0.006, pixel + 0.008) * smoothstep(1.05, 0.85, s.abs()) * (1 - blink)
    color = _over(color, dark, (0.22 + 0.2 * lash) * under)
    region = torch.hypot((side - middle_u) / (1.35 * half), (v - EYE[1]) / (0.17 * size)) - 1
    return color, 0.6 * opened, coverage(region * 0.2, pixel)


def _brows(base: Tensor, u: Tensor, v: Tensor, pixel: Tensor, identity: Identity, controls: Controls) -> Tensor:
    side = u.abs()
    inner, outer = controls.side(u, controls.brow_inner), controls.side(u, controls.brow_outer)
    t = (side - 0.13 * _col(identity.eye_spacing)) / (0.53 * _col(identity.brow_length))
    along = t.clamp(0, 1)
    middle = 0.185 * _col(identity.brow_height) + 0.035 * along
    middle = middle + (0.2 * _col(identity.brow_arch) * along + _col(identity.brow_tilt)) * (1 - along) * along
    middle = middle + 0.06 * along * (1 - along) + torch.lerp(inner, outer, smoothstep(0.0, 0.75, along))
    thickness = 0.03 * _col(identity.brow_thickness) * (0.75 + 0.6 * along - 1.1 * along * along)
    distance = (v - middle).abs() - thickness
    ends = smoothstep(-0.06, 0.14, t) * smoothstep(1.04, 0.82, t)
    hairs = 0.85 + 0.15 * torch.sin(95 * side + 60 * (v - middle) + _col(identity.phase[:, 1]))
    opacity = 0.55 + 0.3 * _col(identity.brow_thickness).clamp(max=1.2)
    return _over(base, identity.brow_color, coverage(distance, pixel + 0.016) * ends * hairs * opacity)


def _mouth(
    base: Tensor,
    u: Tensor,
    v: Tensor,
    slope: tuple[Tensor, Tensor],
    pixel: Tensor,
    identity: Identity,
    controls: Controls,
) -> tuple[Tensor, Tensor, Tensor]:
    rest = MOUTH_V + _col(identity.mouth_height)
    half = 0.25 * _col(identity.mouth_width) * controls.side(u - controls.mouth_aside, controls.mouth_half_width)
    s = (u - controls.mouth_aside) / half
    bulge = (1 - s * s).clamp_min(0)
    line = rest + (controls.side(u - controls.mouth_aside, controls.corner_lift) - 0.048) * s.abs() ** 1.8
    upper = line + controls.gap_upper * bulge**0.7
    lower = line - controls.gap_lower * bulge**0.8
    bow = torch.exp(-(((s.abs() - 0.27) / 0.2) ** 2)) - 0.8 * torch.exp(-((s / 0.13) ** 2))
    top = upper + controls.lip_upper * (1 + 0.3 * _col(identity.cupid_bow) * bow) * bulge**0.8
    bottom = lower - controls.lip_lower * bulge**0.6
    across = coverage((s.abs() - 1) * half, pixel)
    lips = coverage(torch.maximum(v - top, bottom - v), pixel + 0.008) * across
    opened = coverage(torch.maximum(v - upper, lower - v) + 0.35 * pixel, pixel) * across

    lip = identity.lip_color[:, :, None, None] * (0.9 + 0.14 * smoothstep(upper + 0.01, lower - 0.03, v))[:, None]
    color = torch.lerp(base, lip, (0.9 * lips)[:, None])
    seam = torch.exp(-(((v - torch.minimum(upper, line)) / (0.011 + 0.35 * pixel)) ** 2)) * smoothstep(
        1.1, 0.9, s.abs()
    )
    color = color * (1 - 0.55 * seam * smoothstep(0.03, 0.0, upper - lower))[:, None]
    corner = torch.exp(-(((torch.hypot((s.abs() - 1.02) * half, v - line)) / 0.022) ** 2))
    color = color * (1 - 0.3 * corner)[:, None]
    inside = _mouth_interior(u + 0.12 * slope[0], v + 0.12 * slope[1], s, line, upper, lower, pixel, identity, controls)
    color = torch.lerp(color, inside, opened[:, None])
    region = coverage(torch.maximum(v - top, bottom - v) - 0.02, pixel + 0.02) * coverage(
        (s.abs() - 1.06) * half, pixel
    )
    return color, 0.55 * lips * (1 - opened), region


def _mouth_interior(
    u: Tensor,
    v: Tensor,
    s: Tensor,
    line: Tensor,
    upper: Tensor,
    lower: Tensor,
    pixel: Tensor,
    identity: Identity,
    controls: Controls,
) -> Tensor:
    """Dark throat, tongue and two rows of teeth, seen between the lips."""
    rest = MOUTH_V + _col(identity.mouth_height)
    depth = smoothstep(0.0, 0.12, upper - lower)
    throat = v.new_tensor([0.34, 0.10, 0.09])[:, None, None] * (1 - 0.55 * depth)[:, None]
    floor = rest - controls.gap_lower
    tongue = torch.hypot((u - controls.mouth_aside - controls.jaw_aside * 0.5) / 0.15, (v - floor - 0.005) / 0.085) - 1
    color = _over(
        throat.expand(len(v), -1, -1, -1), v.new_tensor([0.70, 0.33, 0.32]), 0.9 * coverage(0.1 * tongue, pixel + 0.02)
    )
    fade = (1 - 0.55 * s * s).clamp_min(0)
    gaps = 1 - 0.10 * torch.exp(-(((torch.remainder(u / 0.058, 1.0) - 0.5) / 0.12) ** 2))
    ivory = identity.teeth_color[:, :, None, None] * (fade * gaps)[:, None]
    edge = rest - 0.012 - 0.35 * controls.gap_upper + 0.08 * (u * u)
    bottom_teeth = edge - 0.03
    color = torch.lerp(color, ivory, coverage(bottom_teeth - v, pixel)[:, None])
    under = floor + 0.022 - 0.25 * u * u
    color = torch.lerp(
        color, ivory * 0.85, (coverage(v - under, pixel) * smoothstep(0.0, 0.06, floor - lower + 0.03))[:, None]
    )
    return color * (1 - 0.45 * smoothstep(0.05, 0.0, upper - v))[:, None]
