"""Videos written as their frames come, with the driver's sound, and put in place only when whole."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterable, Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import av
import numpy as np
from av.container import OutputContainer
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace
from av.video.stream import VideoStream

from flashportrait.marking.credentials import Credentials, can_carry
from flashportrait.marking.label import Label
from flashportrait.marking.provenance import append_xmp_box, container_tags
from flashportrait.media.audio import AudioTrack
from flashportrait.media.place import check_place, disk_errors, part_of
from flashportrait.media.reader import AudioSpan

KEYFRAME_SECONDS = 2
"""Longest time between keyframes, hence between fragments that a player can show while the file grows."""

MAX_TICKS_PER_SECOND = 1_000_000
"""Finest clock to write; times that need a finer one are rounded to it."""

MIN_MOVIE_TICKS_PER_SECOND = 90_000
"""Least fine clock for a file's durations, so that the sound's is right to a sample or so."""

AUDIO_PREROLL_SECONDS = Fraction(1, 20)
"""Two AAC packets: the run-in that encoders put before the first sample."""

BT709 = 1
"""The code of ITU-R BT.709 in H.273, for matrix, primaries and transfer alike."""


class Container(NamedTuple):
    """How one kind of file is written."""

    muxer: str
    video_encoder: str
    encoder_options: dict[str, str]
    copied_audio: frozenset[str]
    """Codecs whose packets are copied."""
    audio_encoder: str
    """What other sound is encoded with."""
    muxer_options: dict[str, str]
    edit_lists: bool
    """Whether the file can hide the start of a stream: mp4's family."""


# Fragments make the file playable while it grows; at the end the muxer rewrites the header as an ordinary one, which
# every player and editor takes and which states the frame count (reliably so since FFmpeg 8.1, PyAV 17.1). The delayed
# header lets it hold the edit list that keeps sound and pictures in step.
_FRAGMENTED = {
    "movflags": "frag_keyframe+empty_moov+default_base_moof+delay_moov+hybrid_fragmented",
    "flush_packets": "1",
}
# A short lookahead, so that the first frames reach the disk soon.
_X264 = {"crf": "17", "preset": "medium", "rc-lookahead": "10"}
_MP4_AUDIO = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"})
_PCM = frozenset({"pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_f32le"})

CONTAINERS = {
    ".mp4": Container("mp4", "libx264", _X264, _MP4_AUDIO, "aac", _FRAGMENTED, True),
    ".mov": Container("mov", "libx264", _X264, _MP4_AUDIO - {"opus", "flac"} | _PCM, "aac", _FRAGMENTED, True),
    ".mkv": Container("matroska", "libx264", _X264, _MP4_AUDIO | _PCM | {"vorbis", "dts"}, "aac", {}, False),
    ".webm": Container(
        "webm",
        "libvpx-vp9",
        {"crf": "24", "row-mt": "1", "cpu-used": "4"},
        frozenset({"opus", "vorbis"}),
        "libopus",
        {},
        False,
    ),
}


def check_output(path: str | Path, inputs: Iterable[str | Path] = ()) -> Path:
    """Refuse a place where the result can't or mustn't go, before any work is done.

    Raises:
        UserError: an unknown kind of file, a missing or closed folder, a folder, or one of `inputs` by any name.
    """
    path = Path(path)
    check_place(path, CONTAINERS, inputs)
    return path


