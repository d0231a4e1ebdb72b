"""The last stage of training: what it reads belongs together, and the decoder learns to forgive wrong latents."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flashportrait.errors import UserError
from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.training.autoencoder import initialise_near_identity
from flashportrait.training.data import LatentScenes, Scenes
from flashportrait.training.finish import FinishConfig, SampledScenes, Samples, finish_loss, scene_batches, train_finish
from flashportrait.training.loop import LoopConfig

COUNT, FRAMES, SIDE = 3, 5, 64


def write_run(folder: Path) -> None:
    """Scene i has the value i everywhere, but for pictures, which show i + their row and column of latents."""
    index = torch.arange(COUNT).view(-1, 1, 1, 1, 1)
    cell = torch.arange(4).repeat_interleave(16)
    picture = (index + 10 * cell[:, None] + 50 * cell).expand(COUNT, FRAMES, 3, SIDE, SIDE).to(torch.uint8)
    weight = picture[:, :, :1, ::8, ::8].half()
    latents = picture[:, :2, :1, ::16, ::16].expand(-1, -1, 16, -1, -1).half()
    motion, portrait = torch.zeros(COUNT, FRAMES, 57), picture[:, 0]
    Scenes(portrait, picture, picture.clone(), motion, weight).save(folder / "scenes" / "a.safetensors")
    scenes = LatentScenes(latents, latents.clone(), portrait, motion, weight[:, :2, :, ::2, ::2])
    scenes.save(folder / "latents" / "a.safetensors")
    Samples(latents + 0.5).save(folder / "sampled" / "a.safetensors")


def test_pictures_weights_and_latents_of_a_crop_belong_together(tmp_path: Path) -> None:
    write_run(tmp_path)
    batches = scene_batches(tmp_path, 2, torch.Generator().manual_seed(0))
    for _ in range(6):
        scenes = next(batches).crop(3)
        assert scenes.frames.shape == (2, FRAMES, 3, 48, 48)
        assert scenes.weight.shape == (2, FRAMES, 1, 6, 6)
        assert torch.equal(scenes.sampled, scenes.latents + 0.5)
        assert torch.equal(scenes.frames[:, :2, :1, ::16, ::16].half(), scenes.latents[:, :, :1])
        assert torch.equal(scenes.reference, scenes.frames)
        assert torch.equal(scenes.frames[:, :, :1, ::8, ::8].half(), scenes.weight)


def test_too_few_sampled_scenes_are_an_error(tmp_path: Path) -> None:
    write_run(tmp_path)
    with pytest.raises(UserError, match="3 scenes, a batch is 4"):
        next(scene_batches(tmp_path, 4, torch.Generator()))


def test_the_decoder_learns_what_sampled_latents_stand_for(tmp_path: Path) -> None:
    """True latents are lost in the sampled ones, which say all the same which of two pictures was meant."""
    torch.manual_seed(0)
    vae = TinyVideoAutoencoder(4, (8, 8, 8), align="start", reference_channels=4, upscale=2)
    initialise_near_identity(vae)
    vae.register_to_config(latents_mean=[0.0] * 16, latents_std=[1.0] * 16)
    vae.save_pretrained(tmp_path / "start")
    bright = torch.tensor([0, 1]).view(2, 1, 1, 1, 1)
    frames = (40 + 160 * bright).expand(2, FRAMES, 3, 32, 32).to(torch.uint8)
    scenes = SampledScenes(
        frames,
        torch.full_like(frames, 120),
        torch.full((2, FRAMES, 1, 4, 4), 2.0).half(),
        torch.zeros(2, 2, 16, 2, 2).half(),
        (bright - 0.5).expand(2, 2, 16, 2, 2).half(),
    )
    config = FinishConfig(batch=2, crop=2, true_share=0.0, lr=1e-2)
    before = finish_loss(vae, scenes, config)["psnr"]
    loop = LoopConfig(steps=120, warmup=5, ema=0.8, sample_every=120)
    after = train_finish(iter(lambda: scenes, None), scenes, tmp_path / "start", tmp_path / "run", config, loop)
    assert finish_loss(after, scenes, config)["psnr"] > before + 6
    assert (tmp_path / "run" / "sample_000120.png").is_file()
    for ours, theirs in zip(after.encoder.parameters(), vae.encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
