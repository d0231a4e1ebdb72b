"""The last stage of training: what it reads belongs together, and the decoder learns what the transformer means."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
import torch

from flashportrait.errors import UserError
from flashportrait.models.tiny_vae import Restored, TinyVideoAutoencoder
from flashportrait.training import finish
from flashportrait.training.autoencoder import initialise_near_identity
from flashportrait.training.data import LatentScenes, Scenes
from flashportrait.training.finish import FinishConfig, picture_loss, scene_batches, train_finish
from flashportrait.training.flow import FlowConfig, PortraitModel
from flashportrait.training.loop import LoopConfig

COUNT, FRAMES, SIDE = 3, 5, 64
FLOW = FlowConfig(heads=1, layers=1, ffn_ratio=1, token_dim=16, matrix_lr=None, compile=False, guidance=1.0)


def toy_scenes(count: int = COUNT) -> tuple[Scenes, LatentScenes]:
    """Scene i has the value i everywhere, but for pictures and flow, which show i + their row and column of latents."""
    index = torch.arange(count).view(-1, 1, 1, 1, 1)
    cell = torch.arange(4).repeat_interleave(16)
    picture = (index + 10 * cell[:, None] + 50 * cell).expand(count, FRAMES, 3, SIDE, SIDE).to(torch.uint8)
    weight = 1 + picture[:, :, :1, ::8, ::8].half()
    latents = picture[:, :2, :1, ::16, ::16].expand(-1, -1, 16, -1, -1).half()
    strength = torch.linspace(0, 1, count)
    motion, portrait = index.view(-1, 1, 1).expand(-1, FRAMES, 57).float(), picture[:, 0]
    encoded = LatentScenes(latents, latents.clone(), strength, portrait, motion, weight[:, :2, :, ::2, ::2])
    return Scenes(
        portrait, picture, picture.clone(), strength, motion, weight, picture[:, :, :2, ::2, ::2].half()
    ), encoded


def toy_autoencoder() -> TinyVideoAutoencoder:
    torch.manual_seed(0)
    vae = TinyVideoAutoencoder(4, (8, 8, 8), align="start", reference_channels=4, upscale=2)
    initialise_near_identity(vae)
    vae.register_to_config(latents_mean=[0.0] * 16, latents_std=[1.0] * 16)
    return vae


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


class Truth:
    """A transformer that always answers the reference."""

    def __call__(self, noisy, sigma, reference, *conditions):
        return (noisy - reference) / sigma.view(-1, 1, 1, 1, 1)


@pytest.mark.parametrize("true_share", [0.0, 0.5, 1.0])
def test_latents_are_decoded_beside_what_they_show(true_share: float) -> None:
    class Decoder:
        def restore(self, latents, reference):
            # The rows and columns of latents, their sizes and scenes, as toy_scenes wrote them into pictures.
            assert latents.shape[-2:] == (3, 3)
            assert torch.allclose(latents[:, :, :1], 255 * reference[:, :2, :1, ::16, ::16], atol=1e-3)
            flow = 255 * reference[:, :, :2, ::2, ::2]
            return Restored(reference, reference, flow, reference, reference[:, :, :1])

    config = FinishConfig(crop=3, true_share=true_share, latent_noise=0.0)
    for seed in range(6):
        torch.manual_seed(seed)
        assert picture_loss(Decoder(), Truth(), *toy_scenes(4), config, FLOW)["loss"] < 1e-5


@pytest.mark.parametrize(("crop", "margin", "judged"), [(4, 1, 64), (3, 1, 32), (3, 0, 48)])
def test_only_what_a_crop_shows_whole_is_judged(crop: int, margin: int, judged: int) -> None:
    """Of four rows of 16 pixels, a crop of three loses one, and another beside the cut with a margin."""
    torch.manual_seed(0)
    config = FinishConfig(crop=crop, margin=margin, true_share=1.0)
    with patch.object(finish, "restoration_loss") as loss:
        picture_loss(toy_autoencoder(), Truth(), *toy_scenes(1), config, FLOW)
    restored, clips, weight, flow = loss.call_args.args
    assert restored.frames.shape[-2:] == clips.shape[-2:] == weight.shape[-2:] == (16 * crop, 16 * crop)
    assert flow.shape[-2:] == (8 * crop, 8 * crop)
    touched = weight[0, 0, 0] > 0
    assert touched.any(0).sum() == touched.any(1).sum() == judged


def test_features_come_from_true_latents_and_whole_pictures_from_answers() -> None:
    """One corner weighs 9 and the rest 1: true latents' crops always show it, answers' don't."""
    scenes, latents = toy_scenes(2)
    scenes.weight.fill_(1)[..., :2, :2] = 9
    config, vae = FinishConfig(crop=3, margin=0, true_share=0.5, focus=1, answers_focus=0.5), toy_autoencoder()
    shown = []
    for seed in range(40):
        torch.manual_seed(seed)
        with patch.object(finish, "restoration_loss") as loss:
            picture_loss(vae, Truth(), scenes, latents, config, FLOW)
        weight = loss.call_args.args[2]
        assert torch.allclose(weight.mean((1, 2, 3, 4)), torch.ones(2))
        shown.append((weight.amax((1, 2, 3, 4)) / weight.amin((1, 2, 3, 4))).tolist())
    true, answers = zip(*shown, strict=True)
    assert true.count(9) > 36
    assert set(answers) == {1.0, 3.0}
    assert answers.count(1.0) > 20


