"""Results are scored against the truth, part by part, and what is wrong with one doesn't keep others from it."""

from __future__ import annotations

import json
import math
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flashportrait.evaluation import scoring
from flashportrait.evaluation.protocols import Entry
from flashportrait.evaluation.scoring import Score, Scorer, summarize
from flashportrait.media.reader import VideoReader
from flashportrait.media.writer import VideoWriter

EXAMPLE = Path(__file__).parents[2] / "examples" / "driving_talking.mp4"


def film(path: Path, frames: list[np.ndarray]) -> Path:
    with VideoWriter(path, Fraction(25), mark=False) as writer:
        for frame in frames:
            writer.write(frame)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Some videos of a drawn person, and one of nobody."""
    folder = tmp_path_factory.mktemp("scoring")
    frames = list(islice(VideoReader(EXAMPLE), 10))
    Image.fromarray(frames[0]).save(folder / "portrait.png")
    (folder / "broken.mp4").write_bytes(b"no video")
    film(folder / "truth.mp4", frames)
    film(folder / "late.mp4", [frames[0]] * 10)
    film(folder / "short.mp4", frames[:6])
    film(folder / "small.mp4", [frame[::2, ::2] for frame in frames])
    film(folder / "nobody.mp4", [np.full_like(frame, 90) for frame in frames])
    return folder


@pytest.fixture(scope="module")
def scorer() -> Scorer:
    return Scorer()


def entry(folder: Path, result: str, *, known: bool = True) -> Entry:
    truth = folder / "truth.mp4"
    return Entry(folder / "portrait.png", truth, folder / result, truth if known else None)


def test_the_truth_itself_scores_best(folder: Path, scorer: Scorer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(scoring, "PART_SECONDS", Fraction(1, 5))
    best, still = (scorer(entry(folder, name)) for name in ("truth.mp4", "late.mp4"))
    assert best.problems == still.problems == []
    assert [(part["start"], part["frames"]) for part in best.parts] == [(0, 5), (0.2, 5)]
    assert best.whole["psnr"] == math.inf
    assert best.whole["ssim"] == pytest.approx(1)
    assert best.whole["aed"] == best.whole["apd"] == 0
    assert best.whole["gaze_mae"] == pytest.approx(0, abs=1e-3)
    for name in ("psnr", "ssim"):
        assert still.whole[name] < best.whole[name]
    for name in ("aed", "apd", "gaze_mae"):
        assert still.whole[name] > best.whole[name]


def test_without_a_truth_faces_follow_the_driver_and_pictures_have_no_score(folder: Path, scorer: Scorer):
    score = scorer(entry(folder, "late.mp4", known=False))
    assert score.problems == []
    assert {"aed", "apd", "gaze_mae"} <= score.whole.keys()
    assert not {"psnr", "ssim"} & score.whole.keys()


@pytest.mark.parametrize(
    ("result", "problem", "scored"),
    [
        ("missing.mp4", "there is no result", set()),
        ("short.mp4", "6 frames, 10 are needed", {"psnr", "aed"}),
        ("small.mp4", "are of other sizes", {"aed"}),
        ("nobody.mp4", "no face in any of 4 frames", {"psnr"}),
        ("broken.mp4", "can't be read as a video", set()),
    ],
)
def test_what_is_wrong_is_told_and_the_rest_scored(
    result: str, problem: str, scored: set[str], folder: Path, scorer: Scorer
):
    score = scorer(entry(folder, result))
    assert problem in "; ".join(score.problems)
    assert scored <= score.whole.keys()
    assert ("psnr" in score.whole) == ("psnr" in scored)


def test_a_template_as_driver_is_told(folder: Path, scorer: Scorer):
    made = Entry(folder / "portrait.png", folder / "motion.safetensors", folder / "truth.mp4")
    assert "motion template" in scorer(made).problems[0]


def test_a_whole_clip_is_the_mean_over_frames():
    score = Score("x", [], [{"frames": 3.0, "psnr": 20.0, "aed": 0.1}, {"frames": 1.0, "psnr": 30.0, "aed": 0.5}])
    assert score.whole["aed"] == pytest.approx(0.2)
    assert score.whole["psnr"] == pytest.approx(-10 * math.log10((3 * 1e-2 + 1e-3) / 4))


def test_a_report_is_json_and_averages_what_is_known():
    scores = [
        Score("a", [], [{"frames": 2.0, "psnr": math.inf, "aed": 0.1}]),
        Score("b", ["bad"], []),
        Score("c", [], [{"frames": 2.0, "psnr": 30.0, "aed": 0.3}]),
    ]
    report = json.loads(json.dumps(summarize(scores), allow_nan=False))
    assert report["summary"] == {"psnr": pytest.approx(30.0), "aed": pytest.approx(0.2)}
    assert [item["problems"] for item in report["items"]] == [[], ["bad"], []]
    assert report["items"][0]["psnr"] is None
