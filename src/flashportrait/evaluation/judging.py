"""A whole evaluation: items scored one after another, and a report that says how."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashportrait.errors import UserError
from flashportrait.evaluation.features import Extractors
from flashportrait.evaluation.fvd import FRAMES, SIDE, VideoFeatures, frechet_distance
from flashportrait.evaluation.perceptual import PerceptualDistance
from flashportrait.evaluation.protocols import Entry
from flashportrait.evaluation.scoring import METRICS, Scored, Scorer, summarise
from flashportrait.media.reader import VideoReader
from flashportrait.weights.hub import WEIGHTS, find_weight

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
    on_item: Callable[[Scored], object] = lambda _: None,
) -> tuple[dict[str, Any], list[Scored]]:
    """Score all items with the packaged extractors (profile ``open``).

    Args:
        entries: portraits, drivers, results, and truths where they are known.
        cache: folder in which what is read of videos is kept by their content; None to keep nothing.
        without: ``lpips`` to leave it out, which saves fetching it and half of the time.
        fvd: measure it as well, of results and truths (or drivers, of items without).
        on_item: told of each item that is scored.

    Returns:
        The report, fit for JSON, and the items.

    Raises:
        UserError: an extractor is missing; says how to get it.
    """
    lpips = None if "lpips" in without else PerceptualDistance(find_weight("lpips_alex"))
    scorer = Scorer(Extractors(cache), lpips)
    items = []
    for entry in entries:
        items.append(scorer.score(entry))
        on_item(items[-1])
    summary: dict[str, Any] = summarise(items, SEED)
    summary["fvd"] = _fvd(items) if fvd else None
    summary["lip_sync"] = None
    report = {
        "format": FORMAT,
        "profile": "open",
        "about": about(),
        "items": [item.to_dict() for item in items],
        "summary": summary,
        "metrics": described(fvd),
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


def described(fvd: bool) -> dict[str, dict[str, Any]]:
    """Each metric's convention, and the extractor with its hash and licence."""
    told = {}
    for name, metric in METRICS.items():
        told[name] = {
            "title": metric.title,
            "unit": metric.unit,
            "better": metric.better,
            "of": metric.of,
            "convention": metric.convention,
            "extractor": _extractor(metric.extractor),
        }
    if fvd:
        told["fvd"] = {
            "title": "FVD",
            "unit": "",
            "better": "lower",
            "of": "truth, or else the driver",
            "convention": f"Frechet distance of I3D logits; all clips of {FRAMES} frames, {SIDE}x{SIDE}, no overlap",
            "extractor": _extractor("i3d_kinetics"),
        }
    return told


def _extractor(name: str | None) -> dict[str, Any] | None:
    if name is None:
        return None
    if name in WEIGHTS:
        weight = WEIGHTS[name]
        return {"name": name, "source": weight.source, "licence": weight.licence, "sha256": weight.sha256}
    from flashportrait.evaluation.extractors import SFACE_FILE, sface_sha256

    return {"name": name, "source": SFACE_FILE, "licence": "Apache-2.0", "sha256": sface_sha256()}


def _fvd(items: Sequence[Scored]) -> dict[str, Any] | None:
    """Of the results of all items that can be read, and what they are compared with."""
    network = VideoFeatures(find_weight("i3d_kinetics"))
    scored = [item for item in items if item.frames]
    results = [row for item in scored for row in _clips(network, item.entry.result)]
    others = [row for item in scored for row in _clips(network, item.entry.truth or item.entry.driving)]
    try:
        value = frechet_distance(np.array(results), np.array(others))
    except UserError as error:
        return {"value": None, "clips": len(results), "reason": str(error)}
    return {"value": float(f"{value:.5g}"), "clips": len(results), "reference_clips": len(others)}


def _clips(network: VideoFeatures, video: Path) -> Iterator[np.ndarray]:
    """Features of a video's clips, one after another."""
    clip: list[torch.Tensor] = []
    try:
        for frame in VideoReader(video):
            picture = torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255
            clip.append(torch.nn.functional.interpolate(picture, (SIDE, SIDE), mode="bilinear", antialias=True)[0])
            if len(clip) == FRAMES:
                yield network(torch.stack(clip, 1)[None])[0].numpy()
                clip.clear()
    except UserError:
        return
