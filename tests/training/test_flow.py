"""Training of the transformer: data that fits together, a loss with a known answer, and a toy run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flashportrait.errors import UserError
from flashportrait.face.motion import BLENDSHAPE_NAMES
from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.training.data import (
    LatentScenes,
    Scenes,
    encode_scenes,
    sample_motion,
    shard_batches,
)
from flashportrait.training.flow import FlowConfig, PortraitModel, flow_loss, own_answers, sample_latents, train_flow
from flashportrait.training.loop import LoopConfig

TOY = FlowConfig(heads=1, layers=1, ffn_ratio=1, token_dim=16, matrix_lr=None, lr=3e-3, compile=False)


@pytest.fixture(scope="module")
def vae() -> TinyVideoAutoencoder:
    torch.manual_seed(0)
    return TinyVideoAutoencoder(8, (8, 8, 8), align="start").eval()


def latent_scenes(count: int = 4, latent_frames: int = 2) -> LatentScenes:
    generator = torch.Generator().manual_seed(0)
    frames = 4 * (latent_frames - 1) + 1
    return LatentScenes(
        latents=torch.randn(count, latent_frames, 16, 4, 4, generator=generator).half(),
        reference=torch.randn(count, latent_frames, 16, 4, 4, generator=generator).half(),
        strength=torch.linspace(0, 1, count),
        portrait=torch.randint(0, 256, (count, 3, 32, 32), generator=generator, dtype=torch.uint8),
        motion=torch.randn(count, frames, 57, generator=generator),
        weight=torch.ones(count, latent_frames, 1, 4, 4).half(),
    )


def test_a_latents_weight_is_its_four_frames_mean(vae: TinyVideoAutoencoder) -> None:
    weight = torch.arange(9.0).view(1, 9, 1, 1, 1).expand(1, 9, 1, 32, 32)
    clip = torch.rand(1, 9, 3, 32, 32)
    scenes = Scenes.from_pictures(clip[:, 0], clip, clip, torch.ones(1), torch.zeros(1, 9, 57), weight)
    encoded = encode_scenes(scenes, vae)
    assert encoded.latents.shape == (1, 3, 16, 4, 4)
    assert torch.equal(encoded.reference, encoded.latents)
    assert encoded.weight[0, :, 0, 0, 0].tolist() == [0.0, 2.5, 6.5]


def test_shards_come_back_as_they_were(tmp_path: Path) -> None:
    scenes = latent_scenes()
    scenes.save(tmp_path / "a.safetensors")
    batch = next(shard_batches(tmp_path, 4, torch.Generator().manual_seed(0)))
    order = batch.motion[:, 0, 0].argsort()
    assert torch.equal(batch.latents[order], scenes.latents[scenes.motion[:, 0, 0].argsort()])


def test_a_batch_larger_than_all_scenes_is_an_error(tmp_path: Path) -> None:
    latent_scenes(2).save(tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="2 scenes"):
        next(shard_batches(tmp_path, 4, torch.Generator()))


def test_a_slice_has_the_rows_of_its_frames() -> None:
    scenes = latent_scenes(latent_frames=4)
    cut = scenes.slice(1, 2)
    assert cut.latents.shape[1] == cut.reference.shape[1] == cut.weight.shape[1] == 2
    assert torch.equal(cut.latents, scenes.latents[:, 1:3])
    # The window of latent frames 1 and 2 shows pixel frame 4, then 5 to 8.
    assert torch.equal(cut.motion, scenes.motion[:, 4:9])


def test_keyframes_glide_between_poses() -> None:
    rows = sample_motion("keyframes", 50, torch.Generator().manual_seed(0))
    assert rows.shape == (50, 57)
    assert rows.diff(dim=0).abs().max() < 0.5 * (rows.amax(0) - rows.amin(0)).max()


def test_every_other_expression_of_wide_motion_opens_the_mouth() -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.cat([sample_motion("wide", 40, generator, spacing=(1, 1)) for _ in range(8)])
    jaw = rows[:, 6 + BLENDSHAPE_NAMES.index("jawOpen")].unflatten(0, (-1, 2)).mean(0)
    assert jaw[0] < 0.25
    assert jaw[1] > max(0.4, 2 * jaw[0])


PLAIN = replace(TOY, starts=0.0, refinements=0.0)


@pytest.mark.parametrize(("starts", "refinements"), [(0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (0.5, 0.25)])
def test_the_loss_of_a_zero_velocity_is_the_targets_power(starts: float, refinements: float) -> None:
    model = PortraitModel(TOY)
    torch.nn.init.zeros_(model.transformer.proj_out.weight)
    torch.nn.init.zeros_(model.transformer.proj_out.bias)
    scenes = latent_scenes(64)
    torch.manual_seed(0)
    # Unit latents and unit noise, independent: their difference has power two. Without noise only the latents' is left.
    expected = 2 - (starts + refinements)
    loss = flow_loss(model, scenes, replace(TOY, starts=starts, refinements=refinements))["loss"]
    assert loss.item() == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("temperature", [0.0, 0.5, 1.0])
def test_the_true_velocity_has_no_loss_anywhere_on_the_way(temperature: float) -> None:
    scenes = latent_scenes(64)
    clean = scenes.latents.float().transpose(1, 2)

    def model(noisy, sigma, reference, *conditions):
        # Every part of a batch, and the first answers within it, in the order of the scenes.
        mine = clean[[index for row in reference for index in range(64) if torch.equal(row, known[index])]]
        return (noisy - mine) / sigma.view(-1, 1, 1, 1, 1)

    known = scenes.reference.float().transpose(1, 2)
    torch.manual_seed(0)
    loss = flow_loss(model, scenes, replace(TOY, temperature=temperature))
    assert loss["loss"].item() < 1e-6


def test_refinements_start_from_the_networks_own_answer() -> None:
    config = replace(TOY, starts=0.0, refinements=1.0, guidance=1.0)
    seen = []

    def model(noisy, sigma, *conditions):
        seen.append((noisy, sigma))
        return torch.full_like(noisy, -3.0)

    flow_loss(model, latent_scenes(8), config)
    (first, start), (second, sigma) = seen
    assert not first.any()
    assert (start == 1).all()
    assert torch.allclose(second, 3 * (1 - sigma).view(-1, 1, 1, 1, 1).expand_as(second))


def test_own_answers_are_the_latents_that_the_velocity_leads_to() -> None:
    scenes = latent_scenes(6)

    def model(noisy, sigma, reference, *conditions):
        return (noisy - reference) / sigma.view(-1, 1, 1, 1, 1)

    torch.manual_seed(0)
    torch.testing.assert_close(own_answers(model, scenes, TOY), scenes.reference.float(), atol=1e-4, rtol=1e-4)


def test_guidance_moves_the_target_from_the_velocity_without_expression() -> None:
    config = replace(PLAIN, guidance=2.0, expression_dropout=0.0)
    scenes = latent_scenes(64)
    scenes = replace(scenes, latents=torch.zeros_like(scenes.latents))

    def model(noisy, sigma, reference, strength, portrait, motion, expression):
        return (4 * expression).view(-1, 1, 1, 1, 1).expand_as(noisy)

    # v = 4 and u = 0, so the target is the noise + (1 - 1/2) 4, and the error 2 - noise; where sampling starts there
    # is no noise.
    torch.manual_seed(0)
    assert float(flow_loss(model, scenes, config)["loss"]) == pytest.approx(4 + 1, rel=0.05)
    assert float(flow_loss(model, scenes, replace(config, starts=1.0))["loss"]) == pytest.approx(4, rel=1e-5)


def test_a_toy_learns_one_batch(vae: TinyVideoAutoencoder, tmp_path: Path) -> None:
    scenes = latent_scenes(2)
    loop = LoopConfig(steps=80, warmup=5, log_every=20, sample_every=80, ema=0.9)
    references = torch.zeros(2, 5, 3, 32, 32, dtype=torch.uint8)
    model = train_flow(iter(lambda: scenes, None), scenes, references, vae, tmp_path, TOY, loop)
    torch.manual_seed(1)
    start = float(flow_loss(PortraitModel(TOY), scenes, TOY)["loss"])
    assert float(flow_loss(model, scenes, TOY)["loss"]) < 0.8 * start
    assert sample_latents(model, scenes, steps=2, shift=3.0, temperature=1.0).shape == scenes.latents.shape
    cold = [sample_latents(model, scenes, steps=2, shift=3.0, temperature=0.0, seed=seed) for seed in (0, 1)]
    assert torch.equal(*cold)
    assert (tmp_path / "transformer" / "config.json").is_file()
    assert (tmp_path / "sample_000080.png").is_file()
