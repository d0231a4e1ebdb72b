"""Window plans over every length, window and overlap."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.errors import UserError
from flashportrait.sampling.windows import WindowPlan, latent_frame_count, pixel_frame_count


@st.composite
def plans(draw: st.DrawFn) -> WindowPlan:
    window = draw(st.integers(1, 60))
    return WindowPlan(draw(st.integers(1, 200)), window, draw(st.integers(0, window - 1)))


@pytest.mark.parametrize("frames", [*range(1, 501), 99_999, 100_000])
def test_latent_frames_hold_every_pixel_frame_and_no_whole_latent_frame_too_many(frames):
    latent = latent_frame_count(frames)
    assert pixel_frame_count(latent) >= frames
    assert latent == 1 or pixel_frame_count(latent - 1) < frames


def test_no_frames_is_an_error():
    with pytest.raises(UserError, match="at least one"):
        latent_frame_count(0)


@settings(max_examples=200, deadline=None)
@given(plans())
def test_each_latent_frame_is_owned_once_and_in_order(plan):
    owned = [frame for window in plan for frame in range(window.start, window.owned_stop)]
    assert owned == list(range(plan.latent_frames))


@settings(max_examples=200, deadline=None)
@given(plans())
def test_windows_have_full_length_and_end_on_the_last_frame(plan):
    windows = list(plan)
    assert {len(window) for window in windows} == {min(plan.window, plan.latent_frames)}
    assert windows[-1].stop == plan.latent_frames
    assert [window.index for window in windows] == list(range(len(plan)))


@settings(max_examples=200, deadline=None)
@given(plans())
def test_overlap_is_what_neighbours_really_share(plan):
    windows = list(plan)
    assert windows[0].overlap == 0
    for left, right in itertools.pairwise(windows):
        assert right.overlap == len(set(range(left.start, left.stop)) & set(range(right.start, right.stop)))
        assert right.overlap >= plan.overlap
    for window in windows:
        sharing = [other.index for other in windows if other.start < window.stop and other.stop > window.start]
        assert plan.last_reader(window.index) == max(sharing)


@settings(max_examples=100, deadline=None)
@given(plans(), st.booleans())
def test_blend_weights_of_all_windows_sum_to_one_on_every_frame(plan, smooth):
    total = torch.zeros(plan.latent_frames)
    for window in plan:
        weights = window.blend_weights(smooth)
        total[window.start : window.start + window.overlap] *= 1 - weights
        total[window.start : window.start + window.overlap] += weights
        total[window.start + window.overlap : window.stop] += 1
    torch.testing.assert_close(total, torch.ones(plan.latent_frames))


def test_blend_weights_rise_linearly_over_the_frames_really_shared():
    first, last = WindowPlan(12, 9, 5)
    assert (last.start, last.overlap) == (3, 6)
    torch.testing.assert_close(last.blend_weights(), torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8, 1.0]))
    assert first.blend_weights().shape == (0,)


def test_smooth_weights_leave_and_arrive_level():
    weights = WindowPlan(201, 151, 101)[1].blend_weights(smooth=True)
    slopes = weights.diff()
    assert weights[0] == 0
    assert weights[-1] == 1
    assert (slopes > 0).all()
    assert max(slopes[0], slopes[-1]) < 0.05 * slopes.max()


@pytest.mark.parametrize("smooth", [False, True])
def test_a_single_shared_frame_is_shared_equally(smooth):
    assert WindowPlan(9, 5, 1)[1].blend_weights(smooth).tolist() == [0.5]


def test_released_defaults():
    starts = [(window.start, window.stop) for window in WindowPlan(100, 51, 30)]
    assert starts == [(0, 51), (21, 72), (42, 93), (49, 100)]


def test_seams_are_where_a_window_enters_and_where_it_is_alone():
    first, second, third = WindowPlan(11, 5, 2)
    assert first.seams == ()
    assert second.seams == (4 * 3 - 3, 4 * 5 - 3)
    assert third.seams == (4 * 6 - 3, 4 * 8 - 3)
    assert WindowPlan(10, 5, 0)[1].seams == (4 * 5 - 3,)


def test_a_window_reads_the_driving_frames_that_it_shows():
    assert WindowPlan(100, 51, 30)[1].pixel_frames == range(84, 285)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 500), st.integers(1, 60), st.data())
def test_every_driving_frame_is_in_the_window_that_owns_its_latent_frame(frames, window, data):
    plan = WindowPlan(latent_frame_count(frames), window, data.draw(st.integers(0, window - 1)))
    covered = []
    for part in plan:
        first = 0 if part.start == 0 else 4 * part.start - 3
        covered += range(first, 4 * (part.owned_stop - 1) + 1)
        # A window's own first latent frame, unless it is the clip's, shows only the last of its four pixel frames.
        assert set(range(max(first, 4 * part.start), covered[-1] + 1)) <= set(part.pixel_frames)
    assert covered[:frames] == list(range(frames))
    assert len(covered) - frames < 4


@pytest.mark.parametrize(("frames", "window", "overlap"), [(0, 5, 1), (10, 0, 0), (10, 5, 5), (10, 5, -1)])
def test_impossible_plans_say_what_to_do(frames, window, overlap):
    with pytest.raises(UserError):
        WindowPlan(frames, window, overlap)
