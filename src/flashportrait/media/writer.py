"""Videos written as their frames come, with the driver's sound, and put in place only when whole."""

from __future__ import annotations

import logging
import math
import os
import shutil
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Protocol

import numpy as np

from flashportrait.errors import UserError
from flashportrait.marking.credentials import Credentials, can_carry
from flashportrait.marking.label import Label
from flashportrait.marking.provenance import container_tags, mark_file
from flashportrait.media.animation import ANIMATIONS, AnimationFile
from flashportrait.media.container import CONTAINERS, ContainerFile, check_container
from flashportrait.media.pictures import PictureFiles, check_pictures, is_pictures, place_pictures
from flashportrait.media.place import check_place, disk_errors, part_of
from flashportrait.media.reader import AudioSpan

logger = logging.getLogger(__name__)

MAX_TICKS_PER_SECOND = 1_000_000
"""Finest clock to write; times that need a finer one are rounded to it."""


def check_output(path: str | Path, inputs: Iterable[str | Path] = (), audio: AudioSpan | None = None) -> Path:
    """Refuse a place where the result can't or mustn't go, and sound that can't go there, before any work is done.

    Args:
        path: a file of a known kind, a pattern of PNG files (``frames_%04d.png``), or a folder of them (a name without
            an ending).
        inputs: files that it must not be, by any name.
        audio: sound that is to go with it.

    Raises:
        UserError: an unknown kind of file, a missing or closed folder, a folder where a file is meant, pictures that
            are there already, one of `inputs`, or sound that can't be read or encoded.
    """
    path = Path(path)
    if is_pictures(path):
        check_pictures(path)
        return path
    if path.suffix.lower() == ".png":
        raise UserError(f"'{path}' is one picture, and the result has many: give '{path.stem}_%04d.png', or a folder")
    check_place(path, [*CONTAINERS, *ANIMATIONS], inputs)
    if audio is not None and path.suffix.lower() in CONTAINERS:
        check_container(path, audio)
    return path


class _Target(Protocol):
    """What frames are written into; there is one class for each family of outputs."""

    size: tuple[int, int]
    sound_lost: str | None

    @property
    def warnings(self) -> tuple[str, ...]: ...
    def write(self, frame: np.ndarray, time: Fraction) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


class VideoWriter:
    """Write frames to a video as they come; the file appears at `path` only if the block ends without an error.

    Until then it grows under a hidden name beside it (`part`); mp4, mov, m4v, mkv and webm so that a player can open it
    meanwhile. There an odd width or height is made even by repeating the last column or row, which 4:2:0 chroma needs.

        with VideoWriter("out.mp4", reader.info.rate, times=reader.times, audio=reader.audio) as writer:
            for frame in frames:
                writer.write(frame)

    Sound that fails on the way does not end the writing: see `sound_lost`.

    Args:
        path: where to; its ending chooses the kind: a video (.mp4, .mov, .m4v, .mkv, .webm), an animation without sound
            (.gif, .webp), or PNG files, numbered from 0: a pattern (``frames_%04d.png``), or a folder, which is a name
            without an ending.
        rate: frames per second, exact.
        times: seconds at which each frame is shown, rising from 0, where they are not index / rate.
        audio: sound to carry along, starting with the first frame.
        model: the model's name, for the mark.
        mark: write that the video is synthetic into it: in its metadata, and as signed Content Credentials where its
            kind can carry them (not .webm and .mkv).
        credentials: what is signed and with what; a statement without ingredients, signed with this machine's own
            certificate, unless given.
        label: visible words for every frame.

    Raises:
        UserError: a bad place (see `check_output`), what can't sign, or a full disk.
    """

    def __init__(
        self,
        path: str | Path,
        rate: Fraction,
        *,
        times: Sequence[Fraction] | None = None,
        audio: AudioSpan | None = None,
        model: str | None = None,
        mark: bool = True,
        credentials: Credentials | None = None,
        label: Label | None = None,
    ):
        self.path = check_output(path, [audio.path] if audio else [])
        self.part = part_of(self.path)
        self.rate = rate
        self.frames = 0
        self._times = times
        self._audio = audio
        self._model = model
        self._mark = mark
        self._credentials = None
        if mark and can_carry(self.path) and not is_pictures(self.path):
            self._credentials = credentials or Credentials(model=model)
        self._label = label
        self._shape: tuple[int, ...] | None = None
        self._target: _Target | None = None

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            self._discard()

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) of what is written in pixels, once a frame was."""
        assert self._target is not None, "no frame was written"
        return self._target.size

    @property
    def sound_lost(self) -> str | None:
        """Why sound that was to be carried along is not there, or not all of it; None where nothing failed."""
        return None if self._target is None else self._target.sound_lost

    @property
    def warnings(self) -> list[str]:
        """One line each for what is not in the file, complete when the block has ended; logged then."""
        lines = [] if self._target is None else list(self._target.warnings)
        if self._audio is not None and self.path.suffix.lower() not in CONTAINERS:
            kind = "pictures hold" if is_pictures(self.path) else f"a {self.path.suffix} file holds"
            lines.append(f"{kind} no sound: the driving video's is left out")
        if self.sound_lost is not None:
            lines.append(f"'{self.path}' lacks sound of the driving video, which failed: {self.sound_lost}")
        return lines

    def write(self, frame: np.ndarray) -> None:
        """Add one uint8 RGB frame [h, w, 3]; all must be of one size."""
        with disk_errors(self.path):
            if self._target is None:
                self._shape = frame.shape
                self._target = self._open(frame.shape)
            assert frame.shape == self._shape, (frame.shape, self._shape)
            assert frame.dtype == np.uint8, frame.dtype
            shown = frame if self._label is None else self._label.draw(frame)
            self._target.write(shown, self._time(self.frames))
            self.frames += 1

    def _time(self, index: int) -> Fraction:
        return index / self.rate if self._times is None else self._times[index]

    def _open(self, shape: tuple[int, ...]) -> _Target:
        if is_pictures(self.path):
            return PictureFiles(self.part, self.path, shape)
        suffix = self.path.suffix.lower()
        if suffix in ANIMATIONS:
            return AnimationFile(self.part, ANIMATIONS[suffix], shape, self.rate)
        tags = container_tags(self._model) if self._mark else {}
        time_base = _time_base(self.rate, self._times)
        return ContainerFile(self.part, CONTAINERS[suffix], shape, self.rate, time_base, self._audio, tags)

    def _finish(self) -> None:
        """Write what is buffered, close, mark, and put the result in place."""
        assert self._target is not None, "no frame was written"
        with disk_errors(self.path):
            self._target.finish()
            if self._mark:
                for file in sorted(self.part.iterdir()) if self.part.is_dir() else [self.part]:
                    mark_file(file, self._model)
            if self._credentials is not None:
                self._credentials.sign(self.part, self.path.name)
            if self.part.is_dir():
                place_pictures(self.part, self.path)
            else:
                os.replace(self.part, self.path)
        for warning in self.warnings:
            logger.warning("%s", warning)

    def _discard(self) -> None:
        """Let go of everything; what is still at `part` is not whole."""
        if self._target is not None:
            self._target.close()
        if self.part.is_dir():
            shutil.rmtree(self.part, ignore_errors=True)
        else:
            self.part.unlink(missing_ok=True)


def _time_base(rate: Fraction, times: Sequence[Fraction] | None) -> Fraction:
    """The coarsest clock, within bounds, on which every time is exact."""
    if times is None:
        return 1 / rate
    ticks = math.lcm(rate.numerator, *{time.denominator for time in times})
    return Fraction(1, min(ticks, MAX_TICKS_PER_SECOND))
