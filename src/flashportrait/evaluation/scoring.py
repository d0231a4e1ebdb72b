"""Scores results: each metric of an item over time and in all, and of a set with its uncertainty."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from flashportrait.errors import UserError
from flashportrait.evaluation import metrics
from flashportrait.evaluation.features import Extractors, Features, paired, times_of
from flashportrait.evaluation.perceptual import PerceptualDistance
from flashportrait.evaluation.profiles import LPIPS_EVERY, LPIPS_SIDE, METRICS, OPEN, SSIM_SIDE
from flashportrait.evaluation.protocols import Entry
from flashportrait.face.blendshapes import MEDIAPIPE_NAMES

PART_SECONDS = 10.0
"""Length of the parts over which figures are given for long clips."""
RESAMPLES, CONFIDENCE = 2000, 0.95
RATE_TOLERANCE = 0.01
SHORTER = 2
"""Frames by which a result may be shorter than its driver."""


@dataclass
class Scored:
    """What came of one item."""

    entry: Entry
    profile: str = OPEN.name
    """Of the extractors."""
    values: dict[str, float | None] = field(default_factory=lambda: dict.fromkeys(METRICS))
    over_time: list[dict[str, Any]] = field(default_factory=list)
    """The same for each ``PART_SECONDS``: ``start``, ``end`` in seconds, and metrics."""
    frames: int = 0
    """That were compared."""
    seconds: float = 0.0
    missing: dict[str, str] = field(default_factory=dict)
    """Why a metric has no value."""
    problems: list[str] = field(default_factory=list)
    """What is wrong with the item, one line each."""
    per_frame: dict[str, np.ndarray] = field(default_factory=dict)
    """Figures of each frame, for plots."""

    def to_dict(self) -> dict[str, Any]:
        """An item of the report."""
        files = {name: getattr(self.entry, name) for name in ("portrait", "driving", "result", "truth")}
        return {
            **{name: None if file is None else str(file) for name, file in files.items()},
            "profile": self.profile,
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            **{name: _rounded(value) for name, value in self.values.items()},
            "lip_sync": None,
            "over_time": [{name: _rounded(value) for name, value in part.items()} for part in self.over_time],
            "missing": self.missing,
            "problems": self.problems,
        }


class Scorer:
    """Scores items.

    Args:
        extractors: that read faces and identities, and whose profile says which figures come of it.
        lpips: None to leave it out.
    """

    def __init__(self, extractors: Extractors, lpips: PerceptualDistance | None) -> None:
        self._extractors, self._lpips = extractors, lpips

    def score(self, entry: Entry) -> Scored:
        """Score an item; whatever is wrong with it is part of the answer."""
        scored = Scored(entry, self._extractors.profile.name)
        scored.missing |= self._extractors.profile.unmeasured
        result = self._features(entry.result, "result", scored)
        if result is None:
            scored.missing = dict.fromkeys(METRICS, "the result can't be scored")
            return scored
        scored.frames, scored.seconds = len(result), len(result) / result.rate
        driver = self._features(entry.driving, "driver", scored)
        truth = None if entry.truth is None else self._features(entry.truth, "truth", scored)
        self._judge_length(result, truth or driver, scored)
        frames: dict[str, np.ndarray] = {}
        self._faces(result, truth or driver, frames, scored)
        self._identity(entry.portrait, result, frames, scored)
        self._pixels(entry, result, truth, frames, scored)
        self._alone(result, driver, frames)
        scored.per_frame = frames
        self._gather(result, frames, scored)
        return scored

    def _features(self, video: Path, role: str, scored: Scored) -> Features | None:
        try:
            return self._extractors.features(video)
        except UserError as error:
            scored.problems.append(f"{role}: {error}")
            return None

    def _judge_length(self, result: Features, other: Features | None, scored: Scored) -> None:
        if other is None:
            return
        lasts, needed = len(result) / result.rate, len(other) / other.rate
        if abs(result.rate / other.rate - 1) > RATE_TOLERANCE:
            scored.problems.append(
                f"the result has {result.rate:g} frames per second and what it is compared with {other.rate:g}: frames "
                "are compared by their times"
            )
        if needed - lasts > SHORTER / other.rate:
            scored.problems.append(f"the result ends early: {lasts:.2f} s of {needed:.2f} s; only those are scored")
        missed = int((~result.seen).sum())
        if missed:
            scored.problems.append(f"no face is seen in {missed} of the result's {len(result)} frames")

    def _faces(self, result: Features, other: Features | None, frames: dict[str, np.ndarray], scored: Scored) -> None:
        if other is None:
            for name in ("aed", "apd", "gaze_mae"):
                scored.missing.setdefault(name, "there is no driver or truth that shows a face")
            return
        at = times_of(len(result), result.rate, len(other), other.rate)
        own = slice(0, len(at))
        both = result.seen[own] & other.seen[at]
        figures = {"aed": np.abs(result.expression[own] - other.expression[at]).mean(1)}
        if self._extractors.profile is OPEN:
            turn = np.remainder(result.pose[own] - other.pose[at] + np.pi, 2 * np.pi) - np.pi
            figures["apd"] = np.degrees(np.abs(turn).mean(1))
            towards = metrics.gaze_directions(result.expression[own], MEDIAPIPE_NAMES)
            expected = metrics.gaze_directions(other.expression[at], MEDIAPIPE_NAMES)
            cosines = np.clip((towards * expected).sum(-1), -1, 1)
            figures["gaze_mae"] = np.degrees(np.arccos(cosines)).mean(1)
        else:
            figures["apd"] = np.abs(result.pose[own] - other.pose[at]).mean(1)
        for name, values in figures.items():
            frames[name] = _padded(np.where(both, values, np.nan), len(result))

    def _identity(self, portrait: Path, result: Features, frames: dict[str, np.ndarray], scored: Scored) -> None:
        if self._extractors.without_identity is not None:
            scored.missing["identity"] = self._extractors.without_identity
            return
        try:
            reference = self._extractors.identity(portrait)
        except UserError as error:
            scored.problems.append(f"portrait: {error}")
            scored.missing["identity"] = "the portrait shows no face that can be read"
            return
        frames["identity"] = (result.embeddings * reference).sum(1)

    def _pixels(
        self, entry: Entry, result: Features, truth: Features | None, frames: dict[str, np.ndarray], scored: Scored
    ) -> None:
        names = ("psnr", "ssim", "lpips", "landmark_distance")
        if truth is None:
            reason = "no truth is given" if entry.truth is None else "the truth can't be read"
        elif truth.size != result.size:
            (width, height), (w, h) = truth.size, result.size
            reason = f"the result is {w}x{h} pixels and the truth {width}x{height}"
            scored.problems.append(f"{reason}: give results of the truth's size")
        else:
            self._beside_truth(entry, result, truth, frames)
            if self._lpips is None:
                scored.missing["lpips"] = "it was left out"
            return
        for name in names:
            scored.missing.setdefault(name, reason)

    def _beside_truth(self, entry: Entry, result: Features, truth: Features, frames: dict[str, np.ndarray]) -> None:
        assert entry.truth is not None
        figures: dict[str, list[float]] = {"squared_error": [], "ssim": [], "lpips": []}
        for index, (own, other) in enumerate(paired(entry.result, entry.truth)):
            figures["squared_error"].append(float(np.square(own.astype(np.float32) - other).mean()))
            step = -(-max(own.shape[:2]) // SSIM_SIDE)
            figures["ssim"].append(metrics.ssim(_shrunk(own, step)[None], _shrunk(other, step)[None]))
            taken = self._lpips is not None and index % LPIPS_EVERY == 0
            figures["lpips"].append(self._distance(own, other) if taken else math.nan)
        frames |= {name: _padded(np.array(values), len(result)) for name, values in figures.items()}
        if self._lpips is None:
            del frames["lpips"]
        if "landmark_distance" in self._extractors.profile.unmeasured:
            return
        at = times_of(len(result), result.rate, len(truth), truth.rate)
        apart = np.linalg.norm(result.landmarks[: len(at)] - truth.landmarks[at], axis=-1).mean(1)
        frames["landmark_distance"] = _padded(100 * apart / truth.face_size[at], len(result))

    def _distance(self, own: np.ndarray, other: np.ndarray) -> float:
        assert self._lpips is not None
        pair = torch.from_numpy(np.stack([own, other])).permute(0, 3, 1, 2).float() / 255
        scale = LPIPS_SIDE / min(pair.shape[-2:])
        if scale < 1:
            size = [round(side * scale) for side in pair.shape[-2:]]
            pair = torch.nn.functional.interpolate(pair, size, mode="bilinear", antialias=True)
        return float(self._lpips(pair[:1], pair[1:]))

    def _alone(self, result: Features, driver: Features | None, frames: dict[str, np.ndarray]) -> None:
        frames["flicker"] = np.where(np.arange(len(result)) > 1, result.flicker, np.nan)
        part = max(1, len(result) // 10)
        frames["color_drift"] = np.linalg.norm(result.colours - result.colours[:part].mean(0), axis=1)
        usual = usual_change(result.changes)
        jumps = result.changes / np.maximum(usual, 1.0)
        if driver is not None:
            at = times_of(len(result), result.rate, len(driver), driver.rate)
            theirs = driver.changes[at] / np.maximum(usual_change(driver.changes)[at], 1.0)
            jumps[: len(at)] /= np.maximum(theirs, 1.0)
        jumps[0] = np.nan
        frames["seam"] = jumps

    def _gather(self, result: Features, frames: dict[str, np.ndarray], scored: Scored) -> None:
        """From figures of frames to figures of the clip and of its parts."""
        scored.values |= _figures(frames, slice(None))
        if "color_drift" in frames:
            part = max(1, len(result) // 10)
            ends = result.colours[:part].mean(0) - result.colours[-part:].mean(0)
            scored.values["color_drift"] = float(np.linalg.norm(ends))
        for name, value in scored.values.items():
            if value is None:
                scored.missing.setdefault(name, "no frame could be measured")
        length = round(PART_SECONDS * result.rate)
        for start in range(0, len(result), length):
            stop = min(start + length, len(result))
            if stop - start < length / 4 and start:
                continue  # a remainder too short to stand beside the others
            times = {"start": start / result.rate, "end": stop / result.rate}
            scored.over_time.append({**times, **_figures(frames, slice(start, stop))})


def _figures(frames: dict[str, np.ndarray], part: slice) -> dict[str, float | None]:
    """Of some frames, by metric; those that none of them has are None."""
    found: dict[str, float | None] = {}
    for name, values in frames.items():
        known = values[part][np.isfinite(values[part])]
        choose: Callable[[np.ndarray], Any] = np.max if name == "seam" else np.mean
        found[name] = float(choose(known)) if len(known) else None
    error = found.pop("squared_error", None)
    if error is not None:
        found["psnr"] = 10 * math.log10(255**2 / error) if error else math.inf
    return found


def usual_change(changes: np.ndarray, around: int = metrics.SEAM_NEIGHBOURHOOD) -> np.ndarray:
    """For each frame, the median change of up to ``around`` frames on either side, itself left out  [t]"""
    width = 2 * around + 1
    padded = np.pad(changes[1:].astype(np.float64), around, constant_values=np.nan)
    if not len(changes[1:]):
        return np.zeros(len(changes))
    windows = np.lib.stride_tricks.sliding_window_view(padded, width)
    others = np.delete(windows, around, axis=1)
    usual = np.array([np.median(row[np.isfinite(row)]) if np.isfinite(row).any() else 0.0 for row in others])
    return np.concatenate([[0.0], usual])


def check_profile(items: Sequence[Scored], *others: str) -> None:
    """Items that stand in one table are of one profile, as are ``others``.

    Raises:
        UserError: they are not.
    """
    if len(found := sorted({*others, *(item.profile for item in items)})) > 1:
        raise UserError(
            f"items of the profiles {' and '.join(found)} can't stand in one table: their figures come from different "
            "extractors; evaluate all with one --profile"
        )


def summarise(items: Sequence[Scored], seed: int = 0) -> dict[str, dict[str, Any] | None]:
    """Of each metric: mean over items, its 95% interval (percentile bootstrap over items), and how many have it.

    Raises:
        UserError: the items are of different profiles.
    """
    check_profile(items)
    generator = np.random.default_rng(seed)
    summary: dict[str, dict[str, Any] | None] = {}
    for name in METRICS:
        values = np.array([item.values[name] for item in items if item.values[name] is not None], float)
        if not len(values):
            summary[name] = None
            continue
        finite = values[np.isfinite(values)]
        # Equal clips have an infinite PSNR, which has no mean with others.
        mean = float(finite.mean()) if len(finite) else math.inf
        interval = None
        if len(finite) > 1:
            drawn = generator.choice(finite, (RESAMPLES, len(finite))).mean(1)
            bounds = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
            interval = [_rounded(float(bound)) for bound in bounds]
        found = {"mean": _rounded(mean), "interval": interval, "items": len(values)}
        infinite = len(values) - len(finite)
        summary[name] = {**found, "infinite": infinite} if infinite else found
    return summary


def _shrunk(frame: np.ndarray, step: int) -> np.ndarray:
    """A frame with means of ``step`` by ``step`` pixels."""
    if step == 1:
        return frame
    height, width = (side // step * step for side in frame.shape[:2])
    blocks = frame[:height, :width].reshape(height // step, step, width // step, step, 3)
    return np.round(blocks.mean((1, 3))).astype(np.uint8)


def _padded(values: np.ndarray, count: int) -> np.ndarray:
    """With frames that have no figure at the end."""
    return np.concatenate([values, np.full(count - len(values), np.nan)])


def _rounded(value: Any) -> Any:
    """Fit for JSON: five digits; what is infinite as a word, which JSON has no number for."""
    if isinstance(value, float):
        return "inf" if math.isinf(value) else float(f"{value:.5g}")
    return value
