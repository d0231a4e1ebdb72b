"""The last stage: transformer and decoder learn together, by the pictures that come out.

Until here the transformer learned latents and the decoder learned to restore from true ones. But errors of latents
count unequally in pictures, and a small transformer's latents are not quite those of any clip: a decoder that has only
met true ones makes smears of the difference. Where sampling starts from no noise, what it gives is a function of what
the network is told, so what is lost in the pictures can be followed back to it. Flow matching goes on beside, that the
way through all noise levels stays learned; the encoders, and so the latents, stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashportrait.errors import UserError
from flashportrait.models.tiny_vae import TEMPORAL_RATIO, TinyVideoAutoencoder
from flashportrait.training.autoencoder import restoration_loss
from flashportrait.training.data import LatentScenes, Scenes, scene_places
from flashportrait.training.flow import PARTS, FlowConfig, PortraitModel, flow_loss, own_answers, sample_latents
from flashportrait.training.loop import LoopConfig, Stage, build_optimizers
from flashportrait.training.samples import save_sheet


@dataclass(frozen=True)
class FinishConfig:
    """How transformer and decoder learn together."""

    batch: int = 8
    """Scenes a step whose pictures are compared."""
    crop: int = 9
    """Rows and columns of latents that the decoder sees: convolutions don't mind, and crops are cheaper."""
    lr: float = 6e-4
    matrix_lr: float | None = 1e-3
    """Learning rate of Muon on the transformer's matrices; None: AdamW on everything."""
    true_share: float = 0.35
    """Share of scenes decoded from their true latents, with noise; the others from the transformer's answers."""
    latent_noise: float = 0.15
    """Largest standard deviation of noise on true latents."""
    picture_weight: float = 5.0
    """How much the pictures' loss counts beside flow matching's."""
    focus: float = 2.0
    """Exponent of the loss weights: above 1, lips and eyes count for more than their scenes say."""


class PortraitAnimator(nn.Module):
    """From portrait and motion to pictures."""

    def __init__(self, model: PortraitModel, vae: TinyVideoAutoencoder):
        super().__init__()
        self.model = model
        self.vae = vae


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
    animator: PortraitAnimator, scenes: Scenes, latents: LatentScenes, config: FinishConfig, flow: FlowConfig
) -> dict[str, Tensor]:
    """The autoencoder's loss on scenes decoded from the transformer's answers or, a share of them, from true latents.

    Scenes are cut to the flow's number of latent frames, from their beginning.
    """
    latents = latents.slice(0, flow.latent_frames)
    true = round(config.true_share * len(latents))
    kept = latents.latents[:true].float()
    kept = kept + config.latent_noise * torch.rand(true, 1, 1, 1, 1, device=kept.device) * torch.randn_like(kept)
    answers = own_answers(animator.model, latents[true:], flow) if true < len(latents) else kept[:0]
    shown = slice(0, TEMPORAL_RATIO * (latents.latents.shape[1] - 1) + 1)
    decoded, reference, frames, weight = _crop(
        config.crop,
        torch.cat([kept, answers]),
        scenes.reference[:, shown].float() / 255,
        scenes.frames[:, shown].float() / 255,
        scenes.weight[:, shown].float() ** config.focus,
    )
    ratio = frames.shape[-1] // weight.shape[-1]
    weight = weight.repeat_interleave(ratio, -1).repeat_interleave(ratio, -2)
    return restoration_loss(*animator.vae.restore(decoded, reference), frames, weight)


def _crop(side: int, *parts: Tensor) -> list[Tensor]:
    """``side`` rows and columns of the first part and what they show of the others, more often nearer the middle."""
    rows = parts[0].shape[-1]
    top, left = torch.randint(0, rows - side + 1, (2, 3)).median(dim=1).values.tolist()
    ratios = [part.shape[-1] // rows for part in parts]
    return [
        part[..., ratio * top : ratio * (top + side), ratio * left : ratio * (left + side)]
        for part, ratio in zip(parts, ratios, strict=True)
    ]


@torch.no_grad()
def watch(
    animator: PortraitAnimator, scenes: Scenes, latents: LatentScenes, flow: FlowConfig, path: Path
) -> dict[str, float]:
    """PSNR over faces of held-out scenes, from sampled and from true latents, and a sheet: truth, sampled, true."""
    sampled = sample_latents(animator.model, latents, 8, flow.shift, flow.temperature)
    clips = {"truth": scenes.frames.float() / 255}
    for name, given in (("sampled", sampled), ("true", latents.latents)):
        clips[name] = torch.cat(
            [
                animator.vae.decode(z[None].float(), parallel=True, reference=r[None].float() / 255).float()
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
    pictured: Iterator[tuple[Scenes, LatentScenes]],
    batches: Iterator[LatentScenes],
    held_out: tuple[Scenes, LatentScenes],
    start: PortraitAnimator,
    folder: Path,
    config: FinishConfig,
    flow: FlowConfig,
    loop: LoopConfig,
    device: str = "cpu",
    seed: int = 0,
) -> PortraitAnimator:
    """Trains the transformer with its encoders, and the decoder; exports the averaged parts to ``folder``.

    Args:
        pictured: scenes with their pictures, by which what comes out is judged.
        batches: scenes on which flow matching goes on.
        held_out: scenes never trained on, by which the run is watched.
        start: what a new run begins with, trained in place.
    """
    torch.manual_seed(seed)
    start.vae.requires_grad_(False)
    for part in (start.vae.decoder, start.vae.blend):
        part.requires_grad_(True)
    start.vae.to(memory_format=torch.channels_last)
    start.to(device)
    kind = torch.device(device).type

    def loss(batch: tuple[tuple[Scenes, LatentScenes], LatentScenes]) -> dict[str, Tensor]:
        (scenes, latents), others = batch
        with torch.autocast(device_type=kind, dtype=torch.bfloat16):
            pictures = picture_loss(start, scenes.to(device), latents.to(device), config, flow)
            # On short sequences the plain products are faster than the fused attention.
            with sdpa_kernel(SDPBackend.MATH):
                velocity = flow_loss(start.model, others.to(device), flow)["loss"]
        return {
            "loss": velocity + config.picture_weight * pictures["loss"],
            "velocity": velocity.detach(),
            "pictures": pictures["loss"].detach(),
            "psnr": pictures["psnr"],
        }

    def sample(averaged: nn.Module, step: int) -> dict[str, float]:
        shown = (part.to(device) for part in held_out)
        with torch.autocast(device_type=kind, dtype=torch.bfloat16):
            return watch(averaged, *shown, flow, folder / f"sample_{step:06d}.png")

    optimizers = build_optimizers(start, config.lr, config.matrix_lr, 0.01)
    stage = Stage(start, optimizers, loss, folder, loop, sample)
    stage.resume()
    if flow.compile:
        start.model.transformer.compile_repeated_blocks()
    averaged = stage.run(zip(pictured, batches, strict=False))  # both are endless
    averaged.vae.save_pretrained(folder / "vae")
    for name in PARTS:
        getattr(averaged.model, name).save_pretrained(folder / name)
    return averaged
