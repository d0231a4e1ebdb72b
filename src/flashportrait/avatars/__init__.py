"""Portraits drawn by formula, whose identity and expression are known exactly."""

from __future__ import annotations

from flashportrait.avatars.identity import Identity, sample_identities
from flashportrait.avatars.performance import sample_performance
from flashportrait.avatars.renderer import RenderResult, render

__all__ = ["Identity", "RenderResult", "render", "sample_identities", "sample_performance"]
