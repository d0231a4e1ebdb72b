"""``flashportrait evaluate self``, ``cross`` and ``long`` as a person types them."""

from __future__ import annotations

import csv
import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from flashportrait.cli import main
from flashportrait.cli.console import Console
from flashportrait.cli.evaluating import conclude, distinct_names, videos_among
from flashportrait.evaluation.protocols import Entry
from flashportrait.evaluation.scoring import Scored
from flashportrait.face.motion import MotionFeatures
from flashportrait.media.reader import VideoReader
from flashportrait.media.writer import VideoWriter


@pytest.fixture
def words(toy_model: Path) -> list[str]:
    return ["--model", str(toy_model), "--device", "cpu", "--threads", "1", "--json", "--quiet"]


@pytest.fixture(autouse=True)
def unscored(monkeypatch: pytest.MonkeyPatch) -> None:
    """Toys make noise, which can't be scored; how results are is tested with the scorer."""
    monkeypatch.setattr("flashportrait.evaluation.scoring.Scorer.score", lambda self, entry: Scored(entry))


def film(path: Path, frames: int = 5) -> Path:
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (64, 64, 3), np.uint8)
    with VideoWriter(path, Fraction(25), mark=False) as writer:
        for index in range(frames):
            writer.write(np.roll(noise, index, axis=1))
    return path


def rows_of(manifest: Path) -> list[dict[str, str]]:
    with manifest.open(newline="") as file:
        return list(csv.DictReader(file))


def test_self_reenactment_drives_the_first_frame_with_the_video(
    words: list[str], tmp_path: Path, no_faces_needed: None, capsys: pytest.CaptureFixture[str]
) -> None:
    video, out = film(tmp_path / "clip.mp4"), tmp_path / "out"
    assert main(["evaluate", "self", str(video), "--out", str(out), *words]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["manifest"], [Path(item["result"]).name for item in told["items"]]) == (
        str(out / "manifest.csv"),
        ["clip.mp4"],
    )
    assert json.loads((out / "manifest.scores.json").read_text())["items"] == told["items"]
    (row,) = rows_of(out / "manifest.csv")
    assert row == {
        "portrait": "portraits/clip.png",
        "driving": "../clip.mp4",
        "result": "results/clip.mp4",
        "truth": "../clip.mp4",
    }
    assert VideoReader(out / row["result"]).info.frames == 5
    assert (MotionFeatures.load(out / "motion" / "clip.safetensors").values[0, 3:6] == 0).all()
    record = json.loads((out / "results" / ".flashportrait" / "clip.mp4.json").read_text())
    assert record["settings"]["motion"] == "absolute"


def test_cross_reenactment_makes_what_is_missing_and_leaves_others_results(
    words: list[str], tmp_path: Path, portrait: Path, template: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = film(tmp_path / "foreign.mp4")
    before = foreign.read_bytes()
    manifest = tmp_path / "manifest.csv"
    manifest.write_text(
        f"portrait,driving,result\n{portrait.name},{template.name},foreign.mp4\n"
        f"{portrait.name},{template.name},made/ours.mp4\n"
    )
    command = ["evaluate", "cross", str(manifest), *words]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert [Path(item["result"]).name for item in told["items"]] == ["foreign.mp4", "ours.mp4"]
    made = tmp_path / "made" / "ours.mp4"
    assert foreign.read_bytes() == before
    assert VideoReader(made).info.frames == 11
    stamp = made.stat().st_mtime_ns
    assert main(command) == 0
    assert made.stat().st_mtime_ns == stamp
    assert main([*command, "--head", "0.5"]) == 0  # other settings make it due again
    assert made.stat().st_mtime_ns > stamp


def test_portraits_and_drivers_are_paired_in_a_manifest(
    words: list[str], tmp_path: Path, portrait: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "second.png").write_bytes(portrait.read_bytes())
    monkeypatch.setattr("flashportrait.cli.evaluate_cross.animate", lambda *given: 0)
    command = ["evaluate", "cross", "--portraits", "*.png", "--drivings", template.name, "--out", "pairs", *words]
    assert main(command) == 0
    assert rows_of(Path("pairs/manifest.csv")) == [
        {"portrait": f"../{name}.png", "driving": f"../{template.name}", "result": f"results/{name}.mp4"}
        for name in ("portrait", "second")
    ]


def test_a_long_clip_is_as_long_as_asked_for(
    words: list[str], tmp_path: Path, portrait: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Entry] = []
    monkeypatch.setattr("flashportrait.cli.evaluate_long.animate", lambda entries, *_: asked.extend(entries) or 0)
    driving, out = film(tmp_path / "clip.mp4"), tmp_path / "long"
    command = ["evaluate", "long", str(portrait), str(driving), "--out", str(out), "--minutes", "0.006", *words]
    assert main(command) == 0
    (row,) = rows_of(out / "manifest.csv")
    assert row == {"portrait": "../portrait.png", "driving": "clip-9.mp4", "result": "portrait-clip-9.mp4"}
    assert VideoReader(out / row["driving"]).info.frames == 9
    assert [entry.driving for entry in asked] == [out / "clip-9.mp4"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (["self", "no.mp4", "--out", "x"], "there is no file 'no.mp4'"),
        (["self", ".", "--out", "x"], "there is no video in the folder '.'"),
        (["cross"], "there is nothing to do"),
        (["cross", "table.txt"], "'table.txt' is no manifest"),
        (["cross", "table.csv", "--out", "x"], "not both"),
        (["cross", "bad.csv"], "bad.csv:2: lacks result; has unknown foo; bad.csv:3: lacks portrait, result"),
        (["long", "no.png", "no.mp4", "--out", "x"], "there is no file 'no.png'"),
        (["long", "no.png", "no.mp4", "--out", "x", "--minutes", "0"], "--minutes is 0"),
    ],
)
def test_mistakes_are_told(
    command: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.csv").write_text("portrait,driving,foo\na,b,c\n,b,\n")
    assert main(["evaluate", *command]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("x").exists()


def test_what_can_not_be_scored_is_told_and_shows_in_the_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = Entry(tmp_path / "p.png", tmp_path / "d.mp4", tmp_path / "r.mp4")
    scored = Scored(entry, problems=["there is no face"])
    scored.values["psnr"] = 31.25
    monkeypatch.setattr("flashportrait.evaluation.scoring.Scorer.score", lambda self, entry: scored)
    assert conclude(tmp_path / "m.csv", [entry], 0, Console()) == 1
    told = capsys.readouterr()
    assert "r.mp4: there is no face" in told.err
    assert [line.split()[:2] for line in told.out.splitlines()[:3]] == [
        ["result", "psnr"],
        [str(tmp_path / "r.mp4"), "31.25"],
        ["mean", "31.25"],
    ]


def test_videos_are_found_in_folders_and_manifests_and_named_apart(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        film(tmp_path / folder / "truth.mp4", 2)
    manifest = tmp_path / "m.csv"
    manifest.write_text("portrait,driving,result,truth\np,d.mp4,r,a/truth.mp4\np,d.mp4,r2,\n")
    found = videos_among([manifest, tmp_path / "b"])
    assert [str(path.relative_to(tmp_path)) for path in found] == ["a/truth.mp4", "d.mp4", "b/truth.mp4"]
    assert distinct_names(found) == ["a-truth", "d", "b-truth"]
    assert distinct_names([Path("a/x.mp4"), Path("b/a/x.mp4")]) == ["a-x-1", "a-x-2"]
