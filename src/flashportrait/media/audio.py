"""Sound carried from one file to another, packet by packet, in sync with frames written beside it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
import numpy as np
from av.audio.resampler import AudioResampler
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.packet import Packet

from flashportrait.media.opening import open_input
from flashportrait.media.place import FULL_ERRNOS
from flashportrait.media.reader import AudioSpan

SEEK_MARGIN_SECONDS = 1
"""How far before the span to start reading."""

TRANSCODED_BIT_RATE = 160_000

COMMON_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000)
"""Samples per second that every player takes; what an encoder refuses is resampled to one of them."""


LIBRARY_ERRORS = (av.FFmpegError, ValueError, LookupError)
"""What PyAV raises for sound that it can't take."""


class SoundError(Exception):
    """Sound that can't be carried on: the message says why, and from when it is missing."""


class AudioTrack:
    """The first audio stream of a file, as a stream of `output`; time 0 is the span's start.

    Packets are copied as they are where the container takes their codec, so the sound keeps its quality; otherwise
    they are encoded anew, in mono or stereo, at a rate that the encoder takes. A copied track is cut at whole packets
    (about 20 ms), each at its exact time. Where the span holds no sound at all, no stream is added.

    Args:
        span: which sound.
        output: a container whose header is not written yet.
        copied: codecs that this kind of container holds and players expect in it.
        encoder: what to encode with where the codec is none of these.
        preroll: seconds of copied sound to keep from before the span, for the decoder to run in; only for containers
            that can hide it (by an edit list).

    Raises:
        SoundError: it can't be read, encoded, or put into this container.
    """

    def __init__(
        self,
        span: AudioSpan,
        output: OutputContainer,
        copied: frozenset[str],
        encoder: str,
        preroll: Fraction = Fraction(0),
    ):
        self._span = span
        self._preroll = preroll
        self._output = output
        self._reached = Fraction(0)
        try:
            self._input = open_input(span.path)
        except (av.FFmpegError, OSError) as error:
            raise SoundError(reason(error)) from error
        try:
            self._source = next(s for s in self._input.streams.audio if s.codec_context is not None)
            self.copies = self._source.codec_context.codec.canonical_name in copied
            self._packets = self._copied() if self.copies else self._encoded(encoder)
            self._next = next(self._packets, None)
        except (*LIBRARY_ERRORS, StopIteration) as error:
            self._input.close()
            raise SoundError(reason(error)) from error

    def advance(self, seconds: Fraction | None) -> None:
        """Write all packets that begin before this time, or all that are left.

        Raises:
            SoundError: no more can be read, encoded or written. The pictures can go on without.
        """
        try:
            while self._next is not None and (seconds is None or self._next.pts * self._next.time_base < seconds):
                self._reached = self._next.pts * self._next.time_base
                self._output.mux(self._next)
                self._next = next(self._packets, None)
        except LIBRARY_ERRORS as error:
            if getattr(error, "errno", None) in FULL_ERRNOS:
                raise
            raise SoundError(f"{reason(error)}, at {float(self._reached):.1f} s") from error

    def close(self) -> None:
        """Let go of the source file."""
        self._input.close()

    def _sources(self) -> Iterator[tuple[Packet, Fraction]]:
        """Packets of the span and when they begin, in seconds after its start."""
        base = self._source.time_base
        if self._span.start > 2 * SEEK_MARGIN_SECONDS:
            offset = int((self._span.start - SEEK_MARGIN_SECONDS) / base)
            self._input.seek(offset, stream=self._source, backward=True)
        packets = self._input.demux(self._source)
        while True:
            try:
                packet = next(packets, None)
            except av.FFmpegError:
                # A file that was cut off: the reader of its frames has said so.
                return
            if packet is None:
                return
            if not packet.size or (packet.pts is None and packet.dts is None):
                continue
            begin = (packet.pts if packet.pts is not None else packet.dts) * base
            if self._span.end is not None and begin >= self._span.end:
                return
            if begin + (packet.duration or 0) * base > self._span.start - self._preroll:
                yield packet, begin - self._span.start

    def _copied(self) -> Iterator[Packet]:
        base = self._source.time_base
        shift, last, stream = round(self._span.start / base), None, None
        unpack = BitStreamFilterContext("aac_adtstoasc", self._source) if self._is_adts() else None
        for packet, _ in self._sources():
            stream = stream or self._output.add_stream_from_template(self._source)
            pts = packet.pts if packet.pts is not None else packet.dts
            dts = packet.dts if packet.dts is not None else packet.pts
            if last is not None and dts <= last:
                # Containers refuse time stamps that step back.
                continue
            last = dts
            packet.pts, packet.dts = pts - shift, dts - shift
            for ready in [packet] if unpack is None else unpack.filter(packet):
                ready.stream = stream
                yield ready

    def _is_adts(self) -> bool:
        """Whether this is AAC whose packets each carry their own header (broadcast), which files keep once."""
        context = self._source.codec_context
        return context.codec.canonical_name == "aac" and not context.extradata

    def _encoded(self, encoder: str) -> Iterator[Packet]:
        stream, resample = None, None
        for frame in self._frames():
            if stream is None:
                rate = encoder_rate(av.Codec(encoder, "w").audio_rates, frame.sample_rate)
                stream = self._output.add_stream(encoder, rate=rate, bit_rate=TRANSCODED_BIT_RATE)
                stream.layout = "mono" if frame.layout.nb_channels == 1 else "stereo"
                stream.codec_context.open()
                resample = _Resampler(stream.codec_context)
            assert resample is not None
            for piece in resample(frame):
                yield from stream.encode(piece)
        if stream is not None and resample is not None:
            for piece in resample(None):
                yield from stream.encode(piece)
            yield from stream.encode(None)

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Decoded frames that begin inside the span, timed from its start; none that steps back in time."""
        last = Fraction(-1)
        for packet, begin in self._sources():
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                time = frame.pts * frame.time_base - self._span.start if frame.pts is not None else begin
                if time >= 0 and time > last:
                    last = time
                    frame.pts = round(time / frame.time_base)
                    yield frame


class _Resampler:
    """Decoded sound in the format, layout and rate of an encoder, whatever it comes in, and however that changes."""

    def __init__(self, context: av.AudioCodecContext):
        self._context = context
        self._source: tuple[str, str, int] | None = None
        self._resampler: AudioResampler | None = None

    def __call__(self, frame: av.AudioFrame | None) -> list[av.AudioFrame]:
        """Pieces that are ready; None flushes."""
        if frame is None:
            return self._resampler.resample(None) if self._resampler else []
        source = (frame.format.name, frame.layout.name, frame.sample_rate)
        done = []
        if source != self._source:
            done = self(None)
            context = self._context
            self._resampler = AudioResampler(context.format, context.layout, context.rate, context.frame_size)
            self._source = source
        return done + self._resampler.resample(_with_known_layout(frame))


def _with_known_layout(frame: av.AudioFrame) -> av.AudioFrame:
    """The frame; its channels averaged, where their places are unknown and so can't be mixed to mono or stereo."""
    channels = frame.layout.nb_channels
    if channels <= 2 or not frame.layout.channels[0].name.startswith(("NONE", "AMBI")):
        return frame
    samples = frame.to_ndarray()
    samples = samples if frame.format.is_planar else samples.reshape(-1, channels).T
    mean = samples.mean(0, dtype=np.float64, keepdims=True).astype(samples.dtype)
    mono = av.AudioFrame.from_ndarray(np.ascontiguousarray(mean), format=frame.format.packed.name, layout="mono")
    mono.sample_rate, mono.time_base, mono.pts = frame.sample_rate, frame.time_base, frame.pts
    return mono


def encoder_rate(taken: list[int] | None, rate: int) -> int:
    """Samples per second to encode at: the sound's own if the encoder takes it, else the next common one above.

    Args:
        taken: rates that the encoder takes; None: all.
        rate: the sound's own.
    """
    if taken is None or rate in taken:
        return rate
    common = [each for each in COMMON_RATES if each in taken]
    return min((each for each in common if each > rate), default=max(common))


def reason(error: BaseException) -> str:
    """Why, in the library's words."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
