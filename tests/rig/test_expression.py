"""The expression basis, held to anatomy."""

from __future__ import annotations

import pytest
import torch

from flashportrait.face.motion import BLENDSHAPE_NAMES, MOUTH_NAMES
from flashportrait.rig.expression import (
    CHIN,
    CLOSING_ACTIONS,
    FUNNEL_WITH_JAW,
    LONGEST_TRAVEL_CM,
    LOWER_ACTIONS,
    UPPER_ACTIONS,
    stem_of,
)
from flashportrait.rig.landmarks import INNER_LIPS_LOWER, INNER_LIPS_UPPER, OUTER_LIPS
from flashportrait.rig.mesh import load_face_mesh

MOUTH_ACTIONS = [name for name in MOUTH_NAMES if name.startswith("mouth")]
LIPS = list(OUTER_LIPS + INNER_LIPS_UPPER + INNER_LIPS_LOWER)


def _moved(name: str) -> torch.Tensor:
    """Landmarks' displacement [478 3] by an action at 1."""
    mesh, row = load_face_mesh(), BLENDSHAPE_NAMES.index(name)
    return mesh.gains[row] * mesh.expression_basis[row]


def _moved_by_muscles(name: str) -> torch.Tensor:
    """The same without the jaw that comes with a funnel."""
    return _moved(name) - (FUNNEL_WITH_JAW * _moved("jawOpen") if name == "mouthFunnel" else 0)


@pytest.mark.parametrize("name", MOUTH_ACTIONS)
def test_the_chin_is_moved_by_the_jaw_alone(name: str) -> None:
    assert abs(_moved_by_muscles(name)[list(CHIN), 1].mean()) < 0.2
    assert _moved("jawOpen")[list(CHIN), 1].min() > 3


@pytest.mark.parametrize("name", [*MOUTH_ACTIONS, "jawOpen"])
def test_the_nose_stays(name: str) -> None:
    assert _moved(name)[[1, 4, 5, 195]].norm(dim=1).max() < 0.01


@pytest.mark.parametrize("name", MOUTH_ACTIONS)
def test_lips_travel_no_further_than_lips_can(name: str) -> None:
    assert _moved_by_muscles(name)[LIPS].norm(dim=1).max() < 1.1 * LONGEST_TRAVEL_CM["mouth"]


def test_an_action_of_one_lip_leaves_the_other() -> None:
    for name in MOUTH_ACTIONS:
        if stem_of(name) in UPPER_ACTIONS:
            assert _moved(name)[list(INNER_LIPS_LOWER[3:8])].norm(dim=1).max() < 0.1, name
        if stem_of(name) in LOWER_ACTIONS:
            assert _moved(name)[list(INNER_LIPS_UPPER[3:8])].norm(dim=1).max() < 0.1, name


def test_what_closes_the_mouth_does_not_part_the_lips() -> None:
    for name in MOUTH_ACTIONS:
        if stem_of(name) in CLOSING_ACTIONS:
            moved = _moved(name)
            assert (moved[list(INNER_LIPS_LOWER), 1] - moved[list(INNER_LIPS_UPPER), 1]).max() < 0.12, name


def test_an_action_of_one_side_leaves_the_other_corner() -> None:
    right, left = OUTER_LIPS[0], OUTER_LIPS[10]
    for name in MOUTH_ACTIONS:
        if name.endswith("Left") and name != "mouthLeft":
            assert _moved(name)[right].norm() < 0.1 * _moved(name)[left].norm(), name


def test_a_pucker_draws_the_corners_in_and_not_down() -> None:
    corner = _moved("mouthPucker")[OUTER_LIPS[10]]
    assert corner[0] < -0.4
    assert abs(corner[1]) < 0.1


def test_the_edges_of_the_lips_stay_curves() -> None:
    for name in (*MOUTH_ACTIONS, "jawOpen"):
        bends = _moved(name)[list(INNER_LIPS_UPPER[1:-1]), 1].diff(n=3).abs()
        assert bends.max() < 0.35, name
