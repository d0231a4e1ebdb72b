"""Driving clips of every kind: videos, animations, folders and patterns of pictures, one picture held."""

from __future__ import annotations

import glob
import math
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image

from flashportrait.errors import UserError
from flashportrait.media.picture import DECODER_ERRORS, open_picture, prepare_plugins
from flashportrait.media.pictures import NUMBER, numbered_files
from flashportrait.media.pixels import to_srgb
from flashportrait.media.place import check_address
from flashportrait.media.portrait import MAX_SIDE
from flashportrait.media.probe import MIN_SIDE, Probe
from flashportrait.media.reader import AudioSpan, VideoReader
from flashportrait.media.timing import Trim, constant_rate, parse_rate

PICTURE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".heic", ".heif", ".avif", ".jp2"}
"""Files of a folder that are its frames."""

PICTURE_FORMATS = {"PNG", "JPEG", "MPO", "WEBP", "BMP", "TIFF", "HEIF", "AVIF", "JPEG2000", "GIF"}
ANIMATED_FORMATS = {"GIF", "WEBP", "PNG", "AVIF"}
MOTION_JPEG_SUFFIXES = {".mjpeg", ".mjpg"}
"""Videos that begin like a picture."""

PICTURES_RATE = Fraction(25)
"""Frames per second of pictures that state none."""

SHORTEST_SECONDS, STAND_IN_SECONDS = Fraction(1, 100), Fraction(1, 10)
"""Browsers show a frame that is to stay no longer than the first for the second; so do we."""


def open_clip(
    path: str | Path,
    trim: str | Trim | None = None,
    fps: str | float | Fraction | None = None,
    frames: int | None = None,
) -> VideoReader:
    """Open a driving clip of any kind.

    Args:
        path: a video; an animated GIF, WebP or PNG, read with its own durations; a folder of pictures, or a pattern of
            them (``frames_%04d.png``, ``frames/*.png``), in the order of the numbers in their names; or one picture.
        trim: a part of it, see `VideoReader`.
        fps: resample to this rate; of pictures, the rate at which they follow one another, 25 unless given.
        frames: how many times one picture is shown; needed for that, and refused for anything else.

    Raises:
        UserError: what is wrong with it; see `VideoReader`.
    """
    path = Path(path)
    files = source_files(path)
    if files != [path] or path.is_dir():
        clip: VideoReader = PictureReader(path, files, trim, fps)
    else:
        kind = _picture_kind(path)
        if kind == "still":
            if frames is None:
                raise UserError(
                    f"'{path}' is one picture: say with --frames N how many frames of it to make, or give a video"
                )
            return PictureReader(path, [path] * frames, trim, fps)
        clip = AnimationReader(path, trim, fps) if kind == "animation" else VideoReader(path, trim, fps)
    if frames is not None:
        raise UserError(f"--frames is for one picture, and '{path}' is a clip: cut it with --trim 0f:{frames}f")
    return clip


def source_files(path: Path) -> list[Path]:
    """The files that a driving clip is read from, in order: the pictures of a folder or pattern, or the file itself.

    Raises:
        UserError: an address, nothing there, or a folder or pattern without pictures.
    """
    check_address(path)
    if path.is_dir():
        names = [each for each in path.iterdir() if each.suffix.lower() in PICTURE_SUFFIXES and each.name[0] != "."]
        if not names:
            kinds = ", ".join(sorted(PICTURE_SUFFIXES))
            raise UserError(f"the folder '{path}' holds no pictures ({kinds}): give a folder of frames, or a video")
        return sorted(names, key=_natural)
    if path.exists():
        return [path]
    if NUMBER.search(path.name):
        found = numbered_files(path)
    elif glob.has_magic(str(path)):
        found = sorted((Path(each) for each in glob.glob(str(path))), key=_natural)
    else:
        raise UserError(f"there is no file '{path}'")
    if not found:
        raise UserError(f"no file fits '{path}': give the pattern of pictures that are there, or their folder")
    return found


def is_swapped(portrait: Path, driving: Path) -> bool:
    """Whether what was given as the portrait is a clip, and what was given as the driver a still picture."""
    if not driving.is_file() or _picture_kind(driving) != "still" or not portrait.exists():
        return False
    if portrait.is_dir() or portrait.suffix.lower() == ".safetensors":
        return True
    try:
        VideoReader(portrait)
    except UserError:
        return False
    return _picture_kind(portrait) != "still"


def is_still(path: Path) -> bool:
    """Whether a file is one picture."""
    return path.is_file() and _picture_kind(path) == "still"


def is_animation(path: Path) -> bool:
    """Whether a file is a picture that moves: an animated GIF, WebP, PNG or AVIF."""
    return path.is_file() and _picture_kind(path) == "animation"


def _picture_kind(path: Path) -> str | None:
    """``still``, ``animation``, or None for what isn't a picture."""
    if path.suffix.lower() in MOTION_JPEG_SUFFIXES:
        return None
    try:
        prepare_plugins(path)
        with Image.open(path) as image:
            if image.format not in PICTURE_FORMATS:
                return None
            moves = image.format in ANIMATED_FORMATS and getattr(image, "n_frames", 1) > 1
            return "animation" if moves else "still"
    except UserError:
        raise
    except (*DECODER_ERRORS, Image.DecompressionBombError):
        return None


