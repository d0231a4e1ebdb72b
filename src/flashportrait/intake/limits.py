"""What an uploaded file may be."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["portrait", "driving"]
Media = Literal["picture", "animation", "video", "template"]

PREVIEW_SIDE = 512
"""Longest side of a preview in pixels."""


@dataclass(frozen=True)
class Limits:
    """What an uploaded file may be, and what it may take to look at it."""

    bytes: int = 512 << 20
    seconds: float = 600.0
    """Of a driver."""
    frames: int = 36_000
    """Of a driver."""
    pixels: int = 50_000_000
    """Of a picture, or of one frame."""
    memory: int = 2 << 30
    """Bytes that looking at it may hold."""
    time: float = 20.0
    """Seconds that looking at it may take."""
