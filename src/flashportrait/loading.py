"""Pipelines by name: the embedded model, the released 14B, or a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging

from flashportrait.models.transformer import FlashPortraitTransformer3DModel
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.weights.folder import model_folder
from flashportrait.weights.loading import ModelFiles, Released, load_components, load_fast_lora, released_model
from flashportrait.weights.lora import Lora, distilled_sigmas, load_lora
from flashportrait.weights.machine import default_device
from flashportrait.weights.placing import apply_plan
from flashportrait.weights.plan import Plan
from flashportrait.weights.speeds import SPEEDS_FILE, read_speeds

WAN_NEGATIVE_PROMPT = (
    "色调艳丽，过曝，静态，细节模糊不清，字幕，风格，作品，画作，画面，静止，整体发灰，最差质量，低质量，JPEG压缩残留，丑陋的，残缺的，"
    "多余的手指，画得不好的手部，画得不好的脸部，畸形的，毁容的，形态畸形的肢体，手指融合，静止不动的画面，杂乱的背景，三条腿，"
    "背景人很多，倒着走"
)
"""What Wan2.1 was trained to be led away from by guidance, word for word."""

OFFICIAL: dict[str, Any] = {
    "motion_layout": "pdfgc",
    "framing": {"mode": "whole", "resolution": 720, "multiple": 16},
    "defaults": {"num_inference_steps": 30, "text_scale": 1.0, "emotion_scale": 4.0, "window": 51, "overlap": 30},
    "negative_prompt": WAN_NEGATIVE_PROMPT,
}
"""How the released 14B is used, as its authors do."""

FAST: dict[str, Any] = {"sigmas": distilled_sigmas(), "num_inference_steps": len(distilled_sigmas())}
"""Sampling of the released 14B with its 4-step LoRA."""


def load_pipeline(
    name_or_path: str | Path = "nano",
    device: str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    plan: Plan | None = None,
    loras: Sequence[tuple[str | Path, float]] = (),
    network_only: bool = False,
) -> FlashPortraitPipeline:
    """A pipeline ready to run.

    Args:
        name_or_path: ``nano`` (the embedded model), ``14b`` (the released one, downloaded before), ``14b-fast`` (the
            same with its 4-step LoRA and tiny autoencoder), or a folder: of a model written by ``save_pretrained``, or
            with files in the released layout, of whatever size.
        device: where to run; the accelerator if there is one.
        dtype: of the networks; bfloat16 for the 14B and ``default_dtype`` for others unless given.
        plan: how the 14B is fitted to the machine (``weights.plan.make_plan``); without one all of it goes on the
            device.
        loras: files to merge into the transformer, each with its strength.
        network_only: leave out what encodes and decodes: for a process that only shares the network's passes.

    Raises:
        UserError: there is no such model, it is damaged, or a LoRA doesn't fit it.
    """
    device = default_device() if device is None else torch.device(device)
    released = released_model(name_or_path)
    if released is not None:
        return _load_released(released, device, dtype or torch.bfloat16, plan, loras, network_only)
    # Loaded in its type rather than cast to it: norms and tables that must stay float32 then do.
    with _without_bars():
        pipeline = FlashPortraitPipeline.from_pretrained(
            model_folder(name_or_path), dtype=dtype or default_dtype(device)
        )
    if network_only:
        pipeline.register_modules(**dict.fromkeys(("vae", "image_encoder", "text_encoder")))
    pipeline.to(device)
    _read_loras(loras, pipeline.transformer).merge(pipeline.transformer)
    return pipeline


@contextmanager
def _without_bars() -> Iterator[None]:
    """No bar of diffusers' for what takes a third of a second."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _load_released(
    model: Released,
    device: torch.device,
    dtype: torch.dtype,
    plan: Plan | None,
    loras: Sequence[tuple[str | Path, float]],
    network_only: bool,
) -> FlashPortraitPipeline:
    transformer_file = ModelFiles(model.folder).find("transformer_14b")
    components = load_components(
        model.folder, torch_dtype=dtype, device=device if plan is None else None, fast=model.fast
    )
    if network_only:
        components |= dict.fromkeys(("vae", "image_encoder", "text_encoder", "tokenizer"))
    transformer = components["transformer"]
    lora = _read_loras(loras, transformer, *([load_fast_lora(transformer, model.folder)] if model.fast else []))
    own = FAST if model.fast else {"speeds": read_speeds(transformer_file.with_name(SPEEDS_FILE))}
    use = {**OFFICIAL, "defaults": OFFICIAL["defaults"] | own}
    pipeline = FlashPortraitPipeline(**components, **use)
    pipeline.register_to_config(_name_or_path="14b-fast" if model.fast else str(model.folder or "14b"))
    pipeline.weights_folder = model.folder
    if plan is None:
        lora.merge(transformer)
    else:
        apply_plan(pipeline, plan, device, lora)
    return pipeline


def _read_loras(
    loras: Sequence[tuple[str | Path, float]], transformer: FlashPortraitTransformer3DModel, *others: Lora
) -> Lora:
    """The user's LoRAs and others, which have strength 1, as one."""
    own = [(load_lora(source, transformer), strength) for source, strength in loras]
    return Lora.joined([*((other, 1.0) for other in others), *own])


def default_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 on CPUs with instructions for it, where sampling and decoding take about a third less; else float32."""
    # Older versions of torch can't tell.
    capabilities = getattr(torch.cpu, "get_capabilities", dict)() if device.type == "cpu" else {}
    return torch.bfloat16 if any(map(capabilities.get, ("amx_bf16", "avx512_bf16"))) else torch.float32
