"""The recipe of the embedded model, stage by stage, in one folder that any later run goes on from.

``draw`` scenes -> ``autoencoder`` -> ``encode`` scenes -> ``transformer`` -> ``finish`` the decoder -> a folder that
the pipeline loads::

    RUN/scenes/*.safetensors   drawn scenes, pictures         RUN/latents/*.safetensors   the same, encoded
    RUN/autoencoder/           log, samples, state, vae/      RUN/transformer/            log, samples, state, parts
    RUN/autoencoder/first/     the same, before the encoder   RUN/finish/                 log, samples, state, vae/
                               that is given references
"""

from __future__ import annotations

import logging
import shutil
import zlib
from dataclasses import dataclass, field
from pathlib import Path

import torch

from flashportrait.errors import UserError
from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.training.autoencoder import AutoencoderConfig, train_autoencoder
from flashportrait.training.data import (
    AvatarScenes,
    LatentScenes,
    PhotoScenes,
    Scenes,
    SceneSource,
    encode_scenes,
    shard_batches,
)
from flashportrait.training.finish import FinishConfig, read_pair, scene_batches, train_finish
from flashportrait.training.flow import FlowConfig, PortraitModel, train_flow
from flashportrait.training.loop import LoopConfig
from flashportrait.training.photos import PhotoSet

logger = logging.getLogger(__name__)

STAGES = ("draw", "autoencoder", "encode", "transformer", "finish")
HELD_OUT = "held_out"
"""Shards whose name starts with this are never trained on."""


@dataclass(frozen=True)
class Recipe:
    """Sizes and lengths of every stage of the embedded model ``nano``."""

    size: int = 256
    """Pixels a side."""
    clip_frames: int = 13
    """Pixel frames a scene, 4k + 1."""
    shard: int = 64
    """Scenes a file."""
    scenes: int = 8192
    """Scenes to draw in all, as many from each source: the avatars, and each folder of photographs."""
    batch: int = 32
    """Scenes a step of the transformer."""
    autoencoder: AutoencoderConfig = field(default_factory=AutoencoderConfig)
    autoencoder_loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=6000, sample_every=250))
    differences: AutoencoderConfig = field(
        default_factory=lambda: AutoencoderConfig(
            batch=4, frames=13, crop=160, lr=7e-4, differences=True, latent_noise=0.35, latent_power=1e-2
        )
    )
    """How the second encoder is trained, after the first one, and the decoder with it."""
    differences_loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=6000, ema=0.995, sample_every=250))
    flow: FlowConfig = field(default_factory=FlowConfig)
    flow_loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=60_000, sample_every=500, save_every=500))
    finish: FinishConfig = field(default_factory=FinishConfig)
    finish_loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=6000, ema=0.995, sample_every=250))
    finish_scenes: int = 4
    """Held-out scenes of each source by which that stage is watched."""


