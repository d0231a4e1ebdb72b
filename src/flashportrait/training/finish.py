"""The last stage: the decoder is trained on the transformer's own output.

Until here it learned to restore pictures from true latents. A small transformer's latents are not quite those of any
clip, and a decoder that has only met true ones makes smears of the difference. So it goes on with both kinds.
Transformer and encoders, and so the latents, stay as they are: trained by pictures as well, the transformer gained
nothing that it had not, and lost where it met fewer scenes. Answers are taken without guidance: what guidance
overstates a decoder learns to take back, and expression with it (docs/experiments has both). For the same reason
lips and eyes are learned from true latents, and whole pictures from answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashportrait.errors import UserError
from flashportrait.models.tiny_vae import TEMPORAL_RATIO, TinyVideoAutoencoder
from flashportrait.training.autoencoder import restoration_loss
from flashportrait.training.data import LatentScenes, Scenes, draw_corner, scene_places
from flashportrait.training.flow import FlowConfig, PortraitModel, own_answers, sample_latents
from flashportrait.training.loop import LoopConfig, Stage, build_optimizers
from flashportrait.training.samples import save_sheet


@dataclass(frozen=True)
class FinishConfig:
    """How the decoder learns from the transformer."""

    batch: int = 8
    """Scenes a step."""
    crop: int = 9
    """Rows and columns of latents that the decoder sees: crops are cheaper, and show more of what matters."""
    margin: int = 1
    """Rows and columns of latents along the cut sides of a crop that are not judged: what made them is missing."""
    lr: float = 6e-4
    true_share: float = 0.6
    """Share of scenes decoded from their true latents, with noise, and cropped around lips and eyes; the others are
    decoded from the transformer's answers and cropped anywhere."""
    latent_noise: float = 0.15
    """Largest standard deviation of noise on true latents."""
    focus: float = 3.0
    """Exponent of the loss weights of true latents: above 1, lips and eyes count for more than their scenes say."""
    answers_focus: float = 0.5
    """The same for answers: below 1, hair and shoulders count for more."""


def scene_batches(folder: Path, batch: int, generator: torch.Generator) -> Iterator[tuple[Scenes, LatentScenes]]:
    """Endless shuffled batches of a run's encoded scenes with their pictures, which stay on disk until their turn.

    Raises:
        UserError: fewer scenes are drawn and encoded than one batch needs.
    """
    places = scene_places(sorted((folder / "latents").glob("*.safetensors")))
    if len(places) < batch:
        raise UserError(f"{folder / 'latents'} holds {len(places)} scenes, a batch is {batch}; draw and encode more")
    while True:
        for chosen in torch.randperm(len(places), generator=generator).split(batch):
            if len(chosen) == batch:
                picked = [places[index] for index in chosen.tolist()]
                parts = [read_pair(folder / "scenes" / path.name, path, index) for path, index in picked]
                scenes, latents = zip(*parts, strict=True)
                yield Scenes.join(scenes), LatentScenes.join(latents)


def read_pair(pictures: Path, latents: Path, index: int) -> tuple[Scenes, LatentScenes]:
    """One scene of a shard, drawn and encoded."""
    return Scenes.read(pictures, index), LatentScenes.read(latents, index)


