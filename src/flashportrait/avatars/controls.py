"""From ARKit coefficients to the positions of lids, brows, lips and jaw."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flashportrait.avatars.identity import Identity
from flashportrait.avatars.shapes import per_row
from flashportrait.face.motion import BLENDSHAPE_NAMES, HEAD_POSE_NAMES

COLUMNS = {name: column for column, name in enumerate(HEAD_POSE_NAMES + BLENDSHAPE_NAMES)}
"""Column of each name in a motion row."""

_FULL_DROP = 0.36
"""How far the chin drops when the jaw is fully open, face coordinates."""
SHUT = 0.75
"""``eyeBlink`` that the landmarker reads on most closed eyes."""
SHUT_SQUINT = 0.5
"""``eyeSquint`` that it reads beyond an open eye's, for each unit of ``eyeBlink``."""


@dataclass(frozen=True)
class Controls:
    """Where one row's expression puts each moving part of the face, in face coordinates.

    Single values are [n 1 1]; pairs are [n 2 1 1], the subject's left first.
    """

    # Eyes
    blink: Tensor
    squint: Tensor
    wide: Tensor
    gaze_out: Tensor
    gaze_up: Tensor
    # Brows
    brow_inner: Tensor
    brow_outer: Tensor
    brow_lower: Tensor
    brow_raise: Tensor
    # Nose and cheeks
    sneer: Tensor
    cheek: Tensor
    puff: Tensor
    # Jaw
    jaw_drop: Tensor
    jaw_aside: Tensor
    jaw_forward: Tensor
    # Mouth
    smile: Tensor
    mouth_aside: Tensor
    mouth_half_width: Tensor
    """Centre to corner, ratio to the resting mouth; pair."""
    corner_lift: Tensor
    """Corners above the resting mouth; pair."""
    gap_upper: Tensor
    """Inner edge of the upper lip above the resting line, at the middle."""
    gap_lower: Tensor
    """Inner edge of the lower lip below the resting line, at the middle."""
    lip_upper: Tensor
    """Thickness of the upper lip."""
    lip_lower: Tensor
    """Thickness of the lower lip."""
    pout: Tensor

    @staticmethod
    def side(u: Tensor, pair: Tensor) -> Tensor:
        """The value of a pair that holds on each side of the face."""
        return torch.where(u >= 0, pair[:, 0], pair[:, 1])


def expression_controls(identity: Identity, motion: Tensor) -> Controls:
    """Controls of motion rows [n 57] performed by ``identity`` (n rows).

    Amounts are calibrated so that the landmarker reads from the drawing about what the row says.
    """
    row = _Row(motion)
    jaw_aside = 0.09 * (row.one("jawLeft") - row.one("jawRight"))
    smile, sneer = row.pair("mouthSmile"), row.pair("noseSneer")
    return Controls(
        sneer=_mean(sneer),
        cheek=0.7 * smile + 0.6 * row.pair("cheekSquint") + 0.3 * sneer,
        puff=0.14 * row.one("cheekPuff"),
        jaw_drop=_FULL_DROP * row.one("jawOpen"),
        jaw_aside=jaw_aside,
        jaw_forward=0.07 * row.one("jawForward"),
        smile=smile,
        mouth_aside=0.13 * (row.one("mouthLeft") - row.one("mouthRight")) + 0.4 * jaw_aside,
        **_eyes_and_brows(row),
        **_mouth_shape(row),
        **_lips(row, identity),
    )


class _Row:
    """Coefficients by name."""

    def __init__(self, motion: Tensor) -> None:
        self._motion = motion

    def one(self, name: str) -> Tensor:
        """A coefficient.  [n 1 1]"""
        return self._motion[:, COLUMNS[name], None, None]

    def pair(self, name: str) -> Tensor:
        """A coefficient of both sides.  [n 2 1 1]"""
        return self._motion[:, [COLUMNS[name + "Left"], COLUMNS[name + "Right"]], None, None]


def _mean(pair: Tensor) -> Tensor:
    return pair.mean(dim=1)


