"""The autoencoder's training: where it starts, and that a toy one learns."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.models.tiny_vae import Restored, TinyVideoAutoencoder
from flashportrait.training.autoencoder import (
    AutoencoderConfig,
    build_autoencoder,
    initialise_near_identity,
    restoration_loss,
    train_autoencoder,
)
from flashportrait.training.data import DrawnClips, Scenes
from flashportrait.training.loop import LoopConfig

NAN = float("nan")
TOY = AutoencoderConfig(encoder_channels=8, decoder_channels=(8, 8, 8), batch=2, crop=16, lr=3e-3, upscale=1)
DIFFERENCES = replace(TOY, differences=True, latent_noise=0.3)


def scenes(count: int = 4, size: int = 32) -> Scenes:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    frames = F.interpolate(coarse, (size, size), mode="bilinear")[:, None].repeat(1, 9, 1, 1, 1)
    weight = torch.ones(count, 9, 1, size, size)
    return Scenes.from_pictures(
        frames[:, 0], frames, frames.flip(0), torch.zeros(count), torch.zeros(count, 9, 57), weight
    )


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


def restored(frames: torch.Tensor, bent: torch.Tensor, flow: torch.Tensor) -> Restored:
    """What the loss looks at; how the frames were put together is nothing to it."""
    return Restored(frames, bent, flow, frames, frames[:, :, :1])


def test_it_learns_and_exports_unit_latents(tmp_path: Path) -> None:
    data, drawn = scenes(), shard(scenes(), tmp_path)
    clips, references = data.frames[:2].float() / 255, data.reference[:2].float() / 255
    module = train_autoencoder(drawn, data[:2], tmp_path, TOY, LoopConfig(steps=60, warmup=5, sample_every=60))
    latents = module.encode(clips)
    assert 0.3 < latents.std() < 3
    loaded = TinyVideoAutoencoder.from_pretrained(tmp_path / "vae")
    torch.testing.assert_close(loaded.encode(clips), latents, rtol=0, atol=1e-4)
    error = (module.decode(latents, reference=references) - clips).square().mean()
    flat = (clips - clips.mean((-1, -2), keepdim=True)).square().mean()
    assert error < 0.5 * flat
    assert (tmp_path / "sample_000060.png").is_file()


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder without a second encoder."""
    folder = tmp_path_factory.mktemp("first")
    train_autoencoder(shard(scenes(), folder), scenes()[:2], folder, TOY, LoopConfig(steps=60, warmup=5))
    return folder / "vae"


