"""Lips, and what shows between them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flashportrait.avatars.controls import Controls
from flashportrait.avatars.geometry import MOUTH_V
from flashportrait.avatars.identity import Identity
from flashportrait.avatars.patch import Patch
from flashportrait.avatars.shapes import coverage, over, per_row, per_row_color, smoothstep

DEPTH = 0.12
"""How far the teeth stand behind the lips, face coordinates."""


@dataclass(frozen=True)
class _Lips:
    """The edges of the lips, as heights at each pixel's u.  [n h w] each"""

    along: Tensor
    """-1 and 1 at the corners."""
    half: Tensor
    """Middle to corner."""
    line: Tensor
    """From corner to corner."""
    top: Tensor
    upper: Tensor
    """Inner edge of the upper lip."""
    lower: Tensor
    """Inner edge of the lower lip."""
    bottom: Tensor


def paint_mouth(base: Tensor, patch: Patch, identity: Identity, controls: Controls) -> tuple[Tensor, Tensor, Tensor]:
    """Colours [n 3 h w] with the mouth painted in; how wet, and where the mouth is, [n h w] each."""
    v, pixel = patch.v, patch.pixel
    edge = _lips(patch, identity, controls)
    s, half, upper, lower = edge.along, edge.half, edge.upper, edge.lower
    across = coverage((s.abs() - 1) * half, pixel)
    lips = coverage(torch.maximum(v - edge.top, edge.bottom - v), pixel + 0.008) * across
    opened = coverage(torch.maximum(v - upper, lower - v) + 0.35 * pixel, pixel) * across

    shading = 0.9 + 0.14 * smoothstep(upper + 0.01, lower - 0.03, v)
    color = torch.lerp(base, per_row_color(identity.lip_color) * shading[:, None], (0.9 * lips)[:, None])
    ends = smoothstep(1.1, 0.9, s.abs())
    seam = torch.exp(-(((v - torch.minimum(upper, edge.line)) / (0.011 + 0.35 * pixel)) ** 2)) * ends
    color = color * (1 - 0.55 * seam * smoothstep(0.03, 0.0, upper - lower))[:, None]
    corner = torch.exp(-((torch.hypot((s.abs() - 1.02) * half, v - edge.line) / 0.022) ** 2))
    color = color * (1 - 0.3 * corner)[:, None]
    color = torch.lerp(color, _interior(edge, patch, identity, controls), opened[:, None])
    height = coverage(torch.maximum(v - edge.top, edge.bottom - v) - 0.02, pixel + 0.02)
    return color, 0.55 * lips * (1 - opened), height * coverage((s.abs() - 1.06) * half, pixel)


def _lips(patch: Patch, identity: Identity, controls: Controls) -> _Lips:
    u = patch.u - controls.mouth_aside
    rest = MOUTH_V + per_row(identity.mouth_height)
    half = 0.25 * per_row(identity.mouth_width) * controls.side(u, controls.mouth_half_width)
    s = u / half
    bulge = (1 - s * s).clamp_min(0)
    line = rest + (controls.side(u, controls.corner_lift) - 0.048) * s.abs() ** 1.8
    upper = line + controls.gap_upper * bulge**0.7
    lower = line - controls.gap_lower * bulge**0.8
    bow = torch.exp(-(((s.abs() - 0.27) / 0.2) ** 2)) - 0.8 * torch.exp(-((s / 0.13) ** 2))
    return _Lips(
        along=s,
        half=half,
        line=line,
        top=upper + controls.lip_upper * (1 + 0.3 * per_row(identity.cupid_bow) * bow) * bulge**0.8,
        upper=upper,
        lower=lower,
        bottom=lower - controls.lip_lower * bulge**0.6,
    )


def _interior(lips: _Lips, patch: Patch, identity: Identity, controls: Controls) -> Tensor:
    """Dark throat, tongue and two rows of teeth, seen between the lips.  [n 3 h w]"""
    u, v, pixel = patch.u + DEPTH * patch.slope_u, patch.v + DEPTH * patch.slope_v, patch.pixel
    rest = MOUTH_V + per_row(identity.mouth_height)
    floor = rest - controls.gap_lower
    depth = smoothstep(0.0, 0.12, lips.upper - lips.lower)
    throat = v.new_tensor([0.34, 0.10, 0.09])[:, None, None] * (1 - 0.55 * depth)[:, None]
    tongue = torch.hypot((u - controls.mouth_aside - controls.jaw_aside * 0.5) / 0.15, (v - floor - 0.005) / 0.085) - 1
    color = over(throat, v.new_tensor([0.70, 0.33, 0.32]), 0.9 * coverage(0.1 * tongue, pixel + 0.02))
    fade = (1 - 0.55 * lips.along * lips.along).clamp_min(0)
    gaps = 1 - 0.10 * torch.exp(-(((torch.remainder(u / 0.058, 1.0) - 0.5) / 0.12) ** 2))
    ivory = per_row_color(identity.teeth_color) * (fade * gaps)[:, None]
    upper_edge = rest - 0.042 - 0.35 * controls.gap_upper + 0.08 * (u * u)
    color = over(color, ivory, coverage(upper_edge - v, pixel))
    lower_edge = floor + 0.022 - 0.25 * u * u
    shown = coverage(v - lower_edge, pixel) * smoothstep(0.0, 0.06, floor - lips.lower + 0.03)
    color = over(color, ivory * 0.85, shown)
    return color * (1 - 0.45 * smoothstep(0.05, 0.0, lips.upper - v))[:, None]
