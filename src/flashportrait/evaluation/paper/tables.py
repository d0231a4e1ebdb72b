"""The paper's ablation tables as they can be made from one checkpoint: rows, what is claimed, what is left out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from flashportrait.evaluation.paper.methods import Method, exact, fewer_steps
from flashportrait.evaluation.paper.running import STEPS
from flashportrait.evaluation.paper.windows import motion_frames
from flashportrait.sampling.predictor import AdaptiveLatentPrediction
from flashportrait.sampling.speed import SPEEDS, preset
from flashportrait.settings import SamplingSettings

NUMBERS = (2, 3, 4, 5, 7)
"""Of the tables, as the paper numbers them."""
PAPER_OVERLAP = 5
"""Latent frames that windows share in the paper."""
PAPER_K, PAPER_N = 5, 3
LAYERS = "blocks"
"""Target of prediction where w counts: hidden states, with the scale measured on every block."""

AED, ERROR = "aed", "latent_rel_error"


@dataclass(frozen=True)
class Claim:
    """An order that the paper reports."""

    words: str
    better: str
    """Name of a row."""
    worse: str
    measures: tuple[str, ...] = (AED,)
    """By which the two are compared here, lower being better."""


@dataclass(frozen=True)
class Table:
    """One table."""

    number: int
    title: str
    paper: str
    """What the paper finds, in words."""
    rows: tuple[Method, ...]
    claims: tuple[Claim, ...]
    measures: tuple[str, ...]
    """Its columns."""
    shown: tuple[str, ...]
    """Measures that are plotted."""
    left_out: tuple[str, ...] = ()
    """Rows of the paper's table that this checkpoint can't give, and why."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """What some rows are called in this table, by name."""
    long: bool = False
    """Made on long clips."""


Caches = Callable[[], Sequence[Method]]
"""Makes the rows of caches, whose thresholds have to be found by running them."""


def make_table(number: int, settings: SamplingSettings, dial: Any, caches: Caches, *, quick: bool) -> Table:
    """One of the tables.

    Args:
        number: one of ``NUMBERS``.
        settings: the model's own.
        dial: predictions fitted to the model, by speed.
        caches: called for table 4.
        quick: with fewer rows.
    """
    if number == 2:
        return _expression()
    if number == 3:
        return _windows(settings, quick=quick)
    if number == 4:
        return _acceleration(dial, caches, quick=quick)
    return _interval_and_order(quick=quick) if number == 5 else _scales()


@contextmanager
def features_scaled(transformer: Any, factor: float) -> Iterator[None]:
    """Expression attention that gives ``factor`` times as much, as features of another scale would."""

    def scale(module: nn.Module, given: Any, output: Tensor) -> Tensor:
        return factor * output

    hooks = [block.attn2.emo_v_proj.register_forward_hook(scale) for block in transformer.blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _expression() -> Table:
    scaled = [
        Method(f"full, features x {factor:g}", "full", within=partial(features_scaled, factor=factor))
        for factor in (10.0, 0.1)
    ]
    return Table(
        2,
        "Ways for expression to join",
        "The full block (expression rescaled to spread and mean of the branch it joins) follows the driver best, then "
        "centring alone, then rescaling alone, then plain addition.",
        (exact(STEPS), *scaled, Method("no expression", "without", {"emotion_scale": 0.0})),
        (Claim("With expression the driver is followed better than without", f"Euler {STEPS}", "no expression"),),
        (AED, "gaze_mae", "truth_psnr", ERROR),
        (AED, ERROR),
        (
            "Plain addition, rescaling alone and centring alone: a network trained with the full block can't tell how "
            "one trained without it would do. `benchmarks/twins.py` trains such twins; what it found is in "
            "docs/experiments/2026-11-22-expression-block-twins.md. What can be seen at run time is what the block "
            "is for: features of ten times or a tenth of the scale give the same but for rounding.",
        ),
        {exact(STEPS).name: "full, as trained"},
    )


def _windows(settings: SamplingSettings, *, quick: bool) -> Table:
    overlap = min(PAPER_OVERLAP, settings.window - 1)
    orders = {
        "weighted windows": "synchronous",
        "weighted windows, diagonal": "diagonal",
        "weighted windows, causal": "causal",
    }
    weighted = [
        Method(name, "weighted", {"overlap": overlap, "schedule": order})
        for name, order in orders.items()
        if not quick or order != "diagonal"  # whose numbers are the synchronous order's
    ]
    return Table(
        3,
        "Long clips: motion frames, plain windows, weighted windows",
        "Weighted sliding windows follow the driver better than motion frames and than plain windows.",
        (
            Method("motion frames", "motion frames", {"overlap": overlap}, sampler=motion_frames),
            Method("plain windows", "plain", {"overlap": 0, "schedule": "synchronous"}),
            *weighted,
            Method("as shipped", "shipped", {"overlap": settings.overlap, "schedule": settings.schedule}),
        ),
        (
            Claim("Weighted windows are better than motion frames", "weighted windows", "motion frames"),
            Claim("Weighted windows are better than plain ones", "weighted windows", "plain windows"),
        ),
        (AED, "apd", "truth_psnr", "seam", "calls", "first_frame", "seconds"),
        (AED, "seam"),
        (
            "Motion frames of a network trained for them: these here are put in by replacement, which needs no "
            "training and is the weaker for it.",
        ),
        long=True,
    )


def _acceleration(dial: Any, caches: Caches, *, quick: bool) -> Table:
    steps = [method for method in fewer_steps(6) if not quick or method.family != "DPM++ 2M"]
    speeds = [
        Method(f"--speed {name}", "dial", {"predictor": preset(name, dial)}) for name in SPEEDS if name != "exact"
    ]
    rows = (exact(STEPS), *caches(), _alp(), _alp(LAYERS), _alp(LAYERS, s=False, w=False), *steps, *speeds)
    names = [method.name for method in rows]
    tea = next((name for name in names if name.startswith("TeaCache")), "")
    with_both, without = _alp(LAYERS).name, _alp(LAYERS, s=False, w=False).name
    return Table(
        4,
        "Ways to save calls of the network",
        "Adaptive Latent Prediction at a sixth of the time is nearly as good as no acceleration, better than TeaCache "
        "at half the time and FoCa at a fifth; without s and w it is much worse, and Self-Forcing is the worst.",
        rows,
        (
            Claim("s and w make prediction better", with_both, without, (AED, ERROR)),
            Claim("Prediction is better than TeaCache, though that makes more calls", with_both, tea, (AED, ERROR)),
        ),
        ("calls", "seconds", ERROR, "psnr", AED, "gaze_mae", "identity"),
        (ERROR, AED),
        (
            "FoCa: its implementation can't be given this network.",
            "Self-Forcing: a network distilled for it would have to be trained.",
        ),
        {exact(STEPS).name: f"none ({exact(STEPS).name})"},
    )


def _interval_and_order(*, quick: bool) -> Table:
    intervals, orders = ((2, 8), (1, 2)) if quick else ((2, 3, 4, 6, 8), (1, 2, 4))
    chosen = _alp()
    rows = [*(_alp(interval=interval) for interval in intervals), chosen, *(_alp(order=order) for order in orders)]
    best = chosen.name
    return Table(
        5,
        "Interval K and order n",
        "Larger K is faster and worse, slightly up to 5 and much at 8; K = 5 with n = 3 is the setting chosen.",
        tuple(sorted(rows, key=lambda method: method.name)),
        (
            Claim("K = 2 is better than K = 5", _alp(interval=2).name, best, (AED, ERROR)),
            Claim("K = 5 is better than K = 8", best, _alp(interval=8).name, (AED, ERROR)),
            Claim("n = 3 is better than n = 1", best, _alp(order=1).name, (AED, ERROR)),
            Claim("n = 3 is better than n = 2", best, _alp(order=2).name, (AED, ERROR)),
        ),
        ("calls", "seconds", ERROR, "psnr", AED),
        (ERROR, AED),
    )


def _scales() -> Table:
    rows = tuple(_alp(LAYERS, s=s, w=w) for s in (True, False) for w in (True, False))
    both, only_s, only_w, neither = (method.name for method in rows)
    return Table(
        7,
        "The scales s and w, each on and off",
        "Each of s and w makes prediction better than neither, and both together are best.",
        rows,
        (
            Claim("Both are better than neither", both, neither, (AED, ERROR)),
            Claim("s alone is better than neither", only_s, neither, (AED, ERROR)),
            Claim("w alone is better than neither", only_w, neither, (AED, ERROR)),
            Claim("Both are better than s alone", both, only_s, (AED, ERROR)),
            Claim("Both are better than w alone", both, only_w, (AED, ERROR)),
        ),
        ("calls", "seconds", ERROR, "psnr", AED),
        (ERROR, AED),
    )


def _alp(
    target: str = "guided", *, interval: int = PAPER_K, order: int = PAPER_N, s: bool = True, w: bool = True
) -> Method:
    """Adaptive Latent Prediction, of the velocity after guidance or of the network's layers."""
    options: dict[str, Any] = {} if s else {"alpha": 0.0}
    predictor = AdaptiveLatentPrediction(interval=interval, order=order, target=target, layer_scale=w, **options)
    scales = {(True, True): "", (True, False): ", s alone", (False, True): ", w alone", (False, False): ", no s, no w"}
    name = f"ALP K={interval} n={order}{', layers' * (target != 'guided')}{scales[s, w]}"
    return Method(name, "ALP", {"predictor": predictor})
