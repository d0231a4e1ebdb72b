"""The last stage: the decoder learns from what the transformer samples, too, not only from true latents.

A small transformer's latents are not quite those of any clip. A decoder that has only met true ones makes smears of
the difference; one that has also met such latents beside the frames they should have shown makes of them what it can.
True ones stay the most: from sampled latents alone a decoder learns to doubt every open mouth. The encoders, and so
the latents, stay as they are.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashportrait.errors import UserError
from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.training.autoencoder import restoration_loss
from flashportrait.training.data import LatentScenes, TensorRecord, read_scene, scene_places
from flashportrait.training.flow import FlowConfig, PortraitModel, sample_latents
from flashportrait.training.loop import LoopConfig, Stage, build_optimizers
from flashportrait.training.samples import save_sheet

logger = logging.getLogger(__name__)

SAMPLED_AT_ONCE = 16
"""Scenes in one batch of sampling."""


@dataclass(frozen=True)
class FinishConfig:
    """How the decoder is finished."""

    batch: int = 4
    """Scenes a step."""
    crop: int = 10
    """Rows and columns of latents that the decoder sees: convolutions don't mind, and crops are cheaper."""
    lr: float = 7e-4
    true_share: float = 0.7
    """Share of scenes decoded from their true latents, with noise; the others from what the transformer sampled."""
    latent_noise: float = 0.15
    """Largest standard deviation of noise on latents."""
    focus: float = 2.0
    """Exponent of the loss weights: above 1, lips and eyes count for more than their scenes say."""


@dataclass(frozen=True)
class Samples(TensorRecord):
    """What the transformer made of n scenes."""

    sampled: Tensor
    """[n f 16 h w] float16"""


@dataclass(frozen=True)
class SampledScenes(TensorRecord):
    """n scenes with their latents, and what the transformer made of their motion."""

    frames: Tensor
    """[n t 3 s s] uint8"""
    reference: Tensor
    """[n t 3 s s] uint8"""
    weight: Tensor
    """[n t 1 s/8 s/8] float16"""
    latents: Tensor
    """[n f 16 h w] float16"""
    sampled: Tensor
    """[n f 16 h w] float16"""

    @classmethod
    def read(cls, folder: Path, name: str, index: int) -> SampledScenes:
        """One scene of a run: number ``index`` in the shards ``name``."""
        pictures = read_scene(folder / "scenes" / name, index, ("frames", "reference", "weight"))
        latents = read_scene(_latents(folder, name), index, ("latents",))
        return cls(*pictures, *latents, *read_scene(folder / "sampled" / name, index, ("sampled",)))

    def crop(self, side: int) -> SampledScenes:
        """``side`` x ``side`` latents and what they show, nearer the middle more often than the rim."""
        rows = self.latents.shape[-1]
        places = torch.randint(0, rows - side + 1, (2, 3)).median(dim=1).values

        def cut(part: Tensor) -> Tensor:
            ratio = part.shape[-1] // rows
            top, left = (ratio * places).tolist()
            return part[..., top : top + ratio * side, left : left + ratio * side]

        return SampledScenes(*(cut(getattr(self, part.name)) for part in fields(self)))


def _latents(folder: Path, name: str) -> Path:
    kept = folder / "latents" / name
    return kept if kept.exists() else folder / "latents_held_out" / name


def sample_shards(folder: Path, model: PortraitModel, since: float, config: FlowConfig, steps: int = 10) -> None:
    """Samples the scenes of a run as ``folder/sampled/*.safetensors``, save those whose file is younger than ``since``.

    ``since``: when the model was trained, in seconds, as a file's time.
    """
    device = next(model.parameters()).device
    for path in sorted(folder.glob("latents*/*.safetensors")):
        target = folder / "sampled" / path.name
        if target.exists() and target.stat().st_mtime >= since:
            continue
        scenes = LatentScenes.load(path)
        parts = [
            scenes[first : first + SAMPLED_AT_ONCE].to(str(device)) for first in range(0, len(scenes), SAMPLED_AT_ONCE)
        ]
        seed = zlib.crc32(path.name.encode())
        with torch.autocast(device_type=device.type, dtype=torch.bfloat16):
            sampled = [
                sample_latents(model, part, steps, config.shift, config.temperature, seed + i)
                for i, part in enumerate(parts)
            ]
        Samples(torch.cat(sampled).half().cpu()).save(target)
        logger.info("sampled %s", path.name)


