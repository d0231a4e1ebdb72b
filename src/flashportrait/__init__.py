"""Animate one portrait from one driving video, for as long as the driver does."""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS = {
    "FlashPortraitPipeline": "flashportrait.pipeline",
    "load_pipeline": "flashportrait.loading",
    "PortraitVideo": "flashportrait.result",
    "MotionFeatures": "flashportrait.face.motion",
    "AdaptiveLatentPrediction": "flashportrait.sampling.predictor",
    "FlashPortraitTransformer3DModel": "flashportrait.models.transformer",
    "PortraitEncoder": "flashportrait.models.portrait_encoder",
    "MotionEncoder": "flashportrait.models.motion_encoder",
    "TinyVideoAutoencoder": "flashportrait.models.tiny_vae",
    "VideoReader": "flashportrait.media.reader",
    "VideoWriter": "flashportrait.media.writer",
    "Job": "flashportrait.job",
    "run": "flashportrait.job",
    "resume": "flashportrait.job",
    "ModelCache": "flashportrait.job",
    "UserError": "flashportrait.errors",
}
"""Public name -> the module that holds it, imported when the name is first used."""

__all__ = list(_EXPORTS)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("importlib.metadata").version("flashportrait")
    if name not in _EXPORTS:
        raise AttributeError(f"module 'flashportrait' has no attribute '{name}'")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_EXPORTS])
