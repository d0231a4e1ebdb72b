"""LoRA files merged whole into a transformer, whatever they are called, or refused.

A file may hold low-rank pairs for linear and convolution weights, and full differences: ``.diff`` for weights (norms
and patch embedding included), ``.diff_b`` for biases, ``.diff_m`` for modulations. Names may be the released ones
(``diffusion_model.blocks.0.self_attn.q``, LightX2V), diffusers' (``transformer.blocks.0.attn1.to_q``, PEFT) or
Kohya's (``lora_unet_blocks_0_self_attn_q``). Every key must find its parameter.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from flashportrait.checkpoints.files import Source, read_checkpoint
from flashportrait.checkpoints.tables import TRANSFORMER, listing
from flashportrait.errors import UserError

if TYPE_CHECKING:
    from flashportrait.models.transformer import FlashPortraitTransformer3DModel

DISTILLED_TIMESTEPS = (1000, 750, 500, 250)
"""Where the 4-step LoRA was trained to step, on the grid of 1000 before the shift."""

TRAINING_TIMESTEPS = 1000

PREFIXES = re.compile(r"^(base_model\.model\.)?(model\.)?(diffusion_model\.|transformer\.|lora_(unet|transformer)_)?")
SUFFIXES = re.compile(
    r"^(?P<module>.+?)\.(?:"
    r"lora[._](?P<down>A|down)(?:\.\w+)?\.weight"
    r"|lora[._](?P<up>B|up)(?:\.\w+)?\.weight"
    r"|lora[._]B(?:\.\w+)?\.(?P<up_bias>bias)"
    r"|(?P<other>alpha|diff|diff_b|diff_m))$"
)


def distilled_sigmas() -> list[float]:
    """Noise levels of the 4-step schedule, before the shift: 1, 0.75, 0.5, 0.25.

    ``FlowMatchEulerDiscreteScheduler(shift=5).set_timesteps(sigmas=distilled_sigmas())`` shifts them itself, to
    timesteps 1000, 937.5, 833.3 and 625. The LoRA replaces text guidance (scale 1); the released script keeps the
    expression scale at 4.
    """
    return [timestep / TRAINING_TIMESTEPS for timestep in DISTILLED_TIMESTEPS]


@dataclass(frozen=True)
class Delta:
    """What one parameter gains at strength 1: ``scale * up @ down``, or ``scale * up``."""

    up: Tensor
    """``[out rank ...]``, or the whole difference in the parameter's shape."""
    down: Tensor | None = None
    """``[rank in ...]``, or None."""
    scale: float = 1.0

    def dense(self, shape: torch.Size, device: torch.device) -> Tensor:
        """The difference in float32 and the parameter's shape. Raises ValueError if the shapes don't fit."""
        up = self.up.to(device, torch.float32)
        if self.down is None:
            if up.shape != shape:
                raise ValueError(f"{tuple(up.shape)} for a parameter of {tuple(shape)}")
            return self.scale * up
        down = self.down.to(device, torch.float32)
        fits = up.shape[0] == shape[0] and up.flatten(1).shape[1] == len(down) and down.shape[1:] == shape[1:]
        if not fits:
            raise ValueError(f"{tuple(up.shape)} x {tuple(down.shape)} for a parameter of {tuple(shape)}")
        return self.scale * (up.flatten(1) @ down.flatten(1)).reshape(shape)


@dataclass(frozen=True)
class Lora:
    """A LoRA read for one model: differences by our parameter names."""

    name: str
    """Where it came from, for messages."""
    deltas: Mapping[str, tuple[Delta, ...]]

    @classmethod
    def joined(cls, loras: Iterable[tuple[Lora, float]]) -> Lora:
        """Several as one, each with its strength."""
        deltas: dict[str, tuple[Delta, ...]] = {}
        names = []
        for lora, strength in loras:
            names.append(lora.name)
            for name, own in lora.deltas.items():
                scaled = tuple(replace(delta, scale=strength * delta.scale) for delta in own)
                deltas[name] = deltas.get(name, ()) + scaled
        return cls(" and ".join(names), deltas)

    def part(self, prefix: str) -> Lora:
        """The differences of the parameters whose names start with ``prefix``."""
        return Lora(self.name, {name: deltas for name, deltas in self.deltas.items() if name.startswith(prefix)})

    def outside(self, prefix: str) -> Lora:
        """The differences of all other parameters."""
        return Lora(self.name, {name: deltas for name, deltas in self.deltas.items() if not name.startswith(prefix)})

    def merge(self, model: FlashPortraitTransformer3DModel, strength: float = 1.0) -> None:
        """Add the differences, times ``strength``, to the model's parameters, in place and in float32 arithmetic.

        Merging with the opposite strength takes them out again up to rounding: exactly enough in float32, to a unit
        in the last place in bfloat16. Reload the model where it must be bit-identical.

        Raises:
            UserError: a difference doesn't fit its parameter (nothing is changed), or the model is already in fp8.
        """
        self.check(model)
        with torch.no_grad():
            for name, deltas in self.deltas.items():
                parameter = model.get_parameter(name)
                total = sum(delta.dense(parameter.shape, parameter.device) for delta in deltas)
                parameter.copy_(parameter.float() + strength * total)

    def check(self, model: FlashPortraitTransformer3DModel) -> None:
        """Every difference fits its parameter; only shapes and types are read. Raises UserError if not."""
        for name, deltas in self.deltas.items():
            parameter = model.get_parameter(name)
            if parameter.dtype.itemsize < 2:
                raise UserError(f"{name} is {parameter.dtype}: merge {self.name} before the model is cast to fp8")
            for delta in deltas:
                try:
                    delta.dense(parameter.shape, torch.device("meta"))
                except ValueError as error:
                    raise UserError(f"{self.name} doesn't fit this model: it has {name} as {error}") from error


