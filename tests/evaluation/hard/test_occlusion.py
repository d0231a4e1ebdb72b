"""Hands and hair hide the face where and when they should, and nothing else."""

from __future__ import annotations

import pytest
import torch

from flashportrait.evaluation.hard.occlusion import GESTURES, FacePlaces, Hand, Lock, Occlusions, draw_occlusions

SIZE = 96
PLACES = FacePlaces(torch.tensor([[48.0, 44.0]]), torch.tensor([50.0]), torch.zeros(1, 3))
SKIN, HAIR = torch.tensor([0.8, 0.5, 0.4]), torch.tensor([0.1, 0.1, 0.1])


def drawn(occlusions: Occlusions, seconds: float) -> torch.Tensor:
    """[3 s s] over a white picture."""
    return draw_occlusions(torch.ones(1, 3, SIZE, SIZE), [seconds], PLACES, occlusions, SKIN, HAIR)[0]


def changed(picture: torch.Tensor) -> torch.Tensor:
    return (picture != 1).any(0)


@pytest.mark.parametrize("gesture", GESTURES)
def test_a_hand_is_there_while_it_is_held_and_gone_before_and_after(gesture: str):
    occlusions = Occlusions((Hand(gesture, 1.0, 0.3, 1.0, 0.3, 1.0, 0.0),))
    hand = changed(drawn(occlusions, 1.8))
    assert 0.03 < hand.float().mean() < 0.6
    below = hand[SIZE // 2 :].sum() > hand[: SIZE // 2].sum()
    assert below or gesture == "wave"
    for seconds in (0.9, 2.7):
        assert not changed(drawn(occlusions, seconds)).any()
    assert occlusions.hides(1.8)
    assert not occlusions.hides(0.9)


def test_a_hand_has_the_colour_of_the_skin():
    picture = drawn(Occlusions((Hand("cover", 0.0, 0.2, 2.0, 0.2, 1.0, 0.0),)), 1.0)
    palm = picture[:, 63:66, 52:56].mean((1, 2))
    assert torch.allclose(palm / palm.sum(), SKIN / SKIN.sum(), atol=0.02)


def test_a_hand_from_the_left_mirrors_one_from_the_right():
    right, left = (drawn(Occlusions((Hand("cheek", 0.0, 0.2, 2.0, 0.2, side, 0.0),)), 0.5) for side in (1.0, -1.0))
    centered = FacePlaces(torch.tensor([[SIZE / 2, 44.0]]), PLACES.height, PLACES.angles)
    assert torch.equal(centered.center, PLACES.center)
    assert torch.allclose(right, left.flip(-1), atol=1e-4)


def test_a_lock_of_hair_hangs_before_one_half_of_the_face():
    hidden = changed(drawn(Occlusions((), Lock(0.2, 0.08, 0.9, 0.02, 0.0)), 0.0))
    assert hidden[:, SIZE // 2 + 2 :].sum() > 100
    assert not hidden[:, : SIZE // 2 - 2].any()
