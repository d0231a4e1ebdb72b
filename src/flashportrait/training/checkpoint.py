"""Training state on disk: one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn


def save_state(
    path: Path, step: int, module: nn.Module, averaged: nn.Module, optimizers: list[torch.optim.Optimizer]
) -> None:
    """Stores weights, averaged weights and optimizer moments, so that a run continues as if never cut."""
    tensors: dict[str, Tensor] = {}
    for prefix, source in (("module", module), ("ema", averaged)):
        tensors |= {f"{prefix}.{name}": value.detach() for name, value in source.state_dict().items()}
    for index, optimizer in enumerate(optimizers):
        for parameter, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                tensors[f"optimizer.{index}.{parameter}.{name}"] = torch.as_tensor(value)
    temporary = path.with_name(path.name + ".part")
    tensors = {name: value.contiguous().clone() for name, value in tensors.items()}
    save_file(tensors, temporary, metadata={"step": json.dumps(step)})
    os.replace(temporary, path)


def load_state(path: Path, module: nn.Module, averaged: nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    """Restores what ``save_state`` stored; returns the step.

    Raises:
        RuntimeError: the weights don't fit the module (another configuration).
    """
    with safe_open(path, framework="pt") as file:
        step = json.loads(file.metadata()["step"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    for prefix, target in (("module.", module), ("ema.", averaged)):
        target.load_state_dict({n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)})
    for index, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if name.startswith(f"optimizer.{index}."):
                parameter, key = name.split(".", 2)[2].split(".", 1)
                state.setdefault(int(parameter), {})[key] = value
        if state:
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    return step
