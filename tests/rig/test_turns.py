"""Depths of turned faces, and how far photographs may be turned."""

from __future__ import annotations

import math

import pytest
import torch

from flashportrait.rig.mesh import load_face_mesh
from flashportrait.rig.pose import (
    COMFORTABLE_CAUTION,
    GUIDE_REACH,
    LEAST_TURN_BACK,
    head_pose_limits,
    rotation_matrices,
    with_symmetric_depth,
)


def _turned(degrees: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The average face turned aside, its depths guessed a third too large, and its rotation."""
    rotation = rotation_matrices(torch.tensor([math.radians(degrees), 0.1, -0.05]))
    return load_face_mesh().neutral_face @ rotation.T * torch.tensor([1.0, 1.0, 1.3]), rotation


def _lopsidedness(head: torch.Tensor) -> float:
    mesh = load_face_mesh()
    return float((head - head[mesh.mirror] * torch.tensor([-1.0, 1.0, 1.0])).norm(dim=1).mean())


@pytest.mark.parametrize("degrees", [15.0, -25.0, 40.0])
def test_a_turned_face_gets_the_depths_of_a_symmetric_one(degrees: float) -> None:
    turned, rotation = _turned(degrees)
    mended = with_symmetric_depth(turned, rotation, load_face_mesh())
    assert torch.equal(mended[:, :2], turned[:, :2])
    assert _lopsidedness(mended @ rotation) < 0.15 * _lopsidedness(turned @ rotation)


def test_a_face_from_its_front_keeps_its_depths() -> None:
    front = load_face_mesh().neutral_face * torch.tensor([1.0, 1.0, 1.3])
    mended = with_symmetric_depth(front, torch.eye(3), load_face_mesh())
    torch.testing.assert_close(mended, front, atol=0.05, rtol=0)


def _turn_back(degrees: float, caution: float | None = None) -> float:
    """How far a photograph may turn back to its front."""
    own = torch.zeros(57)
    own[0] = math.radians(degrees)
    lowest, highest = head_pose_limits(own, GUIDE_REACH, *([] if caution is None else [caution]))
    back = float(own[0] - lowest[0]) if degrees > 0 else float(highest[0] - own[0])
    return math.degrees(back)


def test_the_more_a_photo_is_turned_the_less_it_turns_back() -> None:
    reach = math.degrees(GUIDE_REACH[0])
    turns = [_turn_back(degrees) for degrees in (1, 5, 10, 15, 20, 30, 45, 60)]
    assert turns == sorted(turns, reverse=True)
    assert turns[0] == pytest.approx(reach, abs=2)
    assert turns[5] == pytest.approx(math.degrees(LEAST_TURN_BACK), abs=1e-3)
    assert turns[-1] == pytest.approx(0, abs=1e-3)
    assert _turn_back(-15) == pytest.approx(_turn_back(15), abs=1e-3)
    assert _turn_back(10, COMFORTABLE_CAUTION) < _turn_back(10)


def test_a_photo_turns_further_aside_by_all_of_the_reach() -> None:
    own = torch.zeros(57)
    own[0] = 0.4
    highest = head_pose_limits(own, GUIDE_REACH)[1]
    assert float(highest[0]) == pytest.approx(0.4 + GUIDE_REACH[0])
