"""Eyes and brows. Both are drawn once, on the mirrored face: ``side`` is the distance from its middle."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flashportrait.avatars.controls import Controls
from flashportrait.avatars.geometry import EYE
from flashportrait.avatars.identity import Identity
from flashportrait.avatars.patch import Patch
from flashportrait.avatars.shapes import coverage, over, per_row, per_row_color, smoothstep

CORNEA = 0.045
"""How far the iris stands before the plane of the lids' corners, face coordinates."""


@dataclass(frozen=True)
class _Lids:
    """The edges of both eyes' lids.  [n h w] each"""

    along: Tensor
    """-1 at the inner corner, 1 at the outer."""
    half: Tensor
    """Middle to corner.  [n 1 1]"""
    middle: Tensor
    """Middle of the eye.  [n 1 1]"""
    upper: Tensor
    lower: Tensor
    crease: Tensor
    blink: Tensor
    """0 open, 1 shut."""


def paint_eyes(base: Tensor, patch: Patch, identity: Identity, controls: Controls) -> tuple[Tensor, Tensor, Tensor]:
    """Colours [n 3 h w] with eyes and lids painted in; how wet, and where the eyes are, [n h w] each."""
    side, v, pixel = patch.u.abs(), patch.v, patch.pixel
    lids = _lids(side, patch, identity, controls)
    s, upper, lower = lids.along, lids.upper, lids.lower
    opened = coverage(torch.maximum(v - upper, lower - v), pixel) * coverage((s.abs() - 1) * lids.half, pixel)
    color = _paint_lids(base, lids, patch, identity)
    color = torch.lerp(color, _eyeball(side, lids, patch, identity, controls), opened[:, None])

    lash = per_row(identity.lashes)
    thickness = (0.011 + 0.014 * lash) * (0.55 + 0.45 * smoothstep(-1, 0.7, s))
    line = coverage((v - upper - 0.006).abs() - thickness, pixel) * smoothstep(1.12, 0.92, s.abs())
    dark = identity.brow_color * 0.35
    color = over(color, dark, (0.65 + 0.3 * lash) * line)
    under = coverage((v - lower).abs() - 0.006, pixel + 0.008) * smoothstep(1.05, 0.85, s.abs()) * (1 - lids.blink)
    color = over(color, dark, (0.22 + 0.2 * lash) * under)
    region = torch.hypot((side - lids.middle) / (1.35 * lids.half), (v - EYE[1]) / (0.17 * per_row(identity.eye_size)))
    return color, 0.6 * opened, coverage((region - 1) * 0.2, pixel)


def _lids(side: Tensor, patch: Patch, identity: Identity, controls: Controls) -> _Lids:
    blink, gaze_up = controls.side(patch.u, controls.blink), controls.side(patch.u, controls.gaze_up)
    squint, wide = controls.side(patch.u, controls.squint), controls.side(patch.u, controls.wide)
    brow = controls.side(patch.u, controls.brow_outer)  # which takes the upper lid along a little
    size = per_row(identity.eye_size)
    middle, half = EYE[0] * per_row(identity.eye_spacing), 0.177 * size
    s = (side - middle) / half
    arch = (1 - (s + 0.08) ** 2).clamp_min(0) ** 0.75
    corner_v = EYE[1] + per_row(identity.eye_tilt) * s
    opening = size * per_row(identity.eye_openness)
    up_open = 0.09 * opening * (1 + 1.1 * wide - 0.45 * squint + 0.65 * gaze_up.clamp_min(0) + 1.2 * brow)
    down = 0.056 * opening * (1 - 0.75 * squint - 0.55 * gaze_up)
    return _Lids(
        along=s,
        half=half,
        middle=middle,
        upper=corner_v + (up_open * (1 - blink) - 0.97 * down * blink) * arch,
        lower=corner_v - down * (1 - s * s).clamp_min(0),
        crease=corner_v + (up_open + 0.042 + 0.02 * (1 - blink)) * arch,
        blink=blink,
    )