def _eyes_and_brows(row: _Row) -> dict[str, Tensor]:
    # Falling lids are read as looking down and squinting, too: what is left of both is gaze and squint.
    lids = row.pair("eyeBlink")
    blink, look_down = (lids / SHUT).clamp(max=1), (row.pair("eyeLookDown") - lids).clamp_min(0)
    squint = row.pair("eyeSquint") - SHUT_SQUINT * lids
    brow_down, inner_up, outer_up = row.pair("browDown"), row.one("browInnerUp"), row.pair("browOuterUp")
    return {
        "blink": (blink + 0.58 * look_down * (1 - blink)).clamp(0, 1),
        # The landmarker reads 0.25 on relaxed eyes, and little of how far they look up.
        "squint": 1.3 * (squint - 0.25).clamp_min(-0.08) + 0.4 * row.pair("cheekSquint"),
        "wide": row.pair("eyeWide"),
        "gaze_out": row.pair("eyeLookOut") - row.pair("eyeLookIn"),
        "gaze_up": (2.2 * row.pair("eyeLookUp")).clamp(max=1) - (1.25 * look_down).clamp(max=1) * (1 - blink),
        "brow_inner": 0.22 * inner_up[:, None] - 0.15 * brow_down,
        "brow_outer": 0.22 * outer_up - 0.1 * brow_down,
        "brow_lower": _mean(brow_down),
        "brow_raise": torch.maximum(inner_up, _mean(outer_up)),
    }


def _mouth_shape(row: _Row) -> dict[str, Tensor]:
    """Corners, and the gap between the lips."""
    smile, frown, stretch = row.pair("mouthSmile"), row.pair("mouthFrown"), row.pair("mouthStretch")
    press, dimple, jaw = row.pair("mouthPress"), row.pair("mouthDimple"), row.one("jawOpen")
    pucker, funnel = row.one("mouthPucker"), row.one("mouthFunnel")
    gap = (jaw - row.one("mouthClose")).clamp_min(0)
    wider = 0.24 * smile + 0.32 * stretch + 0.1 * dimple - 0.06 * press
    narrower = 0.42 * pucker + 0.3 * funnel + 0.1 * jaw
    dropped = 0.3 * _FULL_DROP * jaw[:, None]
    opened_by_lips = 0.09 * _mean(row.pair("mouthLowerDown")) - 0.02 * row.one("mouthShrugLower")
    return {
        "mouth_half_width": (1 + wider - narrower[:, None]).clamp_min(0.35),
        "corner_lift": 0.115 * smile - 0.10 * frown - 0.03 * stretch - dropped + 0.02 * dimple,
        "gap_upper": 0.02 * gap + 0.075 * _mean(row.pair("mouthUpperUp")) + 0.03 * funnel + 0.01 * _mean(smile),
        "gap_lower": 0.92 * _FULL_DROP * gap + 0.045 * funnel + opened_by_lips,
    }


def _lips(row: _Row, identity: Identity) -> dict[str, Tensor]:
    """How thick the lips are, and how far they are pushed out."""
    smile, press = _mean(row.pair("mouthSmile")), _mean(row.pair("mouthPress"))
    pucker, funnel, shrug = row.one("mouthPucker"), row.one("mouthFunnel"), row.one("mouthShrugLower")
    upper = 1 - 0.75 * row.one("mouthRollUpper") - 0.45 * press - 0.22 * smile + 0.4 * pucker
    lower = 1 - 0.75 * row.one("mouthRollLower") - 0.45 * press - 0.18 * smile + 0.3 * pucker
    pushed_up = 0.012 * row.one("mouthShrugUpper")
    return {
        "lip_upper": (0.062 * per_row(identity.upper_lip) * upper + 0.02 * funnel + pushed_up).clamp_min(0.008),
        "lip_lower": (0.078 * per_row(identity.lower_lip) * lower + 0.02 * funnel + 0.012 * shrug).clamp_min(0.008),
        "pout": (pucker + 0.7 * funnel + 0.2 * shrug).clamp(0, 1),
    }
