"""Weights shared out: each process keeps a part of every block, and has a block whole only while it computes (FSDP2).

The processes gather a block just before it is needed, so all of them have to run every pass together
(``distributed.sequence``). What isn't in a block is small and whole everywhere.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from flashportrait.errors import UserError
from flashportrait.weights.lora import Lora

BLOCKS = "blocks."
"""Start of the names of what is shared out."""
SAMPLES = "_samples_before_sharding"


def shard(transformer: Any, device: torch.device, lora: Lora | None = None) -> None:
    """Share a transformer's blocks out among all processes of the default group, in place; called in each of them.

    Block by block, weights are read from the mapped files, merged, and let go of but for this process's part, so that
    no process ever holds more than its part and one block. Norms and modulations of another type than the matrices
    (float32, few) stay whole, since what is gathered together has one type.

    Args:
        transformer: ``FlashPortraitTransformer3DModel``, best still in the mapped files.
        device: of this process.
        lora: merged into each block before it is cut.

    Raises:
        UserError: this version of torch can't leave parameters out.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise UserError(
            f"torch {torch.__version__} can't share weights out among processes: install 2.7 or later, or give "
            "--offload"
        )
    mesh = init_device_mesh(device.type, (dist.get_world_size(),))
    # torch never forgets a mesh that a tensor was cut by. This is all by which it would keep the group from ending
    # (distributed.ranks.joined); eager code finds the group by its name.
    getattr(mesh, "_pg_registry", {}).clear()
    samples: dict[str, bytes] = {}
    for index, block in enumerate(transformer.blocks):
        prefix = f"{BLOCKS}{index}."
        block.to(device)
        if lora is not None:
            lora.part(prefix).merge(transformer)
        samples |= {prefix + name: sample(weight) for name, weight in block.state_dict().items()}
        dtype = block.attn1.to_q.weight.dtype
        whole = {parameter for parameter in block.parameters() if parameter.dtype != dtype}
        fully_shard(block, mesh=mesh, reshard_after_forward=True, ignored_params=whole)
    for name, child in transformer.named_children():
        if f"{name}." != BLOCKS:
            child.to(device)
    for parameter in transformer.parameters(recurse=False):
        parameter.data = parameter.data.to(device)
    if lora is not None:
        lora.outside(BLOCKS).merge(transformer)
    # The root has nothing of its own to gather; through it blocks know each other, so that one is gathered while the
    # one before computes.
    fully_shard(transformer, mesh=mesh, ignored_params=set(transformer.parameters()))
    for block, following in pairwise(transformer.blocks):
        block.set_modules_to_forward_prefetch([following])
    setattr(transformer, SAMPLES, samples)


def sample(weight: Tensor) -> bytes:
    """Up to 16 values of a weight, evenly spread: enough to tell weights apart, quick even where they are large."""
    flat = weight.detach().flatten()
    return flat[:: max(1, flat.numel() // 16)][:16].float().cpu().numpy().tobytes()


def samples_before_sharding(module: nn.Module) -> Mapping[str, bytes]:
    """:func:`sample` of each weight that is shared out, by name; afterwards no process could take it alone."""
    return getattr(module, SAMPLES, {})
