"""Performances: the row layout, ranges, and movements of human speed."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.avatars import sample_performance
from flashportrait.avatars.performance import KINDS
from flashportrait.face.motion import BLENDSHAPE_NAMES, BLENDSHAPES, HEAD_POSE_NAMES

COLUMN = {name: index for index, name in enumerate(HEAD_POSE_NAMES + BLENDSHAPE_NAMES)}


def perform(frames: int, kind: str, seed: int = 0, rate: float = 25.0) -> torch.Tensor:
    return sample_performance(frames, rate, kind, torch.Generator().manual_seed(seed))


def runs(active: torch.Tensor) -> list[int]:
    """Lengths of the runs of True that neither begin nor end the clip."""
    padded = torch.cat([torch.tensor([False]), active, torch.tensor([False])]).int()
    starts, ends = (padded.diff() == 1).nonzero().flatten(), (padded.diff() == -1).nonzero().flatten()
    return [int(e - s) for s, e in zip(starts, ends, strict=True) if s > 0 and e < len(active)]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8, deadline=None)
@given(frames=st.integers(1, 200), rate=st.sampled_from([12.5, 25.0, 30000 / 1001, 60.0]), seed=st.integers(0, 999))
def test_rows_are_in_the_layout_and_in_range(kind: str, frames: int, rate: float, seed: int):
    rows = perform(frames, kind, seed, rate)
    assert rows.shape == (frames, BLENDSHAPES.width)
    assert rows.dtype == torch.float32
    assert rows.isfinite().all()
    expression = rows[:, len(HEAD_POSE_NAMES) :]
    assert expression.min() >= 0
    assert expression.max() <= 1
    assert rows[:, :3].abs().max() < 1.2


def test_same_seed_same_performance():
    assert torch.equal(perform(60, "talking", 1), perform(60, "talking", 1))
    assert not torch.equal(perform(60, "talking", 1), perform(60, "talking", 2))


def test_blinks_last_as_long_as_people_s():
    lengths = []
    for seed in range(20):
        rows = perform(500, "calm", seed, rate=100.0)
        lengths += runs(rows[:, COLUMN["eyeBlinkLeft"]] > 0.25)
    assert len(lengths) > 20
    assert all(8 <= length <= 30 for length in lengths)  # hundredths of a second


def test_speech_opens_the_jaw_three_to_five_times_a_second():
    rates = []
    for seed in range(10):
        jaw = perform(1000, "talking", seed, rate=50.0)[:, COLUMN["jawOpen"]]
        peaks = (jaw[1:-1] > jaw[:-2]) & (jaw[1:-1] >= jaw[2:]) & (jaw[1:-1] > jaw.median() + 0.03)
        rates.append(peaks.sum().item() / 20)
    assert 2.0 < sum(rates) / len(rates) < 5.0


def test_only_talkers_talk():
    def busy(kind: str) -> float:
        return torch.stack([perform(200, kind, seed)[:, COLUMN["jawOpen"]].std() for seed in range(6)]).mean().item()

    assert busy("talking") > 3 * busy("calm")


def test_large_performances_reach_45_degrees_and_calm_ones_stay_near():
    large = torch.cat([perform(250, "large", seed)[:, COLUMN["yaw"]] for seed in range(12)])
    calm = torch.cat([perform(250, "calm", seed)[:, COLUMN["yaw"]] for seed in range(12)])
    assert large.abs().max() > 0.7
    assert calm.abs().max() < 0.55


def test_the_head_moves_smoothly():
    yaw = perform(500, "large", 3)[:, COLUMN["yaw"]]
    assert yaw.diff().abs().max() < 0.25


def test_random_frames_cover_the_space():
    rows = perform(4000, "random")
    for name in BLENDSHAPE_NAMES:
        assert rows[:, COLUMN[name]].max() > 0.6, name
    for name, reach in (("yaw", 0.7), ("pitch", 0.4), ("roll", 0.4)):
        assert rows[:, COLUMN[name]].min() < -reach
        assert rows[:, COLUMN[name]].max() > reach
    left, right = rows[:, COLUMN["mouthSmileLeft"]], rows[:, COLUMN["mouthSmileRight"]]
    assert torch.corrcoef(torch.stack([left, right]))[0, 1] > 0.6
    assert ((left - right).abs() > 0.4).any()


def test_eyes_look_the_same_way():
    rows = perform(300, "random")
    together = torch.corrcoef(torch.stack([rows[:, COLUMN["eyeLookOutLeft"]], rows[:, COLUMN["eyeLookInRight"]]]))
    assert together[0, 1] > 0.7


@pytest.mark.parametrize("kind", ["random", "calm"])
def test_shut_eyes_look_down_and_nowhere_else(kind: str):
    rows = perform(4000, kind, seed=2)
    for side in ("Left", "Right"):
        shut = rows[rows[:, COLUMN["eyeBlink" + side]] > 0.72]
        assert len(shut) > 10
        assert shut[:, COLUMN["eyeLookDown" + side]].min() > 0.7
        assert shut[:, COLUMN["eyeSquint" + side]].min() > 0.35
        for hidden in ("eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeWide"):
            assert shut[:, COLUMN[hidden + side]].max() < 0.1, hidden


def test_an_unknown_kind_names_the_known_ones():
    with pytest.raises(ValueError, match="calm, talking, large, random, mixed"):
        perform(3, "singing")
