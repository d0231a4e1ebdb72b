"""The expression basis, as regressed from faces, held to anatomy: each action moves only what its muscles can.

A regression on photographs takes whatever comes with an action for its effect: a nose that sinks as the jaw drops, a
chin that rises with pursed lips. Rare actions, which few photographs show, are mostly such coincidences.
"""

from __future__ import annotations

import torch
from torch import Tensor

from flashportrait.face.motion import BLENDSHAPE_NAMES
from flashportrait.rig.landmarks import (
    BROWS,
    INNER_LIPS_LOWER,
    INNER_LIPS_UPPER,
    IRISES,
    LOWER_LIDS,
    OUTER_LIPS,
    UPPER_LIDS,
)

READING_GAINS = {
    "eyeBlink": 1.9,
    "eyeLookDown": 1.6,
    "eyeLookIn": 2.1,
    "eyeLookOut": 2.1,
    "eyeLookUp": 1.7,
    "eyeSquint": 2.4,
    "eyeWide": 1.8,
    "browDown": 1.6,
    "browInnerUp": 1.85,
    "browOuterUp": 1.8,
    "jawOpen": 1.35,
    "mouthDimple": 1.7,
    "mouthFrown": 2.0,
    "mouthFunnel": 2.2,
    "mouthLowerDown": 1.2,
    "mouthPress": 2.0,
    "mouthPucker": 2.2,
    "mouthRollLower": 1.75,
    "mouthRollUpper": 1.8,
    "mouthShrugLower": 1.8,
    "mouthShrugUpper": 1.9,
    "mouthSmile": 1.15,
    "mouthStretch": 1.4,
    "mouthUpperUp": 1.5,
}
"""How much further than the regression says an action must move for the landmarker to read it back in full, by name
without side. Its landmarks lean towards what is usual in the skin around them, so they understate a warp."""
GAZE_REACH_CM = {"eyeLookUp": (0.0, -0.6), "eyeLookDown": (0.0, 0.6)}
"""Travel of the iris, right and down, at coefficient 1, where lids that follow the gaze hide it from the regression."""
CHIN = (152, 148, 377, 176, 400)
UPPER_ACTIONS = ("mouthUpperUp", "mouthShrugUpper", "mouthRollUpper")
"""Actions of the upper lip alone."""
LOWER_ACTIONS = ("mouthLowerDown", "mouthShrugLower", "mouthRollLower")
"""Actions of the lower lip alone."""
CLOSING_ACTIONS = ("mouthRollUpper", "mouthRollLower", "mouthPress", "mouthClose")
"""Actions that never part the lips, though the landmarks of lips that are rolled in lie apart."""
LID_ACTIONS = ("eyeBlink", "eyeWide")
"""Actions of the lids alone: the skin above follows by other means (``face.CREASE_SHARE``)."""
LOWER_LID_SHARE = 0.2
"""How much of its regressed motion anything but the upper lid takes: the landmarker puts closed eyes too low."""
LONGEST_TRAVEL_CM = {"mouth": 1.5, "brow": 1.2}
"""The furthest that an action of the lips or the brows, fully shown, moves any of their landmarks."""
UPPER_LIP_WITH_JAW = 0.5
"""Share of the upper lip's motion with the jaw, as regressed, that is the jaw's: teeth show below it."""
FUNNEL_WITH_JAW = 0.2
"""How far a funnel opens the jaw, over its own full opening: behind rounded lips the landmarker reads little of it."""
LOWER_LIP_END_CM = 5.6
"""Height of the lower lip's outer edge on the canonical face."""
LIP_CURVE_DEGREE = 4
"""Of the polynomials that the displacement follows along the edges of the lips."""
LIPS = OUTER_LIPS + INNER_LIPS_UPPER + INNER_LIPS_LOWER
LIP_EDGES = (INNER_LIPS_UPPER, INNER_LIPS_LOWER, OUTER_LIPS[:11], (*OUTER_LIPS[10:], OUTER_LIPS[0]))


def anatomical(basis: Tensor, gains: Tensor, canonical_face: Tensor) -> Tensor:
    """The regressed basis [51 478 3] in centimetres, each action kept to where its muscles are.

    gains: [51]; canonical_face: [478 3].
    """
    basis = basis.clone()
    for row, name in enumerate(BLENDSHAPE_NAMES):
        basis[row] *= _region(name, canonical_face)[:, None]
    jaw = BLENDSHAPE_NAMES.index("jawOpen")
    for row, name in enumerate(BLENDSHAPE_NAMES):
        stem, side = stem_of(name), int(name.endswith("Left"))
        if stem in GAZE_REACH_CM:
            corners = basis[row, [UPPER_LIDS[side][0], UPPER_LIDS[side][-1]], :2].mean(0)
            reach = basis.new_tensor(GAZE_REACH_CM[stem]) / READING_GAINS[stem]
            basis[row, list(IRISES[side]), :2] = corners + reach
        if stem in LID_ACTIONS:
            # Taken from the upper lid as well, so that eyes close as fast as before.
            upper, lower = list(UPPER_LIDS[side][1:-1]), list(LOWER_LIDS[side][1:-1])
            lid = basis[row, upper] - (1 - LOWER_LID_SHARE) * basis[row, lower]
            basis[row] *= LOWER_LID_SHARE
            basis[row, upper] = lid
        if name.startswith("jaw"):
            basis[row] *= 1 - (1 - UPPER_LIP_WITH_JAW) * upper_lip_share(canonical_face)[:, None]
        if name.startswith("mouth"):
            _keep_to_lips(basis[row], name, basis[jaw], canonical_face)
        for start, landmarks in (("mouth", LIPS), ("brow", BROWS[0] + BROWS[1])):
            if name.startswith(start):
                travel = gains[row] * basis[row].norm(dim=1)[list(landmarks)].amax()
                basis[row] *= (LONGEST_TRAVEL_CM[start] / travel.clamp_min(1e-6)).clamp(max=1)
        if name == "mouthFunnel":
            basis[row] += FUNNEL_WITH_JAW * gains[jaw] / gains[row] * basis[jaw]
        if name.startswith(("mouth", "jaw")):
            _smooth_lips(basis[row])
    return basis


