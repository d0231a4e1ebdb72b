"""Fitting a model in the released layout to a machine: what is kept where, in which type, and what it will cost.

Arithmetic on sizes; ``machine`` measures. What a plan says is done by ``placing``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from flashportrait.errors import UserError
from flashportrait.weights.machine import Machine

Storage = Literal["bf16", "fp8"]
Placement = Literal["resident", "shard", "offload"]

BF16_BYTES = 2
WIDTH, FFN_WIDTH, LAYERS, EXPRESSION_WIDTH = 5120, 13824, 40, 2048
HEAD_WIDTH = 128
TOKEN_PIXELS = 16
"""Side of the picture area behind one token."""
PARAMETERS = 17_233_739_584
TEXT_ENCODER_BYTES = 11_361_845_248
TEXT_ENCODER_LAYER_BYTES = 256_384 * 4096 * BF16_BYTES
"""Its largest layer, the vocabulary."""
IMAGE_ENCODER_BYTES, VAE_BYTES, PORTRAIT_ENCODER_BYTES = 1_264_000_000, 253_785_062, 328_927_232
TEXT_ENCODER_SHARD_BYTES = 5_000_000_000
"""The largest file of it, in diffusers' layout."""

ACTIVATION_TENSORS = 12.3
"""Hidden tensors of bfloat16 alive at once at the worst moment of a block, when queries and keys are rotated."""
EXCHANGED_TENSORS = 2
"""Those more where a pass is split among processes, of the tokens of one: what is on its way between them."""
VAE_BYTES_PER_PIXEL = 10_200
"""Of the decoder's features for one latent frame, by pixel of the picture."""
VAE_FLOPS_PER_PIXEL = 8.7e6
"""Of decoding, by pixel and frame."""
RESERVE_BYTES = 600_000_000
"""For the driver's context, the allocator's gaps and the attention kernel's workspace."""
USABLE_VRAM = 0.95
FP8_FIRST, FP8_LAST = 2, 3
"""Blocks at the start and at the end that stay in bfloat16 where the others are kept in fp8: what is lost there is seen
most."""
GATHERED_BLOCKS = 3
"""Whole blocks that a process has at the worst moment where weights are shared out: one that computes, and the buffers
of it and of the next."""
LOADING_SPARE_BYTES = 2_000_000_000
"""Of host memory while loading, beside the largest shard of the text encoder."""
WORTHWHILE = 1.1
"""Full precision is kept if it takes at most this many times as long as the fastest way that fits."""
ATTENTION_GAIN = 1.76
"""Times as many operations a second that attention does as the rest of a pass: fitted to passes over 13, 21, 31 and 51
latent frames on one H100, which it gives within 4% (docs/experiments/2026-11-27-h100.md)."""
FLOAT8_GAIN = 1.32
"""Times as fast that all but attention is where the inner blocks' layers are multiplied in fp8; on one H100."""
COMPILED_GAIN = 1.25
"""Times as fast that a pass is with compiled blocks; on one H100."""
COMPILING_SECONDS = 25.0
"""Of compiling the block for both kinds of guidance branches; on the machine of one H100."""
WINDOWS = (51, 41, 31, 21, 13)
"""Latent frames of a window, from the released model's down."""
OVERLAP_SHARE = 30 / 51


@dataclass(frozen=True)
class Sizes:
    """Of a model in the released layout; the released one's unless given."""

    width: int = WIDTH
    ffn_width: int = FFN_WIDTH
    layers: int = LAYERS
    expression_width: int = EXPRESSION_WIDTH
    parameters: int = PARAMETERS
    """Of the transformer."""
    text_encoder_bytes: int = TEXT_ENCODER_BYTES
    text_encoder_layer_bytes: int = TEXT_ENCODER_LAYER_BYTES
    """Its largest layer."""
    image_encoder_bytes: int = IMAGE_ENCODER_BYTES
    vae_bytes: int = VAE_BYTES
    portrait_encoder_bytes: int = PORTRAIT_ENCODER_BYTES

    @property
    def block_parameters(self) -> int:
        """Matrices of one block: what is cast to fp8 or streamed."""
        return 10 * self.width**2 + 2 * self.width * self.ffn_width + 2 * self.width * self.expression_width

    def blocks_bytes(self, storage: Storage) -> int:
        """Of all blocks together."""
        full = self.layers if storage == "bf16" else min(self.layers, FP8_FIRST + FP8_LAST)
        return self.block_parameters * (BF16_BYTES * full + self.layers - full)

    @property
    def other_parameters(self) -> int:
        """Embeddings, head, norms, biases and modulations: never cast to fp8, never streamed."""
        return self.parameters - self.layers * self.block_parameters

    @property
    def heads(self) -> int:
        """Of self-attention."""
        return self.width // HEAD_WIDTH

    @property
    def loading_bytes(self) -> int:
        """Of host memory while loading."""
        return min(TEXT_ENCODER_SHARD_BYTES, self.text_encoder_bytes) + LOADING_SPARE_BYTES


