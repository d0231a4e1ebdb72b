"""One face's expressions: its landmarks moved by coefficients in its own proportions, lids and lips that close."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.face.motion import BLENDSHAPE_NAMES
from flashportrait.rig.expression import CHIN, smoothstep
from flashportrait.rig.landmarks import (
    BROWS,
    INNER_LIPS_LOWER,
    INNER_LIPS_UPPER,
    LID_CREASES,
    LOWER_LIDS,
    OUTER_LIPS,
    UPPER_LIDS,
)
from flashportrait.rig.mesh import FaceMesh
from flashportrait.rig.pose import head_angles

UPPER_LIP_SHARE = 0.35
"""The upper lip's part in closing a gap between the lips."""
OPENNESS = (0.0, 1.35)
"""Least and widest opening of the lids, over the photo's own."""
BROWS_WITH_GLASSES = 0.55
"""How far brows move on a face with glasses, of what they would: the mesh bends glasses along."""
CREASE_SHARE = 0.4
"""How far the skin above an upper lid follows it down, so that a closed lid is made of more than its darkest edge."""
LIP_RISE = 0.4
"""How much of the way from the upper lip to the nose the lip can rise."""
PROPORTION_RANGE = (0.7, 1.2)
"""Of a face's own lengths to the average face's, by which its actions are measured."""
LEAST_BROW_PROPORTION = 0.75
"""The same of the brows, by their height above the lids: the less skin is there, the further a rise draws it out."""
BROWS_LIFTED = 0.4
"""How far brows that are drawn down in the photo go back to rest: brows that lie low by nature are read so too, and
lifted to the average face's they draw out the skin below them."""
LEAST_SMILE_FADING = 0.3
"""How far, at least, a smile in the photo goes back to rest."""

DRAWN_IN = 0.08
"""How far the outline of a side turned away is drawn in, in units of the face's width."""
ROOM_TAKEN = 0.4
"""The most of the room between the outline and eyes or lips that this takes."""
TURNED_SOME = 0.0, math.radians(14)
TURNED_MUCH = math.radians(20), math.radians(26)
"""A head turned much has eyes and lips right at its outline, and nothing to draw in."""
LEAST_GAP_CM = 0.2
"""Change of the gap between the lips that closes any."""
LID_RIM = 0.035
"""How far below the lower lids' landmarks the white of an eye reaches, in units of the eye's width."""
LIP_RIM = 0.15
"""How far into parted lips their inner edge is put, of the way to the outer one: landmarks there lie on teeth."""
LIP_RIM_MOST = 0.2
"""The same at most, in units of the gap between the lips."""
CLOSING = 1.1
"""How far lips close over what is expected, so that no tooth is left in a line between them."""

UPPER_LIP = tuple(sorted({*INNER_LIPS_UPPER[1:-1], *OUTER_LIPS[1:10]}))


@dataclass(frozen=True)
class Expression:
    """A face with some expressions, in the head frame."""

    head: Tensor
    """Landmarks [t 478 3], centimetres."""
    offsets: Tensor
    """What moved each landmark before openings were closed, [t 478 3]."""
    openness: Tensor
    """Of the subject's right and left lids, in units of the photo's own, [t 2]."""

    @property
    def jaw(self) -> Tensor:
        """How far the jaw has moved, [t 3]."""
        return self.offsets[:, list(CHIN)].mean(1)


