"""Training the transformer of the embedded model, with its portrait encoder and image encoder, by flow matching."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from flashportrait.errors import UserError
from flashportrait.face.motion import BLENDSHAPES
from flashportrait.models.image_encoder import PortraitImageEncoder
from flashportrait.models.portrait_encoder import PortraitEncoder
from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.models.transformer import FlashPortraitTransformer3DModel, with_mask
from flashportrait.training.data import LatentScenes
from flashportrait.training.loop import LoopConfig, Stage, build_optimizers
from flashportrait.training.samples import save_sheet


@dataclass(frozen=True)
class FlowConfig:
    """How the transformer is built and trained."""

    heads: int = 4
    """Attention heads of 64 channels; the width is 64 times as many."""
    layers: int = 8
    ffn_ratio: int = 4
    patch_size: int = 2
    """Rows and columns of latents that make one token."""
    image_pool: int = 2
    """The image encoder looks at the portrait this many times smaller."""
    token_dim: int = 256
    """Width of the expression tokens."""
    mouth_queries: int = 3
    emotion_queries: int = 1
    lr: float = 5e-4
    matrix_lr: float | None = 1e-3
    """Learning rate of Muon on the blocks' matrices; None: AdamW on everything."""
    weight_decay: float = 0.01
    expression_dropout: float = 0.1
    """Share of samples trained without expression, for guidance."""
    guidance: float = 1.0
    """Scale of expression guidance that is learned into the network, which then acts so in a single pass; 1: none.

    A small network is unsure of small features and follows expression by less than asked; guidance gives it back, at
    a price in likeness to the truth.
    """
    shift: float = 3.0
    """Time shift of the noise levels, as in sampling."""
    temperature: float = 0.0
    """Standard deviation of the noise that sampling starts from, wherever training samples."""
    starts: float = 0.65
    """Share of samples trained where sampling starts: at noise level 1, from noise of that temperature."""
    refinements: float = 0.3
    """Share of samples trained further along: on the network's own first answer in place of clean latents."""
    motion_noise: float = 0.01
    """Noise on motion rows: what an extractor reads is never exact."""
    focus: float = 3.0
    """Exponent of the loss weights: above 1, lips and eyes count for more than their scenes say."""
    latent_frames: int = 3
    """Latent frames to train on, anywhere in a scene. Short clips teach most of it at less cost."""
    compile: bool = True
    """Compile the blocks: on a CPU this nearly doubles the speed."""


PARTS = ("transformer", "portrait_encoder", "image_encoder")
"""The parts that learn together, by the names of their folders in a model."""


class PortraitModel(nn.Module):
    """The parts that learn together."""

    def __init__(self, config: FlowConfig):
        super().__init__()
        width = 64 * config.heads
        self.transformer = FlashPortraitTransformer3DModel(
            patch_size=(1, config.patch_size, config.patch_size),
            num_attention_heads=config.heads,
            attention_head_dim=64,
            text_dim=64,
            ffn_dim=config.ffn_ratio * width,
            num_layers=config.layers,
            image_dim=width,
            added_kv_proj_dim=width,
            text_len=1,
            expression_dim=config.token_dim,
        )
        head_pose, eyes, emotion, mouth = BLENDSHAPES.groups.values()
        self.portrait_encoder = PortraitEncoder(
            head_pose_dim=head_pose,
            eyes_dim=eyes,
            emotion_dim=emotion,
            mouth_dim=mouth,
            token_dim=config.token_dim,
            resampler_dim=128,
            resampler_depth=2,
            resampler_heads=2,
            mouth_queries=config.mouth_queries,
            emotion_queries=config.emotion_queries,
            frame_phases=True,
            group_bias=True,
        )
        self.image_encoder = PortraitImageEncoder(width, pool=config.image_pool)

    def take_weights(self, folder: Path) -> None:
        """Takes over the weights of the parts in ``folder``, which must be of this configuration.

        Raises:
            UserError: a part is missing.
        """
        for name in PARTS:
            if not (folder / name).is_dir():
                raise UserError(f"{folder / name} is missing; train the transformer first, or give a model's folder")
            part = getattr(self, name)
            part.load_state_dict(type(part).from_pretrained(folder / name).state_dict())

    def forward(
        self,
        latents: Tensor,
        sigma: Tensor,
        reference: Tensor,
        strength: Tensor,
        portrait: Tensor,
        motion: Tensor,
        expression_scale: float | Tensor = 1.0,
    ) -> Tensor:
        """Velocity ``[b c f h w]``.

        Args:
            latents: noisy, ``[b c f h w]``.
            sigma: noise level, ``[b]`` in [0, 1].
            reference: latents of the references, ``[b c f h w]``.
            strength: of the expression in them, ``[b]`` in [0, 1].
            portrait: ``[b 3 s s]`` in [0, 1].
            motion: ``[b 4(f-1)+1 57]``.
            expression_scale: 1, or 0 for a sample without expression.
        """
        tokens = self.portrait_encoder(motion)
        return self.transformer(
            torch.cat([latents, with_mask(reference, strength)], dim=1),
            1000 * sigma,
            latents.new_zeros(len(latents), 1, self.transformer.config.text_dim),
            self.image_encoder(portrait),
            self.portrait_encoder.tokens_per_latent_frame(tokens, motion.shape[1]),
            expression_scale,
        )


