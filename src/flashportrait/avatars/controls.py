"""From ARKit coefficients to the positions of lids, brows, lips and jaw."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from flashportrait.avatars.identity import Identity
from flashportrait.face.motion import BLENDSHAPE_NAMES, HEAD_POSE_NAMES

COLUMNS = {name: column for column, name in enumerate(HEAD_POSE_NAMES + BLENDSHAPE_NAMES)}
"""Column of each name in a motion row."""

_FULL_DROP = 0.36
"""How far the chin drops when the jaw is fully open, face coordinates."""


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
    """Controls of motion rows [n 57] performed by ``identity`` (n rows)."""

    def one(name: str) -> Tensor:
        return motion[:, COLUMNS[name], None, None]

    def pair(name: str) -> Tensor:
        return motion[:, [COLUMNS[name + "Left"], COLUMNS[name + "Right"]], None, None]

    smile, frown, stretch = pair("mouthSmile"), pair("mouthFrown"), pair("mouthStretch")
    press, dimple, upper_up, lower_down = (pair(f"mouth{part}") for part in ("Press", "Dimple", "UpperUp", "LowerDown"))
    pucker, funnel, jaw = one("mouthPucker"), one("mouthFunnel"), one("jawOpen")
    roll_upper, roll_lower = one("mouthRollUpper"), one("mouthRollLower")
    shrug_upper, shrug_lower = one("mouthShrugUpper"), one("mouthShrugLower")
    jaw_drop = _FULL_DROP * jaw
    gap = (jaw - one("mouthClose")).clamp_min(0)
    jaw_aside = 0.09 * (one("jawLeft") - one("jawRight"))
    mean = lambda value: value.mean(dim=1)  # noqa: E731
    half_width = 1 + 0.24 * smile + 0.32 * stretch + 0.1 * dimple - 0.06 * press
    half_width = half_width - (0.42 * pucker + 0.3 * funnel + 0.1 * jaw)[:, None]
    lips = identity.upper_lip[:, None, None], identity.lower_lip[:, None, None]
    # The landmarker reads 0.75 on most closed eyes.
    blink, look_down = (pair("eyeBlink") / 0.75).clamp(max=1), pair("eyeLookDown")
    return Controls(
        blink=(blink + 0.5 * look_down * (1 - blink)).clamp(0, 1),
        # It reads 0.25 on relaxed eyes, and little of how far they look up.
        squint=1.3 * (pair("eyeSquint") - 0.25).clamp_min(-0.08) + 0.4 * pair("cheekSquint"),
        wide=pair("eyeWide"),
        gaze_out=pair("eyeLookOut") - pair("eyeLookIn"),
        gaze_up=(2.2 * pair("eyeLookUp")).clamp(max=1) - (1.25 * look_down).clamp(max=1) * (1 - blink),
        brow_inner=0.15 * one("browInnerUp")[:, None] - 0.14 * pair("browDown"),
        brow_outer=0.16 * pair("browOuterUp") - 0.09 * pair("browDown"),
        brow_lower=mean(pair("browDown")),
        brow_raise=torch.maximum(one("browInnerUp"), mean(pair("browOuterUp"))),
        sneer=mean(pair("noseSneer")),
        cheek=0.7 * smile + 0.6 * pair("cheekSquint") + 0.3 * pair("noseSneer"),
        puff=0.14 * one("cheekPuff"),
        jaw_drop=jaw_drop,
        jaw_aside=jaw_aside,
        jaw_forward=0.07 * one("jawForward"),
        smile=smile,
        mouth_aside=0.13 * (one("mouthLeft") - one("mouthRight")) + 0.4 * jaw_aside,
        mouth_half_width=half_width.clamp_min(0.35),
        corner_lift=0.09 * smile - 0.10 * frown - 0.03 * stretch - 0.3 * jaw_drop[:, None] + 0.02 * dimple,
        gap_upper=0.02 * gap + 0.075 * mean(upper_up) + 0.03 * funnel + 0.01 * mean(smile),
        gap_lower=0.92 * _FULL_DROP * gap + 0.09 * mean(lower_down) + 0.045 * funnel - 0.02 * shrug_lower,
        lip_upper=(
            0.062 * lips[0] * (1 - 0.75 * roll_upper - 0.45 * mean(press) - 0.22 * mean(smile) + 0.4 * pucker)
            + 0.02 * funnel
            + 0.012 * shrug_upper
        ).clamp_min(0.008),
        lip_lower=(
            0.078 * lips[1] * (1 - 0.75 * roll_lower - 0.45 * mean(press) - 0.18 * mean(smile) + 0.3 * pucker)
            + 0.02 * funnel
            + 0.012 * shrug_lower
        ).clamp_min(0.008),
        pout=(pucker + 0.7 * funnel + 0.2 * shrug_lower).clamp(0, 1),
    )
