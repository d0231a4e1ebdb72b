"""Models in diffusers' folder layout: which one is meant, and whether it came whole."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from flashportrait.checkpoints.tables import listing
from flashportrait.errors import UserError
from flashportrait.weights.hub import find_weight


def model_folder(name_or_path: str | Path) -> Path:
    """The folder of a model: ``nano`` (the embedded one), or a path.

    Raises:
        UserError: it isn't a model folder.
    """
    folder = find_weight("nano") if name_or_path == "nano" else Path(name_or_path).expanduser()
    if not (folder / "model_index.json").is_file():
        raise UserError(
            f"'{name_or_path}' is not a model: there is no {folder / 'model_index.json'}; give 'nano' or the folder of "
            "a model written by save_pretrained"
        )
    return folder


def read_index(folder: Path) -> dict[str, Any]:
    """What a model's ``model_index.json`` says, without the networks.

    Raises:
        UserError: it can't be read.
    """
    try:
        index = json.loads((folder / "model_index.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            f"{folder / 'model_index.json'} can't be read ({error}); fetch or save the model again"
        ) from error
    if not isinstance(index, dict):
        raise UserError(f"{folder / 'model_index.json'} holds no object; fetch or save the model again")
    return index


def check_components(components: Mapping[str, object], folder: Path) -> None:
    """Compare each model with what is stored for it: diffusers only warns of keys that are missing or left over.

    Raises:
        UserError: a weight is missing, or one is left over; the error names it.
    """
    from diffusers import ModelMixin

    for name, model in components.items():
        if not isinstance(model, ModelMixin) or not (folder / name).is_dir():
            continue
        missing = [key for key, weight in model.named_parameters() if weight.is_meta]
        if missing:
            raise UserError(f"{folder / name} lacks {listing(missing)}; fetch or save the model again")
        stored: set[str] = set()
        for file in sorted((folder / name).glob("*.safetensors")):
            stored |= _stored_keys(file)
        if extra := sorted(stored - model.state_dict().keys()):
            raise UserError(
                f"{folder / name} holds {listing(extra)}, which {type(model).__name__} doesn't have; "
                "is its config.json of another model?"
            )


def _stored_keys(file: Path) -> set[str]:
    try:
        with safe_open(file, framework="pt") as tensors:
            return set(tensors.keys())
    except (SafetensorError, OSError) as error:
        raise UserError(f"{file} can't be read ({error}); fetch or save the model again") from error