def picture_loss(
    vae: TinyVideoAutoencoder,
    model: PortraitModel,
    scenes: Scenes,
    latents: LatentScenes,
    config: FinishConfig,
    flow: FlowConfig,
) -> dict[str, Tensor]:
    """The autoencoder's loss on scenes decoded from the transformer's answers or, a share of them, from true latents.

    Scenes are cut to the flow's number of latent frames, from their beginning, and each to a crop of its own.
    """
    latents = latents.slice(0, flow.latent_frames)
    true = round(config.true_share * len(latents))
    given = latents.latents.float()
    level = config.latent_noise * torch.rand(true, 1, 1, 1, 1, device=given.device)
    noisy = given[:true] + level * torch.randn_like(given[:true])
    answers = own_answers(model, latents[true:], flow) if true < len(latents) else given[:0]
    shown = slice(0, TEMPORAL_RATIO * (given.shape[1] - 1) + 1)
    # Weights are pooled to the latents' places, and stand for all pixels there.
    weight = scenes.weight[:, shown].float()
    weight = F.avg_pool2d(weight.flatten(0, 1), weight.shape[-1] // given.shape[-1]).unflatten(0, weight.shape[:2])
    crops = [
        _crop(config, index >= true, *parts)
        for index, parts in enumerate(
            zip(
                weight,
                torch.cat([noisy, answers]),
                scenes.reference[:, shown],
                scenes.frames[:, shown],
                scenes.flow[:, shown].float(),
                strict=True,
            )
        )
    ]
    weight, given, reference, frames, true_flow = (torch.stack(part) for part in zip(*crops, strict=True))
    ratio = frames.shape[-1] // weight.shape[-1]
    weight = torch.cat([weight[:true] ** config.focus, weight[true:] ** config.answers_focus])
    # Of mean 1 in each crop: else those of mouths would drown the others.
    weight = weight / weight.mean((1, 2, 3, 4), keepdim=True)
    weight = weight.repeat_interleave(ratio, -1).repeat_interleave(ratio, -2)
    restored = vae.restore(given, reference.float() / 255)
    return restoration_loss(restored, frames.float() / 255, weight, true_flow)


def _crop(config: FinishConfig, anywhere: bool, weight: Tensor, *parts: Tensor) -> list[Tensor]:
    """``crop`` rows and columns of weights ``[t 1 h w]``, 0 in its margin, and what they show of the parts.

    They lie around what weighs most, or ``anywhere``.
    """
    side, rows = config.crop, weight.shape[-1]
    corner = draw_corner(torch.ones_like(weight) if anywhere else weight, side)
    judged = torch.zeros_like(weight)
    # A side that is the picture's own is not cut, and needs no margin.
    inner = [
        slice(first + config.margin * (first > 0), first + side - config.margin * (first + side < rows))
        for first in corner
    ]
    judged[..., inner[0], inner[1]] = weight[..., inner[0], inner[1]]
    cropped = []
    for part in (judged, *parts):
        ratio = part.shape[-1] // rows
        top, left = (slice(ratio * first, ratio * (first + side)) for first in corner)
        cropped.append(part[..., top, left])
    return cropped


@torch.no_grad()
def watch(
    vae: TinyVideoAutoencoder, model: PortraitModel, scenes: Scenes, latents: LatentScenes, flow: FlowConfig, path: Path
) -> dict[str, float]:
    """PSNR over faces of held-out scenes, from sampled and from true latents, and a sheet: truth, sampled, true."""
    sampled = sample_latents(model, latents, 8, flow.shift, flow.temperature)
    clips = {"truth": scenes.frames.float() / 255}
    for name, given in (("sampled", sampled), ("true", latents.latents)):
        clips[name] = torch.cat(
            [
                vae.decode(z[None].float(), parallel=True, reference=r[None].float() / 255).float()
                for z, r in zip(given, scenes.reference, strict=True)
            ]
        )
    weight = F.interpolate(scenes.weight.float().flatten(0, 1), clips["truth"].shape[-2:])
    rows = [torch.cat([clip[index, ::4] for clip in clips.values()]) for index in range(min(9, len(scenes)))]
    save_sheet(torch.cat(rows).cpu(), path, columns=len(rows[0]))
    figures = {}
    for place, least in (("face", 1.5), ("feature", 2.5)):
        inside = (weight > least).float().unflatten(0, scenes.weight.shape[:2])
        for name in ("sampled", "true"):
            error = ((clips[name] - clips["truth"]).square() * inside).sum() / (3 * inside.sum())
            figures[f"{name}_{place}_psnr"] = float(-10 * torch.log10(error))
    return figures


def train_finish(
    batches: Iterator[tuple[Scenes, LatentScenes]],
    held_out: tuple[Scenes, LatentScenes],
    vae: TinyVideoAutoencoder,
    model: PortraitModel,
    folder: Path,
    config: FinishConfig,
    flow: FlowConfig,
    loop: LoopConfig,
    device: str = "cpu",
    seed: int = 0,
) -> TinyVideoAutoencoder:
    """Trains the decoder; exports the autoencoder with its averaged weights to ``folder/vae``.

    Args:
        batches: scenes with their pictures.
        held_out: scenes never trained on, by which the run is watched.
        vae: what a new run begins with; its decoder is trained in place.
        model: what answers; not trained.
    """
    torch.manual_seed(seed)
    vae.requires_grad_(False)
    for part in (vae.decoder, vae.blend):
        part.requires_grad_(True)
    vae.to(device=device, memory_format=torch.channels_last)
    model.requires_grad_(False).eval().to(device)
    kind = torch.device(device).type

    def loss(batch: tuple[Scenes, LatentScenes]) -> dict[str, Tensor]:
        with torch.autocast(device_type=kind, dtype=torch.bfloat16):
            return picture_loss(vae, model, *(part.to(device) for part in batch), config, flow)

    def sample(averaged: nn.Module, step: int) -> dict[str, float]:
        shown = (part.to(device) for part in held_out)
        with torch.autocast(device_type=kind, dtype=torch.bfloat16):
            return watch(averaged, model, *shown, flow, folder / f"sample_{step:06d}.png")

    stage = Stage(vae, build_optimizers(vae, config.lr, None, 1e-4), loss, folder, loop, sample)
    stage.resume()
    averaged = stage.run(batches)
    averaged.save_pretrained(folder / "vae")
    return averaged
