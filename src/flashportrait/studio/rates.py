"""How long a job will take, by how long such jobs took on this machine."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

DECISIVE = ("model", "view", "speed", "predictor", "steps", "schedule", "refine", "device", "dtype", "compile")
"""Settings that decide, with the size, how long a frame takes."""
KEPT = 5
"""Measurements of a kind that are kept; their median counts."""
LONGEST_SIDE = 1280
"""Of a result whose size isn't given, at most."""


class Rates:
    """Seconds a frame, measured by the jobs that were run; kept in a file.

    Args:
        file: of JSON; made with the first measurement.
    """

    def __init__(self, file: Path) -> None:
        self._file, self._lock = file, threading.Lock()

    def note(self, settings: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Keep what a run took, without loading the model."""
        seconds, frames = summary["seconds"], summary["frames"]
        if not frames:
            return
        each = (seconds["total"] - seconds.get("load", 0.0)) / frames
        with self._lock:
            table = self._table()
            sizes = table.setdefault(_kind(settings), {})
            side = str(max(summary["size"]))
            sizes[side] = [*sizes.get(side, []), each][-KEPT:]
            part = self._file.with_name(f".{self._file.name}.part")
            part.write_text(json.dumps(table, indent=1))
            os.replace(part, self._file)

    def estimate(self, settings: Mapping[str, Any], frames: int, portrait_side: int) -> float | None:
        """Seconds that a job will take, loading left out; None where nothing like it has been measured.

        Args:
            settings: of the job.
            frames: of the driver, as trimmed.
            portrait_side: longer side of the portrait in pixels.
        """
        sizes = self._table().get(_kind(settings))
        if not sizes:
            return None
        side = int(settings.get("size") or min(portrait_side, LONGEST_SIDE))
        nearest = min(sizes, key=lambda known: abs(int(known) - side))
        return frames * median(sizes[nearest])

    def _table(self) -> dict[str, dict[str, list[float]]]:
        try:
            table = json.loads(self._file.read_text())
        except (OSError, ValueError):
            return {}
        return table if isinstance(table, dict) else {}


def _kind(settings: Mapping[str, Any]) -> str:
    return json.dumps({name: settings[name] for name in DECISIVE if settings.get(name) is not None}, default=str)
