"""Doing what a plan says to a finished pipeline, from outside: fp8, casting, offloading, sharing out, compilation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from flashportrait.weights.float8 import multiply_in_float8
from flashportrait.weights.kernels import compile_blocks
from flashportrait.weights.plan import FP8_FIRST, FP8_LAST, Placement, Plan
from flashportrait.weights.shards import shard

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

    from flashportrait.weights.lora import Lora


def apply_plan(pipeline: DiffusionPipeline, plan: Plan, device: torch.device | str, lora: Lora | None = None) -> None:
    """Set up a loaded pipeline as planned, in place.

    The window goes with the call: ``pipeline(..., window=plan.window, overlap=plan.overlap)``.

    Args:
        pipeline: its parts best still in the mapped files.
        plan: from ``make_plan``.
        device: where to compute.
        lora: merged where it costs the least memory: on the device, or block by block before a block is cast.

    Raises:
        UserError: blocks are to be compiled, and there is no compiler; or to be shared out, which this torch can't.
    """
    device = torch.device(device)
    if plan.placement == "shard":
        shard(pipeline.transformer, device, lora)
    else:
        _place_transformer(pipeline.transformer, plan, device, lora)
    _place_encoder(pipeline.image_encoder, "resident" if plan.placement == "resident" else plan.text_encoder, device)
    _place_encoder(pipeline.text_encoder, plan.text_encoder, device)
    for part in (pipeline.portrait_encoder, pipeline.vae):
        if part is not None:
            part.to(device)
    if plan.compiled:
        compile_blocks(pipeline.transformer, splittable=plan.processes > 1)


def _place_transformer(transformer: Any, plan: Plan, device: torch.device, lora: Lora | None) -> None:
    resident = plan.placement == "resident"
    for index, block in enumerate(transformer.blocks):
        if resident:
            block.to(device)
        if lora is not None:
            lora.part(f"blocks.{index}.").merge(transformer)
        if plan.storage == "fp8" and FP8_FIRST <= index < len(transformer.blocks) - FP8_LAST:
            if plan.float8:
                multiply_in_float8(block)
            else:
                _keep_in_fp8(block, transformer)
    if resident:
        transformer.to(device)
    if lora is not None:
        lora.outside("blocks.").merge(transformer)
    if not resident:
        streams = device.type == "cuda"
        transformer.enable_group_offload(
            onload_device=device,
            offload_type="block_level",
            num_blocks_per_group=1,
            use_stream=streams,
            record_stream=streams,
        )


def _keep_in_fp8(block: nn.Module, transformer: Any) -> None:
    """Keep a block's weights in fp8 and widen a layer while it computes; norms and modulations stay as they are."""
    from diffusers.hooks import apply_layerwise_casting

    apply_layerwise_casting(
        block,
        storage_dtype=torch.float8_e4m3fn,
        compute_dtype=transformer.proj_out.weight.dtype,
        skip_modules_pattern=tuple(transformer._skip_layerwise_casting_patterns),
    )


def _place_encoder(encoder: Any, placement: Placement, device: torch.device) -> None:
    if encoder is None:
        return
    if placement == "resident":
        encoder.to(device)
        return
    from diffusers.hooks import apply_group_offloading

    apply_group_offloading(encoder, onload_device=device, offload_type="leaf_level")
    home = encoder.device

    def to_device(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        return _moved(args, device), _moved(kwargs, device)

    def back(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        return _moved(output, home)

    # What lies between the layers (masks, positions) has to be where the layers compute, which diffusers leaves to
    # the caller; the caller finds the result where it put the input.
    encoder.register_forward_pre_hook(to_device, with_kwargs=True)
    encoder.register_forward_hook(back)


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        for key, item in value.items():
            value[key] = _moved(item, device)
        return value
    if isinstance(value, (tuple, list)):
        return type(value)(_moved(item, device) for item in value)
    return value
