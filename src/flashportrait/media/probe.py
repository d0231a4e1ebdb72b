"""What a video file holds, found by reading its packets and decoding one frame."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import Type as SideDataType
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from flashportrait.errors import UserError
from flashportrait.media.opening import open_input
from flashportrait.media.timing import constant_rate

FALLBACK_RATE = Fraction(25)
"""For clips that state no rate and have too few frames to show one."""

MIN_SIDE, MAX_SIDE = 32, 8192

TEXT_DEMUXERS = {"tty"}
"""Demuxers that draw any text file as a video."""


@dataclass(frozen=True)
class Probe:
    """The plain facts of a clip before any trim or resampling."""

    width: int
    """Pixels as displayed: rotation applied, pixels made square."""
    height: int
    rate: Fraction
    """Frames per second; the mean where the rate varies."""
    variable_rate: bool
    unit: Fraction
    """Seconds in one unit of `positions`: 1 / rate, or the container's tick where the rate varies."""
    positions: np.ndarray
    """[frames] int64, rising from 0: when each frame is shown, after the first one."""
    end: int
    """When the last frame goes, in the same unit."""
    first_time: Fraction
    """Seconds on the container's own clock at which the first frame is shown."""
    timed: bool
    """Whether frames carry time stamps at all (raw streams don't)."""
    rotation: int
    """Degrees clockwise by which the stored picture is turned for display."""
    flipped: bool
    """Whether the turned picture is mirrored left to right."""
    has_audio: bool
    codec: str
    warnings: tuple[str, ...]


