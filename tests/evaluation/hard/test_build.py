"""A hard set built at toy size: whole, resumable, with tables that tell what it shows."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from flashportrait.cli import main
from flashportrait.errors import UserError
from flashportrait.evaluation.hard.build import HardSet
from flashportrait.evaluation.hard.content import ROUNDING, compare, video_content
from flashportrait.evaluation.hard.recipe import Recipe
from flashportrait.evaluation.metrics import psnr
from flashportrait.face.motion import MotionFeatures
from flashportrait.media.reader import VideoReader

TOY = Recipe(seconds=(0.4, 0.6), size=128)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> HardSet:
    """The first two performances: one of each kind."""
    hard = HardSet(tmp_path_factory.mktemp("hard") / "set", TOY)
    told: list[int] = []
    for number in hard.missing(1, 2):
        hard.build(number, told.append)
    assert sum(told) == 2 * sum(int(row["frames"]) for row in hard.table())
    return hard


def frames(path: Path) -> np.ndarray:
    return np.stack(list(VideoReader(path)))


def test_manifests_list_what_is_there(built: HardSet):
    for name, kinds in {"manifest": ["drawn", "rig"], "drawn": ["drawn"], "rig": ["rig"]}.items():
        with (built.folder / f"{name}.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [Path(row["portrait"]).parent.name.split("-")[1] for row in rows] == kinds
        for row in rows:
            assert list(row) == ["portrait", "driving", "result", "truth"]
            assert all((built.folder / row[column]).is_file() for column in ("portrait", "driving", "truth"))
            assert not (built.folder / row["result"]).exists()


def test_driver_and_truth_have_a_frame_for_each_row(built: HardSet):
    for row in built.table():
        item = built.folder / "items" / row["name"]
        motion = MotionFeatures.load(item / "motion.safetensors")
        assert len(motion) == int(row["frames"])
        for name in ("driving", "truth"):
            video = frames(item / f"{name}.mp4")
            assert video.shape == (len(motion), 128, 128, 3)


def test_the_truth_is_the_animated_person_drawn_with_the_rows(built: HardSet):
    performance = TOY.performance(1)
    cast = built._cast(performance)
    expected = (cast.animated.draw(performance.rows) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    item = built.folder / "items" / performance.name
    assert psnr(frames(item / "truth.mp4"), expected) > 35
    assert psnr(frames(item / "driving.mp4"), expected) < 25


def test_a_portrait_on_the_rig_is_not_the_picture_that_performs(built: HardSet):
    cast = built._cast(TOY.performance(2))
    straight = cast.animated.draw(cast.animated._own[None])[0]
    assert float((cast.portrait - straight).abs().mean()) > 0.01


def test_what_is_there_is_not_built_again(built: HardSet):
    assert built.missing(1, 3) == [3]
    again = HardSet(built.folder, TOY)
    assert again.missing(1, 2) == []
    with pytest.raises(UserError, match="made with other size: give another folder"):
        HardSet(built.folder, Recipe(TOY.seconds, 256))


def test_a_build_that_stops_leaves_nothing(tmp_path: Path):
    hard = HardSet(tmp_path, TOY)

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        hard.build(2, stop)
    assert list((tmp_path / "items").iterdir()) == []
    assert hard.missing(1, 2) == [1, 2]


def test_hashes_are_of_what_is_shown_not_of_the_file(built: HardSet, tmp_path: Path):
    row = built.table()[0]
    original = built.folder / "items" / row["name"] / "truth.mp4"
    copy = tmp_path / "copy.mp4"
    copy.write_bytes(original.read_bytes() + b"\0" * 8)
    content = video_content(copy, int(row["frames"]))
    assert (content.digest, content.look) == (row["truth"], row["truth_look"])
    with pytest.raises(UserError, match="frames, 99 are needed"):
        video_content(copy, 99)


def test_rounding_is_told_from_other_pictures(built: HardSet):
    row = built.table()[0]
    look = bytes.fromhex(row["truth_look"])

    def brighter(amount: int) -> dict[str, str]:
        moved = bytes(min(255, value + amount) for value in look)
        return {**row, "truth": "0" * 64, "truth_look": moved.hex()}

    assert compare(row, row) == []
    assert compare(brighter(ROUNDING), row) == []
    assert compare(brighter(20), row) == ["truth looks otherwise (by up to 20 of 255)"]
    assert compare({**row, "rows": "0"}, row) == ["another performance"]


def test_the_command_builds_resumes_and_checks(built: HardSet, capsys: pytest.CaptureFixture[str], tmp_path: Path):
    common = ["evaluate", "hard", "--out", str(built.folder), "--seconds", "0.4:0.6", "--size", "128"]
    assert main([*common, "--count", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) | {"built": 0, "performances": 2} == {
        "manifest": str(built.folder / "manifest.csv"),
        "performances": 2,
        "built": 0,
        "warnings": [],
    }
    assert main([*common, "--check", str(built.folder / "hashes.csv")]) == 0
    assert "2 compared, 0 differ" in capsys.readouterr().out
    # A set of short performances is not the standard one.
    assert main([*common, "--check"]) == 1
    assert "001-drawn: another performance" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--seconds", "x"], "--seconds is 'x'"),
        (["--seconds", "9:3"], "the shorter length first"),
        (["--count", "0"], "--count is 0: give 1 to 10000"),
        (["--size", "301"], "--size is 301: give an even number"),
        (["--portraits", "nowhere"], "there is no folder 'nowhere' of portraits"),
        (["--check", "nowhere.csv"], "can't be read"),
    ],
)
def test_mistakes_are_one_line(options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["evaluate", "hard", "--out", str(tmp_path / "new"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_photographs_of_a_folder_perform(shared: Path, tmp_path: Path):
    paths = tuple(sorted((shared / "faces" / "examples").glob("*.jpg"))[:3])
    hard = HardSet(tmp_path, Recipe((0.2, 0.2), 128, portraits=paths))
    hard.build(2)
    row = hard.table()[0]
    assert row["kind"] == "rig"
    assert torch.from_numpy(frames(tmp_path / "items" / row["name"] / "truth.mp4")).float().std() > 20
