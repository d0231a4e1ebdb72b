"""``flashportrait batch`` as a person types it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from flashportrait.cli import main


@pytest.fixture
def words(
    toy_model: Path, portrait: Path, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> list[str]:
    """What all jobs share, in the folder of portrait.png and motion.safetensors."""
    monkeypatch.chdir(tmp_path)
    return ["--driving", template.name, "--model", str(toy_model), "--device", "cpu", "--threads", "1"]


def test_what_can_not_be_done_is_refused_as_a_whole(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "flashportrait.pipeline", None)  # importing it would fail
    Path("jobs.csv").write_text("portrait,output\nportrait.png,a.mp4\nno.png,b.mp4\nportrait.png,a.mp4\n")
    cases = [
        (["jobs.csv"], ["jobs.csv:3: ", "jobs.csv:4: ", "nothing was started: 2 mistakes to mend"]),
        (["jobs.csv", "--head", "9"], ["--head is '9'"]),
        (["jobs.csv", "--out", "x"], ["not both"]),
        (["--portraits", "*.png"], ["there is nothing to do"]),
        (["--portraits", "*.jpg", "--out", "x"], ["no file matches --portraits '*.jpg'"]),
        (["none.csv"], ["there is no jobs file 'none.csv'"]),
    ]
    before = sorted(tmp_path.iterdir())
    for given, said in cases:
        assert main(["batch", *given, *words]) == 2
        captured = capsys.readouterr()
        assert captured.out == ""
        for line, part in zip(captured.err.splitlines(), said, strict=True):
            assert line.startswith("flashportrait: error: ")
            assert part in line
    assert sorted(tmp_path.iterdir()) == before


def test_ray_is_asked_for_by_the_name_of_its_extra(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["batch", "--portraits", "*.png", "--out", "made", "--ray", "local", "--quiet", *words]) == 2
    assert capsys.readouterr().err.strip() == "flashportrait: error: --ray needs Ray: pip install 'flashportrait[ray]'"


def test_pairs_are_made_reported_and_not_made_again(
    words: list[str], portrait: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("another.png").write_bytes(portrait.read_bytes())
    Path("jobs.yaml").write_text(
        "- {portrait: portrait.png, output: a.mp4}\n- {portrait: another.png, output: b.mp4, motion: relative}\n"
    )
    command = ["batch", "jobs.yaml", *words, "--report", "report.json"]
    assert main(command) == 1
    captured = capsys.readouterr()
    assert captured.out.startswith("2 jobs: 1 done, 1 failed; ")
    assert "jobs.yaml:2: relative motion needs" in captured.err
    report = json.loads(Path("report.json").read_text())
    assert [job["status"] for job in report["jobs"]] == ["done", "failed"]
    assert (report["jobs"][0]["summary"]["frames"], report["jobs"][0]["source"]) == (11, "jobs.yaml:1")

    made = Path("a.mp4").stat().st_mtime_ns
    Path("jobs.yaml").write_text("- {portrait: portrait.png, output: a.mp4}\n")
    assert main(command) == 2
    assert "1 are finished and 0 are interrupted: go on with --resume" in capsys.readouterr().err
    assert main([*command, "--resume", "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["done_before"] == 1
    assert Path("a.mp4").stat().st_mtime_ns == made
