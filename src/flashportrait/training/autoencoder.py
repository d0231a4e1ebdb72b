"""Training the embedded model's tiny video autoencoder."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashportrait.models.tiny_vae import MemoryBlock, TimeGrow, TimePool, TinyVideoAutoencoder
from flashportrait.training.data import DrawnClips, Scenes
from flashportrait.training.loop import LoopConfig, Stage, build_optimizers
from flashportrait.training.samples import save_sheet


@dataclass(frozen=True)
class AutoencoderConfig:
    """How the autoencoder is trained."""

    encoder_channels: int = 32
    decoder_channels: tuple[int, int, int] = (128, 64, 32)
    batch: int = 8
    frames: int = 5
    """Pixel frames a clip, 4k + 1."""
    crop: int = 128
    """Pixels a side that the network sees: convolutions don't mind, and crops are cheaper and more varied."""
    lr: float = 1e-3
    train_encoder: bool = True
    """False leaves the latents as they are and improves the decoder alone, beside or after the transformer."""
    reference_channels: int = 32
    """Width of the block that builds frames from the turned portrait, too."""
    upscale: int = 2
    """Pictures have this many rows and columns for each that is encoded; what is finer comes from the portrait."""
    latent_noise: float = 0.15
    """Largest standard deviation of noise on a clip's latents, so that the decoder learns to forgive errors in them."""


@torch.no_grad()
def initialise_near_identity(module: TinyVideoAutoencoder) -> None:
    """Starts from an autoencoder that keeps the local mean colour, so that training has only detail to learn.

    The first three channels carry red, green and blue through every layer (means going down, copies coming up); the
    others start at random, and memory blocks start close to doing nothing. Without this, thousands of steps pass
    before colour gets through the bottleneck.
    """
    for layer in module.modules():
        if isinstance(layer, MemoryBlock):
            layer.conv[-1].weight.mul_(0.1)
            layer.conv[-1].bias.zero_()
    for stack in (module.encoder, module.decoder):
        for layer in stack:
            if isinstance(layer, (TimePool, TimeGrow)):
                _carry_colour(layer.conv.weight, layer.stride)
            elif isinstance(layer, nn.Conv2d):
                _carry_colour(layer.weight, 1, mean=layer.stride[0] > 1)
                if layer.bias is not None:
                    layer.bias.zero_()