@contextmanager
def open_video(path: Path) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first true video stream (cover art is not one), all other streams skipped.

    Raises:
        UserError: missing, unreadable, not a video, or without a video stream.
    """
    if not path.exists():
        raise UserError(f"there is no file '{path}'")
    if path.is_dir():
        raise UserError(f"'{path}' is a folder: give a video file")
    try:
        container = open_input(path)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"'{path}' can't be read as a video ({_reason(error)}): give a complete one") from error
    with container:
        if container.format.name in TEXT_DEMUXERS:
            raise UserError(f"'{path}' is a text file: give a video")
        streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
        streams = [s for s in streams if s.codec_context is not None]
        if not streams:
            held = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
            raise UserError(f"'{path}' has no video in it (it holds {held}): give a video")
        streams[0].thread_type = "AUTO"
        yield container, streams[0]


def probe(path: Path) -> Probe:
    """Read every packet's time stamp and decode the first frame.

    Raises:
        UserError: as `open_video`; also no decodable frame, or a side outside 32 to 8192 pixels.
    """
    with open_video(path) as (container, stream):
        scan = _scan(container, stream)
        if scan.frame is None:
            raise UserError(f"'{path}' has no frame that can be decoded: is it complete?")
        rotation, flipped = orientation(scan.frame)
        width, height = displayed_size(scan.frame, stream.sample_aspect_ratio, rotation)
        if not (MIN_SIDE <= width <= MAX_SIDE and MIN_SIDE <= height <= MAX_SIDE):
            raise UserError(
                f"'{path}' is {width}x{height} pixels: sides must lie between {MIN_SIDE} and {MAX_SIDE}, so resize it"
            )
        rate, variable, unit, positions = _timeline(scan, stream)
        last = round(scan.last_duration * stream.time_base / unit) if variable else 1
        return Probe(
            width=width,
            height=height,
            rate=rate,
            variable_rate=variable,
            unit=unit,
            positions=positions,
            end=int(positions[-1]) + max(last, 1),
            first_time=int(scan.ticks[0]) * stream.time_base if scan.timed else Fraction(0),
            timed=scan.timed,
            rotation=rotation,
            flipped=flipped,
            has_audio=any(s.codec_context is not None for s in container.streams.audio),
            codec=stream.codec_context.name,
            warnings=tuple(_shortfalls(path, container, stream, scan)),
        )


def orientation(frame: VideoFrame) -> tuple[int, bool]:
    """(degrees clockwise, mirrored) that show a decoded frame upright, from its display matrix.

    The matrix is nine int32: (a, b, u, c, d, v, x, y, w), a point (x, y) being shown at (a x + c y, b x + d y).
    """
    if SideDataType.DISPLAYMATRIX not in frame.side_data:
        return 0, False
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(frame.side_data[SideDataType.DISPLAYMATRIX])[:36])
    flipped = a * d - b * c < 0
    if flipped:
        # Undo the mirror, which comes after the turn, by negating x on the screen.
        a, c = -a, -c
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return (0 if a + d >= 0 else 180), flipped
    return (90 if b > c else 270), flipped


def displayed_size(frame: VideoFrame, aspect: Fraction | None, rotation: int) -> tuple[int, int]:
    """(width, height) with square pixels, after the turn."""
    width, height = round(frame.width * (aspect or 1)), frame.height
    return (height, width) if rotation in (90, 270) else (width, height)


@dataclass
class _Scan:
    """What reading all packets showed."""

    ticks: np.ndarray
    timed: bool
    last_duration: int
    packets: int
    latest_end: Fraction
    frame: VideoFrame | None
    broke_off: bool


def _scan(container: InputContainer, stream: VideoStream) -> _Scan:
    ticks: list[int | None] = []
    frame, last_duration, packets, latest_end, broke_off = None, 0, 0, Fraction(0), False
    packet_iterator = container.demux()
    while True:
        try:
            packet = next(packet_iterator)
        except StopIteration:
            break
        except av.FFmpegError:
            broke_off = True
            break
        if packet.size and packet.pts is not None:
            latest_end = max(latest_end, (packet.pts + (packet.duration or 0)) * packet.time_base)
        if packet.stream_index != stream.index:
            continue
        if frame is None:
            frame = _first_frame(packet)
        if packet.size and not packet.is_discard:
            ticks.append(packet.pts if packet.pts is not None else packet.dts)
            last_duration = packet.duration or last_duration
        packets += bool(packet.size)
    timed = bool(ticks) and None not in ticks
    array = np.sort(np.asarray(ticks, np.int64)) if timed else np.arange(len(ticks), dtype=np.int64)
    return _Scan(array, timed, last_duration, packets, latest_end, frame, broke_off)


def _first_frame(packet: av.Packet) -> VideoFrame | None:
    try:
        return next(iter(packet.decode()), None)
    except av.FFmpegError:
        return None


def _timeline(scan: _Scan, stream: VideoStream) -> tuple[Fraction, bool, Fraction, np.ndarray]:
    """(rate, whether it varies, unit, positions)."""
    stated = stream.guessed_rate or stream.average_rate or stream.base_rate or FALLBACK_RATE
    count = len(scan.ticks)
    if not scan.timed or count < 2 or scan.ticks[-1] == scan.ticks[0]:
        return stated, False, 1 / stated, np.arange(max(count, 1), dtype=np.int64)
    hints = (stream.guessed_rate, stream.base_rate, stream.average_rate)
    rate = constant_rate(scan.ticks, stream.time_base, hints)
    if rate is not None:
        return rate, False, 1 / rate, np.arange(count, dtype=np.int64)
    positions = scan.ticks - scan.ticks[0]
    mean = Fraction(count - 1, 1) / (int(positions[-1]) * stream.time_base)
    return mean.limit_denominator(1001), True, stream.time_base, positions


def _shortfalls(path: Path, container: InputContainer, stream: VideoStream, scan: _Scan) -> Iterator[str]:
    """Signs that the file was cut off: fewer packets, or less time, than its header states."""
    if stream.frames > scan.packets:
        yield f"'{path}' is cut short: {scan.packets} of its {stream.frames} frames are there"
        return
    stated = Fraction(container.duration or 0, av.time_base)
    there = scan.latest_end - Fraction(container.start_time or 0, av.time_base)
    if scan.broke_off or (scan.timed and stated - there > max(1, stated / 10)):
        yield f"'{path}' is cut short: it states {float(stated):.1f} s and holds {float(there):.1f} s"


def _reason(error: Exception) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
