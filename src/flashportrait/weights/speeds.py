"""Where predictions fitted to a model are kept: with the model, so that ``--speed`` finds them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flashportrait.errors import UserError
from flashportrait.weights.folder import model_folder
from flashportrait.weights.loading import ModelFiles, released_model

SPEEDS_FILE = "speeds.json"
"""Beside the transformer of a model in the released layout."""


def speeds_file(model: str | Path) -> Path:
    """The file that holds, or would hold, a model's fitted speeds: its ``model_index.json``, or ``speeds.json``.

    Raises:
        UserError: there is no such model.
    """
    released = released_model(model)
    if released is None:
        return model_folder(model) / "model_index.json"
    return ModelFiles(released.folder).find("transformer_14b").parent / SPEEDS_FILE


def check_writable(file: Path) -> None:
    """Refuse to begin what can't be stored. Raises UserError."""
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise UserError(f"{file} can't be written: copy the model to a folder of your own, and give that as --model")


def read_speeds(file: Path) -> dict[str, Any]:
    """Fields of ``FittedPrediction`` by speed; nothing if they weren't fitted.

    Raises:
        UserError: the file is damaged.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text())
        return dict(content["speeds"])
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise UserError(f"{file} is damaged ({error}): remove it, or fit the speeds again with fit-speed") from error


def write_speeds(file: Path, speeds: Mapping[str, Any]) -> None:
    """Store fitted speeds where ``--speed`` finds them; whole or not at all."""
    content: dict[str, Any] = {"speeds": dict(speeds)}
    if file.name != SPEEDS_FILE:
        index = json.loads(file.read_text())
        content = {**index, "defaults": {**index.get("defaults", {}), **content}}
    part = file.with_name(f".{file.name}.part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    part.replace(file)
