"""The autoencoder's training: where it starts, and that a toy one learns."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F

from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.training.autoencoder import AutoencoderConfig, initialise_near_identity, train_autoencoder
from flashportrait.training.data import DrawnClips, Scenes
from flashportrait.training.loop import LoopConfig

TOY = AutoencoderConfig(encoder_channels=8, decoder_channels=(8, 8, 8), batch=2, crop=16, lr=3e-3, upscale=1)


def scenes(count: int = 4, size: int = 32) -> Scenes:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    frames = F.interpolate(coarse, (size, size), mode="bilinear")[:, None].repeat(1, 9, 1, 1, 1)
    weight = torch.ones(count, 9, 1, size, size)
    return Scenes.from_pictures(frames[:, 0], frames, frames.flip(0), torch.zeros(count, 9, 57), weight)


def shard(data: Scenes, folder: Path) -> list[Path]:
    data.save(folder / "shard.safetensors")
    return [folder / "shard.safetensors"]


def test_it_starts_by_keeping_the_mean_colour() -> None:
    torch.manual_seed(0)
    module = TinyVideoAutoencoder(16, (32, 16, 16), align="start")
    initialise_near_identity(module)
    flat = torch.rand(2, 1, 3, 1, 1).expand(2, 5, 3, 32, 32)
    with torch.no_grad():
        latents = module.encode(flat, parallel=True)
        restored = module.decode(latents, parallel=True)
    middle = (..., slice(8, 24), slice(8, 24))
    assert torch.allclose(latents[:, 1, :3, 2, 2], flat[:, 0, :, 0, 0], atol=0.1)
    assert (restored - flat)[middle].abs().mean() < 0.1


def test_it_learns_and_exports_unit_latents(tmp_path: Path) -> None:
    data, drawn = scenes(), shard(scenes(), tmp_path)
    clips, references = data.frames[:2].float() / 255, data.reference[:2].float() / 255
    module = train_autoencoder(drawn, data[:2], tmp_path, TOY, LoopConfig(steps=60, warmup=5, sample_every=60))
    latents = module.encode(clips)
    assert 0.3 < latents.std() < 3
    loaded = TinyVideoAutoencoder.from_pretrained(tmp_path / "vae")
    assert torch.equal(loaded.encode(clips), latents)
    error = (module.decode(latents, reference=references) - clips).square().mean()
    flat = (clips - clips.mean((-1, -2), keepdim=True)).square().mean()
    assert error < 0.5 * flat
    assert (tmp_path / "sample_000060.png").is_file()


def test_the_decoder_alone_leaves_latents_as_they_are(tmp_path: Path) -> None:
    data, drawn = scenes(), shard(scenes(), tmp_path)
    held_out = data.frames[:2, :5].float() / 255
    first = train_autoencoder(drawn, data[:2], tmp_path, TOY, LoopConfig(steps=10, sample_every=99))
    config = AutoencoderConfig(**{**TOY.__dict__, "train_encoder": False})
    second = train_autoencoder(drawn, data[:2], tmp_path, config, LoopConfig(steps=20, sample_every=99))
    assert torch.equal(first.encode(held_out), second.encode(held_out))
    assert not torch.equal(first.decoder[1].weight, second.decoder[1].weight)


def test_crops_and_their_weights_belong_together(tmp_path: Path) -> None:
    data = scenes()
    marked = torch.zeros(4, 9, 1, 4, 4).half()
    marked[..., 1, 2] = 5
    frames = torch.zeros_like(data.frames)
    frames[..., 8:16, 16:24] = 255
    source = DrawnClips(shard(Scenes(data.portrait, frames, 255 - frames, data.motion, marked), tmp_path))
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        clips, references, weight = source.clips(2, 5, 16, generator)
        assert clips.shape == (2, 5, 3, 16, 16)
        assert torch.equal(references, 1 - clips)
        assert torch.equal(weight > 0, clips[:, :, :1] > 0)


def test_a_run_may_begin_with_another_autoencoders_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    other = TinyVideoAutoencoder(8, (8, 8, 8), align="start")
    other.save_pretrained(tmp_path / "other")
    loop = LoopConfig(steps=1, warmup=10**9, sample_every=99)
    drawn = shard(scenes(), tmp_path)
    module = train_autoencoder(drawn, scenes()[:2], tmp_path / "run", TOY, loop, start=tmp_path / "other")
    torch.testing.assert_close(module.encoder[0].weight, other.encoder[0].weight)
    assert module.blend is not None
