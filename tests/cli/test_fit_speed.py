"""The speed dial, fitted by the command and then used: on a saved pipeline and on the released layout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from clips import make_clip
from flashportrait.cli import main
from flashportrait.evaluation import fitting
from flashportrait.loading import load_pipeline
from flashportrait.sampling.fitted import FittedPrediction
from flashportrait.weights.speeds import read_speeds
from make_toy_14b import make
from toys import toy_pipeline


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Twenty steps, one window of three latent frames, and no face detector needed to draw its portraits."""
    pipeline = toy_pipeline(num_inference_steps=20, window=3, overlap=1, emotion_scale=1.0)
    pipeline.save_pretrained(tmp_path / "model")
    real = fitting.draw_portrait

    def draw(generator, size):
        class Sees:
            def detect(self, image):
                return [SimpleNamespace(landmarks=np.zeros((478, 3), np.float32))]

        monkeypatch.setattr(fitting, "FaceLandmarker", Sees)
        return real(generator, size)

    monkeypatch.setattr(fitting, "draw_portrait", draw)
    return tmp_path / "model"


def fit(model: Path, *options: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict, str]:
    assert main(["fit-speed", "--model", str(model), "--clips", "2", *options, "--json"]) == 0, capsys.readouterr().err
    outcome = capsys.readouterr()
    return json.loads(outcome.out), outcome.err


def test_the_dial_is_fitted_stored_and_used(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    made, told = fit(model, "--work", str(tmp_path / "work"), capsys=capsys)
    # Two clips of 20 steps; 7, 3 and 2 steps fitted on one, and two predictors checked on the other.
    assert f"at most {2 * 20 + (7 + 3 + 2) + 2 * (7 + 3 + 2)} calls" in told
    assert "s a call" in told
    assert made["computed_calls"] > 40
    for own, _, general in made["errors"].values():
        assert own < general
    pipeline = load_pipeline(model)
    predictor = pipeline.settings("fast").predictor
    assert isinstance(predictor, FittedPrediction)
    assert predictor == FittedPrediction(**made["speeds"]["fast"])
    assert pipeline.settings().num_inference_steps == 20, "other defaults stay"
    assert not (tmp_path / "work").exists()


def test_an_interrupted_fit_goes_on(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    copy, work = tmp_path / "copy", ("--work", str(tmp_path / "work"))
    shutil.copytree(model, copy)
    whole, _ = fit(copy, capsys=capsys)
    real, calls = fitting.GuidedVelocity.__call__, []

    def interrupted(self, *asked):
        calls.append(asked)
        if len(calls) == 25:
            raise KeyboardInterrupt
        return real(self, *asked)

    monkeypatch.setattr(fitting.GuidedVelocity, "__call__", interrupted)
    assert main(["fit-speed", "--model", str(model), "--clips", "2", *work]) == 130
    assert "speeds" not in json.loads((model / "model_index.json").read_text())["defaults"]
    capsys.readouterr()
    made, _ = fit(model, *work, capsys=capsys)
    assert made["speeds"] == whole["speeds"]
    assert made["computed_calls"] == whole["computed_calls"] - 24


def test_the_released_layout_keeps_its_speeds_beside_the_transformer(
    tmp_path: Path, portrait: Path, capsys: pytest.CaptureFixture[str]
):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model, clip = make(tmp_path / "toy", wan="diffusers"), make_clip(tmp_path / "clip.mp4", 10)
    options = ("--window", "2", "--size", "32", "--work", str(tmp_path / "work"))
    made, _ = fit(model, str(portrait), str(clip), *options, capsys=capsys)
    assert read_speeds(model / "speeds.json") == json.loads(json.dumps(made["speeds"]))
    assert isinstance(load_pipeline(model, "cpu").settings("turbo").predictor, FittedPrediction)
    (model / "speeds.json").write_text("{")
    out = str(tmp_path / "out.mp4")
    assert main(["animate", str(portrait), str(clip), "-o", out, "--model", str(model), "--size", "32"]) == 2
    assert "speeds.json is damaged" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["a.jpg"], "a driving video after every portrait"),
        (["a.jpg", "b.mp4"], "there is no file 'a.jpg'"),
        (["--clips", "1"], "give 2 or more"),
        (["--model", "nothing"], "'nothing' is not a model"),
    ],
)
def test_wrong_input(options: list[str], complaint: str, capsys: pytest.CaptureFixture[str]):
    assert main(["fit-speed", *options]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert complaint in line


def test_four_steps_have_nothing_to_predict(toy_model: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["fit-speed", "--model", str(toy_model)]) == 2
    assert "samples in 2 steps" in capsys.readouterr().err
