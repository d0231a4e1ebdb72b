"""Training from the command line: every stage at toy size, to a model that animates."""

from __future__ import annotations

import shutil
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from flashportrait.cli import main
from flashportrait.cli.train import NANO_DEFAULTS, export
from flashportrait.face.motion import BLENDSHAPES, MotionFeatures
from flashportrait.loading import load_pipeline
from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.training import recipe as stages
from flashportrait.training.autoencoder import AutoencoderConfig
from flashportrait.training.data import LatentScenes
from flashportrait.training.finish import FinishConfig
from flashportrait.training.flow import FlowConfig
from flashportrait.training.loop import LoopConfig
from flashportrait.training.recipe import Recipe

SHORT = LoopConfig(steps=2, warmup=1, log_every=1, sample_every=2, save_every=2)
TOY_AUTOENCODER = AutoencoderConfig(
    encoder_channels=8, decoder_channels=(8, 8, 8), batch=2, crop=32, reference_channels=4
)
TOY = Recipe(
    size=64,
    clip_frames=5,
    shard=3,
    scenes=3,
    batch=2,
    autoencoder=TOY_AUTOENCODER,
    autoencoder_loop=SHORT,
    differences=replace(TOY_AUTOENCODER, differences=True),
    differences_loop=SHORT,
    flow=FlowConfig(heads=1, layers=1, ffn_ratio=1, token_dim=16, compile=False),
    flow_loop=SHORT,
    finish=FinishConfig(batch=2, crop=3, margin=0),
    finish_loop=SHORT,
    finish_scenes=1,
)


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which all stages have run."""
    folder = tmp_path_factory.mktemp("run")
    stages.draw(folder, TOY, photos=[])
    stages.learn_autoencoder(folder, TOY)
    stages.encode(folder)
    stages.learn_transformer(folder, TOY)
    stages.finish(folder, TOY)
    return folder


def test_scenes_are_drawn_and_encoded_with_some_held_out(run_folder: Path) -> None:
    names = sorted(path.name for path in (run_folder / "scenes").iterdir())
    assert names == ["avatars-0000.safetensors", "held_out-avatars.safetensors"]
    encoded = LatentScenes.load(run_folder / "latents" / "avatars-0000.safetensors")
    assert encoded.latents.shape == (3, 2, 16, 4, 4)
    assert [path.name for path in (run_folder / "latents").iterdir()] == ["avatars-0000.safetensors"]


def test_drawing_again_draws_nothing(run_folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run_folder / "scenes").iterdir()}
    stages.draw(run_folder, TOY, photos=[])
    assert {path: path.stat().st_mtime_ns for path in (run_folder / "scenes").iterdir()} == before


def test_the_exported_model_animates(run_folder: Path) -> None:
    model = export(run_folder)
    exported, finished, earlier = (
        TinyVideoAutoencoder.from_pretrained(folder / "vae").decoder[1].weight.half()
        for folder in (model, run_folder / "finish", run_folder / "autoencoder")
    )
    assert torch.equal(exported, finished)
    assert not torch.equal(exported, earlier)
    pipeline = load_pipeline(model)
    assert pipeline.transformer.config.num_layers == 1
    motion = MotionFeatures(np.zeros((7, 57), np.float32), Fraction(25), BLENDSHAPES)
    portrait = Image.open(Path(__file__).parents[2] / "examples" / "portrait_1.jpg")
    video = pipeline(portrait, motion, num_inference_steps=2, progress=False)
    assert len(video.frames) == 7
    assert video.frames[0].shape == (476, 476, 3)


def test_the_shipped_model_has_the_settings_that_training_exports() -> None:
    config = load_pipeline("nano").config
    assert {name: config.defaults[name] for name in NANO_DEFAULTS} == NANO_DEFAULTS


def test_going_on_with_the_autoencoder_leaves_latents_of_references_as_they_are(
    run_folder: Path, tmp_path: Path
) -> None:
    for name in ("scenes", "autoencoder"):
        shutil.copytree(run_folder / name, tmp_path / name)
    before = stages.load_autoencoder(tmp_path)
    longer = LoopConfig(steps=6, warmup=1, sample_every=99)
    stages.learn_autoencoder(tmp_path, replace(TOY, autoencoder_loop=longer, differences_loop=longer))
    after, pictures = stages.load_autoencoder(tmp_path), torch.rand(1, 5, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(after.encode(pictures), before.encode(pictures), atol=1e-3, rtol=1e-3)
    assert not torch.equal(before.decoder[1].weight, after.decoder[1].weight)


def test_finishing_leaves_the_encoders_as_they_were(run_folder: Path) -> None:
    before, after = (
        TinyVideoAutoencoder.from_pretrained(run_folder / stage / "vae") for stage in ("autoencoder", "finish")
    )
    for name in ("encoder", "difference_encoder"):
        pairs = zip(getattr(before, name).parameters(), getattr(after, name).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(before.decoder[1].weight, after.decoder[1].weight)
    assert before.config.latents_mean == after.config.latents_mean


def test_a_run_may_begin_with_a_models_weights(run_folder: Path, tmp_path: Path) -> None:
    model = export(run_folder)
    (tmp_path / "scenes").symlink_to(run_folder / "scenes")
    stages.take_autoencoder(tmp_path, model)
    stages.encode(tmp_path)
    idle = replace(TOY, flow_loop=replace(SHORT, minutes=1e-9))
    begun = stages.learn_transformer(tmp_path, idle, start=model)
    stored = load_pipeline(model, dtype=torch.float32)
    for ours, theirs in zip(begun.transformer.parameters(), stored.transformer.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_models_decoder_may_be_finished_without_training_its_transformer(run_folder: Path, tmp_path: Path) -> None:
    start = export(run_folder)
    (tmp_path / "scenes").symlink_to(run_folder / "scenes")
    stages.take_autoencoder(tmp_path, start)
    stages.encode(tmp_path)
    stages.finish(tmp_path, TOY, start=start)
    before, after = (load_pipeline(model, dtype=torch.float32) for model in (start, export(tmp_path, start)))
    assert torch.equal(before.transformer.proj_out.weight, after.transformer.proj_out.weight)
    assert not torch.equal(before.vae.decoder[1].weight, after.vae.decoder[1].weight)


@pytest.mark.parametrize(
    ("stage", "missing"),
    [("autoencoder", "scenes"), ("encode", "vae"), ("finish", "transformer"), ("export", "transformer")],
)
def test_a_stage_before_its_time_says_what_is_missing(
    stage: str, missing: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "nano", "--out", str(tmp_path), "--stage", stage]) == 2
    line = capsys.readouterr().err.strip()
    assert missing in line
    assert "\n" not in line
