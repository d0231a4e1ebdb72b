"""One pass of the network on several devices: its tokens split among them (Ulysses), applied to a finished model.

Self-attention changes the split from tokens to heads and back, by diffusers' context parallelism; odd numbers of tokens
are split unevenly. Text and image tokens are few and whole everywhere, and the expression block's statistics are taken
over all devices (``models.expression_block``).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from flashportrait.distributed.ranks import Ranks
from flashportrait.errors import UserError

OUTPUT = "proj_out"
"""The last layer, after which tokens are joined."""


class SplitTokens:
    """Lets groups of ``split`` neighbouring processes run each pass together; made in every process.

    Args:
        transformer: ``FlashPortraitTransformer3DModel``, not split yet.
        ranks: the processes.
        split: how many share a pass; divides their number and that of the heads.
        device: of the transformer.

    Raises:
        UserError: its kernel of attention would have each process attend to its own tokens alone.
    """

    def __init__(self, transformer: nn.Module, ranks: Ranks, split: int, device: torch.device) -> None:
        check_kernel(transformer)
        # diffusers' enable_parallelism fails on a mesh of CPUs, so these are its parts.
        from diffusers import ContextParallelConfig, ParallelConfig
        from diffusers.hooks.context_parallel import apply_context_parallel
        from torch.distributed.device_mesh import init_device_mesh

        shape, names = (ranks.size // split, 1, split), ("group", "ring", "ulysses")
        mesh = init_device_mesh(device.type, shape, mesh_dim_names=names)
        context = ContextParallelConfig(ulysses_degree=split, ulysses_anything=True)
        config = ParallelConfig(context_parallel_config=context)
        config.setup(ranks.rank, ranks.size, device, mesh=mesh["ring", "ulysses"])
        self._transformer = transformer
        self._plan = {name: plan for name, plan in transformer._cp_plan.items() if name != OUTPUT}
        self._set(config)
        apply_context_parallel(transformer, context, self._plan)
        self._group = context._flattened_mesh.get_group()
        self._joining = transformer.get_submodule(OUTPUT).register_forward_hook(self._join)
        self._ranks = ranks
        ranks.grouped.add(self)

    def _join(self, module: nn.Module, given: Any, part: Tensor) -> Tensor:
        # diffusers' own gathering asks of the backend what only NCCL can: parts of several sizes.
        return join(part, self._group)

    def remove(self) -> None:
        """Leave the transformer as it was."""
        from diffusers.hooks.context_parallel import remove_context_parallel

        self._ranks.grouped.discard(self)
        self._joining.remove()
        remove_context_parallel(self._transformer, self._plan)
        self._set(None)
        self._group = None

    def _set(self, config: Any) -> None:
        for block in self._transformer.blocks:
            for attention in (block.attn1, block.attn2):
                attention.processor._parallel_config = config


def check_kernel(transformer: Any) -> None:
    """Refuse a kernel that would attend to a part alone; what diffusers' enable_parallelism looks at, too.

    Raises:
        UserError: the transformer's is one.
    """
    from diffusers.models.attention_dispatch import AttentionBackendName, _AttentionBackendRegistry

    processor = transformer.blocks[0].attn1.processor
    active, _ = _AttentionBackendRegistry.get_active_backend()
    backend = AttentionBackendName(processor._attention_backend or active)
    if processor.float8 or not _AttentionBackendRegistry._is_context_parallel_available(backend):
        raise UserError(
            "this kernel of attention can't share a pass among processes: leave --attention out, or give native, "
            "cudnn, flash or sage"
        )


def is_sharded(transformer: nn.Module) -> bool:
    """Whether weights are shared out among all processes (``weights.shards``), which then run each pass together."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(transformer, FSDPModule)


def join(part: Tensor, group: Any) -> Tensor:
    """All processes' tokens ``[b n d]`` from each one's part, of whatever length."""
    size = dist.get_world_size(group)
    length = torch.tensor([part.shape[1]], device=part.device)
    lengths = [torch.empty_like(length) for _ in range(size)]
    dist.all_gather(lengths, length, group=group)
    counts = [int(each) for each in lengths]
    filled = F.pad(part, (0, 0, 0, max(counts) - part.shape[1])).contiguous()
    parts = [torch.empty_like(filled) for _ in range(size)]
    dist.all_gather(parts, filled, group=group)
    return torch.cat([each[:, :count] for each, count in zip(parts, counts, strict=True)], dim=1)


def choose_split(processes: int, passes_at_once: int, heads: int) -> int:
    """How many processes share a pass: as few as keep all of them busy, as far as the heads can be split."""
    possible = [split for split in range(1, processes + 1) if processes % split == 0 and heads % split == 0]
    enough = [split for split in possible if processes // split <= passes_at_once]
    return enough[0] if enough else possible[-1]
