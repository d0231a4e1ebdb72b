"""Glasses told from the folds and shades of a face, and what they keep from moving."""

from __future__ import annotations

import pytest
import torch

from flashportrait.face.motion import BLENDSHAPE_NAMES
from flashportrait.rig.face import BROWS_WITH_GLASSES, ExpressiveFace
from flashportrait.rig.glasses import glasses_seen
from flashportrait.rig.landmarks import BROWS
from flashportrait.rig.mesh import average_landmarks, load_face_mesh

SIDE = 256


def _face(angle: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Plain skin, a little darker at its foot, and landmarks turned in the picture by ``angle``."""
    shade = torch.linspace(0.8, 0.6, SIDE)[None, :, None] * torch.tensor([1.0, 0.75, 0.6])[:, None, None]
    landmarks = average_landmarks((128.0, 120.0), 160.0)
    turn = torch.tensor(angle)
    rotation = torch.tensor([[turn.cos(), -turn.sin()], [turn.sin(), turn.cos()]])
    landmarks[:, :2] = (landmarks[:, :2] - 128) @ rotation.T + 128
    return shade.expand(3, SIDE, SIDE).clone(), landmarks


def _crossed(image: torch.Tensor, landmarks: torch.Tensor, dark: float, reach: float) -> torch.Tensor:
    """The picture with a bar across the nose, ``reach`` of the way to the eyes' inner corners."""
    inner = landmarks[[133, 362], :2]
    middle, half = inner.mean(0), (inner[1] - inner[0]) / 2
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    offset = torch.stack((x, y), -1) - middle
    along, across = (offset @ half) / (half @ half), offset @ torch.stack((-half[1], half[0])) / half.norm()
    return torch.where((along.abs() < reach) & (across.abs() < 2.5), image * dark, image)


@pytest.mark.parametrize("angle", [0.0, 0.4, -0.8])
@pytest.mark.parametrize("dark", [0.3, 1.5])
def test_a_bar_across_the_nose_is_glasses(angle: float, dark: float) -> None:
    image, landmarks = _face(angle)
    assert glasses_seen(image, landmarks) == 0
    assert glasses_seen(_crossed(image, landmarks, dark, 1.2).clamp(max=1), landmarks) == 1
    assert glasses_seen(0.3 * _crossed(image, landmarks, dark, 1.2).clamp(max=1), landmarks) > 0.9


def test_what_does_not_cross_the_nose_is_not() -> None:
    image, landmarks = _face()
    assert glasses_seen(_crossed(image, landmarks, 0.3, 0.3), landmarks) == 0


def test_brows_move_less_behind_glasses() -> None:
    mesh = load_face_mesh()
    rise, own = torch.zeros(2, len(BLENDSHAPE_NAMES)), torch.zeros(len(BLENDSHAPE_NAMES))
    rise[1, BLENDSHAPE_NAMES.index("browInnerUp")] = 0.8
    brows = list(BROWS[0])

    def risen(glasses: float) -> torch.Tensor:
        return ExpressiveFace(mesh, mesh.neutral_face, own, glasses)(rise).offsets[1, brows]

    torch.testing.assert_close(risen(1.0), BROWS_WITH_GLASSES * risen(0.0))