class ExpressiveFace:
    """A face whose landmarks coefficients move.

    Args:
        mesh: the landmark mesh.
        head: the face's own landmarks in the head frame, [478 3] in centimetres.
        own: its own coefficients [51].
        glasses: how sure it is that it wears some, in [0, 1]; the skin that they are seen on moves little with brows.
    """

    def __init__(self, mesh: FaceMesh, head: Tensor, own: Tensor, glasses: float = 0.0) -> None:
        self.mesh, self.head, self.own, self._glasses = mesh, head, own, glasses
        nothing = torch.zeros_like(own)
        self.proportions = self._proportions(head - mesh.displacement(nothing, own[None])[0])
        self._fading_proportions = self.proportions * self._fading_shares()
        self._rest = mesh.displacement(nothing, own[None], self.proportions)[0]
        """What moves each landmark from rest to where it is in the photo, [478 3]."""
        self._fading = -mesh.displacement(own, nothing[None], self._fading_proportions)[0]
        self._below = [_interpolation(head, upper, lower) for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True)]

    def _proportions(self, resting: Tensor) -> Tensor:
        """How far each action moves this face, in units of the average face's, [51]."""
        average = self.mesh.neutral_face

        def ratio(first: int, second: int) -> float:
            own, usual = (float((face[first, :2] - face[second, :2]).norm()) for face in (resting, average))
            return min(max(own / usual, PROPORTION_RANGE[0]), PROPORTION_RANGE[1])

        eyes = [ratio(upper[0], upper[-1]) for upper in UPPER_LIDS]
        height = _brow_height(self.head) / _brow_height(average)
        by_start = {
            "brow": min(max(height, LEAST_BROW_PROPORTION), 1.0) * (1 - (1 - BROWS_WITH_GLASSES) * self._glasses),
            "jaw": ratio(2, CHIN[0]),
            "mouth": ratio(OUTER_LIPS[0], OUTER_LIPS[10]),
            "eyeLook": sum(eyes) / 2,
        }
        return self.own.new_tensor(
            [
                next((value for start, value in by_start.items() if name.startswith(start)), 1.0)
                for name in BLENDSHAPE_NAMES
            ]
        )

    def _fading_shares(self) -> Tensor:
        """How far each action that the photo shows goes back to rest, of the way that the basis says, [51].

        A smile does so far that the corners of the lips lie no lower below their middle than on the average face.
        """
        smile = self.own.new_tensor([name.startswith("mouthSmile") for name in BLENDSHAPE_NAMES])
        fading = self.proportions * self.own
        faded, smiling = (
            torch.einsum("c,cnd->nd", part, self.mesh.expression_basis) for part in (fading, fading * smile)
        )
        sag = _sag(self.head - faded) - _sag(self.mesh.neutral_face)
        share = (1 + sag / _sag(smiling).clamp(max=-0.01)).clamp(LEAST_SMILE_FADING, 1)
        shares = torch.where(smile > 0, share, torch.ones_like(smile))
        return shares * self.own.new_tensor([BROWS_LIFTED if "browDown" in name else 1 for name in BLENDSHAPE_NAMES])

    @property
    def lip_rise(self) -> float:
        """How far the upper lip is raised in the photo, in centimetres."""
        return float((-self._rest[INNER_LIPS_UPPER[5], 1]).clamp(0, 0.8))

    @property
    def jaw_drop(self) -> float:
        """How far the jaw is open in the photo, in centimetres."""
        return float(self._rest[list(CHIN), 1].mean().clamp_min(0))

    def __call__(self, coefficients: Tensor) -> Expression:
        """The face with coefficients [t 51]."""
        proportions = torch.where(coefficients < self.own, self._fading_proportions, self.proportions)
        offsets = self._limited(self.mesh.displacement(self.own, coefficients, proportions))
        head, openness = self._closed(self.head + offsets, offsets)
        return Expression(head, offsets, openness)

    def _limited(self, offsets: Tensor) -> Tensor:
        """Offsets [t 478 3] by which the upper lip rises ``LIP_RISE`` of the way to the nose at most."""
        most = LIP_RISE * (self.head[0, 1] - self.head[2, 1]).clamp_min(0.1)
        rise = -offsets[:, 0, 1]
        share = torch.where(rise > 0, torch.tanh(rise / most) * most / rise.clamp_min(1e-6), torch.ones_like(rise))
        offsets = offsets.clone()
        offsets[:, list(UPPER_LIP), 1] *= share[:, None]
        return offsets

    def _closed(self, head: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
        """Heads [t 478 3] whose lids open in proportion to the photo's own and whose lips don't cross; the lids'
        openness [t 2]."""
        own = self._rest[:, 1]
        expected = self.mesh.neutral_face[:, 1] + torch.cat((own[None], own + offsets[..., 1]))
        openness = []
        for upper, lower, crease, below in zip(UPPER_LIDS, LOWER_LIDS, LID_CREASES, self._below, strict=True):
            up, low, above = list(upper[1:-1]), list(lower[1:-1]), list(crease)
            gap = (expected[:, low] - expected[:, up]).mean(1)
            openness.append((gap[1:] / gap[0].clamp_min(0.1)).clamp(*OPENNESS))
            own_gap = (below @ self.head[list(lower), 1] - self.head[up, 1]).clamp_min(0)
            lid = head[:, list(lower), 1] @ below.mT - own_gap * openness[-1][:, None]
            arch = 1 - torch.linspace(-1, 1, len(crease) + 2, device=head.device)[1:-1].square()
            head[:, above, 1] += CREASE_SHARE * arch * (lid - self.head[up, 1]).clamp_min(0)
            head[:, up, 1] = lid
        up, low = list(INNER_LIPS_UPPER[1:-1]), list(INNER_LIPS_LOWER[1:-1])
        # From where the photo's expression has faded, to which no gains apply (``FaceMesh.displacement``).
        own = self._fading[:, 1]
        expected = self.mesh.neutral_face[:, 1] + torch.cat((own[None], own + offsets[..., 1]))
        gap = (expected[:, low] - expected[:, up]).clamp_min(0)
        own_gap = (self.head[low, 1] - self.head[up, 1]).clamp_min(0)
        # Opening adds to the photo's own gap; closing takes the same share of it as of the gap that is expected, so
        # that lips meet whatever the photo shows between them.
        resting = (self.mesh.neutral_face[low, 1] - self.mesh.neutral_face[up, 1]).clamp_min(0)
        closing = (gap[0] - gap[1:]) / (gap[0] - resting).clamp_min(LEAST_GAP_CM)
        wanted = torch.where(closing > 0, own_gap * (1 - CLOSING * closing), own_gap + gap[1:] - gap[0]).clamp_min(0)
        excess = head[:, low, 1] - head[:, up, 1] - wanted
        head[:, up, 1] += UPPER_LIP_SHARE * excess
        head[:, low, 1] -= (1 - UPPER_LIP_SHARE) * excess
        # Lips meet landmark by landmark, so that nothing is seen between their edges from any side.
        apart = closing.clamp(0, 1)[..., None] * (head[:, low] - head[:, up])[..., [0, 2]]
        head[:, up, ::2] += UPPER_LIP_SHARE * apart
        head[:, low, ::2] -= (1 - UPPER_LIP_SHARE) * apart
        return head, torch.stack(openness, 1)


def with_lower_rims(landmarks: Tensor) -> Tensor:
    """Landmarks [478 3] of a photo with the lower lids where the white ends, so that none of it is left to the skin."""
    landmarks = landmarks.clone()
    for lower in LOWER_LIDS:
        across = landmarks[lower[-1], :2] - landmarks[lower[0], :2]
        down = torch.stack((-across[1], across[0])) * (LID_RIM * across[0].sign())
        arch = torch.linspace(-1, 1, len(lower), device=landmarks.device).square()
        landmarks[list(lower), :2] += (1 - arch)[:, None] * down
    return landmarks


def with_lip_rims(landmarks: Tensor) -> Tensor:
    """Landmarks [478 3] of a photo with the inner edges of parted lips in the lips, so that these show no tooth."""
    landmarks = landmarks.clone()
    upper, lower = list(INNER_LIPS_UPPER[1:-1]), list(INNER_LIPS_LOWER[1:-1])
    gap = (landmarks[lower, :2] - landmarks[upper, :2]).norm(dim=1, keepdim=True)
    for inner, outer in ((upper, list(OUTER_LIPS[1:10])), (lower, list(OUTER_LIPS[:10:-1]))):
        outward = landmarks[outer, :2] - landmarks[inner, :2]
        most = LIP_RIM_MOST * gap / outward.norm(dim=1, keepdim=True).clamp_min(1e-6)
        landmarks[inner, :2] += outward * most.clamp(max=LIP_RIM)
    return landmarks


def with_hidden_side_drawn_in(landmarks: Tensor, mesh: FaceMesh) -> Tensor:
    """Landmarks [478 3] of a photo whose outline on the side turned away lies within the face.

    There the landmarks are guessed, some on what is behind the head; a turn to the front would show that on the cheek.
    """
    yaw = head_angles(landmarks)[0]
    outline = landmarks[mesh.oval, :2]
    across = outline[:, 0].amax() - outline[:, 0].amin()
    some, much = (smoothstep((yaw.abs() - low) / (high - low)) for low, high in (TURNED_SOME, TURNED_MUCH))
    inward = DRAWN_IN * across * some * (1 - much)
    # A head turned to its own left shows its right side, on the left of the picture.
    side = yaw.sign()
    share = torch.zeros(len(landmarks), device=landmarks.device)
    for reach in (1.0, 1.0, 0.5):
        edge = share.nonzero().squeeze(1) if share.any() else mesh.triangles.new_tensor(mesh.oval)
        near = mesh.triangles[torch.isin(mesh.triangles, edge).any(1)].unique() if share.any() else edge
        share[near] = share[near].clamp_min(reach)
    share *= smoothstep(side * (landmarks[:, 0] - outline[:, 0].mean()) / (0.3 * across))
    features = landmarks[list(OUTER_LIPS + UPPER_LIDS[0] + UPPER_LIDS[1] + BROWS[0] + BROWS[1]), :2]
    room = torch.cdist(landmarks[:, :2], features).amin(1)
    shift = torch.minimum(inward * share, ROOM_TAKEN * room)
    return landmarks - F.pad((side * shift)[:, None], (0, 2))


def _sag(face: Tensor) -> Tensor:
    """How far the corners of a face's lips [478 3] lie below where the middles of the lips meet."""
    upper, lower = (face[lips[len(lips) // 2], 1] for lips in (INNER_LIPS_UPPER, INNER_LIPS_LOWER))
    corners = face[[INNER_LIPS_UPPER[0], INNER_LIPS_UPPER[-1]], 1].mean()
    return corners - torch.lerp(upper, lower, UPPER_LIP_SHARE)


def _brow_height(head: Tensor) -> float:
    """Of the lower edges of a face's brows [478 3] above its lids, in its own units."""
    sides = zip(BROWS, UPPER_LIDS, strict=True)
    return sum(float(head[lids[4], 1] - head[list(brow[5:8]), 1].mean()) for brow, lids in sides) / 2


def _interpolation(head: Tensor, upper: tuple[int, ...], lower: tuple[int, ...]) -> Tensor:
    """Weights [7 9] that give the height of the lower lid's contour below each landmark of the upper, corners left out.

    So a closed lid lies on the lower one, whatever the places of the two lids' landmarks.
    """
    along = head[list(lower), 0]
    along = along if along[-1] > along[0] else -along
    wanted = head[list(upper[1:-1]), 0] * (1 if head[lower[-1], 0] > head[lower[0], 0] else -1)
    right = torch.searchsorted(along.contiguous(), wanted.contiguous()).clamp(1, len(along) - 1)
    share = ((wanted - along[right - 1]) / (along[right] - along[right - 1]).clamp_min(1e-6)).clamp(0, 1)
    weights = F.one_hot(right, len(along)) * share[:, None] + F.one_hot(right - 1, len(along)) * (1 - share)[:, None]
    return weights.to(head)
