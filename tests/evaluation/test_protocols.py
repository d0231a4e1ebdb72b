"""What protocols are given: first frames, motion counted from them, clips that run there and back."""

from __future__ import annotations

import csv
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flashportrait.errors import UserError
from flashportrait.evaluation.protocols import (
    Entry,
    from_first_frame,
    save_first_frame,
    there_and_back,
    write_manifest,
)
from flashportrait.face.motion import BLENDSHAPES, PDFGC, MotionFeatures
from flashportrait.media.writer import VideoWriter


@pytest.fixture
def counting(tmp_path: Path) -> Path:
    """A video of five frames, each brighter than the one before."""
    path = tmp_path / "counting.mp4"
    with VideoWriter(path, Fraction(25), mark=False) as writer:
        for level in range(5):
            writer.write(np.full((32, 32, 3), 40 * level + 20, np.uint8))
    return path


def levels(frames: list[np.ndarray]) -> list[int]:
    return [round((float(frame.mean()) - 20) / 40) for frame in frames]


@pytest.mark.parametrize("held", [1, 2, 3, 250])
def test_a_clip_runs_there_and_back_without_showing_an_end_twice(
    counting: Path, held: int, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("flashportrait.evaluation.protocols.TURNED_ROUND", held)
    assert levels(list(there_and_back(counting, 14))) == [0, 1, 2, 3, 4, 3, 2, 1, 0, 1, 2, 3, 4, 3]


def test_one_picture_can_not_be_made_longer(tmp_path: Path):
    with VideoWriter(tmp_path / "one.mp4", Fraction(25), mark=False) as writer:
        writer.write(np.zeros((32, 32, 3), np.uint8))
    with pytest.raises(UserError, match="of two or more"):
        next(there_and_back(tmp_path / "one.mp4", 5))


def test_the_first_frame_becomes_the_portrait(counting: Path, tmp_path: Path):
    assert save_first_frame(counting, tmp_path / "first.png") == (32, 32)
    assert abs(np.asarray(Image.open(tmp_path / "first.png")).mean() - 20) < 3


def test_places_are_counted_from_the_first_frame():
    rows = np.random.default_rng(0).uniform(0, 0.5, (6, BLENDSHAPES.width)).astype(np.float32)
    counted = from_first_frame(MotionFeatures(rows, Fraction(25))).values
    assert (counted[0, 3:6] == 0).all()
    np.testing.assert_allclose(np.diff(counted, axis=0), np.diff(rows, axis=0), atol=1e-6)
    np.testing.assert_array_equal(np.delete(counted, [3, 4, 5], axis=1), np.delete(rows, [3, 4, 5], axis=1))
    other = MotionFeatures(np.ones((2, PDFGC.width), np.float32), Fraction(25), PDFGC)
    assert from_first_frame(other) is other


def test_a_manifest_has_paths_from_its_folder_and_a_truth_where_known(tmp_path: Path):
    folder = tmp_path / "out"
    folder.mkdir()
    entry = Entry(tmp_path / "a.png", tmp_path / "b.mp4", folder / "results" / "c.mp4")
    write_manifest(folder / "manifest.csv", [entry])
    assert (folder / "manifest.csv").read_text() == "portrait,driving,result\n../a.png,../b.mp4,results/c.mp4\n"
    write_manifest(folder / "manifest.csv", [entry, Entry(entry.portrait, entry.driving, entry.result, entry.driving)])
    with (folder / "manifest.csv").open(newline="") as file:
        assert [row["truth"] for row in csv.DictReader(file)] == ["", "../b.mp4"]
