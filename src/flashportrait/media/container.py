"""Video files with sound: mp4 and its family, Matroska and WebM, written frame by frame."""

from __future__ import annotations

import contextlib
import io
import math
from fractions import Fraction
from pathlib import Path
from typing import IO, NamedTuple

import av
import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import ColorRange, Colorspace

from flashportrait.errors import UserError
from flashportrait.media.audio import AudioTrack, SoundError, reason
from flashportrait.media.reader import AudioSpan

KEYFRAME_SECONDS = 2
"""Longest time between keyframes, hence between fragments that a player can show while the file grows."""

MIN_MOVIE_TICKS_PER_SECOND = 90_000
"""Least fine clock for a file's durations, so that the sound's is right to a sample or so."""

AUDIO_PREROLL_SECONDS = Fraction(1, 20)
"""Two AAC packets: the run-in that encoders put before the first sample."""

BT709 = 1
"""The code of ITU-R BT.709 in H.273, for matrix, primaries and transfer alike."""

CHECKED_SECONDS = Fraction(1)
"""How much of the sound is tried before any work is done."""
CHECKED_SHAPE = (64, 64, 3)


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
_VP9 = {"crf": "24", "row-mt": "1", "cpu-used": "4"}
_MP4_AUDIO = frozenset({"aac", "mp3", "ac3", "eac3", "opus", "alac", "flac"})
_PCM = frozenset({"pcm_s16le", "pcm_s16be", "pcm_s24le", "pcm_s24be", "pcm_f32le"})

CONTAINERS = {
    ".mp4": Container("mp4", "libx264", _X264, _MP4_AUDIO, "aac", _FRAGMENTED, True),
    # What Apple's programs take in a file of this name.
    ".m4v": Container("mp4", "libx264", _X264, frozenset({"aac", "ac3", "alac"}), "aac", _FRAGMENTED, True),
    ".mov": Container("mov", "libx264", _X264, _MP4_AUDIO - {"opus", "flac"} | _PCM, "aac", _FRAGMENTED, True),
    ".mkv": Container("matroska", "libx264", _X264, _MP4_AUDIO | _PCM | {"vorbis", "dts"}, "aac", {}, False),
    ".webm": Container("webm", "libvpx-vp9", _VP9, frozenset({"opus", "vorbis"}), "libopus", {}, False),
}


def check_container(path: Path, audio: AudioSpan | None) -> None:
    """Try whether a file of this kind can be written with this sound: open its encoders, and write a second to memory.

    Raises:
        UserError: the sound, or else the encoder of pictures, fails.
    """
    kind = CONTAINERS[path.suffix.lower()]
    black = np.zeros(CHECKED_SHAPE, np.uint8)
    try:
        trial = ContainerFile(io.BytesIO(), kind, black.shape, Fraction(25), Fraction(1, 25), audio)
        with contextlib.closing(trial):
            for time in (Fraction(0), CHECKED_SECONDS):
                trial.write(black, time)
    except av.FFmpegError as error:
        raise UserError(
            f"no '{path.suffix}' file can be written here ({reason(error)}): choose another kind"
        ) from error
    if trial.sound_lost is not None:
        raise UserError(
            f"the sound of '{audio.path}' can't be put into a '{path.suffix}' file ({trial.sound_lost}): "
            "leave it out with --no-audio, or give a video with other sound"
        )


class ContainerFile:
    """One video file with its sound, growing.

    Sound that fails is given up, and `sound_lost` says why; pictures go on.

    Args:
        target: where to write.
        kind: how.
        shape: of the frames, [h w 3].
        rate: frames per second.
        time_base: the file's clock for pictures, in seconds.
        audio: sound to carry along.
        tags: of the file as a whole.
    """

    warnings: tuple[str, ...] = ()

    def __init__(
        self,
        target: Path | IO[bytes],
        kind: Container,
        shape: tuple[int, ...],
        rate: Fraction,
        time_base: Fraction,
        audio: AudioSpan | None,
        tags: dict[str, str] | None = None,
    ):
        self._target, self._kind, self._rate, self._time_base, self._tags = target, kind, rate, time_base, tags
        self.size = (shape[1] + shape[1] % 2, shape[0] + shape[0] % 2)
        self.sound_lost: str | None = None
        """Why sound is missing from the file, and from when."""
        self._audio: AudioTrack | None = None
        self._open()
        if audio is not None:
            try:
                self._add_sound(audio)
            except SoundError as error:
                self._close_sound()
                self._container.close()
                self.sound_lost = str(error)
                self._open()

    def write(self, frame: np.ndarray, time: Fraction) -> None:
        """Add a uint8 RGB frame [h w 3] that is shown at this time."""
        self._advance(time)
        picture = _picture(frame)
        picture.time_base = self._time_base
        picture.pts = round(time / self._time_base)
        self._container.mux(self._stream.encode(picture))

    def finish(self) -> None:
        """Write what is buffered, and the rest of the sound."""
        self._container.mux(self._stream.encode(None))
        self._advance(None)
        self._container.close()

    def close(self) -> None:
        """Let go of everything."""
        self._close_sound()
        # A second close after a failed one may complain of the same full disk.
        with contextlib.suppress(OSError, av.FFmpegError):
            self._container.close()

    def _open(self) -> None:
        kind, options = self._kind, dict(self._kind.muxer_options)
        if kind.edit_lists:
            # Edit lists count in the movie's clock, whose default of milliseconds would round the durations.
            ticks = self._time_base.denominator
            options["movie_timescale"] = str(ticks * math.ceil(MIN_MOVIE_TICKS_PER_SECOND / ticks))
        target = str(self._target.absolute()) if isinstance(self._target, Path) else self._target
        self._container = av.open(target, "w", format=kind.muxer, container_options=options)
        self._container.metadata.update(self._tags or {})
        self._stream = self._container.add_stream(
            kind.video_encoder, rate=self._rate, time_base=self._time_base, options=kind.encoder_options
        )
        self._stream.width, self._stream.height = self.size
        self._stream.pix_fmt = "yuv420p"
        context = self._stream.codec_context
        context.gop_size = max(1, round(self._rate * KEYFRAME_SECONDS))
        context.colorspace = context.color_primaries = context.color_trc = BT709
        context.color_range = ColorRange.MPEG

    def _add_sound(self, audio: AudioSpan) -> None:
        kind = self._kind
        preroll = AUDIO_PREROLL_SECONDS if kind.edit_lists else Fraction(0)
        self._audio = AudioTrack(audio, self._container, kind.copied_audio, kind.audio_encoder, preroll)
        try:
            # The container has its say on the sound here, not after frames were made.
            self._container.start_encoding()
        except (av.FFmpegError, ValueError) as error:
            raise SoundError(reason(error)) from error

    def _advance(self, time: Fraction | None) -> None:
        """Write the sound up to a time; what fails in it is noted, and no more is tried."""
        if self._audio is None:
            return
        try:
            self._audio.advance(time)
        except SoundError as error:
            self.sound_lost = str(error)
            self._close_sound()

    def _close_sound(self) -> None:
        if self._audio is not None:
            self._audio.close()
            self._audio = None


def _picture(frame: np.ndarray) -> VideoFrame:
    """Pixels in BT.709, limited range, 4:2:0, with even sides."""
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
    return picture.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG)