def load_lora(source: Source, model: FlashPortraitTransformer3DModel) -> Lora:
    """Read a LoRA for a model. Nothing is changed before ``Lora.merge``.

    Args:
        source: a file, a PEFT adapter folder, or a state dict.
        model: whose parameters the keys must name.

    Raises:
        UserError: naming the keys that match nothing, lack their other half or don't fit their parameter.
    """
    name = "the LoRA" if isinstance(source, Mapping) else str(source)
    tensors = read_checkpoint(source)
    parsed, unmatched = _parse(tensors, _Names(model))
    if unmatched:
        raise UserError(
            f"{name} doesn't fit this model: {listing(unmatched)} match{'es' if len(unmatched) == 1 else ''} nothing "
            "in it; use a LoRA made for the Wan2.1 I2V 14B transformer"
        )
    default = _adapter_scaling(source)
    lora = Lora(name, {target: _assemble(name, parts, default) for target, parts in parsed.items()})
    lora.check(model)
    return lora


class _Names:
    """Every spelling of a model's parameters, by the name a LoRA gives to their module."""

    def __init__(self, model: FlashPortraitTransformer3DModel):
        self.parameters: dict[str, str] = {}
        for ours in dict(model.named_parameters()):
            self.parameters[ours] = ours
        for official, ours in TRANSFORMER.official_names(self.parameters).items():
            self.parameters.setdefault(official, ours)
        self.flat = {spelling.replace(".", "_"): ours for spelling, ours in self.parameters.items()}

    def find(self, module: str, leaf: str) -> str | None:
        """Our name of a module's parameter, e.g. ``("blocks.0.self_attn.q", "weight")``; an empty leaf for its own."""
        spelling = f"{module}.{leaf}" if leaf else module
        return self.parameters.get(spelling) or self.flat.get(spelling.replace(".", "_"))


Parts = dict[str, dict[str, Tensor]]
"""For one parameter: the tensors of each module spelling that names it, by role (down, up, alpha, diff)."""


def _parse(tensors: Mapping[str, Tensor], names: _Names) -> tuple[dict[str, Parts], list[str]]:
    """Tensors by parameter, and the keys that match none."""
    parsed: dict[str, Parts] = {}
    unmatched = []
    for key, tensor in tensors.items():
        match = SUFFIXES.match(PREFIXES.sub("", key))
        target, role = _target(match, names) if match else (None, "")
        if match is None or target is None:
            unmatched.append(key)
            continue
        parsed.setdefault(target, {}).setdefault(match["module"], {})[role] = tensor
    return parsed, unmatched


def _target(match: re.Match[str], names: _Names) -> tuple[str | None, str]:
    """Our name of the parameter that a key changes, and the key's role."""
    module = match["module"]
    if match["down"] or match["up"]:
        return names.find(module, "weight"), "down" if match["down"] else "up"
    if match["up_bias"] or match["other"] == "diff_b":
        return names.find(module, "bias"), "diff"
    if match["other"] == "diff_m":
        return names.find(module, "modulation"), "diff"
    if match["other"] == "alpha":
        return names.find(module, "weight"), "alpha"
    return names.find(module, "weight") or names.find(module, ""), "diff"


def _assemble(name: str, parts: Parts, default: AdapterScaling) -> tuple[Delta, ...]:
    deltas = []
    for module, tensors in parts.items():
        pair = {"down", "up"} & tensors.keys()
        if len(pair) == 1 or ("alpha" in tensors and not pair):
            lone = next(iter(tensors))
            raise UserError(f"{name} is incomplete: {module} has {lone} without the rest of its pair")
        if pair:
            rank = len(tensors["down"])
            scale = tensors["alpha"].item() / rank if "alpha" in tensors else default.scale(rank)
            deltas.append(Delta(tensors["up"], tensors["down"], scale))
        if "diff" in tensors:
            deltas.append(Delta(tensors["diff"]))
    return tuple(deltas)


@dataclass(frozen=True)
class AdapterScaling:
    """How an adapter without ``.alpha`` tensors scales its pairs, from the configuration stored with it."""

    alpha: float | None = None
    """None: the product as it is."""
    rank_stabilised: bool = False

    def scale(self, rank: int) -> float:
        """Factor of ``up @ down``: 1, alpha / rank, or alpha / sqrt(rank)."""
        if self.alpha is None:
            return 1.0
        return self.alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def _adapter_scaling(source: Source) -> AdapterScaling:
    """Alpha from a PEFT folder's ``adapter_config.json`` or from diffusers' metadata in a safetensors file."""
    if isinstance(source, Mapping):
        return AdapterScaling()
    path = Path(os.fspath(source)).expanduser()
    config: dict[str, Any] = {}
    if path.is_dir() and (path / "adapter_config.json").is_file():
        config = json.loads((path / "adapter_config.json").read_text())
    elif path.suffix == ".safetensors":
        from safetensors import safe_open

        with safe_open(path, framework="pt") as file:
            stored = json.loads((file.metadata() or {}).get("lora_adapter_metadata", "{}"))
        config = {key.removeprefix("transformer."): value for key, value in stored.items()}
    if config.get("alpha_pattern") or config.get("use_dora"):
        raise UserError(
            f"{path} uses alpha_pattern or DoRA, which can't be merged here; save it merged or without them"
        )
    alpha = config.get("lora_alpha")
    return AdapterScaling(float(alpha) if alpha is not None else None, bool(config.get("use_rslora")))