def stem_of(name: str) -> str:
    """A coefficient's name without its side."""
    return name.removesuffix("Left").removesuffix("Right")


def upper_lip_share(canonical_face: Tensor) -> Tensor:
    """[478] 1 on the upper lip and above, 0 on the lower and below."""
    upper, lower = canonical_face[13, 1], canonical_face[14, 1]
    return 1 - smoothstep((canonical_face[:, 1] - upper) / (lower - upper))


def smoothstep(x: Tensor) -> Tensor:
    """0 below 0, 1 above 1, smooth between."""
    x = x.clamp(0, 1)
    return x * x * (3 - 2 * x)


def _region(name: str, canonical_face: Tensor) -> Tensor:
    """How much of an action each landmark takes, [478], smooth between 0 and 1."""
    x, y = canonical_face[:, 0].abs(), canonical_face[:, 1]
    if name.startswith("eye"):
        iris = IRISES[int(name.endswith("Left"))]
        reach = 3.2 if name.startswith("eyeSquint") else 2.2
        near = 1 - smoothstep(((canonical_face[:, :2] - canonical_face[iris[0], :2]).norm(dim=1) - reach) / 1.6)
        if stem_of(name) in LID_ACTIONS:
            above = y < canonical_face[iris[0], 1]
            above[[index for lids in (UPPER_LIDS, LOWER_LIDS, IRISES) for side in lids for index in side]] = False
            near = near * ~above
        return near
    if name.startswith("brow"):
        return 1 - smoothstep((y + 2.2) / 2.4)
    nose = (1 - smoothstep((x - 1.6) / 1.4)) * (1 - smoothstep((y - 1.6) / 1.6))
    return smoothstep((y + 2.8) / 3.3) * (1 - nose)


def _keep_to_lips(action: Tensor, name: str, jaw: Tensor, canonical_face: Tensor) -> None:
    """Rewrites an action of the mouth [478 3]: the chin is moved by the jaw [478 3] alone, a lip by its own actions,
    and a side mostly by its own."""
    chin = list(CHIN)
    opened = action[chin, 1].mean() / jaw[chin, 1].mean()
    # What opens the mouth is the jaw's doing as a whole; where lips close, the chin alone must not follow.
    below = smoothstep((canonical_face[:, 1] - LOWER_LIP_END_CM) / 2.0)[:, None]
    action -= opened * (jaw if opened > 0 else jaw * below)
    stem = stem_of(name)
    if stem in UPPER_ACTIONS:
        action *= upper_lip_share(canonical_face)[:, None]
    if stem in LOWER_ACTIONS:
        action *= 1 - upper_lip_share(canonical_face)[:, None]
    if stem in CLOSING_ACTIONS:
        upper, lower = list(INNER_LIPS_UPPER[1:-1]), list(INNER_LIPS_LOWER[1:-1])
        parted = (action[lower, 1] - action[upper, 1]).clamp_min(0)
        if stem not in LOWER_ACTIONS:
            action[upper, 1] += parted
        else:
            action[lower, 1] -= parted
    if name == "mouthPucker":
        # It draws the corners of the lips in, not down.
        action[:, 1] *= 1 - smoothstep((canonical_face[:, 0].abs() - 0.6) / 1.4)
    if stem != name and stem != "mouth":
        side = 1 if name.endswith("Left") else -1
        action *= smoothstep((side * canonical_face[:, 0] + 2.0) / 3.5)[:, None]


def _smooth_lips(action: Tensor) -> None:
    """Rewrites an action [478 3] to follow a low polynomial along each edge of the lips, so that they stay curves."""
    for edge in LIP_EDGES:
        place = torch.linspace(-1, 1, len(edge), device=action.device, dtype=torch.float64)
        powers = place[:, None] ** torch.arange(LIP_CURVE_DEGREE + 1, device=action.device)
        fitted = powers @ torch.linalg.lstsq(powers, action[list(edge)].double()).solution
        inner = list(edge[1:-1])
        action[inner] = fitted[1:-1].to(action)