class VideoWriter:
    """Write frames to a video as they come; the file appears at `path` only if the block ends without an error.

    Until then it grows under a hidden name beside it (`part`), fragmented, so that a player can open it meanwhile.
    An odd width or height is made even by repeating the last column or row, which 4:2:0 chroma needs.

        with VideoWriter("out.mp4", reader.info.rate, times=reader.times, audio=reader.audio) as writer:
            for frame in frames:
                writer.write(frame)

    Args:
        path: where to; its ending (.mp4, .mov, .mkv, .webm) chooses the container.
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
        self._kind = CONTAINERS[self.path.suffix.lower()]
        self._times = times
        self._time_base = _time_base(rate, times)
        self._audio_span = audio
        self._model = model
        self._mark = mark
        self._credentials = None
        if mark and can_carry(self.path):
            self._credentials = credentials or Credentials(model=model)
        self._label = label
        self._shape: tuple[int, ...] | None = None
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._audio: AudioTrack | None = None

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
        """(width, height) of the file in pixels, once a frame was written."""
        assert self._stream is not None, "no frame was written"
        return self._stream.width, self._stream.height

    def write(self, frame: np.ndarray) -> None:
        """Add one uint8 RGB frame [h, w, 3]; all must be of one size."""
        with disk_errors(self.path):
            if self._container is None:
                self._open(frame.shape)
            assert frame.shape == self._shape, (frame.shape, self._shape)
            assert frame.dtype == np.uint8, frame.dtype
            time = self._time(self.frames)
            if self._audio is not None:
                self._audio.advance(time)
            picture = _picture(frame if self._label is None else self._label.draw(frame))
            picture.time_base = self._time_base
            picture.pts = round(time / self._time_base)
            self._container.mux(self._stream.encode(picture))
            self.frames += 1

    def _time(self, index: int) -> Fraction:
        return index / self.rate if self._times is None else self._times[index]

    def _open(self, shape: tuple[int, ...]) -> None:
        kind = self._kind
        self._shape = shape
        options = dict(kind.muxer_options)
        if kind.edit_lists:
            # Edit lists count in the movie's clock, whose default of milliseconds would round the durations.
            ticks = self._time_base.denominator
            options["movie_timescale"] = str(ticks * math.ceil(MIN_MOVIE_TICKS_PER_SECOND / ticks))
        self._container = av.open(str(self.part.absolute()), "w", format=kind.muxer, container_options=options)
        if self._mark:
            self._container.metadata.update(container_tags(self._model))
        stream = self._container.add_stream(
            kind.video_encoder, rate=self.rate, time_base=self._time_base, options=kind.encoder_options
        )
        stream.height, stream.width = (side + side % 2 for side in shape[:2])
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.gop_size = max(1, round(self.rate * KEYFRAME_SECONDS))
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = ColorRange.MPEG
        self._stream = stream
        if self._audio_span is not None:
            preroll = AUDIO_PREROLL_SECONDS if kind.edit_lists else Fraction(0)
            self._audio = AudioTrack(self._audio_span, self._container, kind.copied_audio, kind.audio_encoder, preroll)

    def _finish(self) -> None:
        """Write what is buffered, close, mark, and put the file in place."""
        assert self._container is not None, "no frame was written"
        with disk_errors(self.path):
            self._container.mux(self._stream.encode(None))
            if self._audio is not None:
                self._audio.advance(None)
            self._container.close()
            if self._mark and self._kind.edit_lists:
                append_xmp_box(self.part, self._model)
            if self._credentials is not None:
                self._credentials.sign(self.part, self.path.name)
            os.replace(self.part, self.path)

    def _discard(self) -> None:
        """Let go of everything; what is still at `part` is not whole."""
        if self._audio is not None:
            self._audio.close()
        if self._container is not None:
            # A second close after a failed one may complain of the same full disk.
            with contextlib.suppress(OSError):
                self._container.close()
        self.part.unlink(missing_ok=True)


def _picture(frame: np.ndarray) -> VideoFrame:
    """Pixels in BT.709, limited range, 4:2:0, with even sides."""
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)


def _time_base(rate: Fraction, times: Sequence[Fraction] | None) -> Fraction:
    """The coarsest clock, within bounds, on which every time is exact."""
    if times is None:
        return 1 / rate
    ticks = math.lcm(rate.numerator, *{time.denominator for time in times})
    return Fraction(1, min(ticks, MAX_TICKS_PER_SECOND))
