"""The speed dial, and predictors written as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from flashportrait.errors import UserError
from flashportrait.sampling.fitted import FittedPrediction
from flashportrait.sampling.predictor import AdaptiveLatentPrediction

SPEEDS: dict[str, AdaptiveLatentPrediction | None] = {
    "exact": None,
    "balanced": AdaptiveLatentPrediction(method="newton", order=1, corrected=True, speedup=3),
    "fast": AdaptiveLatentPrediction(method="newton", order=1, corrected=True, speedup=6),
    "turbo": AdaptiveLatentPrediction(method="newton", order=1, corrected=True, speedup=10),
}
"""The predictors of a model that has none of its own; docs/predictor.md has what each costs in fidelity."""


def preset(
    speed: str, fitted: Mapping[str, Mapping[str, Any]] | None = None
) -> AdaptiveLatentPrediction | FittedPrediction | None:
    """The predictor of a speed in ``SPEEDS``; None computes every step.

    Args:
        speed: its name.
        fitted: predictions fitted to the model, fields of ``FittedPrediction`` by speed; they come first.

    Raises:
        UserError: there is no such speed.
    """
    if speed not in SPEEDS:
        raise UserError(f"speed is {speed!r}; choose one of {', '.join(SPEEDS)}")
    if fitted and speed in fitted:
        return FittedPrediction(**fitted[speed])
    return SPEEDS[speed]


def planned_steps(predictor: AdaptiveLatentPrediction | FittedPrediction | None, steps: int) -> tuple[int, ...] | None:
    """Steps out of ``steps`` at which the network runs in each window; None where a tolerance chooses them on the way.

    Predictors inside the network run a part of it at every step.
    """
    if predictor is None or predictor.target != "guided":
        return tuple(range(steps))
    if isinstance(predictor, FittedPrediction):
        return predictor.full_steps
    return predictor.planned_steps(steps) if predictor.tolerance is None else None


def parse_predictor(text: str) -> AdaptiveLatentPrediction | None:
    """Reads ``method:field=value,...``, as in ``alp:interval=5,order=3,alpha=1.5,target=guided``; ``none`` is None.

    The numbers of ``full_steps`` are joined by ``+``: commas separate the fields.

    Raises:
        UserError: an unknown method or field, or a value that doesn't read.
    """
    method, _, rest = text.strip().partition(":")
    if method == "none":
        return None
    kinds = {entry.name: str(entry.type) for entry in fields(AdaptiveLatentPrediction) if entry.name != "method"}
    options: dict[str, Any] = {}
    for item in filter(None, rest.split(",")):
        name, separator, value = item.partition("=")
        if name not in kinds or not separator:
            raise UserError(f"predictor option {item!r} is not understood; write name=value, name one of {[*kinds]}")
        options[name] = _parse_value(name, value, kinds[name].removesuffix(" | None"))
    return AdaptiveLatentPrediction(method=method, **options)


def _parse_value(name: str, value: str, kind: str) -> Any:
    try:
        if kind.startswith("tuple"):
            return tuple(int(part) for part in value.split("+"))
        if kind == "bool":
            return {"true": True, "false": False}[value.lower()]
        return {"int": int, "float": float, "str": str}[kind](value)
    except (KeyError, ValueError):
        raise UserError(f"predictor option {name}={value} does not read as {kind}") from None
