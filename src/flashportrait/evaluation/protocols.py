"""What the protocols of evaluation are given: first frames, motion counted from them, long clips, manifests."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image

from flashportrait.errors import UserError
from flashportrait.face.motion import BLENDSHAPES, HEAD_POSE_NAMES, MotionFeatures
from flashportrait.media.place import written_whole
from flashportrait.media.reader import VideoReader

MANIFEST_COLUMNS = ("portrait", "driving", "result", "truth")
TURNED_ROUND = 250
"""Frames that are held at once where a clip runs backwards."""


@dataclass(frozen=True)
class Entry:
    """One line of a manifest."""

    portrait: Path
    driving: Path
    result: Path
    truth: Path | None = None
    """What a perfect method would give, where that is known."""


def write_manifest(path: Path, entries: Sequence[Entry]) -> None:
    """Write a manifest for ``evaluate``, with paths relative to its folder.

    Raises:
        UserError: the disk is full.
    """
    folder = path.parent.resolve()

    def shown(file: Path | None) -> str:
        if file is None:
            return ""
        try:
            return Path(os.path.relpath(file.resolve(), folder)).as_posix()
        except ValueError:  # on another drive
            return file.resolve().as_posix()

    rows = [{name: shown(getattr(entry, name)) for name in MANIFEST_COLUMNS} for entry in entries]
    columns = [name for name in MANIFEST_COLUMNS if name != "truth" or any(row["truth"] for row in rows)]
    write_table(path, columns, [{name: row[name] for name in columns} for row in rows])


def write_table(path: Path, columns: Sequence[str], rows: Sequence[dict[str, str]]) -> None:
    """Write rows as CSV; the file appears whole or not at all.

    Raises:
        UserError: the disk is full.
    """
    with written_whole(path) as part, part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def save_first_frame(video: Path, picture: Path) -> tuple[int, int]:
    """Write a video's first frame as a picture; returns its width and height.

    Raises:
        UserError: the video can't be read.
    """
    frame = next(iter(VideoReader(video, trim="0f:1f")))
    with written_whole(picture) as part:
        Image.fromarray(frame).save(part)
    return frame.shape[1], frame.shape[0]


def from_first_frame(motion: MotionFeatures) -> MotionFeatures:
    """The same motion with place and size of the head counted from the first frame, which is the portrait.

    Extraction counts them from the clip's median. Other layouts than blendshapes stay as they are.
    """
    if motion.layout is not BLENDSHAPES:
        return motion
    columns = [HEAD_POSE_NAMES.index(name) for name in ("x", "y", "log_scale")]
    values = motion.values.copy()
    values[:, columns] -= values[0, columns]
    return replace(motion, values=values)


def there_and_back(video: Path, frames: int) -> Iterator[np.ndarray]:
    """A clip made long: the video forwards, backwards, forwards ..., ``frames`` uint8 RGB frames [h w 3].

    Neither end is shown twice in a row, so nothing jumps, and the driver has no trend of its own over time. A few
    seconds of it are held at once.

    Raises:
        UserError: the video can't be read, or has fewer than two frames.
    """
    length = VideoReader(video).info.frames
    if length < 2:
        raise UserError(f"'{video}' has {length} frame: give a video to be made longer, of two or more")
    made = 0
    while made < frames:
        for frame in VideoReader(video, trim=f"0f:{length - 1}f"):
            if made == frames:
                return
            yield frame
            made += 1
        for stop in range(length, 1, -TURNED_ROUND):
            part = list(VideoReader(video, trim=f"{max(1, stop - TURNED_ROUND)}f:{stop}f"))
            for frame in reversed(part):
                if made == frames:
                    return
                yield frame
                made += 1