RELEASED = Sizes()


@dataclass(frozen=True)
class Work:
    """What is to be made."""

    height: int
    width: int
    """Pixels."""
    latent_frames: int
    steps: int = 30
    """Full passes in each window; predicted steps cost nothing."""
    branches: int = 2
    """Guidance branches."""
    lora: bool = False
    """Whether a LoRA is merged into the transformer."""
    sizes: Sizes = RELEASED
    """Of the model."""


@dataclass(frozen=True)
class Plan:
    """How the pipeline is set up, and what that is predicted to cost."""

    storage: Storage
    """Type in which the transformer's blocks are kept."""
    placement: Placement
    """``resident``: on the accelerator. ``shard``: a part of each block on each process's. ``offload``: in host memory,
    two blocks at a time on the accelerator."""
    text_encoder: Placement
    """``resident``, or ``offload``: passed through the accelerator layer by layer and gone from it after the prompt."""
    window: int
    """Latent frames denoised together."""
    overlap: int
    """Latent frames that neighbouring windows share."""
    peak_vram: int
    """Predicted bytes on the accelerator; on each, where there are several processes."""
    peak_ram: int
    """Predicted bytes of host memory, of each process."""
    seconds: float
    """Predicted time of sampling and decoding."""
    float8: bool = False
    """Whether what is kept in fp8 is multiplied so, rather than widened first."""
    compiled: bool = False
    """Whether blocks are compiled first."""
    batched: bool = False
    """Whether guidance branches are one batch: where streaming blocks takes longer than computing them."""
    processes: int = 1
    """That share the passes."""

    def summary(self) -> str:
        """One line for the user, before anything starts."""
        where = {
            "resident": "on the device",
            "shard": f"shared out among {self.processes} processes",
            "offload": "streamed from host memory",
        }
        how = {"fp8": "in fp8 (multiplied so)" if self.float8 else "in fp8 (widened to compute)", "bf16": "in bf16"}
        compiled = ", compiled" if self.compiled else ""
        return (
            f"transformer {how[self.storage]} {where[self.placement]}{compiled}, text encoder "
            f"{where[self.text_encoder]}, windows of {self.window} latent frames, {self.overlap} shared: about "
            f"{self.peak_vram / 1e9:.1f} GB of device memory, {self.peak_ram / 1e9:.1f} GB of host memory"
            f"{' a process' if self.processes > 1 else ''}, {format_seconds(self.seconds)}"
        )


