"""A whole evaluation: items scored one after another, and a report that says how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashportrait.errors import UserError
from flashportrait.evaluation.features import Extractors
from flashportrait.evaluation.fvd import ClipFeatures, ScriptedVideoFeatures, VideoFeatures, frechet_distance
from flashportrait.evaluation.paper_extractors import PaperExtractors, PaperFiles
from flashportrait.evaluation.perceptual import PerceptualDistance
from flashportrait.evaluation.profiles import FVD_FRAMES, I3D, Metric
from flashportrait.evaluation.protocols import Entry
from flashportrait.evaluation.scoring import Scored, Scorer, summarise
from flashportrait.media.reader import VideoReader
from flashportrait.weights.hub import find_weight

FORMAT = 1
SEED = 0
"""Of the bootstrap."""
NO_LIP_SYNC = "needs SyncNet, which no package on the index carries"


def judge(
    entries: Sequence[Entry],
    *,
    cache: Path | None,
    without: Sequence[str] = (),
    fvd: bool = False,
    paper: PaperFiles | None = None,
    on_item: Callable[[Scored], object] = lambda _: None,
) -> tuple[dict[str, Any], list[Scored]]:
    """Score all items, with the packaged extractors (profile ``open``) or those of the papers (profile ``paper``).

    Args:
        entries: portraits, drivers, results, and truths where they are known.
        cache: folder in which what is read of videos is kept by their content; None to keep nothing.
        without: ``lpips`` to leave it out, which saves fetching it and half of the time.
        fvd: measure it as well, of results and truths (or drivers, of items without).
        paper: the papers' extractors; None for the packaged ones.
        on_item: told of each item that is scored.

    Returns:
        The report, fit for JSON, and the items.

    Raises:
        UserError: an extractor is missing, or a file holds another; says how to get it.
    """
    extractors = Extractors(cache) if paper is None else PaperExtractors(paper, cache)
    clips = _clip_features(paper) if fvd else None
    lpips = None if "lpips" in without else PerceptualDistance(find_weight("lpips_alex"))
    scorer = Scorer(extractors, lpips)
    items = []
    for entry in entries:
        items.append(scorer.score(entry))
        on_item(items[-1])
    summary: dict[str, Any] = summarise(items, SEED)
    summary["fvd"] = _fvd(items, clips) if clips else None
    summary["lip_sync"] = None
    report = {
        "format": FORMAT,
        "profile": extractors.profile.name,
        "about": about(),
        "items": [item.to_dict() for item in items],
        "summary": summary,
        "metrics": described(extractors, fvd),
    }
    return report, items


def about() -> dict[str, Any]:
    """What decides the figures beside the videos: versions, seed."""
    from flashportrait.marking.provenance import software

    return {
        "program": software(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "bootstrap": f"percentile, 95%, 2000 resamples over items, seed {SEED}",
        "lip_sync": NO_LIP_SYNC,
    }


def described(extractors: Extractors, fvd: bool) -> dict[str, dict[str, Any]]:
    """Each metric's convention, and the extractor with its hash and licence."""
    profile = extractors.profile

    def told(metric: Metric) -> dict[str, Any]:
        return {
            "title": metric.title,
            "unit": metric.unit,
            "better": metric.better,
            "of": metric.of,
            "convention": metric.convention,
            "extractor": None if metric.extractor is None else known[metric.extractor],
        }

    metrics = {**profile.metrics, **({"fvd": profile.fvd} if fvd else {})}
    names = {metric.extractor for metric in metrics.values() if metric.extractor is not None}
    known = {name: extractors.told(name) for name in names}
    return {name: told(metric) for name, metric in metrics.items()}


def _clip_features(paper: PaperFiles | None) -> ClipFeatures:
    if paper is None:
        return VideoFeatures(find_weight("i3d_kinetics"))
    if paper.i3d is None:
        raise UserError(f"FVD in the profile 'paper' needs {I3D.name} ({I3D.option} FILE): {I3D.advice}")
    return ScriptedVideoFeatures(paper.i3d)


def _fvd(items: Sequence[Scored], network: ClipFeatures) -> dict[str, Any]:
    """Of the results of all items that can be read, and what they are compared with."""
    scored = [item for item in items if item.frames]
    results = [row for item in scored for row in _clips(network, item.entry.result)]
    others = [row for item in scored for row in _clips(network, item.entry.truth or item.entry.driving)]
    try:
        value = frechet_distance(np.array(results), np.array(others))
    except UserError as error:
        return {"value": None, "clips": len(results), "reason": str(error)}
    return {"value": float(f"{value:.5g}"), "clips": len(results), "reference_clips": len(others)}


def _clips(network: ClipFeatures, video: Path) -> Iterator[np.ndarray]:
    """Features of a video's clips, one after another."""
    clip: list[torch.Tensor] = []
    try:
        for frame in VideoReader(video):
            clip.append(network.picture(torch.from_numpy(frame).permute(2, 0, 1).float() / 255))
            if len(clip) == FVD_FRAMES:
                yield network(torch.stack(clip, 1)[None])[0].numpy()
                clip.clear()
    except UserError:
        return