def test_a_second_encoder_begins_as_the_first(first: Path) -> None:
    before, module = TinyVideoAutoencoder.from_pretrained(first), build_autoencoder(DIFFERENCES, first)
    clips, references = torch.rand(2, 1, 5, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(module.encode(clips, reference=references), before.encode(clips))
        torch.testing.assert_close(module.encode(references), before.encode(references))
    with pytest.raises(ValueError, match="needs an autoencoder to start with"):
        build_autoencoder(DIFFERENCES, None)


def test_a_second_encoder_learns_and_leaves_latents_of_references_as_they_are(first: Path, tmp_path: Path) -> None:
    data, drawn, loop = scenes(), shard(scenes(), tmp_path), LoopConfig(steps=60, warmup=5)
    module = train_autoencoder(drawn, data[:2], tmp_path, DIFFERENCES, loop, start=first)
    before, after = (TinyVideoAutoencoder.from_pretrained(path) for path in (first, tmp_path / "vae"))
    clips, references = data.frames[:2].float() / 255, data.reference[:2].float() / 255
    assert before.config.latents_std != after.config.latents_std
    with torch.no_grad():
        torch.testing.assert_close(after.encode(references), before.encode(references), atol=1e-3, rtol=1e-3)
        latents = after.encode(clips, reference=references)
        torch.testing.assert_close(latents, module.encode(clips, reference=references), rtol=0, atol=1e-4)
        assert 0.3 < latents.std() < 3

        def error(autoencoder: TinyVideoAutoencoder, latents: Tensor) -> float:
            return float((autoencoder.decode(latents, reference=references) - clips).abs().mean())

        assert error(after, latents) < error(before, before.encode(clips))
    assert after.difference_encoder[0].weight[:, 3:].abs().max() > 1e-3


def test_the_flow_learns_where_the_mask_hides_it() -> None:
    clips = torch.rand(1, 2, 3, 16, 16)
    bent = torch.rand(1, 2, 3, 16, 16, requires_grad=True)
    weight, shift, unknown = torch.ones(1, 2, 1, 16, 16), torch.zeros(1, 2, 2, 8, 8), torch.full((1, 2, 2, 8, 8), NAN)
    terms = restoration_loss(restored(clips, bent, shift), clips, weight, unknown)
    assert terms["psnr"] == torch.inf
    terms["loss"].backward()
    assert (bent.grad != 0).float().mean() > 0.5
    assert restoration_loss(restored(clips, clips, shift), clips, weight, unknown)["loss"] == 0
    target, near, far = torch.zeros(3, 1, 2, 3, 16, 16)
    target[..., 14, 0], near[..., 12, 0], far[..., 1, 0] = 1, 1, 1

    def bent_loss(bent: Tensor) -> Tensor:
        return restoration_loss(restored(target, bent, shift), target, weight, unknown)["bent"]

    assert 0 < bent_loss(near) < bent_loss(far)


@pytest.mark.parametrize("side", [4, 8, 16])
def test_known_flow_is_compared_with_and_nothing_else(side: int) -> None:
    """Of the first clip the flow is known but for a corner, of the second nowhere."""
    clips, weight = torch.rand(2, 3, 3, 16, 16), torch.ones(2, 3, 1, 16, 16)
    bent, shift = (torch.zeros(2, 3, c, s, s, requires_grad=True) for c, s in ((3, 16), (2, side)))
    flow = torch.full((2, 3, 2, 8, 8), 4.0)
    flow[0, :, :, :4, :4], flow[1] = NAN, NAN
    terms = restoration_loss(restored(clips, bent, shift), clips, weight, flow)
    assert terms["flow"].item() == pytest.approx(4 * (1 - 1 / 4) / 2)
    terms["loss"].backward()
    assert not bent.grad[0].any()
    assert bent.grad[1].any()
    half = side // 2
    assert not shift.grad[0, ..., :half, :half].any()
    assert shift.grad[0, ..., half:, :].all()
    assert not shift.grad[1].any()
    assert restoration_loss(restored(clips, bent, shift + 4), clips, weight, flow)["flow"] == 0


def test_crops_and_their_weights_belong_together(tmp_path: Path) -> None:
    data = scenes()
    marked = torch.zeros(4, 9, 1, 4, 4).half()
    marked[..., 1, 2] = 5
    frames = torch.zeros_like(data.frames)
    frames[..., 8:16, 16:24] = 255
    flow = frames[:, :, :2, ::2, ::2].half()
    source = DrawnClips(
        shard(Scenes(data.portrait, frames, 255 - frames, data.strength, data.motion, marked, flow), tmp_path)
    )
    generator = torch.Generator().manual_seed(0)
    for _ in range(8):
        clips, references, weight, flow = source.clips(2, 5, 16, generator)
        assert clips.shape == (2, 5, 3, 16, 16)
        assert torch.equal(references, 1 - clips)
        assert torch.equal(weight > 0, clips[:, :, :1] > 0)
        assert torch.equal(flow, 255 * clips[:, :, :2, ::2, ::2])


def test_a_run_may_begin_with_another_autoencoders_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    other = TinyVideoAutoencoder(8, (8, 8, 8), align="start")
    other.save_pretrained(tmp_path / "other")
    loop = LoopConfig(steps=1, warmup=10**9, sample_every=99)
    drawn = shard(scenes(), tmp_path)
    module = train_autoencoder(drawn, scenes()[:2], tmp_path / "run", TOY, loop, start=tmp_path / "other")
    torch.testing.assert_close(module.encoder[0].weight, other.encoder[0].weight)
    assert module.blend is not None