def draw(folder: Path, recipe: Recipe, photos: list[Path], device: str = "cpu", seed: int = 0) -> None:
    """Draws what is missing of ``recipe.scenes`` scenes and one held-out shard a source; safe to run again.

    Held-out shards show people who are in no other shard.
    """
    training: dict[str, SceneSource] = {"avatars": AvatarScenes(device)}
    held_out = dict(training)
    for path in photos:
        name, (most, few) = f"photos-{path.name}", PhotoSet(path).split()
        training[name], held_out[name] = PhotoScenes(most, device), PhotoScenes(few, device)
    shards = -(-recipe.scenes // (recipe.shard * len(training)))
    labels = [(f"{HELD_OUT}-{name}", source) for name, source in held_out.items()]
    labels += [(f"{name}-{index:04d}", source) for index in range(shards) for name, source in training.items()]
    for label, source in labels:
        path = folder / "scenes" / f"{label}.safetensors"
        if not path.exists():
            generator = torch.Generator().manual_seed(seed + zlib.crc32(label.encode()))
            source.scenes(recipe.shard, recipe.clip_frames, recipe.size, generator).save(path)
            logger.info("drew %s", path.name)


def learn_autoencoder(folder: Path, recipe: Recipe, device: str = "cpu") -> TinyVideoAutoencoder:
    """Trains the autoencoder on the drawn scenes: alone first, then with a second encoder beside references.

    Once the second run has begun, the first is left as it is, since the second uses its statistics.
    """
    training, held_out = _shards(folder / "scenes")
    shown = Scenes.join([Scenes.load(path)[:4] for path in held_out])
    whole, first = folder / "autoencoder", folder / "autoencoder" / "first"
    if not (whole / "state.safetensors").exists():
        train_autoencoder(training, shown, first, recipe.autoencoder, recipe.autoencoder_loop, device)
    config, loop = recipe.differences, recipe.differences_loop
    return train_autoencoder(training, shown, whole, config, loop, device, start=first / "vae")


def encode(folder: Path, device: str = "cpu") -> None:
    """Encodes the drawn scenes that are not encoded yet, with the trained autoencoder."""
    vae = load_autoencoder(folder, device)
    for path in sorted((folder / "scenes").glob("*.safetensors")):
        target = folder / "latents" / path.name
        if path.name.startswith(HELD_OUT):
            target = folder / "latents_held_out" / path.name
        if not target.exists():
            encode_scenes(Scenes.load(path), vae).save(target)
            logger.info("encoded %s", path.name)


def learn_transformer(
    folder: Path, recipe: Recipe, device: str = "cpu", seed: int = 0, start: Path | None = None
) -> PortraitModel:
    """Trains the transformer, the portrait encoder and the image encoder on the encoded scenes.

    ``start``: a model folder to begin with, whose autoencoder must be the one that encoded the scenes.
    """
    _shards(folder / "latents")
    paths = sorted((folder / "latents_held_out").glob("*.safetensors"))
    held_out = LatentScenes.join([LatentScenes.load(path)[:6] for path in paths])
    references = torch.cat([Scenes.load(folder / "scenes" / path.name).reference[:6] for path in paths])
    batches = shard_batches(folder / "latents", recipe.batch, torch.Generator().manual_seed(seed))
    vae, target = load_autoencoder(folder, device), folder / "transformer"
    return train_flow(batches, held_out, references, vae, target, recipe.flow, recipe.flow_loop, device, seed, start)


def finish(
    folder: Path, recipe: Recipe, device: str = "cpu", seed: int = 0, start: Path | None = None
) -> TinyVideoAutoencoder:
    """Trains the decoder on what the transformer answers.

    ``start``: a model folder whose transformer answers, where this run has trained none.
    """
    _shards(folder / "latents")
    model = PortraitModel(recipe.flow)
    model.take_weights(trained_parts(folder, start))
    pairs = [
        read_pair(folder / "scenes" / path.name, path, index)
        for path in sorted((folder / "latents_held_out").glob("*.safetensors"))
        for index in range(recipe.finish_scenes)
    ]
    pictures, latents = zip(*pairs, strict=True)
    batches = scene_batches(folder, recipe.finish.batch, torch.Generator().manual_seed(seed))
    held_out, vae = (Scenes.join(pictures), LatentScenes.join(latents)), load_autoencoder(folder)
    target, loop = folder / "finish", recipe.finish_loop
    return train_finish(batches, held_out, vae, model, target, recipe.finish, recipe.flow, loop, device, seed)


def trained_parts(folder: Path, start: Path | None = None) -> Path:
    """Where the transformer and its encoders lie: in this run, or in ``start`` where it has trained none."""
    trained = folder / "transformer"
    return trained if start is None or (trained / "transformer").is_dir() else start


def take_autoencoder(folder: Path, model: Path) -> None:
    """Uses the autoencoder of a model folder instead of training one."""
    shutil.copytree(model / "vae", folder / "autoencoder" / "vae", dirs_exist_ok=True)


def load_autoencoder(folder: Path, device: str = "cpu") -> TinyVideoAutoencoder:
    """The autoencoder that ``learn_autoencoder`` left in ``folder``."""
    path = folder / "autoencoder" / "vae"
    if not path.is_dir():
        raise UserError(f"{path} is missing; run the stage 'autoencoder' first")
    return TinyVideoAutoencoder.from_pretrained(path).eval().to(device)


def _shards(folder: Path) -> tuple[list[Path], list[Path]]:
    paths = sorted(folder.glob("*.safetensors"))
    training = [path for path in paths if not path.name.startswith(HELD_OUT)]
    if not training:
        raise UserError(f"{folder} holds no scenes; run the stages before this one first: {', '.join(STAGES)}")
    return training, [path for path in paths if path not in training]
