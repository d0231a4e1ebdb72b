"""Pipelines by name: the embedded model, the released 14B, or a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.weights.folder import model_folder
from flashportrait.weights.loading import load_components

OFFICIAL: dict[str, Any] = {
    "motion_layout": "pdfgc",
    "framing": {"mode": "whole", "resolution": 720, "multiple": 16},
    "defaults": {"num_inference_steps": 30, "text_scale": 1.0, "emotion_scale": 4.0, "window": 51, "overlap": 30},
}
"""How the released 14B is used, as its authors do."""


def load_pipeline(
    name_or_path: str | Path = "nano", device: str | torch.device | None = None, dtype: torch.dtype | None = None
) -> FlashPortraitPipeline:
    """A pipeline ready to run.

    Args:
        name_or_path: ``nano`` (the embedded model), ``14b`` (the released one, downloaded before), or the folder of a
            model written by ``save_pretrained``.
        device: where to run; the accelerator if there is one.
        dtype: of the networks; bfloat16 for the 14B and float32 for others unless given.

    Raises:
        UserError: there is no such model, or it is damaged.
    """
    device = default_device() if device is None else torch.device(device)
    if name_or_path == "14b":
        components = load_components(torch_dtype=dtype or torch.bfloat16, device=device)
        return FlashPortraitPipeline(**components, **OFFICIAL).to(device)
    return FlashPortraitPipeline.from_pretrained(model_folder(name_or_path)).to(device, dtype or torch.float32)


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
