"""Videos as lazy, re-iterable sequences of frames with exact rational times."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.container import InputContainer
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from flashportrait.errors import UserError
from flashportrait.media.probe import Probe, open_video, probe
from flashportrait.media.timing import Trim, parse_rate

SEEK_MARGIN_SECONDS = 2
"""How far before the wanted frame to seek, past the leading frames that an open group of pictures can't decode."""

READ_AHEAD = 2
"""Frames that ``read_ahead`` holds."""


@dataclass(frozen=True)
class VideoInfo:
    """What a `VideoReader` will yield."""

    width: int
    """Pixels as displayed: rotation applied, pixels made square."""
    height: int
    rate: Fraction
    """Frames per second; the mean where the rate varies."""
    frames: int
    duration: Fraction
    """Seconds from the first frame's appearance to the last one's end."""
    has_audio: bool
    variable_rate: bool
    rotation: int
    """Degrees clockwise that were applied."""
    codec: str


@dataclass(frozen=True)
class AudioSpan:
    """The sound that belongs to a stretch of frames."""

    path: Path
    start: Fraction
    """Seconds on the file's own clock at which the first frame is shown."""
    end: Fraction | None
    """Seconds at which to stop; None keeps the sound to its end."""


class VideoReader:
    """Frames of a video, decoded lazily in constant memory; every iteration starts afresh.

    By default there is exactly one frame per frame of the clip, at its exact rate (30000/1001 stays so). Where the
    rate varies, `times` keeps each frame's own time, so that what is written with them varies alike and stays in
    sync; `fps` resamples to an even rate instead, taking the nearest frame in time.

    A frame that can't be decoded is left out and its predecessor stays longer; a file that was cut off gives what is
    there. Both are told in `warnings`, complete after the first full iteration.

    Args:
        path: anything FFmpeg reads, a still picture included (one frame).
        trim: a span such as ``"2.5:7"`` (seconds) or ``"60f:180f"`` (frames), see `Trim.parse`.
        fps: resample to this rate.

    Raises:
        UserError: missing, not a video, nothing decodable, bad size, an empty trim, a bad rate.
    """

    def __init__(self, path: str | Path, trim: str | Trim | None = None, fps: str | float | Fraction | None = None):
        self.path = Path(path)
        self._trim = Trim.parse(trim) if isinstance(trim, str) else trim
        self._fps = parse_rate(fps) if fps is not None else None
        self._probe: Probe = self._look()
        self._warnings = list(self._probe.warnings)
        self._first, self._stop = self._selection()
        self._positions = self._probe.positions[self._first : self._stop]
        self._complete = False

    def __len__(self) -> int:
        return self.info.frames

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield uint8 RGB frames [h, w, 3], upright."""
        for frame, _ in self.timed():
            yield frame

    def timed(self) -> Iterator[tuple[np.ndarray, Fraction]]:
        """Yield (frame, seconds since the first frame)."""
        shown = self._shown() if self._fps is None else self._resampled(self._fps)
        for frame, time in shown:
            yield self._upright(frame), time

    @property
    def info(self) -> VideoInfo:
        """Exact once a full iteration has shown which frames decode; by time stamps before."""
        source = self._probe
        duration = (self._end_position() - int(self._positions[0])) * source.unit
        frames = len(self._positions) if self._fps is None else _even_frames(duration, self._fps)
        return VideoInfo(
            width=source.width,
            height=source.height,
            rate=self._fps or source.rate,
            frames=frames,
            duration=duration if self._fps is None else frames / self._fps,
            has_audio=source.has_audio,
            variable_rate=source.variable_rate and self._fps is None,
            rotation=source.rotation,
            codec=source.codec,
        )

    @property
    def times(self) -> list[Fraction]:
        """Seconds since the first frame at which each frame is shown."""
        if self._fps is not None:
            return [index / self._fps for index in range(self.info.frames)]
        unit, first = self._probe.unit, int(self._positions[0])
        return [(int(position) - first) * unit for position in self._positions]

    @property
    def audio(self) -> AudioSpan | None:
        """The sound to copy beside these frames, None where there is none."""
        if not self._probe.has_audio:
            return None
        source = self._probe
        start = source.first_time + int(self._positions[0]) * source.unit
        end = None if self._trim is None else source.first_time + self._end_position() * source.unit
        return AudioSpan(self.path, start, end)

    @property
    def warnings(self) -> list[str]:
        """One line each for what had to be left out."""
        return list(self._warnings)

    @property
    def notes(self) -> list[str]:
        """One line each for what was assumed."""
        return []

    def _look(self) -> Probe:
        return probe(self.path)

    def _selection(self) -> tuple[int, int]:
        """[first, stop) frame indices of the trim."""
        positions, unit = self._probe.positions, self._probe.unit
        count, trim = len(positions), self._trim
        if trim is None:
            return 0, count
        if trim.in_frames:
            length, first = Fraction(count), int(trim.start)
            stop = count if trim.end is None else int(trim.end)
        else:
            length = self._probe.end * unit
            bounds = [trim.start / unit, (trim.end if trim.end is not None else length) / unit]
            # A frame belongs to the span that holds the moment it appears.
            first, stop = (int(np.searchsorted(positions, -(-bound // 1))) for bound in bounds)
        word = "frames" if trim.in_frames else "seconds"
        if first >= min(stop, count):
            raise UserError(f"the trim {trim} holds no frame of '{self.path}', which has {float(length):g} {word}")
        if trim.end is not None and trim.end > length:
            self._warnings.append(f"the trim {trim} ends after '{self.path}', which has {float(length):g} {word}")
        return first, min(stop, count)

    def _end_position(self) -> int:
        """When the last selected frame gives way, in units of the timeline."""
        source = self._probe
        return source.end if self._stop >= len(source.positions) else int(source.positions[self._stop])

    def _shown(self) -> Iterator[tuple[VideoFrame, Fraction]]:
        """(decoded frame, seconds since the first), noting what really decodes."""
        positions: list[int] = []
        damaged = 0
        for frame, position, lost in self._decoded():
            damaged += lost
            if frame is None:
                continue
            positions.append(position)
            yield frame, (position - positions[0]) * self._probe.unit
        if not positions:
            raise UserError(f"no frame of '{self.path}' could be decoded: is it complete?")
        self._note(positions, damaged)

    def _decoded(self) -> Iterator[tuple[Any, int, int]]:
        """(frame, position, frames damaged or lost since), in order of appearance; a last (None, 0, lost) closes."""
        source = self._probe
        first_position = int(source.positions[self._first])
        end_position = self._end_position()
        last, index, lost = first_position - 1, 0, 0
        with open_video(self.path) as (container, stream):
            self._seek(container, stream, first_position)
            for frame in _frames(container, stream):
                if frame is None:
                    lost += 1
                    continue
                lost += frame.is_corrupt
                position = self._position(frame, stream, index)
                index += 1
                if position < first_position:
                    # What a seek lands on may lack its references; only the span's own damage counts.
                    lost = 0
                    continue
                position = max(position, last + 1)
                if position >= end_position:
                    break
                yield frame, position, lost
                last, lost = position, 0
        yield None, 0, lost

    def _position(self, frame: VideoFrame, stream: VideoStream, index: int) -> int:
        """A frame's place on the timeline, by time stamp, or by count where there is none."""
        source = self._probe
        if not source.timed or frame.pts is None:
            return index
        return round((frame.pts * stream.time_base - source.first_time) / source.unit)

    def _seek(self, container: InputContainer, stream: VideoStream, position: int) -> None:
        """Jump to shortly before a far position; the decoder then runs up to it."""
        source = self._probe
        target = source.first_time + position * source.unit - SEEK_MARGIN_SECONDS
        if source.timed and position * source.unit > 2 * SEEK_MARGIN_SECONDS:
            container.seek(int(target / stream.time_base), stream=stream, backward=True)

    def _note(self, positions: list[int], damaged: int) -> None:
        """After the first full pass, let the frames that decoded replace those that the time stamps promised."""
        if self._complete:
            return
        self._complete = True
        promised = len(self._positions)
        self._positions = np.asarray(positions, np.int64)
        if damaged or len(positions) < promised:
            self._warnings.append(
                f"{len(positions)} of {promised} frames of '{self.path}' decoded ({damaged} damaged); "
                "where one is missing, the one before it stays longer"
            )

    def _resampled(self, fps: Fraction) -> Iterator[tuple[VideoFrame, Fraction]]:
        """For each tick of the even rate, the frame nearest in time; the earlier one where two are as near."""
        held: tuple[VideoFrame, Fraction] | None = None
        index, count = 0, self.info.frames
        for frame, time in self._shown():
            while held is not None and index < count and index / fps - held[1] <= time - index / fps:
                yield held[0], index / fps
                index += 1
            held = frame, time
        while held is not None and index < count:
            yield held[0], index / fps
            index += 1

    def _upright(self, frame: Any) -> np.ndarray:
        source = self._probe
        turned = source.rotation in (90, 270)
        width, height = (source.height, source.width) if turned else (source.width, source.height)
        pixels = frame.to_ndarray(format="rgb24", width=width, height=height)
        pixels = np.rot90(pixels, k=-source.rotation // 90)
        return np.ascontiguousarray(pixels[:, ::-1] if source.flipped else pixels)


def read_ahead(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    """The same frames, decoded by another thread while those before them are worked on."""
    source = iter(frames)
    with ThreadPoolExecutor(1) as pool:
        coming = deque(pool.submit(next, source, None) for _ in range(READ_AHEAD))
        while (frame := coming.popleft().result()) is not None:
            coming.append(pool.submit(next, source, None))
            yield frame


def _frames(container: InputContainer, stream: VideoStream) -> Iterator[VideoFrame | None]:
    """Decoded frames in order of appearance, None for each packet that would not decode."""
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:
            # The file breaks off here; the decoder may still hold some frames.
            yield from _decode(stream, None)
            return
        if packet is None:
            return
        yield from _decode(stream, packet)


def _decode(stream: VideoStream, packet: av.Packet | None) -> Iterator[VideoFrame | None]:
    """The frames that a packet completes (None: all that are held), or None where it would not decode."""
    try:
        yield from stream.codec_context.decode(packet)
    except av.FFmpegError:
        yield None


def _even_frames(duration: Fraction, fps: Fraction) -> int:
    return max(1, round(duration * fps))
