"""Clips made for tests: every frame shows its own index, and sound beeps at known times."""

from __future__ import annotations

import struct
import wave
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

BITS = 10
CELL = 8
WIDTH, HEIGHT = BITS * CELL, 32
SAMPLE_RATE = 44100


def numbered_frame(index: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """uint8 [h, w, 3] whose top rows hold `index` as white and black cells; below, a red left and a blue right half."""
    frame = np.zeros((height, width, 3), np.uint8)
    frame[:, : width // 2, 0] = 200
    frame[:, width // 2 :, 2] = 200
    for bit in range(BITS):
        frame[: 2 * CELL, bit * CELL : (bit + 1) * CELL] = 255 * (index >> bit & 1)
    return frame


def index_of(frame: np.ndarray) -> int:
    """The index that a frame shows."""
    cells = frame[CELL, CELL // 2 : BITS * CELL : CELL].mean(-1) > 127
    return sum(int(cell) << bit for bit, cell in enumerate(cells))


def beeps(seconds: float, every: float = 1.0, rate: int = SAMPLE_RATE) -> np.ndarray:
    """float32 mono samples, silent but for 50 ms of 1 kHz at 0.5 s and every `every` seconds after."""
    time = np.arange(round(seconds * rate)) / rate
    return (np.sin(2 * np.pi * 1000 * time) * ((time - 0.5) % every < 0.05) * (time >= 0.5) * 0.8).astype(np.float32)


def write_wav(path: Path, samples: np.ndarray) -> Path:
    """Write mono samples in [-1, 1] as a sound file of 16 bits."""
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SAMPLE_RATE)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


def make_clip(
    path: Path,
    frames: int = 25,
    rate: Fraction | int = 25,
    *,
    times: Sequence[Fraction] | None = None,
    size: tuple[int, int] = (WIDTH, HEIGHT),
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    sound_seconds: float = 0,
    sound_codec: str = "aac",
    sound_rate: int = SAMPLE_RATE,
    sound_layout: str = "mono",
    rotation: int = 0,
    mirrored: bool = False,
    muxer_options: dict[str, str] | None = None,
) -> Path:
    """Write a clip; `rotation` is the clockwise turn that a player must apply, `times` make the rate vary."""
    rate = Fraction(rate)
    base = 1 / rate if times is None else Fraction(1, 90000)
    with av.open(str(path), "w", container_options=muxer_options or {}) as container:
        options = {"crf": "12", "bf": "2"} if codec == "libx264" else {}
        stream = container.add_stream(codec, rate=rate, time_base=base, options=options)
        stream.width, stream.height = size
        stream.pix_fmt = pixel_format
        stream.codec_context.gop_size = 12
        coded_rate = 48_000 if sound_codec == "libopus" else sound_rate
        sound = container.add_stream(sound_codec, rate=coded_rate, layout=sound_layout) if sound_seconds else None
        for index in range(frames):
            picture = av.VideoFrame.from_ndarray(numbered_frame(index, *size), format="rgb24")
            picture.time_base = base
            picture.pts = index if times is None else round(times[index] / base)
            container.mux(stream.encode(picture))
        container.mux(stream.encode(None))
        if sound is not None:
            _write_sound(container, sound, beeps(sound_seconds, rate=sound_rate), sound_rate, sound_layout)
    if rotation or mirrored:
        _set_display_matrix(path, rotation, mirrored)
    return path


def _set_display_matrix(path: Path, rotation: int, mirrored: bool) -> None:
    """Write the turn into an mp4's track header: a point (x, y) is shown at (a x + c y, b x + d y), y downwards."""
    a, b, c, d = {0: (1, 0, 0, 1), 90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), 270: (0, -1, 1, 0)}[rotation]
    if mirrored:
        a, c = -a, -c
    one = 1 << 16
    matrix = struct.pack(">9i", a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 44
    data[start : start + len(matrix)] = matrix
    path.write_bytes(data)


def _write_sound(
    container: av.container.OutputContainer, stream: av.AudioStream, samples: np.ndarray, rate: int, layout: str
) -> None:
    """The same samples in every channel."""
    step, channels = 1024, av.AudioLayout(layout).nb_channels
    for start in range(0, len(samples) - step + 1, step):
        part = np.repeat(samples[start : start + step], channels)[None]
        frame = av.AudioFrame.from_ndarray(part, format="flt", layout=layout)
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        frame.pts = start
        container.mux(stream.encode(frame))
    container.mux(stream.encode(None))


def video_times(path: Path) -> list[Fraction]:
    """When each frame of a file is shown, in seconds on the file's clock."""
    with av.open(str(path)) as container:
        return [frame.pts * frame.time_base for frame in container.decode(video=0)]


def beep_onsets(path: Path) -> list[float]:
    """When each beep of a file begins, in seconds on the file's clock."""
    onsets: list[float] = []
    quiet_since = -1.0
    with av.open(str(path)) as container:
        for frame in container.decode(audio=0):
            samples = frame.to_ndarray().astype(np.float32)
            samples = samples.reshape(-1, frame.layout.nb_channels)[:, 0] if not frame.format.is_planar else samples[0]
            loud = np.abs(samples) > 0.3 * (32767 if frame.format.name.startswith("s16") else 1)
            for position in np.flatnonzero(loud):
                time = float(frame.pts * frame.time_base + Fraction(int(position), frame.sample_rate))
                if time - quiet_since > 0.1:
                    onsets.append(time)
                quiet_since = time
    return onsets
