"""Sound carried from one file to another, packet by packet, in sync with frames written beside it."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction

import av
from av.audio.resampler import AudioResampler
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.packet import Packet

from flashportrait.media.container import open_input
from flashportrait.media.reader import AudioSpan

SEEK_MARGIN_SECONDS = 1
"""How far before the span to start reading."""

TRANSCODED_BIT_RATE = 160_000


class AudioTrack:
    """The first audio stream of a file, as a stream of `output`; time 0 is the span's start.

    Packets are copied as they are where the container takes their codec, so the sound keeps its quality; otherwise
    they are encoded anew. A copied track is cut at whole packets (about 20 ms), each at its exact time.

    Args:
        span: which sound.
        output: a container whose header is not written yet.
        copied: codecs that this kind of container holds and players expect in it.
        encoder: what to encode with where the codec is none of these.
        preroll: seconds of copied sound to keep from before the span, for the decoder to run in; only for containers
            that can hide it (by an edit list).
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
        self._input = open_input(span.path)
        self._source = next(s for s in self._input.streams.audio if s.codec_context is not None)
        self.copies = self._source.codec_context.codec.canonical_name in copied
        if self.copies:
            self._stream = output.add_stream_from_template(self._source)
        else:
            rate = 48_000 if encoder == "libopus" else self._source.rate
            self._stream = output.add_stream(encoder, rate=rate, bit_rate=TRANSCODED_BIT_RATE)
            self._stream.layout = "mono" if self._source.channels == 1 else "stereo"
        self._packets = self._copied() if self.copies else self._encoded()
        self._next = next(self._packets, None)

    def advance(self, seconds: Fraction | None) -> None:
        """Write all packets that begin before this time, or all that are left."""
        while self._next is not None and (seconds is None or self._next.pts * self._next.time_base < seconds):
            self._output.mux(self._next)
            self._next = next(self._packets, None)

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
        shift, last = round(self._span.start / base), None
        unpack = BitStreamFilterContext("aac_adtstoasc", self._source) if self._is_adts() else None
        for packet, _ in self._sources():
            pts = packet.pts if packet.pts is not None else packet.dts
            dts = packet.dts if packet.dts is not None else packet.pts
            if last is not None and dts <= last:
                # Containers refuse time stamps that step back.
                continue
            last = dts
            packet.pts, packet.dts = pts - shift, dts - shift
            for ready in [packet] if unpack is None else unpack.filter(packet):
                ready.stream = self._stream
                yield ready

    def _is_adts(self) -> bool:
        """Whether this is AAC whose packets each carry their own header (broadcast), which files keep once."""
        context = self._source.codec_context
        return context.codec.canonical_name == "aac" and not context.extradata

    def _encoded(self) -> Iterator[Packet]:
        context = self._stream.codec_context
        context.open()
        resampler = AudioResampler(context.format, context.layout, context.rate, frame_size=context.frame_size)
        for frame in self._frames():
            for piece in resampler.resample(frame):
                yield from self._stream.encode(piece)
        for piece in resampler.resample(None):
            yield from self._stream.encode(piece)
        yield from self._stream.encode(None)

    def _frames(self) -> Iterator[av.AudioFrame]:
        """Decoded frames that begin inside the span, timed from its start."""
        for packet, begin in self._sources():
            try:
                frames = packet.decode()
            except av.FFmpegError:
                continue
            for frame in frames:
                time = frame.pts * frame.time_base - self._span.start if frame.pts is not None else begin
                if time >= 0:
                    frame.pts = round(time / frame.time_base)
                    yield frame
