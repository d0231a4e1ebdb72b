"""Animations that web pages and chats show as pictures: GIF and WebP, written frame by frame, without sound."""

from __future__ import annotations

import contextlib
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from av.filter import Graph
from av.video.frame import VideoFrame


class Animation(NamedTuple):
    """How one kind of animation is written."""

    muxer: str
    encoder: str
    encoder_options: dict[str, str]
    pixel_format: str
    ticks_per_second: int
    """The format's clock."""
    least_ticks: int
    """Least time from a frame to the next: programs show GIF's shorter ones for a tenth of a second."""


ANIMATIONS = {
    ".gif": Animation("gif", "gif", {}, "pal8", 100, 2),
    ".webp": Animation("webp", "libwebp_anim", {"quality": "85"}, "bgra", 1000, 1),
}


class AnimationFile:
    """One GIF or WebP, played over and over. A WebP is written in one piece at the end, from what was encoded.

    A frame is shown at its time rounded to the format's clock, so errors don't add up. Frames that come faster than
    the format can show are left out, and counted in `warnings`.

    Args:
        part: where to write.
        kind: how.
        shape: of the frames, [h w 3].
        rate: frames per second.
    """

    sound_lost: str | None = None

    def __init__(self, part: Path, kind: Animation, shape: tuple[int, ...], rate: Fraction):
        self._kind = kind
        self.size = (shape[1], shape[0])
        self._time_base = Fraction(1, kind.ticks_per_second)
        self._most = Fraction(kind.ticks_per_second, kind.least_ticks)
        self._last: int | None = None
        self._left_out = 0
        self._container = av.open(str(part.absolute()), "w", format=kind.muxer, container_options={"loop": "0"})
        self._stream = self._container.add_stream(
            # Decides how long the last frame stays.
            kind.encoder,
            rate=min(rate, self._most),
            time_base=self._time_base,
            options=kind.encoder_options,
        )
        self._stream.width, self._stream.height = self.size
        self._stream.pix_fmt = kind.pixel_format
        self._palette = _palette_graph(self.size, self._time_base) if kind.pixel_format == "pal8" else None

    @property
    def warnings(self) -> tuple[str, ...]:
        """One line for what the format could not hold."""
        if not self._left_out:
            return ()
        return (
            f"a {self._kind.muxer} shows at most {self._most} frames per second: {self._left_out} frames are left out",
        )

    def write(self, frame: np.ndarray, time: Fraction) -> None:
        """Add a uint8 RGB frame [h w 3] that is shown at this time."""
        tick = round(time / self._time_base)
        if self._last is not None and tick < self._last + self._kind.least_ticks:
            self._left_out += 1
            return
        self._last = tick
        picture = VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.time_base, picture.pts = self._time_base, tick
        if self._palette is not None:
            self._palette.push(picture)
            picture = self._palette.pull()
        else:
            picture = picture.reformat(format=self._kind.pixel_format)
        self._container.mux(self._stream.encode(picture))

    def finish(self) -> None:
        """Write what is buffered."""
        self._container.mux(self._stream.encode(None))
        self._container.close()

    def close(self) -> None:
        """Let go of everything."""
        with contextlib.suppress(OSError, av.FFmpegError):
            self._container.close()


def _palette_graph(size: tuple[int, int], time_base: Fraction) -> Graph:
    """Reduces each picture to the 256 colours that suit it best, their error spread over the pixels around.

    A palette a picture costs 768 bytes, needs no second pass, and is nearer than one for a clip (44 dB, against 43).
    """
    graph = Graph()
    source = graph.add_buffer(width=size[0], height=size[1], format=av.VideoFormat("rgb24"), time_base=time_base)
    split = graph.add("split")
    palette = graph.add("palettegen", "stats_mode=single:reserve_transparent=0")
    use = graph.add("paletteuse", "new=1:dither=floyd_steinberg")
    sink = graph.add("buffersink")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(use, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    return graph