def format_seconds(seconds: float) -> str:
    """45 s, 12 min, 3.4 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def make_plan(
    machine: Machine,
    work: Work,
    *,
    storage: Storage | None = None,
    placement: Placement | Sequence[Placement] | None = None,
    text_encoder: Placement | None = None,
    window: int | None = None,
    overlap: int | None = None,
    compile: bool | None = None,
) -> Plan:
    """The best way that fits: the longest windows, then full precision, then speed.

    Products of fp8 are faster, but round; they are no reason to choose fp8, only gone with where memory asks for it.

    Args:
        machine: with its free memory.
        work: what is to be made.
        storage, placement, text_encoder, window: choose these rather than have them chosen; of placements there may be
            several to choose from. A window of more latent frames than the clip has costs what the clip costs.
        overlap: of windows; the released setting's share of the window unless given.
        compile: whether blocks are compiled; where there is a compiler, the run is long enough and blocks are whole on
            the device, unless given.

    Raises:
        UserError: nothing (or nothing of what was chosen) fits, with what would be needed.
    """
    placements = (placement,) if isinstance(placement, str) else placement
    kinds = [
        kind
        for kind in _kinds(machine, work.sizes)
        if storage in (None, kind[0])
        and (placements is None or kind[1] in placements)
        and text_encoder in (None, kind[2])
    ]
    if not kinds:
        raise _impossible(machine, work.sizes, placements)
    tried: list[Plan] = []
    lengths = [length for length in (WINDOWS if window is None else (window,)) if overlap is None or length > overlap]
    if not lengths:
        raise UserError(
            f"overlap is {overlap} latent frames with windows of {window or WINDOWS[0]} or fewer: choose a smaller one"
        )
    for length in lengths:
        plain = replace(machine, float8=False)
        plans = [_predict(plain, work, length, *kind, overlap=overlap, compile=compile) for kind in kinds]
        fitting = [plan for plan in plans if fits(plan, machine)]
        if fitting:
            fastest = min(plan.seconds for plan in fitting)
            best = next(plan for plan in fitting if plan.seconds <= WORTHWHILE * fastest)
            kind = best.storage, best.placement, best.text_encoder
            return _predict(machine, work, length, *kind, overlap=overlap, compile=compile)
        tried += plans
    smallest = min(tried, key=lambda plan: (plan.peak_vram, plan.peak_ram))
    raise UserError(
        f"the 14B doesn't fit: {work.width}x{work.height} needs {smallest.peak_vram / USABLE_VRAM / 1e9:.1f} GB of "
        f"device memory and {smallest.peak_ram / 1e9:.1f} GB of host memory at the least, {machine.name} has "
        f"{machine.free_vram / 1e9:.1f} and {machine.free_ram / 1e9:.1f} free; make the picture smaller, free memory, "
        "or use the embedded model (nano)"
    )


def _kinds(machine: Machine, sizes: Sizes) -> Iterator[tuple[Storage, Placement, Placement]]:
    """Storage, placement and the text encoder's placement, the most faithful and simplest first."""
    text_encoders: tuple[Placement, ...] = ("resident",) if machine.unified else ("resident", "offload")
    sharing = machine.processes > 1 and sizes.heads % machine.processes == 0
    for storage in ("bf16", "fp8"):
        for text_encoder in text_encoders:
            yield storage, "resident", text_encoder
        if sharing and storage == "bf16":
            for text_encoder in text_encoders:
                yield storage, "shard", text_encoder
        if not machine.unified:
            yield storage, "offload", "offload"


def _impossible(machine: Machine, sizes: Sizes, placements: Sequence[Placement] | None) -> UserError:
    """What to say of a choice that no machine like this has."""
    if placements is not None and "shard" in placements:
        return UserError(
            f"weights can be shared out in bf16 among processes whose number divides the {sizes.heads} heads of "
            f"attention, and there are {machine.processes}: choose another number, or another placement"
        )
    return UserError(
        "CPU and GPU share one memory on this machine, so nothing can be offloaded; leave the offloading out"
    )


def fits(plan: Plan, machine: Machine) -> bool:
    """Whether the predicted peaks leave some of both memories."""
    return plan.peak_vram <= USABLE_VRAM * machine.free_vram and plan.peak_ram <= machine.free_ram


def _predict(
    machine: Machine,
    work: Work,
    window: int,
    storage: Storage,
    placement: Placement,
    text_encoder: Placement,
    *,
    overlap: int | None,
    compile: bool | None,
) -> Plan:
    """Peaks and time of one way of working."""
    sizes = work.sizes
    overlap = min(round(window * OVERLAP_SHARE), window - 1) if overlap is None else overlap
    windows = 1 + max(0, math.ceil((work.latent_frames - window) / (window - overlap)))
    tokens = window_tokens(work, min(window, work.latent_frames))
    weights, processes = sizes.blocks_bytes(storage), machine.processes
    resident = _kept_bytes(sizes, storage, placement, text_encoder, processes)
    working = max(
        split_activation_bytes(tokens, processes, sizes) if placement == "shard" else activation_bytes(tokens, sizes),
        VAE_BYTES_PER_PIXEL * work.height * work.width,
        sizes.text_encoder_layer_bytes if text_encoder == "offload" else 0,
    )
    waiting = weights if placement == "offload" else 0
    if work.lora and (storage, placement) == ("bf16", "offload"):
        waiting *= 2  # merged weights are no longer the file's, and are copied once more to be streamed
    steps, float8 = work.steps * windows, storage == "fp8" and machine.float8
    compute = work.branches * pass_cost(tokens, sizes, float8=float8) / machine.flops / processes
    if compile is None:
        gained = steps * compute * (1 - 1 / COMPILED_GAIN)
        compile = machine.compiler and placement == "resident" and gained > COMPILING_SECONDS
    if compile:
        compute /= COMPILED_GAIN
    transfer = _moved_bytes(weights, placement, processes) / machine.bandwidth
    together = resident + max(working, activation_bytes(work.branches * tokens, sizes)) + RESERVE_BYTES
    batched = processes == 1 < work.branches and transfer > compute / work.branches
    batched = batched and together <= USABLE_VRAM * machine.free_vram
    # Each process moves weights for its own passes; branches are computed at once where there are processes for them.
    at_once = work.branches if batched else 1 if placement == "shard" else min(processes, work.branches)
    step_seconds = max(compute, transfer * work.branches / at_once)
    frames = 4 * (work.latent_frames - 1) + 1
    decoding = VAE_FLOPS_PER_PIXEL * work.height * work.width * frames / machine.flops
    return Plan(
        storage,
        placement,
        text_encoder,
        window,
        overlap,
        peak_vram=together if batched else resident + working + RESERVE_BYTES,
        peak_ram=sizes.loading_bytes + waiting,
        seconds=steps * step_seconds + (COMPILING_SECONDS if compile else 0.0) + decoding,
        float8=float8,
        compiled=compile,
        batched=batched,
        processes=processes,
    )


