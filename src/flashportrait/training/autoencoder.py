"""Training the embedded model's tiny video autoencoder."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashportrait.models.tiny_vae import MemoryBlock, Restored, TimeGrow, TimePool, TinyVideoAutoencoder
from flashportrait.training.data import DrawnClips, Scenes
from flashportrait.training.loop import LoopConfig, Stage, build_optimizers
from flashportrait.training.samples import save_sheet

FLOW_PRICE = 0.1
"""Of one pixel by which flow is off, in colours, whose range is 1."""


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
    differences: bool = False
    """Learn a second encoder, which is given the turned portrait, too; the first one then stays as it is. Needs an
    autoencoder to start with."""
    focus: float = 2.0
    """Exponent of the loss weights: above 1, lips and eyes count for more than their scenes say."""
    reference_channels: int = 32
    """Width of the block that builds frames from the turned portrait, too."""
    upscale: int = 2
    """Pictures have this many rows and columns for each that is encoded; what is finer comes from the portrait."""
    latent_noise: float = 0.15
    """Largest standard deviation of noise on a clip's latents, so that the decoder learns to forgive errors in them."""
    latent_power: float = 1e-3
    """Price of the latents' mean square: it keeps them near unit size, and a higher one makes them say less."""


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
    module: TinyVideoAutoencoder,
    clips: Tensor,
    references: Tensor,
    weight: Tensor,
    flow: Tensor,
    config: AutoencoderConfig,
) -> dict[str, Tensor]:
    """Reconstruction loss of clips from noisy latents, and a penalty on the latents' power.

    Args:
        clips: ``[b 4k+1 3 h w]`` in [0, 1].
        references: the portrait turned as in each frame, of the same shape.
        weight: of each pixel, ``[b 4k+1 1 h w]``.
        flow: from the references, as ``restoration_loss`` takes it.
    """
    latents = module.encode(clips, parallel=True, reference=references)
    level = config.latent_noise * torch.rand(len(clips), 1, 1, 1, 1, device=clips.device)
    noisy = latents + level * torch.randn_like(latents)
    terms = restoration_loss(module.restore(noisy, references), clips, weight**config.focus, flow)
    power = latents.float().square().mean()
    return terms | {"loss": terms["loss"] + config.latent_power * power, "latent_power": power}


def restoration_loss(restored: Restored, clips: Tensor, weight: Tensor, flow: Tensor) -> dict[str, Tensor]:
    """Absolute error of colours, of differences between neighbours at three scales, of change over time, and of flow.

    Differences weigh edges (eyelids, lips) as much as areas. The flow is judged apart from the frames: so it learns
    where the mask would leave it unseen, too. Where the true one is known it is compared with that, and not at all
    inside mouths and between lids, which the reference doesn't show: judged by its picture there, it drags lips and
    lids over them. Of clips without any, bent references are compared with the truth, at four scales, which lets the
    flow find its way from afar.

    Args:
        restored: of clips ``[b t 3 h w]``.
        clips: the truth.
        weight: of each pixel, ``[b t 1 h w]``.
        flow: the true one, at any number of rows and columns, ``[b t 2 ? ?]``, in pixels; NaN where it is unknown.
    """
    weight = weight / weight.mean()
    error = restored.frames - clips
    colour = (weight * error.abs()).mean()
    motion = (weight[:, 1:] * error.diff(dim=1).abs()).mean()
    edges = _edge_loss(error.flatten(0, 1), weight.flatten(0, 1))
    found = F.interpolate(restored.flow.flatten(0, 1), flow.shape[-2:], mode="area").view_as(flow)
    known = flow.isfinite()
    pixels = F.interpolate(weight.flatten(0, 1), flow.shape[-2:], mode="area").unflatten(0, flow.shape[:2])
    off = (pixels * torch.where(known, found - flow, 0).abs()).mean()
    unknown = ~known.flatten(1).any(1).view(-1, 1, 1, 1, 1)
    bent = _colour_loss((unknown * (restored.bent - clips)).flatten(0, 1), weight.flatten(0, 1))
    psnr = -10 * torch.log10(F.mse_loss(restored.frames.detach().clamp(0, 1), clips))
    return {"loss": colour + 2 * edges + motion + bent + FLOW_PRICE * off, "psnr": psnr, "bent": bent, "flow": off}


def _colour_loss(error: Tensor, weight: Tensor, scales: int = 4) -> Tensor:
    """Mean size of ``error [n 3 h w]``, over scales."""
    total = error.new_zeros(())
    for _ in range(scales):
        total = total + (weight * error.abs()).mean()
        error, weight = F.avg_pool2d(error, 2), F.avg_pool2d(weight, 2)
    return total / scales


