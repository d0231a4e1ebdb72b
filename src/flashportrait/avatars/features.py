"""Features painted on the face with sharp edges, as signed distances: brows, eyes, nostrils, mouth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flashportrait.avatars.controls import Controls
from flashportrait.avatars.eyes import paint_brows, paint_eyes
from flashportrait.avatars.identity import Identity
from flashportrait.avatars.mouth import paint_mouth
from flashportrait.avatars.patch import Patch
from flashportrait.avatars.shapes import coverage, over, per_row


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


def paint_face(skin: Tensor, patch: Patch, identity: Identity, controls: Controls) -> Paint:
    """Paint the features over ``skin`` [n 3 h w]."""
    albedo = _nostrils(skin, patch, identity, controls)
    albedo, eye_wet, eyes = paint_eyes(albedo, patch, identity, controls)
    albedo = paint_brows(albedo, patch, identity, controls)
    albedo, lip_wet, lips = paint_mouth(albedo, patch, identity, controls)
    wet = torch.maximum(eye_wet, lip_wet)
    return Paint(albedo, wet[:, None], lips[:, None], eyes[:, None])


def _nostrils(base: Tensor, patch: Patch, identity: Identity, controls: Controls) -> Tensor:
    side = patch.u.abs()
    wide = per_row(identity.nose_width)
    at_v = -0.438 * per_row(identity.nose_length) + 0.02 * controls.sneer
    distance = torch.hypot((side - 0.068 * wide) / 1.7, patch.v - at_v - 0.12 * (side - 0.068)) - 0.017
    return over(base, base.new_tensor([0.16, 0.06, 0.05]), 0.75 * coverage(distance, patch.pixel + 0.012))
