"""The released layout from end to end: fetched from a folder, planned, and animated, by every part that it has."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from clips import make_clip
from flashportrait.checkpoints.files import read_checkpoint
from flashportrait.cli import main
from flashportrait.face.landmarks222 import FaceDetector222, FaceLandmarker222
from flashportrait.weights.loading import load_components, sizes_of
from make_toy_14b import face_template, make

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

ANIMATE = ("--size", "64", "--window", "3", "--overlap", "1")


@pytest.fixture(scope="session")
def toy_14b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy, with Wan2.1 in both layouts."""
    return make(tmp_path_factory.mktemp("toy14b"))


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Twelve frames: not a multiple of four and one."""
    return make_clip(tmp_path / "clip.mp4", 12)


def animate(portrait: Path, clip: Path, out: Path, *options: str, capsys: pytest.CaptureFixture[str]) -> dict:
    code = main(["animate", str(portrait), str(clip), "-o", str(out), *ANIMATE, *options, "--json"])
    outcome = capsys.readouterr()
    assert code == 0, outcome.err
    return json.loads(outcome.out)


@pytest.mark.parametrize(("model", "steps"), [("14b", 2), ("14b-fast", 4)])
def test_download_and_animate(model, steps, toy_14b, portrait, clip, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FLASHPORTRAIT_CACHE", str(tmp_path / "cache"))
    assert main(["download", "14b", "--from", str(toy_14b)]) == 0
    assert "14b is complete" in capsys.readouterr().err
    options = ["--model", model, "--prompt", "the girl", *(["--steps", "2"] if model == "14b" else [])]
    made = animate(portrait, clip, tmp_path / "out.mp4", *options, capsys=capsys)
    assert made["frames"] == 12
    assert made["size"] == [64, 64]
    assert made["windows"] == 2
    assert made["steps_computed"] == 2 * steps


def test_a_folder_of_any_size_is_a_model(toy_14b, portrait, clip, tmp_path, capsys, written):
    for _ in range(2):
        options = ("--model", str(toy_14b), "--steps", "2")
        made = animate(portrait, clip, tmp_path / "out.mp4", *options, capsys=capsys)
        assert made["missing_faces"] == []
    frames = np.stack(written)
    assert np.array_equal(frames[:12], frames[12:])
    assert frames.std() > 1, "something is in the picture"


def test_windows_are_offered_with_what_they_cost(toy_14b, capsys):
    command = ["bench", "--model", str(toy_14b), "--width", "32", "--height", "32", "--repeats", "1", "--window", "3"]
    assert main([*command, "--device", "cpu", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["windows"]
    places = {(row["window"], row["overlap"]): row for row in rows}
    assert [row["windows"] for row in rows[:1]] == [5], "501 frames, as released"
    assert places[21, 5]["windows"] == 8
    assert places[51, 30]["pass_ratio"] > places[21, 5]["pass_ratio"] > 21 / 3
    assert places[51, 30]["seconds"]["exact"] > places[21, 5]["seconds"]["exact"]
    assert all(row["peak_vram"] > 0 for row in rows)
    assert main([*command, "--device", "cpu", "--overlap", "2"]) == 0
    table = capsys.readouterr().out
    assert "windows to choose from" in table
    assert main([*command, "--device", "cpu", "--overlap", "3"]) == 2
    assert "overlap is 3" in capsys.readouterr().err


def test_both_layouts_of_wan_are_one_model(toy_14b, tmp_path):
    released = tmp_path / "checkpoints"
    (released / "FlashPortrait").mkdir(parents=True)
    for file in toy_14b.iterdir():
        if file.is_file():
            (released / "FlashPortrait" / file.name).symlink_to(file)
    (released / "Wan2.1-I2V-14B-720P").symlink_to(toy_14b / "Wan2.1-I2V-14B-720P")
    here, there = load_components(toy_14b), load_components(released)
    for name in ("transformer", "text_encoder", "image_encoder", "vae", "portrait_encoder"):
        ours, theirs = here[name].state_dict(), there[name].state_dict()
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    for name, setting in (("image_encoder", "num_attention_heads"), ("text_encoder", "num_heads")):
        assert getattr(here[name].config, setting) == getattr(there[name].config, setting)
    words = [here["tokenizer"]("the girl is singing!").input_ids, there["tokenizer"]("the girl is singing!").input_ids]
    assert words[0] == words[1]
    assert 2 not in words[0], "nothing unknown in it"
    assert here["tokenizer"].decode(words[0], skip_special_tokens=True) == "the girl is singing!"


def test_what_is_missing_is_told_before_anything_is_loaded(toy_14b, portrait, clip, tmp_path, capsys):
    part = tmp_path / "part"
    part.mkdir()
    (part / "transformer.pt").symlink_to(toy_14b / "transformer.pt")
    code = main(["animate", str(portrait), str(clip), "-o", str(tmp_path / "out.mp4"), "--model", str(part)])
    assert code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    for name in ("portrait_encoder.pt", "Wan2.1-I2V-14B-720P-Diffusers", "face_det.onnx", "download 14b --to"):
        assert name in line


def test_a_damaged_file_is_named(toy_14b, portrait, clip, tmp_path, capsys):
    damaged = tmp_path / "damaged"
    damaged.mkdir()
    for file in toy_14b.iterdir():
        (damaged / file.name).symlink_to(file)
    (damaged / "transformer.pt").unlink()
    (damaged / "transformer.pt").write_bytes((toy_14b / "transformer.pt").read_bytes()[:100_000])
    code = main(["animate", str(portrait), str(clip), "-o", str(tmp_path / "out.mp4"), "--model", str(damaged)])
    assert code == 2
    assert "transformer.pt" in capsys.readouterr().err.strip().splitlines()[-1]


def test_the_plan_knows_the_toys_sizes(toy_14b):
    sizes = sizes_of(toy_14b)
    assert (sizes.width, sizes.ffn_width, sizes.layers, sizes.expression_width) == (256, 512, 2, 32)
    assert sizes.parameters == sum(tensor.numel() for tensor in read_checkpoint(toy_14b / "transformer.pt").values())
    assert 0 < sizes.other_parameters < sizes.parameters


def test_the_graphs_see_a_face_in_the_middle_and_none_in_the_dark(toy_14b):
    detector, landmarker = (
        FaceDetector222(toy_14b / "face_det.onnx"),
        FaceLandmarker222(toy_14b / "face_landmark.onnx"),
    )
    picture = np.full((240, 320, 3), 90, np.uint8)
    (box,) = detector.detect(picture)
    face = landmarker.find(picture, box)
    assert np.abs(face.center - (160, 120)).max() < 2
    assert 40 < face.size < 240
    again = landmarker.find(picture, face.landmarks)
    assert np.abs(again.landmarks - face.landmarks).max() < 1, "following it, the face stays where it is"
    assert detector.detect(0 * picture) == []
    assert face_template().shape == (222, 2)
