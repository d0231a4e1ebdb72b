"""The last stage of training: what it reads belongs together, and what pictures lose is followed back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flashportrait.errors import UserError
from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.training.autoencoder import initialise_near_identity
from flashportrait.training.data import LatentScenes, Scenes
from flashportrait.training.finish import FinishConfig, PortraitAnimator, picture_loss, scene_batches, train_finish
from flashportrait.training.flow import FlowConfig, PortraitModel
from flashportrait.training.loop import LoopConfig

COUNT, FRAMES, SIDE = 3, 5, 64
FLOW = FlowConfig(heads=1, layers=1, ffn_ratio=1, token_dim=16, matrix_lr=None, compile=False, guidance=1.0)


def toy_scenes(count: int = COUNT) -> tuple[Scenes, LatentScenes]:
    """Scene i has the value i everywhere, but for pictures, which show i + their row and column of latents."""
    index = torch.arange(count).view(-1, 1, 1, 1, 1)
    cell = torch.arange(4).repeat_interleave(16)
    picture = (index + 10 * cell[:, None] + 50 * cell).expand(count, FRAMES, 3, SIDE, SIDE).to(torch.uint8)
    weight = 1 + picture[:, :, :1, ::8, ::8].half()
    latents = picture[:, :2, :1, ::16, ::16].expand(-1, -1, 16, -1, -1).half()
    motion, portrait = index.view(-1, 1, 1).expand(-1, FRAMES, 57).float(), picture[:, 0]
    encoded = LatentScenes(latents, latents.clone(), portrait, motion, weight[:, :2, :, ::2, ::2])
    return Scenes(portrait, picture, picture.clone(), motion, weight), encoded


def toy_generator() -> PortraitAnimator:
    torch.manual_seed(0)
    vae = TinyVideoAutoencoder(4, (8, 8, 8), align="start", reference_channels=4, upscale=2)
    initialise_near_identity(vae)
    vae.register_to_config(latents_mean=[0.0] * 16, latents_std=[1.0] * 16)
    return PortraitAnimator(PortraitModel(FLOW), vae)


def test_a_scenes_pictures_come_with_its_latents(tmp_path: Path) -> None:
    scenes, latents = toy_scenes()
    scenes.save(tmp_path / "scenes" / "a.safetensors")
    latents.save(tmp_path / "latents" / "a.safetensors")
    batches, seen = scene_batches(tmp_path, 2, torch.Generator().manual_seed(0)), set()
    for _ in range(6):
        pictured, encoded = next(batches)
        assert torch.equal(pictured.frames[:, :2, :1, ::16, ::16].half(), encoded.latents[:, :, :1])
        assert torch.equal(pictured.motion, encoded.motion)
        seen |= set(encoded.motion[:, 0, 0].tolist())
    assert seen == {0.0, 1.0, 2.0}
    with pytest.raises(UserError, match="3 scenes, a batch is 4"):
        next(scene_batches(tmp_path, 4, torch.Generator()))


@pytest.mark.parametrize("true_share", [0.0, 0.5, 1.0])
def test_latents_are_decoded_beside_what_they_show(true_share: float) -> None:
    class Decoder:
        def restore(self, latents, reference):
            # The rows and columns of latents, their sizes and scenes, as toy_scenes wrote them into pictures.
            assert latents.shape[-2:] == (3, 3)
            assert torch.allclose(latents[:, :, :1], 255 * reference[:, :2, :1, ::16, ::16], atol=1e-3)
            return reference, reference

    class Truth:
        def __call__(self, noisy, sigma, reference, *conditions):
            return (noisy - reference) / sigma.view(-1, 1, 1, 1, 1)

    generator = type("Pair", (), {"model": Truth(), "vae": Decoder()})()
    config = FinishConfig(crop=3, true_share=true_share, latent_noise=0.0)
    for seed in range(6):
        torch.manual_seed(seed)
        assert picture_loss(generator, *toy_scenes(4), config, FLOW)["loss"] == 0


def test_what_pictures_lose_reaches_transformer_and_decoder_but_no_encoder() -> None:
    generator = toy_generator()
    torch.nn.init.normal_(generator.vae.blend.plan.weight, std=0.1)
    picture_loss(generator, *toy_scenes(4), FinishConfig(crop=4, true_share=0.5), FLOW)["loss"].backward()
    reached = {name.split(".")[1] for name, p in generator.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"transformer", "portrait_encoder", "image_encoder", "decoder", "blend"}


def test_transformer_and_decoder_learn_what_motion_asks_for(tmp_path: Path) -> None:
    """Portraits are alike; motion alone says which of two pictures is meant."""
    bright = torch.tensor([0, 1]).view(2, 1, 1, 1, 1)
    frames = (40 + 160 * bright).expand(2, FRAMES, 3, 32, 32).to(torch.uint8)
    portrait, motion = torch.full((2, 3, 32, 32), 120, dtype=torch.uint8), bright.view(2, 1, 1).expand(2, FRAMES, 57)
    scenes = Scenes(portrait, frames, torch.full_like(frames, 120), motion.float(), torch.ones(2, FRAMES, 1, 4, 4))
    clean = (2.0 * bright - 1).expand(2, 2, 16, 2, 2)
    latents = LatentScenes(clean, 0 * clean, portrait, motion.float(), torch.ones(2, 2, 1, 2, 2))
    config = FinishConfig(batch=2, crop=2, true_share=0.0, lr=5e-3, matrix_lr=None)
    flow = replace(FLOW, expression_dropout=0.0)
    generator = toy_generator()
    encoders = [p.clone() for p in generator.vae.encoder.parameters()]
    before = picture_loss(generator, scenes, latents, config, flow)["psnr"]
    loop = LoopConfig(steps=150, warmup=5, ema=0.8, sample_every=150)
    pictured, batches = iter(lambda: (scenes, latents), None), iter(lambda: latents, None)
    after = train_finish(pictured, batches, (scenes, latents), generator, tmp_path, config, flow, loop)
    assert picture_loss(after, scenes, latents, config, flow)["psnr"] > before + 6
    assert (tmp_path / "sample_000150.png").is_file()
    assert (tmp_path / "vae" / "config.json").is_file()
    assert (tmp_path / "transformer" / "config.json").is_file()
    for ours, theirs in zip(encoders, after.vae.encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
