"""Reading files in the released naming and loading them strictly."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from flashportrait.errors import UserError

Source = str | Path | Mapping[str, Tensor]
"""A ``.safetensors``, ``.pt`` or ``.pth`` file, a folder of shards of one kind, or a state dict."""

PICKLE_SUFFIXES = (".pt", ".pth", ".bin")


def read_state_dict(source: Source) -> dict[str, Tensor]:
    """Reads the tensors of ``source``, memory-mapped where the format allows it.

    Pickles are read with ``weights_only=True``; one level of ``{"state_dict": ...}`` is unwrapped.

    Raises:
        UserError: there is no such file, its format is none of the above, or a pickle holds more than tensors.
    """
    if isinstance(source, Mapping):
        return dict(source)
    path = Path(source)
    if path.is_dir():
        shards = sorted(path.glob("*.safetensors")) or sorted(p for p in path.iterdir() if p.suffix in PICKLE_SUFFIXES)
        if not shards:
            raise UserError(f"{path} holds no .safetensors or .pt files; name the folder or file with the weights")
        return {key: value for shard in shards for key, value in read_state_dict(shard).items()}
    if not path.is_file():
        raise UserError(f"there is no file {path}; fetch the released weights with `flashportrait download 14b`")
    if path.suffix == ".safetensors":
        return load_file(path)
    if path.suffix not in PICKLE_SUFFIXES:
        raise UserError(f"{path} ends in {path.suffix!r}; weights must be .safetensors, .pt or .pth")
    try:
        # Only the zip format can be memory-mapped; older releases used a plain stream.
        state_dict = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise UserError(f"{path} holds more than tensors and was refused; use a file of tensors alone") from error
    return dict(state_dict.get("state_dict", state_dict))


def load_strictly(
    module: nn.Module, state_dict: Mapping[str, Tensor], what: str, ignored_prefixes: Iterable[str] = ()
) -> None:
    """Fills ``module``, which may be on the meta device, with the tensors themselves (no copy), all accounted for.

    Args:
        what: what is being loaded, for the error.
        ignored_prefixes: keys that start with one of these may be present though nothing here wants them.

    Raises:
        UserError: keys are missing or extra, or shapes differ; the error names them.
    """
    wanted = module.state_dict()
    ignored = tuple(ignored_prefixes)
    given = {key: value for key, value in state_dict.items() if key in wanted or not key.startswith(ignored)}
    faults = [f"{key} is missing" for key in wanted if key not in given]
    faults += [f"{key} is extra" for key in given if key not in wanted]
    faults += [
        f"{key} is {tuple(given[key].shape)}, not {tuple(value.shape)}"
        for key, value in wanted.items()
        if key in given and given[key].shape != value.shape
    ]
    if faults:
        more = f" and {len(faults) - 8} more" if len(faults) > 8 else ""
        raise UserError(f"these are not the weights of {what}: {'; '.join(faults[:8])}{more}")
    module.load_state_dict(given, strict=True, assign=True)
