"""Reads weights that were stored as a pickle of NumPy arrays, without letting the pickle do anything else."""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from flashportrait.errors import UserError

ALLOWED = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}
"""All that a pickle of arrays names; what names anything else is refused, since unpickling it could run anything."""


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_arrays(path: Path) -> dict[str, Tensor]:
    """Arrays of a nested mapping, by their keys joined with slashes.

    Raises:
        UserError: it holds anything but arrays, or is damaged.
    """
    try:
        tree = _ArrayUnpickler(io.BytesIO(path.read_bytes())).load()
        return {name: torch.from_numpy(np.array(array)) for name, array in _leaves(tree, "")}
    except (pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, ImportError, IndexError) as error:
        raise UserError(f"'{path}' is no pickle of arrays alone ({error}): fetch it again") from error


def _leaves(tree: Any, name: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _leaves(value, f"{name}/{key}" if name else str(key))
    elif isinstance(tree, np.ndarray) and tree.dtype.kind == "f":
        yield name, tree
    else:
        raise ValueError(f"{name or 'it'} is {type(tree).__name__}")