def scene_batches(folder: Path, batch: int, generator: torch.Generator) -> Iterator[SampledScenes]:
    """Endless shuffled batches of a run's scenes, held-out ones apart; pictures stay on disk until their turn.

    Raises:
        UserError: fewer scenes are sampled than one batch needs.
    """
    names = [path.name for path in sorted((folder / "latents").glob("*.safetensors"))]
    sampled = [folder / "sampled" / name for name in names]
    places = scene_places(path for path in sampled if path.exists())
    if len(places) < batch:
        raise UserError(f"{folder / 'sampled'} holds {len(places)} scenes, a batch is {batch}; draw and sample more")
    while True:
        for chosen in torch.randperm(len(places), generator=generator).split(batch):
            if len(chosen) == batch:
                picked = [places[index] for index in chosen.tolist()]
                yield SampledScenes.join([SampledScenes.read(folder, path.name, index) for path, index in picked])


def finish_loss(module: TinyVideoAutoencoder, scenes: SampledScenes, config: FinishConfig) -> dict[str, Tensor]:
    """The autoencoder's loss on scenes decoded from sampled latents or, for a share of them, from true ones."""
    scenes = scenes.crop(config.crop)
    true = torch.rand(len(scenes), 1, 1, 1, 1, device=scenes.frames.device) < config.true_share
    latents = torch.where(true, scenes.latents.float(), scenes.sampled.float())
    level = config.latent_noise * torch.rand(len(scenes), 1, 1, 1, 1, device=latents.device)
    reference = scenes.reference.float() / 255
    noisy = latents + level * torch.randn_like(latents)
    restored, bent = module.restore(noisy, reference)
    ratio = restored.shape[-1] // scenes.weight.shape[-1]
    weight = scenes.weight.float().repeat_interleave(ratio, -1).repeat_interleave(ratio, -2) ** config.focus
    return restoration_loss(restored, bent, scenes.frames.float() / 255, weight)


@torch.no_grad()
def watch(module: nn.Module, held_out: SampledScenes, path: Path, device: str) -> dict[str, float]:
    """PSNR over faces of held-out scenes, from sampled and from true latents, and a sheet: truth, sampled, true."""
    shown: dict[str, list[Tensor]] = {"truth": [], "sampled": [], "latents": []}
    for index in range(len(held_out)):
        scene = held_out[index : index + 1].to(device)
        reference = scene.reference.float() / 255
        shown["truth"].append((scene.frames.float() / 255).cpu())
        for name in ("sampled", "latents"):
            latents = getattr(scene, name).float()
            shown[name].append(module.decode(latents, parallel=True, reference=reference).float().cpu())
    clips = {name: torch.cat(parts) for name, parts in shown.items()}
    weight = held_out.weight.float()
    weight = (F.interpolate(weight.flatten(0, 1), clips["truth"].shape[-2:]).unflatten(0, weight.shape[:2]) > 1.5) * 1.0

    def psnr(name: str) -> float:
        error = ((clips[name] - clips["truth"]).square() * weight).sum() / (3 * weight.sum())
        return float(-10 * torch.log10(error))

    rows = [torch.cat([clip[index, ::3] for clip in clips.values()]) for index in range(min(9, len(held_out)))]
    save_sheet(torch.cat(rows), path, columns=len(rows[0]))
    return {"sampled_face_psnr": psnr("sampled"), "true_face_psnr": psnr("latents")}


def train_finish(
    batches: Iterator[SampledScenes],
    held_out: SampledScenes,
    start: Path,
    folder: Path,
    config: FinishConfig,
    loop: LoopConfig,
    device: str = "cpu",
    seed: int = 0,
) -> TinyVideoAutoencoder:
    """Trains the decoder of the autoencoder in ``start``; exports the averaged one to ``folder/vae``."""
    torch.manual_seed(seed)
    module = TinyVideoAutoencoder.from_pretrained(start)
    module.requires_grad_(False)
    for part in (module.decoder, module.blend):
        part.requires_grad_(True)
    module = module.to(device=device, memory_format=torch.channels_last)

    def loss(batch: SampledScenes) -> dict[str, Tensor]:
        with torch.autocast(device_type=torch.device(device).type, dtype=torch.bfloat16):
            return finish_loss(module, batch.to(device), config)

    def sample(averaged: nn.Module, step: int) -> dict[str, float]:
        with torch.autocast(device_type=torch.device(device).type, dtype=torch.bfloat16):
            return watch(averaged, held_out, folder / f"sample_{step:06d}.png", device)

    stage = Stage(module, build_optimizers(module, config.lr, None, 1e-4), loss, folder, loop, sample)
    stage.resume()
    averaged = stage.run(batches)
    averaged.save_pretrained(folder / "vae")
    return averaged