def flow_loss(model: PortraitModel, scenes: LatentScenes, config: FlowConfig) -> dict[str, Tensor]:
    """Weighted squared error of the velocity, at noise levels shifted as in sampling.

    A batch has three parts. The last is flow matching as usual: clean latents with noise, and the velocity
    ``noise - latents``. The other two are what sampling at a temperature below 1 meets, and flow matching never shows:

    - starts: noise of that temperature and nothing else, at noise level 1;
    - refinements: ``(1 - sigma) answer + sigma noise``, where the answer is the network's own from such a start, to be
      led to the clean latents.

    All have the velocity ``(noisy - latents) / sigma``, whose error counts ``sigma`` times for refinements, as an error
    of the latents: near sigma 0 the velocity asked for has no bound.

    With guidance s, the target is ``velocity + (1 - 1/s) (v - u)``, where v is the velocity with expression and u
    without, both taken as constants (model guidance, arXiv:2502.12154). Where v is its own target's mean, it is
    ``u + s (E - u)`` for the mean E of the velocity asked for: what guidance by s would have made of E.
    """
    surplus = max(0, scenes.latents.shape[1] - config.latent_frames)
    scenes = scenes.slice(int(torch.randint(0, surplus + 1, ())), config.latent_frames)
    clean, reference = _channels_first(scenes.latents), _channels_first(scenes.reference)
    weight = _channels_first(scenes.weight) ** config.focus
    count = len(clean)
    given = _conditions(scenes, reference, config)
    keep = (torch.rand(count, device=clean.device) >= config.expression_dropout).float()
    sigma, noise = _noise_levels(clean, config), torch.randn_like(clean)
    base, trust = clean.clone(), torch.ones_like(sigma)

    starts, own = round(config.starts * count), round((config.starts + config.refinements) * count)
    sigma[:starts] = 1
    noise[:own] *= config.temperature
    if own > starts:
        part = slice(starts, own)
        with torch.no_grad():
            base[part] = _first_answer(model, noise[part], [x[part] for x in given], keep[part])
        trust[part] = sigma[part]
    level = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - level) * base + level * noise
    # (noisy - clean) / sigma, in a form that keeps its accuracy where base is clean.
    target = noise - clean + (base - clean) * (1 - level) / level.clamp_min(1e-3)

    velocity = model(noisy, sigma, *given, keep).float()
    if config.guidance != 1:
        with torch.no_grad():
            without = model(noisy, sigma, *given, torch.zeros_like(keep)).float()
            target = target + (1 - 1 / config.guidance) * (velocity - without)
    error = (trust.view_as(level) * (velocity - target)).square()
    return {"loss": (weight * error).mean() / weight.mean(), "plain": error.detach().mean()}


@torch.no_grad()
def own_answers(model: PortraitModel, scenes: LatentScenes, config: FlowConfig) -> Tensor:
    """What the network takes the clean latents for, ``[b f c h w]``, where sampling starts."""
    reference = _channels_first(scenes.reference)
    given, keep = _conditions(scenes, reference, config), reference.new_ones(len(reference))
    noise = config.temperature * torch.randn_like(reference)
    return rearrange(_first_answer(model, noise, given, keep), "b c f h w -> b f c h w")


def _first_answer(model: PortraitModel, noise: Tensor, given: Sequence[Tensor], keep: Tensor) -> Tensor:
    """The clean latents as the network sees them from nothing but noise, ``[b c f h w]``."""
    return noise - model(noise, noise.new_ones(len(noise)), *given, keep).float()


def _channels_first(part: Tensor) -> Tensor:
    return rearrange(part.float(), "b f c h w -> b c f h w")


def _conditions(scenes: LatentScenes, reference: Tensor, config: FlowConfig) -> tuple[Tensor, ...]:
    """References, their strength, portrait and motion, as ``PortraitModel`` takes them."""
    motion = scenes.motion + config.motion_noise * torch.randn_like(scenes.motion)
    return reference, scenes.strength, scenes.portrait.float() / 255, motion


