"""What a run made, and what it took."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flashportrait.result import RunReport


@dataclass(frozen=True)
class Summary:
    """Of one run that ended well."""

    output: Path
    model: str
    rate: Fraction
    """Frames per second; the mean where the driver's vary."""
    variable_rate: bool
    """Whether each frame is shown at its driver's own time."""
    size: tuple[int, int]
    """Width and height in pixels of what was written."""
    seed: int
    mark: str
    """How the file says that it is synthetic, in words, or that it doesn't."""
    report: RunReport
    """Of the frames: counts, memory, quality."""
    seconds: dict[str, float]
    """Wall time by stage, with ``load`` and ``total``."""
    warnings: tuple[str, ...]
    """All that was warned of, one line each."""
    sound_lost: str | None = None
    """Why the driver's sound, or the rest of it, is missing from the output; None where nothing failed."""

    @property
    def frames(self) -> int:
        """How many were written."""
        return self.report.frames

    def to_dict(self) -> dict[str, Any]:
        """All of it, fit for JSON."""
        return {
            "output": str(self.output),
            "model": self.model,
            "rate": str(self.rate),
            "variable_rate": self.variable_rate,
            "size": list(self.size),
            "seed": self.seed,
            "mark": self.mark,
            **self.report.to_dict(),
            "warnings": list(self.warnings),
            "sound_lost": self.sound_lost,
            "seconds": {stage: round(duration, 3) for stage, duration in self.seconds.items()},
        }

    def __str__(self) -> str:
        """A few lines for people."""
        from flashportrait.evaluation.report import quality_lines

        report, seconds = self.report, self.seconds
        stages = ", ".join(f"{stage} {duration:.1f} s" for stage, duration in seconds.items() if stage != "total")
        width, height = self.size
        rate = f"{self.rate} frames per second" + " on average, each at its driver's time" * self.variable_rate
        lines = [
            f"{self.output}: {report.frames} frames of {width}x{height} at {rate}",
            f"{seconds['total']:.1f} s, {report.frames / max(seconds['total'], 1e-9):.2f} frames per second ({stages})",
            f"first frame after {report.seconds_to_first_frame or 0:.1f} s; "
            f"steps computed {report.steps_computed}, predicted {report.steps_predicted}; "
            f"peak memory {report.peak_memory_bytes / 2**30:.2f} GiB; faces missed {len(report.missing_faces)}",
            f"mark: {self.mark}",
            *quality_lines(report.quality),
        ]
        return "\n".join(lines)