def _carry_colour(weight: Tensor, time_stride: int, mean: bool = False) -> None:
    """Makes channels 0-2 of a convolution ``[out in k k]`` pass on channels 0-2, per stacked frame."""
    outputs, inputs, side, _ = weight.shape
    grows = outputs > inputs and time_stride > 1
    for colour in range(3):
        for frame in range(time_stride):
            out = colour + (frame * outputs // time_stride if grows else 0)
            source = colour + (0 if grows else frame * inputs // time_stride)
            if grows or frame == 0:
                weight[out].zero_()
            share = 1.0 if grows else 1.0 / time_stride
            if mean:
                weight[out, source, 1:, 1:] = share / 4
            else:
                weight[out, source, side // 2, side // 2] = share


def autoencoder_loss(
    module: TinyVideoAutoencoder, clips: Tensor, references: Tensor, weight: Tensor, latent_noise: float
) -> dict[str, Tensor]:
    """Absolute error of colours, of differences between neighbours at three scales, and of change over time.

    Differences weigh edges (eyelids, lips) as much as areas; a small pull keeps latents near unit size.

    Args:
        clips: ``[b 4k+1 3 h w]`` in [0, 1].
        references: the portrait turned as in each frame, of the same shape.
        weight: of each pixel, ``[b 4k+1 1 h w]``.
    """
    latents = module.encode(clips, parallel=True)
    level = latent_noise * torch.rand(len(clips), 1, 1, 1, 1, device=clips.device)
    noisy = latents + level * torch.randn_like(latents)
    restored = module.decode(noisy, parallel=True, reference=references, clamp=False).float()
    size = latents.float().square().mean()
    terms = restoration_loss(restored, clips, weight)
    return terms | {"loss": terms["loss"] + 1e-3 * size, "latent_power": size}


def restoration_loss(restored: Tensor, clips: Tensor, weight: Tensor) -> dict[str, Tensor]:
    """Absolute error of colours, of differences between neighbours at three scales, and of change over time."""
    weight = weight / weight.mean()
    colour = (weight * (restored - clips).abs()).mean()
    motion = (weight[:, 1:] * (restored - clips).diff(dim=1).abs()).mean()
    edges = _edge_loss((restored - clips).flatten(0, 1), weight.flatten(0, 1))
    psnr = -10 * torch.log10(F.mse_loss(restored.detach().clamp(0, 1), clips))
    return {"loss": colour + 2 * edges + motion, "psnr": psnr}


def _edge_loss(error: Tensor, weight: Tensor, scales: int = 3) -> Tensor:
    """Mean size of the differences between neighbours of ``error [n 3 h w]``, over scales."""
    total = error.new_zeros(())
    for _ in range(scales):
        total = total + (weight[..., 1:] * error.diff(dim=-1).abs()).mean()
        total = total + (weight[..., 1:, :] * error.diff(dim=-2).abs()).mean()
        error, weight = F.avg_pool2d(error, 2), F.avg_pool2d(weight, 2)
    return total / scales


@torch.no_grad()
def measure_latents(module: TinyVideoAutoencoder, clips: Iterator[Tensor], count: int) -> tuple[list, list]:
    """Mean and std of the latents per channel over ``count`` batches of clips, each a list of channels."""
    latents = torch.cat([module.encode(next(clips), parallel=True).flatten(0, 1) for _ in range(count)])
    std, mean = torch.std_mean(latents, dim=(0, 2, 3))
    return [round(v, 5) for v in mean.tolist()], [round(v, 5) for v in std.tolist()]


def train_autoencoder(
    shards: Iterable[Path],
    held_out: Scenes,
    folder: Path,
    config: AutoencoderConfig,
    loop: LoopConfig,
    device: str = "cpu",
    seed: int = 0,
    start: Path | None = None,
) -> TinyVideoAutoencoder:
    """Trains, logs, samples and exports to ``folder/vae``.

    Args:
        shards: files of drawn scenes, whose clips are learned from.
        held_out: scenes never trained on; their PSNR is logged and they are drawn on sample sheets.
        start: folder of an autoencoder whose weights a new run begins with; what it lacks begins new.
    """
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    module = TinyVideoAutoencoder(
        config.encoder_channels,
        config.decoder_channels,
        align="start",
        reference_channels=config.reference_channels,
        upscale=config.upscale,
    )
    initialise_near_identity(module)
    if start is not None:
        new = {name: value for name, value in module.state_dict().items() if name.startswith("blend.")}
        module.load_state_dict(new | TinyVideoAutoencoder.from_pretrained(start).state_dict())
    module.encoder.requires_grad_(config.train_encoder)
    module = module.to(device=device, memory_format=torch.channels_last)

    truths, shown = held_out.frames.float() / 255, held_out.reference.float() / 255

    def loss(batch: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        clips, references, weight = (part.to(device) for part in batch)
        with torch.autocast(device_type=torch.device(device).type, dtype=torch.bfloat16):
            return autoencoder_loss(module, clips, references, weight, config.latent_noise)

    @torch.no_grad()
    def sample(averaged: nn.Module, step: int) -> dict[str, float]:
        latents = averaged.encode(truths.to(device), parallel=True)
        restored = averaged.decode(latents, parallel=True, reference=shown.to(device)).cpu()
        rows = [torch.cat([truth[::2], result[::2]]) for truth, result in zip(truths, restored, strict=True)]
        save_sheet(torch.cat(rows), folder / f"sample_{step:06d}.png", columns=rows[0].shape[0] // 2)
        return {"held_out_psnr": float(-10 * torch.log10(F.mse_loss(restored, truths)))}

    stage = Stage(module, build_optimizers(module, config.lr, None, 1e-4), loss, folder, loop, sample)
    stage.resume()
    if not config.train_encoder:
        # The latents in use are those of the averaged encoder.
        module.encoder.load_state_dict(stage.ema.module.encoder.state_dict())
    source = DrawnClips(shards)
    batches = (source.clips(config.batch, config.frames, config.crop, generator) for _ in itertools.count())
    averaged = stage.run(batches)
    if config.train_encoder:
        mean, std = measure_latents(averaged.to(device), (clips.to(device) for clips, _, _ in batches), 16)
    else:
        kept = TinyVideoAutoencoder.load_config(folder / "vae")
        mean, std = kept["latents_mean"], kept["latents_std"]
    averaged.register_to_config(latents_mean=mean, latents_std=std)
    averaged.save_pretrained(folder / "vae")
    (folder / "latents.json").write_text(json.dumps({"mean": mean, "std": std}))
    return averaged