def _noise_levels(like: Tensor, config: FlowConfig) -> Tensor:
    """``[b]`` in [0, 1), shifted as in sampling."""
    uniform = torch.rand(len(like), device=like.device)
    return config.shift * uniform / (1 + (config.shift - 1) * uniform)


@torch.no_grad()
def sample_latents(
    model: PortraitModel, scenes: LatentScenes, steps: int, shift: float, temperature: float, seed: int = 0
) -> Tensor:
    """Euler sampling of one window per scene, ``[b f c h w]``; for watching a run, not for use."""
    latents, reference = _channels_first(scenes.latents), _channels_first(scenes.reference)
    generator = torch.Generator().manual_seed(seed)
    x = temperature * torch.randn(latents.shape, generator=generator).to(latents.device)
    grid = torch.linspace(1, 0, steps + 1)
    sigmas = shift * grid / (1 + (shift - 1) * grid)
    for sigma, following in pairwise(sigmas):
        level = torch.full((len(x),), float(sigma), device=x.device)
        velocity = model(x, level, reference, scenes.strength, scenes.portrait.float() / 255, scenes.motion)
        x = x + float(following - sigma) * velocity.float()
    return rearrange(x, "b c f h w -> b f c h w")


@torch.no_grad()
def watch(
    model: PortraitModel,
    vae: TinyVideoAutoencoder,
    held_out: LatentScenes,
    references: Tensor,
    path: Path,
    config: FlowConfig,
) -> dict[str, float]:
    """A sheet (portrait, truth, result, frame by frame) and weighted PSNR beside that of copying the portrait.

    ``references``: the portraits turned as in each frame, ``[n t 3 s s]``.
    """
    beside = {"parallel": True, "reference": references.to(held_out.latents.device).float() / 255}
    truth = vae.decode(held_out.latents.float(), **beside)
    result = vae.decode(sample_latents(model, held_out, 12, config.shift, config.temperature), **beside)
    portrait = held_out.portrait.float() / 255
    weight = held_out.weight.float().repeat_interleave(4, 1)[:, 3:]
    weight = F.interpolate(weight.flatten(0, 1), truth.shape[-2:]).unflatten(0, truth.shape[:2])
    weight = (weight > 2).float()

    def psnr(pictures: Tensor) -> float:
        error = ((pictures - truth).square() * weight).sum() / (3 * weight.sum())
        return float(-10 * torch.log10(error))

    shown = slice(0, None, 4)
    rows = [torch.cat([p[None], t[shown], p[None], r[shown]]) for p, t, r in zip(portrait, truth, result, strict=True)]
    save_sheet(torch.cat(rows[:12]).cpu(), path, columns=rows[0].shape[0])
    return {"face_psnr": psnr(result), "copy_psnr": psnr(portrait[:, None].expand_as(truth))}


def train_flow(
    batches: Iterator[LatentScenes],
    held_out: LatentScenes,
    references: Tensor,
    vae: TinyVideoAutoencoder,
    folder: Path,
    config: FlowConfig,
    loop: LoopConfig,
    device: str = "cpu",
    seed: int = 0,
    start: Path | None = None,
) -> PortraitModel:
    """Trains on batches of latent scenes; exports the averaged weights to ``folder``, a subfolder a part.

    ``held_out`` is what the run is watched by, with its turned portraits, ``references`` uint8 ``[n t 3 s s]``.
    ``start`` is a model folder whose weights a new run begins with; a run that is resumed has its own.
    """
    torch.manual_seed(seed)
    model = PortraitModel(config)
    if start is not None:
        model.take_weights(start)
    model = model.to(device)
    kind = torch.device(device).type

    def loss(batch: LatentScenes) -> dict[str, Tensor]:
        with torch.autocast(device_type=kind, dtype=torch.bfloat16):
            return flow_loss(model, batch.to(device), config)

    def sample(averaged: nn.Module, step: int) -> dict[str, float]:
        with torch.autocast(device_type=kind, dtype=torch.bfloat16):
            path = folder / f"sample_{step:06d}.png"
            return watch(averaged, vae, held_out.to(device), references, path, config)

    optimizers = build_optimizers(model, config.lr, config.matrix_lr, config.weight_decay)
    stage = Stage(model, optimizers, loss, folder, loop, sample)
    stage.resume()
    if config.compile:
        model.transformer.compile_repeated_blocks()
    # On short sequences the plain products are faster than the fused attention, above all in the backward pass.
    with sdpa_kernel(SDPBackend.MATH):
        averaged = stage.run(batches)
    for name in PARTS:
        getattr(averaged, name).save_pretrained(folder / name)
    return averaged