def _paint_lids(base: Tensor, lids: _Lids, patch: Patch, identity: Identity) -> Tensor:
    inside = smoothstep(1.08, 0.8, lids.along.abs())
    crease = torch.exp(-(((patch.v - lids.crease) / 0.016) ** 2)) * inside * per_row(identity.lid_crease)
    lid = coverage(torch.maximum(patch.v - lids.crease, lids.lower - patch.v), patch.pixel + 0.03) * inside
    shade = (0.3 - 0.22 * lids.blink) * crease + 0.05 * lid
    color = base * (1 - shade)[:, None]
    shadow_color = torch.lerp(identity.skin_color, identity.clothes_color, 0.35) * 0.75
    return over(color, shadow_color, 0.7 * per_row(identity.eye_shadow) * lid)


def _eyeball(side: Tensor, lids: _Lids, patch: Patch, identity: Identity, controls: Controls) -> Tensor:
    """White, iris, pupil and glint, in the upper lid's shadow.  [n 3 h w]"""
    mirrored, pixel, below_lid = torch.sign(patch.u), patch.pixel, lids.upper - patch.v
    gaze_u = lids.middle + 0.102 * controls.side(patch.u, controls.gaze_out)
    gaze_v = EYE[1] + 0.018 + 0.11 * controls.side(patch.u, controls.gaze_up)
    radius = 0.068 * per_row(identity.iris_size) * per_row(identity.eye_size).sqrt()
    # The cornea stands before the lids' corners, so a turned head shows it further round.
    du = side - mirrored * CORNEA * patch.slope_u - gaze_u
    dv = patch.v - CORNEA * patch.slope_v - gaze_v
    distance = torch.hypot(du, dv)
    ball = 1 - 0.35 * lids.along * lids.along - 0.3 * smoothstep(0.05, 0.0, below_lid)
    white = patch.v.new_tensor([0.88, 0.86, 0.85])[:, None, None] * ball[:, None]
    pattern = 0.75 + 0.55 * smoothstep(0.0, -1.0, dv / radius) - 0.5 * smoothstep(0.75, 1.0, distance / radius)
    iris = per_row_color(identity.iris_color) * pattern[:, None]
    eye = torch.lerp(white, iris, coverage(distance - radius, pixel)[:, None])
    eye = eye * (1 - 0.93 * coverage(distance - 0.42 * radius, pixel))[:, None]
    eye = eye * (1 - 0.4 * smoothstep(0.045, 0.0, below_lid))[:, None]
    glint = torch.hypot(du * mirrored + 0.35 * radius, dv - 0.4 * radius) - 0.2 * radius
    return over(eye, eye.new_ones(3), 0.9 * coverage(glint, pixel))


def paint_brows(base: Tensor, patch: Patch, identity: Identity, controls: Controls) -> Tensor:
    """Colours [n 3 h w] with brows painted in."""
    side = patch.u.abs()
    inner, outer = controls.side(patch.u, controls.brow_inner), controls.side(patch.u, controls.brow_outer)
    t = (side - 0.13 * per_row(identity.eye_spacing)) / (0.53 * per_row(identity.brow_length))
    along = t.clamp(0, 1)
    middle = 0.185 * per_row(identity.brow_height) + 0.035 * along
    middle = middle + (0.2 * per_row(identity.brow_arch) * along + per_row(identity.brow_tilt)) * (1 - along) * along
    middle = middle + 0.06 * along * (1 - along) + torch.lerp(inner, outer, smoothstep(0.0, 0.75, along))
    thickness = 0.03 * per_row(identity.brow_thickness) * (0.75 + 0.6 * along - 1.1 * along * along)
    distance = (patch.v - middle).abs() - thickness
    ends = smoothstep(-0.06, 0.14, t) * smoothstep(1.04, 0.82, t)
    hairs = 0.85 + 0.15 * torch.sin(95 * side + 60 * (patch.v - middle) + per_row(identity.phase[:, 1]))
    opacity = 0.68 + 0.2 * per_row(identity.brow_thickness).clamp(max=1.2)
    return over(base, identity.brow_color, coverage(distance, patch.pixel + 0.016) * ends * hairs * opacity)
