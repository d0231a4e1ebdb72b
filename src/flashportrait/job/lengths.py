"""Lengths of windows that are offered for the 14B: what they cost on a machine, and what was measured of their seams.

Attention's cost grows with the square of a window's length, so the window decides more than anything else how long a
run takes. The released setting is the default wherever it fits; this is the choice beside it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from flashportrait.errors import UserError
from flashportrait.sampling.windows import WindowPlan
from flashportrait.weights.machine import Machine
from flashportrait.weights.plan import (
    Plan,
    Work,
    format_seconds,
    make_plan,
    pass_cost,
    window_tokens,
)

SEAMS = {(51, 30): 1.01, (31, 5): 1.01, (21, 12): 1.01, (21, 5): 1.02, (13, 3): 1.02}
"""Windows and overlaps that are offered, the released setting first, with their seams in the embedded model's network:
the change from frame to frame at a seam over that at the same frames of the clip sampled in one window
(docs/experiments/2026-11-27-window-lengths.md)."""
QUICKER = (21, 5)
"""Window and overlap to go to where time counts: 81 frames, as long as Wan2.1's own clips."""
WORTH_SAYING = 1.2
"""Times as fast that other windows are worth a word."""


@dataclass(frozen=True)
class Offer:
    """One choice of windows for a clip."""

    window: int
    """Latent frames."""
    overlap: int
    windows: int
    """Of the clip."""
    pass_ratio: float
    """Time of a pass over that of the measured window's, where computing takes longest."""
    peak_vram: int | None
    """Predicted bytes on the accelerator; None where it doesn't fit."""
    seam: float
    """See ``SEAMS``."""


def offers(machine: Machine, work: Work, plan: Plan, measured: int) -> Iterator[Offer]:
    """What there is to choose from, the released setting first.

    Args:
        machine, work: of the run.
        plan: how the model is kept on the machine; the same for all.
        measured: latent frames of the window whose pass the others are compared with.
    """
    for (window, overlap), seam in SEAMS.items():
        length = min(window, work.latent_frames)
        try:
            peak = _same(machine, work, plan, window, overlap).peak_vram
        except UserError:
            peak = None
        cost, of_measured = (pass_cost(window_tokens(work, frames), work.sizes) for frames in (length, measured))
        yield Offer(
            window, overlap, len(WindowPlan(work.latent_frames, window, overlap)), cost / of_measured, peak, seam
        )


def quicker(machine: Machine, work: Work, plan: Plan) -> str | None:
    """A line about shorter windows, if they take less time by ``WORTH_SAYING`` than the plan's."""
    window, overlap = QUICKER
    if plan.window < window:  # for want of memory
        return None
    other = _same(machine, work, plan, window, overlap)
    times = plan.seconds / other.seconds
    if times < WORTH_SAYING:
        return None
    return (
        f"--window {window} --overlap {overlap} would take about {times:.1f} times less "
        f"({format_seconds(other.seconds)}); docs/scaling.md says what that may change"
    )


def _same(machine: Machine, work: Work, plan: Plan, window: int, overlap: int) -> Plan:
    return make_plan(
        machine,
        work,
        storage=plan.storage,
        placement=plan.placement,
        text_encoder=plan.text_encoder,
        window=window,
        overlap=overlap,
        compile=plan.compiled,
    )