def _kept_bytes(sizes: Sizes, storage: Storage, placement: Placement, text_encoder: Placement, processes: int) -> int:
    """Of weights on the accelerator while it computes."""
    weights, block = sizes.blocks_bytes(storage), BF16_BYTES * sizes.block_parameters
    blocks = {
        "resident": weights,
        "shard": math.ceil(weights / processes) + GATHERED_BLOCKS * block,
        "offload": 2 * block,
    }
    kept = blocks[placement] + sizes.other_parameters * BF16_BYTES + sizes.vae_bytes + sizes.portrait_encoder_bytes
    if storage == "fp8":
        kept += sizes.width * sizes.ffn_width * BF16_BYTES  # a layer is widened while it is used
    kept += sizes.image_encoder_bytes if "resident" in (placement, text_encoder) else 0
    return kept + (sizes.text_encoder_bytes if text_encoder == "resident" else 0)


def _moved_bytes(weights: int, placement: Placement, processes: int) -> float:
    """Of weights that come to an accelerator for each pass that it takes part in."""
    return weights * {"resident": 0.0, "shard": 1 - 1 / processes, "offload": 1.0}[placement]


def window_tokens(work: Work, latent_frames: int) -> int:
    """Tokens of one window: one for each 16x16 pixels of each latent frame."""
    return latent_frames * math.ceil(work.height / TOKEN_PIXELS) * math.ceil(work.width / TOKEN_PIXELS)


def activation_bytes(tokens: int, sizes: Sizes = RELEASED) -> int:
    """Alive at the worst moment of a block."""
    return round(ACTIVATION_TENSORS * tokens * sizes.width * BF16_BYTES)


def split_activation_bytes(tokens: int, processes: int, sizes: Sizes = RELEASED) -> int:
    """The same in each of several processes that split a pass: of its own tokens, and all of them as they came."""
    own = (ACTIVATION_TENSORS + EXCHANGED_TENSORS) * math.ceil(tokens / processes)
    return round((own + tokens) * sizes.width * BF16_BYTES)


def forward_flops(tokens: int, sizes: Sizes = RELEASED) -> float:
    """Of one pass of the transformer."""
    return linear_flops(tokens, sizes) + attention_flops(tokens, sizes)


def pass_cost(tokens: int, sizes: Sizes = RELEASED, *, float8: bool = False) -> float:
    """Of one pass, in operations outside attention that take as long."""
    linear = linear_flops(tokens, sizes) / (FLOAT8_GAIN if float8 else 1.0)
    return linear + attention_flops(tokens, sizes) / ATTENTION_GAIN


def linear_flops(tokens: int, sizes: Sizes = RELEASED) -> float:
    """Of a pass, without attention: a multiplication and an addition for each weight and token.

    The weights: q, k, v and output of self-attention, q and output of cross-attention, the feed-forward layers.
    """
    return sizes.layers * 2.0 * tokens * (6 * sizes.width**2 + 2 * sizes.width * sizes.ffn_width)


def attention_flops(tokens: int, sizes: Sizes = RELEASED) -> float:
    """Of a pass's self-attention: all pairs of tokens twice."""
    return sizes.layers * 4.0 * tokens**2 * sizes.width