def _edge_loss(error: Tensor, weight: Tensor, scales: int = 3) -> Tensor:
    """Mean size of the differences between neighbours of ``error [n 3 h w]``, over scales."""
    total = error.new_zeros(())
    for _ in range(scales):
        total = total + (weight[..., 1:] * error.diff(dim=-1).abs()).mean()
        total = total + (weight[..., 1:, :] * error.diff(dim=-2).abs()).mean()
        error, weight = F.avg_pool2d(error, 2), F.avg_pool2d(weight, 2)
    return total / scales


@torch.no_grad()
def normalise_latents(module: TinyVideoAutoencoder, latents: Tensor) -> None:
    """Sets the statistics by which the module's latents become such that these, ``[n c h w]``, have mean 0 and std 1.

    Latents of references, on which a transformer may depend already, come from the first encoder where there are two,
    and stay as they are: there is one pair of statistics for both, and its last convolution makes up for the change.
    """
    std, mean = torch.std_mean(latents.float(), dim=(0, 2, 3))
    if module.config.latents_mean is not None:
        old_mean, old_std = mean.new_tensor(module.config.latents_mean), std.new_tensor(module.config.latents_std)
        mean, std = old_mean + old_std * mean, old_std * std
        if module.difference_encoder is not None:
            last, gain = module.encoder[-1], std / old_std
            last.weight.mul_(gain.view(-1, 1, 1, 1))
            last.bias.sub_(old_mean).mul_(gain).add_(mean)
    mean, std = ([round(value, 5) for value in values.tolist()] for values in (mean, std))
    module.register_to_config(latents_mean=mean, latents_std=std)


def build_autoencoder(config: AutoencoderConfig, start: Path | None) -> TinyVideoAutoencoder:
    """A new autoencoder, or one that begins with the weights in the folder ``start``; what that lacks begins new.

    A second encoder begins as the first, blind to references.

    Raises:
        ValueError: there is to be a second encoder, and no ``start``.
    """
    begun = None if start is None else TinyVideoAutoencoder.from_pretrained(start)
    if config.differences and begun is None:
        raise ValueError("differences needs an autoencoder to start with: its encoder is that of references")
    module = TinyVideoAutoencoder(
        config.encoder_channels,
        config.decoder_channels,
        align="start",
        reference_channels=config.reference_channels,
        upscale=config.upscale,
        differences=config.differences,
        latents_mean=begun.config.latents_mean if config.differences else None,
        latents_std=begun.config.latents_std if config.differences else None,
    )
    if begun is None:
        initialise_near_identity(module)
        return module
    weights = begun.state_dict()
    if config.differences and begun.difference_encoder is None:
        weights |= {f"difference_{key}": value for key, value in begun.encoder.state_dict(prefix="encoder.").items()}
        first = weights["encoder.0.weight"]
        weights["difference_encoder.0.weight"] = torch.cat([first, torch.zeros_like(first)], dim=1)
    new = {name: value for name, value in module.state_dict().items() if name.startswith("blend.")}
    module.load_state_dict(new | weights)
    return module


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
    module = build_autoencoder(config, start)
    module.encoder.requires_grad_(not config.differences)
    module = module.to(device=device, memory_format=torch.channels_last)

    truths, shown = held_out.frames.float() / 255, held_out.reference.float() / 255

    def loss(batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
        clips, references, weight, flow = (part.to(device) for part in batch)
        with torch.autocast(device_type=torch.device(device).type, dtype=torch.bfloat16):
            return autoencoder_loss(module, clips, references, weight, flow, config)

    @torch.no_grad()
    def sample(averaged: nn.Module, step: int) -> dict[str, float]:
        beside = {"parallel": True, "reference": shown.to(device)}
        restored = averaged.decode(averaged.encode(truths.to(device), **beside), **beside).cpu()
        rows = [torch.cat([truth[::2], result[::2]]) for truth, result in zip(truths, restored, strict=True)]
        save_sheet(torch.cat(rows), folder / f"sample_{step:06d}.png", columns=rows[0].shape[0] // 2)
        return {"held_out_psnr": float(-10 * torch.log10(F.mse_loss(restored, truths)))}

    stage = Stage(module, build_optimizers(module, config.lr, None, 1e-4), loss, folder, loop, sample)
    stage.resume()
    source = DrawnClips(shards)
    batches = (source.clips(config.batch, config.frames, config.crop, generator) for _ in itertools.count())
    averaged = stage.run(batches)
    with torch.no_grad():
        few = [[part.to(device) for part in next(batches)[:2]] for _ in range(16)]
        latents = [averaged.encode(clips, parallel=True, reference=references) for clips, references in few]
    normalise_latents(averaged, torch.cat(latents).flatten(0, 1))
    averaged.save_pretrained(folder / "vae")
    return averaged
