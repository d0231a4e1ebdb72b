"""A network's changes on what is drawn, at any size."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.composition import FADE, all_painted, blurred, compose, compose_keeping_details
from flashportrait.models.tiny_vae import Restored, bend

SEEN = 16


def changes(frames: int = 2, flow: tuple[float, float] = (0.0, 0.0), share: float = 0.0) -> Restored:
    """Red where painted, by ``share``; the rest from ``flow`` away, in pixels of the network's square."""
    painted = torch.zeros(1, frames, 3, SEEN, SEEN)
    painted[:, :, 0] = 1
    mask = torch.full((1, frames, 1, SEEN, SEEN), 1 - share)
    moved = torch.tensor(flow).view(1, 1, 2, 1, 1).expand(1, frames, 2, SEEN // 2, SEEN // 2)
    return Restored(painted, painted, moved, painted, mask)


@settings(max_examples=40, deadline=None)
@given(st.integers(-40, 60), st.integers(-40, 60), st.integers(20, 90))
def test_a_network_that_changes_nothing_leaves_every_pixel(left, top, side):
    drawn = torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(left))
    square = (left, top, left + side, top + side)
    if left + side <= 0 or top + side <= 0 or left >= 64 or top >= 48:
        return
    torch.testing.assert_close(compose(drawn, square, changes()), drawn, atol=2e-5, rtol=0)


@pytest.mark.parametrize("side", [16, 40, 64])
def test_what_is_painted_covers_its_share_inside_the_square_and_nothing_outside(side):
    drawn = torch.zeros(2, 3, 96, 96)
    square = (8, 20, 8 + side, 20 + side)
    result = compose(drawn, square, changes(share=0.75))
    edge = int(FADE * side) + 1
    inside = result[:, 0, 20 + edge : 20 + side - edge, 8 + edge : 8 + side - edge]
    torch.testing.assert_close(inside, torch.full_like(inside, 0.75))
    assert not result[:, 1:].any()
    result[:, :, 20 : 20 + side, 8 : 8 + side] = 0
    assert not result.any()


def test_the_square_fades_out_at_its_edges():
    result = compose(torch.zeros(1, 3, 64, 64), (0, 0, 64, 64), changes(1, share=1.0))[0, 0, 32]
    steps = result[: int(64 * FADE) + 2].diff()
    assert (steps >= 0).all()
    assert result[0] < 0.2
    assert steps.max() < 0.3


def test_flow_is_in_the_networks_pixels_and_moves_what_is_drawn_at_its_own_sharpness():
    drawn = torch.zeros(1, 3, 64, 64)
    drawn[..., 30, 36] = 1
    moved = compose(drawn, (0, 0, 64, 64), changes(1, flow=(1.0, -0.5)))
    # One pixel of 16 is four of 64: what lay 4 to the right and 2 above is shown.
    expected = torch.zeros_like(drawn)
    expected[..., 32, 32] = 1
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)


def test_a_network_that_blends_nothing_paints_all():
    frames = torch.rand(1, 2, 3, SEEN, SEEN)
    result = compose(torch.zeros(2, 3, SEEN, SEEN), (0, 0, SEEN, SEEN), all_painted(frames))
    torch.testing.assert_close(result[..., 4:12, 4:12], frames[0, ..., 4:12, 4:12])


def test_a_share_of_the_changes_is_taken_over():
    drawn = torch.zeros(1, 3, 64, 64)
    half = compose(drawn, (0, 0, 64, 64), changes(1, share=1.0), refine=0.5)
    assert half[0, 0, 32, 32] == pytest.approx(0.5)
    assert torch.equal(compose(drawn, (0, 0, 64, 64), changes(1, share=1.0), refine=0.0), drawn)


def test_details_are_left_to_what_is_drawn():
    drawn = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) / 2
    seen = torch.nn.functional.avg_pool2d(drawn, 4)
    checks = (torch.arange(SEEN)[:, None] + torch.arange(SEEN)) % 2
    painted = (seen + 0.04 + 0.1 * (2.0 * checks - 1))[None]
    flow = torch.full((1, 1, 2, SEEN, SEEN), 5.0)  # of a network that paints all: it means nothing
    restored = Restored(painted, painted, flow, painted, torch.zeros(1, 1, 1, SEEN, SEEN))
    middle = (..., slice(24, 40), slice(24, 40))
    result = compose_keeping_details(drawn, seen, (0, 0, 64, 64), restored)
    # The light comes on top of what is drawn; of the checks next to nothing is left.
    torch.testing.assert_close(result[middle], drawn[middle] + 0.04, atol=5e-3, rtol=0)
    half = compose_keeping_details(drawn, seen, (0, 0, 64, 64), restored, refine=0.5)
    torch.testing.assert_close(half[middle], drawn[middle] + 0.02, atol=5e-3, rtol=0)


def test_where_the_network_shows_something_else_all_of_it_is_taken():
    drawn = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) / 4
    painted = torch.full((1, 1, 3, SEEN, SEEN), 0.9)
    nothing = torch.zeros(1, 1, 2, SEEN, SEEN)
    restored = Restored(painted, painted, nothing, painted, torch.zeros(1, 1, 1, SEEN, SEEN))
    seen = torch.nn.functional.avg_pool2d(drawn, 4)
    result = compose_keeping_details(drawn, seen, (0, 0, 64, 64), restored)
    torch.testing.assert_close(result, compose(drawn, (0, 0, 64, 64), restored))


def test_what_a_network_bends_is_moved_at_the_drawn_pictures_own_sharpness():
    drawn = torch.zeros(1, 3, 64, 64)
    drawn[..., 30, 36] = 1
    seen = torch.nn.functional.avg_pool2d(drawn, 4)
    flow = torch.tensor([1.0, -0.5]).view(1, 1, 2, 1, 1).expand(1, 1, 2, SEEN, SEEN)
    bent = bend(seen, flow[0])[None]
    restored = Restored(bent, bent, flow, torch.rand(bent.shape), torch.ones(1, 1, 1, SEEN, SEEN))
    expected = torch.zeros_like(drawn)
    expected[..., 32, 32] = 1
    moved = compose_keeping_details(drawn, seen, (0, 0, 64, 64), restored)
    torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)


def test_a_blur_keeps_the_mean_and_is_a_gaussian():
    picture = torch.zeros(1, 1, 41, 31)
    picture[..., 20, 15] = 1
    spread = blurred(picture, 2.0)
    assert float(spread.sum()) == pytest.approx(1, abs=1e-5)
    rows = torch.arange(41.0) - 20
    assert float((spread[0, 0].sum(1) * rows.square()).sum()) == pytest.approx(4, rel=0.05)
    assert float(spread[0, 0, 20, 15] / spread[0, 0, 22, 15]) == pytest.approx(2.718281828**0.5, rel=1e-3)
    torch.testing.assert_close(spread, spread.flip(-1))
    even = torch.full((2, 3, 9, 20), 0.4)
    torch.testing.assert_close(blurred(even, 3.0), even)
