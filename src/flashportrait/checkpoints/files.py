"""Checkpoints on disk: opened without copying, loaded strictly, and never executed.

Tensors are views of the memory-mapped file, paged in when they are first read. A pickle is only ever opened with
``weights_only=True``.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import zipfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Union

import torch
from torch import Tensor, nn

from flashportrait.checkpoints.tables import KeyTable, check_keys, listing
from flashportrait.errors import UserError

logger = logging.getLogger(__name__)

Source = Union[str, "os.PathLike[str]", Mapping[str, Tensor]]
"""A checkpoint: a file, a folder of shards, or a state dict."""

PICKLES = (".pt", ".pth", ".bin", ".ckpt")


def read_checkpoint(source: Source) -> dict[str, Tensor]:
    """The tensors of a checkpoint by name, in the order of its shards; nothing is read from disk yet.

    Args:
        source: a ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file, a folder of shards, or a state dict.

    Raises:
        UserError: the file is missing, broken, of another kind, or a pickle that holds more than tensors.
    """
    if isinstance(source, Mapping):
        return _only_tensors(source, "the state dict")
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(f"no such checkpoint: {path}; give a .safetensors or .pt file, or a folder of shards")
    tensors: dict[str, Tensor] = {}
    for shard in _shards(path) if path.is_dir() else [path]:
        part = _read_file(shard)
        if twice := tensors.keys() & part.keys():
            raise UserError(f"{listing(sorted(twice))} is in {shard.name} and in an earlier shard of {path}")
        tensors.update(part)
    return tensors


def _shards(folder: Path) -> list[Path]:
    """The files of a sharded checkpoint: those its index names, else all of one kind."""
    indexes = sorted(folder.glob("*.index.json"))
    if len(indexes) > 1:
        raise UserError(f"{folder} has {len(indexes)} shard indexes ({listing(i.name for i in indexes)}); keep one")
    if indexes:
        names = sorted(set(json.loads(indexes[0].read_text())["weight_map"].values()))
        if absent := [name for name in names if not (folder / name).is_file()]:
            raise UserError(f"{folder} lacks {listing(absent)}, which {indexes[0].name} names; download it again")
        return [folder / name for name in names]
    for suffixes in ((".safetensors",), PICKLES):
        if shards := sorted(file for file in folder.iterdir() if file.suffix in suffixes):
            return shards
    raise UserError(f"{folder} has no .safetensors or .pt file in it; give the folder that holds the shards")


def _read_file(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix in PICKLES:
        return _read_pickle(path)
    raise UserError(
        f"can't load {path}: needed .safetensors or {', '.join(PICKLES)}, found {path.suffix or 'no suffix'}"
    )


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except SafetensorError as error:
        raise UserError(f"{path} is broken or cut short ({error}); download it again") from error


def _read_pickle(path: Path) -> dict[str, Tensor]:
    mappable = zipfile.is_zipfile(path)
    if not mappable:
        logger.warning("%s is in PyTorch's old format and can't be memory-mapped: it is read whole", path)
    try:
        content = torch.load(path, map_location="cpu", mmap=mappable, weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path} is refused: it is broken, or a pickle that holds more than tensors and could run code; "
            "get it from its source again, or as .safetensors"
        ) from error
    except (RuntimeError, EOFError) as error:
        raise UserError(f"{path} is broken or cut short ({str(error).splitlines()[0]}); download it again") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise UserError(f"{path} holds a {type(content).__name__}, not a state dict")
    return _only_tensors(content, str(path))


def _only_tensors(content: Mapping[str, Tensor], source: str) -> dict[str, Tensor]:
    if odd := [str(key) for key, value in content.items() if not isinstance(value, Tensor)]:
        raise UserError(f"{source} holds things that are not tensors: {listing(odd)}; give a plain state dict")
    return dict(content)


def load_strictly(
    model: nn.Module,
    source: Source,
    table: KeyTable,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    keep_in_float32: Collection[str] = (),
) -> None:
    """Give a model, built on the meta device, the tensors of a released checkpoint.

    A tensor that needs neither a new dtype nor a new device stays a view of the mapped file. The others are converted
    one by one and each shard is let go once it is used up, so host memory peaks at the largest shard beyond the model
    itself. The tensors of a state dict are copied: the model never shares memory with the caller's.

    Args:
        model: changed in place; every parameter and persistent buffer is replaced.
        source: path or state dict, under the released names.
        table: the layout.
        dtype: of the floating-point tensors; None keeps the file's.
        device: None keeps the CPU.
        keep_in_float32: names of modules or parameters (any dotted part) whose tensors become float32 where a dtype
            is given.

    Raises:
        UserError: a key is wrong, missing, extra or of the wrong shape; it is named.
    """
    tensors = read_checkpoint(source)
    shared = isinstance(source, Mapping)
    where = "the state dict" if shared else str(source)
    check_keys(table, tensors, table.to_official(model.state_dict()), where)
    for key in list(tensors):
        for name, tensor in table.parts(key, tensors.pop(key)):
            target = dtype if tensor.is_floating_point() else None
            if target is not None and not set(name.split(".")).isdisjoint(keep_in_float32):
                target = torch.float32
            _assign(model, name, tensor.to(device=device, dtype=target, copy=shared))


def _assign(model: nn.Module, name: str, tensor: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    module = model.get_submodule(path)
    old = getattr(module, leaf)
    if isinstance(old, nn.Parameter):
        setattr(module, leaf, nn.Parameter(tensor, requires_grad=old.requires_grad))
    else:
        setattr(module, leaf, tensor)