def _natural(path: Path) -> list[tuple[int, str]]:
    """A key by which names sort as people count: 9 before 10."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name) if part]


class PictureReader(VideoReader):
    """Pictures that follow one another at an even rate; all of one size.

    One that can't be read is left out, and its predecessor stays longer.
    """

    def __init__(
        self,
        path: Path,
        files: list[Path],
        trim: str | Trim | None = None,
        rate: str | float | Fraction | None = None,
    ):
        self._files = files
        self._stated = rate is not None
        self._rate = parse_rate(rate) if rate is not None else PICTURES_RATE
        super().__init__(path, trim)

    @property
    def notes(self) -> list[str]:
        """The rate, where it is ours."""
        if self._stated:
            return []
        return [f"'{self.path}' states no rate: {PICTURES_RATE} pictures per second are taken; change it with --fps"]

    @property
    def audio(self) -> AudioSpan | None:
        """Pictures have none."""
        return None

    def _look(self) -> Probe:
        count = len(self._files)
        first = self._picture(self._files[0])
        unit = 1 / self._rate
        return _probe_of(first, self._rate, False, unit, np.arange(count, dtype=np.int64), count, self._gaps())

    def _gaps(self) -> tuple[str, ...]:
        """One line where numbers of a pattern are missing."""
        if self._files[0] == self.path or not NUMBER.search(self.path.name) or self.path.is_dir():
            return ()
        numbers = {int(re.findall(r"\d+", each.name)[-1]) for each in self._files}
        missing = max(numbers) - min(numbers) + 1 - len(numbers)
        return (f"{missing} numbers of '{self.path}' are missing: the pictures follow one another",) if missing else ()

    def _decoded(self) -> Iterator[tuple[np.ndarray | None, int, int]]:
        lost, held = 0, None
        size = (self._probe.width, self._probe.height)
        for position in range(self._first, self._stop):
            file = self._files[position]
            if held is None or held[0] != file:
                try:
                    held = file, self._picture(file)
                except UserError:
                    lost += 1
                    continue
            pixels = held[1]
            if (pixels.shape[1], pixels.shape[0]) != size:
                raise UserError(
                    f"'{file}' is {pixels.shape[1]}x{pixels.shape[0]} pixels, the first picture {size[0]}x{size[1]}: "
                    "make all of one size"
                )
            yield pixels, position, lost
            lost = 0
        yield None, 0, lost

    def _picture(self, file: Path) -> np.ndarray:
        with open_picture(file, MAX_SIDE) as (image, _, _):
            return np.asarray(to_srgb(image, f"the pictures of '{self.path}'", -(-max(image.size) // MAX_SIDE)))

    def _upright(self, frame: np.ndarray) -> np.ndarray:
        return frame


class AnimationReader(VideoReader):
    """An animated GIF, WebP, PNG or AVIF, each frame at its exact time."""

    @property
    def audio(self) -> AudioSpan | None:
        """Animations have none."""
        return None

    def _look(self) -> Probe:
        starts, durations, first = [], [], None
        with Image.open(self.path) as image:
            base = 100 if image.format == "GIF" else 1000
            for pixels, seconds in self._frames(image):
                first = pixels if first is None else first
                starts.append(sum(durations, Fraction(0)))
                durations.append(seconds)
        if first is None:
            raise UserError(f"'{self.path}' has no frame that can be decoded: is it complete?")
        base = math.lcm(base, *{duration.denominator for duration in durations})
        ticks = np.asarray([round(start * base) for start in starts], np.int64)
        end = round(sum(durations) * base)
        unit, count = Fraction(1, base), len(ticks)
        rate = constant_rate(ticks, unit, []) if count > 1 else 1 / durations[0]
        if rate is not None:
            return _probe_of(first, rate, False, 1 / rate, np.arange(count, dtype=np.int64), count, ())
        mean = Fraction(count - 1) / starts[-1]
        return _probe_of(first, mean.limit_denominator(1001), True, unit, ticks, end, ())

    def _frames(self, image: Image.Image) -> Iterator[tuple[np.ndarray, Fraction]]:
        """(uint8 RGB [h w 3], seconds that it stays) of each frame, up to where the file breaks off."""
        for index in range(image.n_frames):
            try:
                image.seek(index)
                image.load()
            except DECODER_ERRORS:
                return
            seconds = Fraction(image.info.get("duration") or 0).limit_denominator(1000) / 1000
            yield (
                np.asarray(to_srgb(image, f"'{self.path}'")),
                seconds if seconds > SHORTEST_SECONDS else STAND_IN_SECONDS,
            )

    def _decoded(self) -> Iterator[tuple[np.ndarray | None, int, int]]:
        positions = self._probe.positions
        with Image.open(self.path) as image:
            for index, (pixels, _) in enumerate(self._frames(image)):
                if self._first <= index < min(self._stop, len(positions)):
                    yield pixels, int(positions[index]), 0
        yield None, 0, 0

    def _upright(self, frame: np.ndarray) -> np.ndarray:
        return frame


def _probe_of(
    first: np.ndarray,
    rate: Fraction,
    variable: bool,
    unit: Fraction,
    positions: np.ndarray,
    end: int,
    warnings: tuple[str, ...],
) -> Probe:
    height, width = first.shape[:2]
    if min(width, height) < MIN_SIDE:
        raise UserError(f"the driving pictures are {width}x{height} pixels: at least {MIN_SIDE} a side are needed")
    return Probe(
        width=width,
        height=height,
        rate=rate,
        variable_rate=variable,
        unit=unit,
        positions=positions,
        end=end,
        first_time=Fraction(0),
        timed=True,
        rotation=0,
        flipped=False,
        has_audio=False,
        codec="pictures",
        warnings=warnings,
    )
