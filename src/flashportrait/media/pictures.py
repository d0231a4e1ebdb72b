"""Frames written as numbered PNG files, into a folder of their own or beside others."""

from __future__ import annotations

import os
import re
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from flashportrait.errors import UserError
from flashportrait.media.place import check_folder

NUMBER = re.compile(r"%(0\d+)?d")
"""The place of the number in a name, as in C and FFmpeg: ``%d`` or ``%04d``."""

NAME_IN_FOLDER = "frame_%06d.png"


def is_pictures(path: Path) -> bool:
    """Whether a name stands for many pictures: a pattern (``frames_%04d.png``), or a folder (a name without ending)."""
    return path.suffix == "" or (path.suffix.lower() == ".png" and NUMBER.search(path.name) is not None)


def check_pictures(path: Path) -> None:
    """Refuse a place where pictures can't or mustn't be written.

    Raises:
        UserError: a missing or closed folder, a folder that isn't empty, or pictures of that name.
    """
    check_folder(path)
    if path.suffix == "":
        if path.exists() and not path.is_dir():
            raise UserError(f"'{path}' is a file: give a new folder, or a name with an ending such as .mp4")
        if path.is_dir() and any(path.iterdir()):
            raise UserError(f"the folder '{path}' holds files already: give a new folder, or an empty one")
    elif there := numbered_files(path):
        raise UserError(f"'{there[0]}' is there already: give another name than '{path.name}', or move those pictures")


def numbered_files(pattern: Path) -> list[Path]:
    """Files whose names fit a pattern such as ``frames_%04d.png``, in the order of their numbers."""
    before, _, after = NUMBER.sub("\0", pattern.name, count=1).partition("\0")
    name = re.compile(re.escape(before) + r"(\d+)" + re.escape(after))
    folder = pattern.parent
    names = [found for each in (os.listdir(folder) if folder.is_dir() else []) if (found := name.fullmatch(each))]
    return [folder / found[0] for found in sorted(names, key=lambda found: (int(found[1]), found[0]))]


class PictureFiles:
    """PNG files numbered from 0, like the frames in reports.

    Args:
        part: a folder to make and fill.
        path: a folder or a pattern: see `is_pictures`.
        shape: of the frames, [h w 3].
    """

    sound_lost: str | None = None
    warnings: tuple[str, ...] = ()

    def __init__(self, part: Path, path: Path, shape: tuple[int, ...]):
        self._part = part
        self._name = path.name if path.suffix else NAME_IN_FOLDER
        self.size = (shape[1], shape[0])
        self._count = 0
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()

    def write(self, frame: np.ndarray, time: Fraction) -> None:
        """Add a uint8 RGB frame [h w 3]; its time is not kept."""
        name = NUMBER.sub(lambda number: number[0] % self._count, self._name, count=1)
        Image.fromarray(np.ascontiguousarray(frame)).save(self._part / name, compress_level=4)
        self._count += 1

    def finish(self) -> None:
        """All is written."""

    def close(self) -> None:
        """Nothing is held."""


def place_pictures(part: Path, path: Path) -> None:
    """Move finished pictures from the folder `part` to a folder or pattern `path`."""
    if path.suffix == "":
        if path.is_dir():
            path.rmdir()
        os.replace(part, path)
        return
    for picture in sorted(part.iterdir()):
        os.replace(picture, path.with_name(picture.name))
    part.rmdir()