def test_what_pictures_lose_reaches_the_decoder_alone() -> None:
    vae, model = toy_autoencoder(), PortraitModel(FLOW)
    torch.nn.init.normal_(vae.blend.plan.weight, std=0.1)
    picture_loss(vae, model, *toy_scenes(4), FinishConfig(crop=4, true_share=0.5), FLOW)["loss"].backward()
    reached = {name.split(".")[0] for name, p in vae.named_parameters() if p.grad is not None and p.grad.any()}
    assert reached == {"decoder", "blend"}
    assert all(p.grad is None for p in model.parameters())


def test_the_decoder_learns_what_the_transformer_means(tmp_path: Path) -> None:
    """The transformer answers half of what it should; pictures say how much that is."""
    bright = torch.tensor([0, 1]).view(2, 1, 1, 1, 1)
    frames = (40 + 160 * bright).expand(2, FRAMES, 3, 32, 32).to(torch.uint8)
    portrait, motion = torch.full((2, 3, 32, 32), 120, dtype=torch.uint8), torch.zeros(2, FRAMES, 57)
    flow = torch.full((2, FRAMES, 2, 16, 16), torch.nan)
    scenes = Scenes(
        portrait, frames, torch.full_like(frames, 120), torch.ones(2), motion, torch.ones(2, FRAMES, 1, 4, 4), flow
    )
    clean = (2.0 * bright - 1).expand(2, 2, 16, 2, 2)
    latents = LatentScenes(clean, 0.5 * clean, torch.ones(2), portrait, motion, torch.ones(2, 2, 1, 2, 2))

    class Half(PortraitModel):
        def forward(self, noisy, sigma, reference, *conditions):
            return (noisy - reference) / sigma.view(-1, 1, 1, 1, 1)

    config, model, vae = FinishConfig(batch=2, crop=2, true_share=0.0, lr=5e-3), Half(FLOW), toy_autoencoder()
    encoder = [p.clone() for p in vae.encoder.parameters()]
    before = picture_loss(vae, model, scenes, latents, config, FLOW)["psnr"]
    loop = LoopConfig(steps=150, warmup=5, ema=0.8, sample_every=150)
    batches = iter(lambda: (scenes, latents), None)
    after = train_finish(batches, (scenes, latents), vae, model, tmp_path, config, FLOW, loop)
    assert picture_loss(after, model, scenes, latents, config, FLOW)["psnr"] > before + 6
    assert (tmp_path / "sample_000150.png").is_file()
    assert (tmp_path / "vae" / "config.json").is_file()
    for ours, theirs in zip(encoder, after.encoder.parameters(), strict=True):
        assert torch.equal(ours, theirs)
