"""Passes of the network, shared out by one process and answered by the others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flashportrait.distributed.ranks import Ranks, noticing_in_pass
from flashportrait.distributed.sequence import SplitTokens, choose_split, is_sharded
from flashportrait.errors import UserError

Pass = Mapping[str, Any]
"""Arguments of one call of the transformer, tensors and plain values, by name."""


class _Worker:
    """The network in this process, and its place among the others."""

    def __init__(self, ranks: Ranks, transformer: nn.Module, device: torch.device | str) -> None:
        self.ranks, self.transformer, self.device = ranks, transformer, torch.device(device)
        self.split = 1
        self._tokens: SplitTokens | None = None

    def arrange(self, split: int) -> None:
        """Have groups of ``split`` processes run passes together."""
        if split == self.split:
            return
        if self._tokens is not None:
            self._tokens.remove()
        self._tokens = SplitTokens(self.transformer, self.ranks, split, self.device) if split > 1 else None
        self.split = split

    def members(self, group: int) -> range:
        """Ranks of a group."""
        return range(group * self.split, (group + 1) * self.split)

    @property
    def groups(self) -> int:
        """How many groups there are."""
        return self.ranks.size // self.split

    @torch.no_grad()
    def compute(self, arguments: Pass) -> Tensor:
        """One pass, together with this group's others.

        Raises:
            Gone: one of them ended.
        """
        with noticing_in_pass():
            return self.transformer(**arguments)


class SharedPasses:
    """The leader's: calls of the network, as many at once as there are groups of processes.

    Args:
        ranks: the processes; the others run :func:`follow`.
        transformer: the leader's own.
        device: of it.
    """

    def __init__(self, ranks: Ranks, transformer: nn.Module, device: torch.device | str) -> None:
        self._worker = _Worker(ranks, transformer, device)
        self._ranks = ranks

    def arrange(self, passes_at_once: int) -> None:
        """Settle how processes share the work, from the number of passes that will be asked for at once."""
        size, transformer = self._ranks.size, self._worker.transformer
        heads = transformer.config.num_attention_heads
        split = size if is_sharded(transformer) else choose_split(size, passes_at_once, heads)
        self._ranks.tell({"kind": "arrange", "split": split})
        self._worker.arrange(split)

    def describe(self) -> str:
        """One line for the report."""
        worker = self._worker
        together = f", {worker.split} together on each pass" if worker.split > 1 else ""
        sharded = ", weights shared out" if is_sharded(worker.transformer) else ""
        return f"{self._ranks.size} processes{together}{sharded}"

    def __call__(self, passes: Sequence[Pass]) -> list[Tensor]:
        """The network's output for each, in order, on the leader's device."""
        outputs: list[Tensor] = []
        for start in range(0, len(passes), self._worker.groups):
            outputs += self._together(passes[start : start + self._worker.groups])
        return outputs

    def _together(self, passes: Sequence[Pass]) -> list[Tensor]:
        worker, ranks = self._worker, self._ranks
        ranks.tell({"kind": "passes", "passes": [_describe(arguments) for arguments in passes]})
        for group, arguments in enumerate(passes):
            for rank in worker.members(group):
                if rank == ranks.rank:
                    continue
                for value in arguments.values():
                    if isinstance(value, Tensor):
                        ranks.send(value.to(worker.device), rank)
        outputs = [worker.compute(passes[0])]
        for group in range(1, len(passes)):
            shape, dtype = tuple(outputs[0].shape), outputs[0].dtype
            outputs.append(ranks.receive(shape, dtype, worker.device, worker.members(group)[0]))
        return outputs


Load = Callable[[dict[str, Any]], tuple[nn.Module, "torch.device | str", dict[str, Any]]]
"""``load(message) -> transformer, its device, what must be the same in every process``."""


def follow(ranks: Ranks, load: Load) -> None:
    """Answer the leader until it is done.

    Raises:
        UserError: the leader is gone, or the model can't be loaded here.
    """
    worker: _Worker | None = None
    while True:
        message = ranks.hear()
        kind = message["kind"]
        if kind == "end":
            return
        if kind == "load":
            worker = None  # what is held makes room first
            transformer, device, identity = load(message)
            worker = _Worker(ranks, transformer, device)
            ranks.gather(identity)
            continue
        assert worker is not None, "nothing is loaded"
        if kind == "arrange":
            worker.arrange(message["split"])
        elif kind == "passes":
            _answer(worker, message["passes"])


def _answer(worker: _Worker, passes: Sequence[Mapping[str, Any]]) -> None:
    ranks = worker.ranks
    group = ranks.rank // worker.split
    if group >= len(passes):
        return
    arguments = {
        name: ranks.receive(*value["tensor"], worker.device) if isinstance(value, dict) else value
        for name, value in passes[group].items()
    }
    output = worker.compute(arguments)
    if group > 0 and ranks.rank == worker.members(group)[0]:
        ranks.send(output, 0)


def _describe(arguments: Pass) -> dict[str, Any]:
    """Plain values, and shape and type of tensors."""
    return {
        name: {"tensor": (tuple(value.shape), value.dtype)} if isinstance(value, Tensor) else value
        for name, value in arguments.items()
    }


def check_alike(identities: Sequence[Mapping[str, Any]]) -> None:
    """Refuse processes that would compute something else than the leader.

    Args:
        identities: of each process, by name of what must be the same.

    Raises:
        UserError: naming the process and what differs.
    """
    for rank, identity in enumerate(identities):
        for name, value in identity.items():
            if value != identities[0][name]:
                raise UserError(
                    f"process {rank} has {name} {value}, process 0 {identities[0][name]}: install the same versions "
                    "and weights on every machine"
                )
