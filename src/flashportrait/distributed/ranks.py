"""The processes of one job: who they are, and how they talk."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, Protocol
from weakref import WeakSet

import torch
import torch.distributed as dist
from torch import Tensor

from flashportrait.errors import UserError

LEADER = 0
"""Rank of the process that runs the job."""
PATIENCE = timedelta(days=7)
"""How long a process waits for the leader, which decodes and writes between passes. One that dies is noticed at once,
since its connections close."""

GONE = (
    "another process of this job is gone: what it said last says why; the job can go on with `flashportrait resume`, "
    "with any number of processes"
)


class Gone(UserError):
    """Another process ended, or can't be reached any more."""


class Removable(Protocol):
    """What uses groups of processes."""

    def remove(self) -> None:
        """Let go of them."""


class Ranks:
    """This process among the others; made by :func:`joined`."""

    def __init__(self) -> None:
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        self.local_rank = int(os.environ.get("LOCAL_RANK", self.rank))
        self.local_size = int(os.environ.get("LOCAL_WORLD_SIZE", self.size))
        """Processes on this machine, which share its host memory."""
        self.grouped: WeakSet[Removable] = WeakSet()
        """What uses groups of processes, to be removed before they part."""

    @property
    def leads(self) -> bool:
        """Whether this is the process that runs the job."""
        return self.rank == LEADER

    def device(self, name: str | None) -> str:
        """The device of this process: its own accelerator, unless another kind is named.

        Raises:
            UserError: there are fewer accelerators than processes here, or one is named for all.
        """
        if name is not None and name != "cuda":
            if ":" in name:
                raise UserError(
                    f"the device '{name}' is one, but there are {self.size} processes: leave its number out"
                )
            return name
        if not torch.cuda.is_available():
            return "cpu" if name is None else "cuda"
        if torch.cuda.device_count() < self.local_size:
            raise UserError(f"{self.local_size} processes here, but {torch.cuda.device_count()} GPUs: start one a GPU")
        return f"cuda:{self.local_rank}"

    def tell(self, message: Mapping[str, Any]) -> None:
        """From the leader to all others."""
        with _noticing():
            dist.broadcast_object_list([dict(message)], src=LEADER, device=torch.device("cpu"))

    def hear(self) -> dict[str, Any]:
        """What the leader tells."""
        box: list[Any] = [None]
        with _noticing():
            dist.broadcast_object_list(box, src=LEADER, device=torch.device("cpu"))
        return box[0]

    def gather(self, value: Any) -> list[Any]:
        """Every process's value, in the order of ranks; for the leader alone."""
        values: list[Any] = [None] * self.size
        with _noticing():
            dist.gather_object(value, values if self.leads else None, dst=LEADER)
        return values

    def send(self, tensor: Tensor, to: int) -> None:
        """One tensor to one process, which calls :meth:`receive` with the same shape and type."""
        # A copy: what was expanded has strides of zero, which bytes can't be viewed through.
        content = tensor.detach().flatten().clone(memory_format=torch.contiguous_format).view(torch.uint8)
        with _noticing():
            dist.send(content, dst=to)

    def receive(
        self, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str, sender: int = LEADER
    ) -> Tensor:
        """The tensor that a process sends."""
        flat = torch.empty(shape, dtype=dtype, device=device).view(-1)
        with _noticing():
            dist.recv(flat.view(torch.uint8), src=sender)
        return flat.view(shape)


@contextmanager
def joined() -> Iterator[Ranks | None]:
    """Join the other processes, if a launcher (torchrun, ``--gpus``) started several; None when alone.

    Raises:
        UserError: they can't be reached.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield None
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (RuntimeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"the other processes can't be reached ({reason}): start all with torchrun or --gpus"
        ) from error
    ranks = Ranks()
    # After an error the others may be in the middle of a pass: they notice that this process has ended.
    yield ranks
    if ranks.leads:
        with suppress(Gone):
            ranks.tell({"kind": "end"})
    while ranks.grouped:
        ranks.grouped.pop().remove()
    dist.destroy_process_group()
    # A group that something still refers to lives on with its threads, one of which may let go of a tensor while
    # Python ends: that aborts the process.
    gc.collect()


@contextmanager
def _noticing() -> Iterator[None]:
    """Turn a broken connection into one line."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise Gone(GONE) from error


@contextmanager
def noticing_in_pass() -> Iterator[None]:
    """The same around a pass of the network, whose own errors stay what they are."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, dist.DistError) or "gloo/transport" in str(error):
            raise Gone(GONE) from error
        raise
