"""How much of an invisible mark is left after what platforms do to a clip: bits read right, of 32.

    pip install invisible-watermark
    python benchmarks/invisible_marks.py CLIP... [--frames 16] [--side 512]

Every frame carries the same 32 random bits. They are read from each frame, and pooled over a clip by majority; half of
them are right by chance.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image

BITS = 32
CROP = 0.1
METHODS = ("rivaGan", "dwtDctSvd")


def encoded(frames: list[np.ndarray], crf: int) -> list[np.ndarray]:
    """Frames [h w 3] after x264."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "clip.mp4")
        with av.open(path, "w") as container:
            stream = container.add_stream("libx264", rate=Fraction(25), options={"crf": str(crf)})
            stream.height, stream.width = (side - side % 2 for side in frames[0].shape[:2])
            stream.pix_fmt = "yuv420p"
            for frame in frames:
                even = np.ascontiguousarray(frame[: stream.height, : stream.width])
                container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
            container.mux(stream.encode(None))
        with av.open(path) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def resized(frames: list[np.ndarray], factor: float) -> list[np.ndarray]:
    """Frames scaled by a factor."""
    size = tuple(round(side * factor) for side in frames[0].shape[1::-1])
    return [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in frames]


def cropped(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Frames without a tenth of each side, from the top left."""
    height, width = frames[0].shape[:2]
    return [frame[round(height * CROP) :, round(width * CROP) :] for frame in frames]


ATTACKS: dict[str, Callable[[list[np.ndarray]], list[np.ndarray]]] = {
    "none": lambda frames: frames,
    "crf 23": lambda frames: encoded(frames, 23),
    "crf 28": lambda frames: encoded(frames, 28),
    "crf 33": lambda frames: encoded(frames, 33),
    "half, crf 23": lambda frames: encoded(resized(frames, 0.5), 23),
    "half, crf 23, doubled": lambda frames: resized(encoded(resized(frames, 0.5), 23), 2),
    "crop 10%, crf 23": lambda frames: encoded(cropped(frames), 23),
}


def main() -> None:
    """Mark clips, attack them, read the marks."""
    from imwatermark import WatermarkDecoder, WatermarkEncoder

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--side", type=int, default=512, help="longer side in pixels; default: 512")
    args = parser.parse_args()
    WatermarkEncoder.loadModel()
    bits = np.random.default_rng(0).integers(0, 2, BITS)
    for method, clip in itertools.product(METHODS, args.clips):
        with av.open(str(clip)) as container:
            pictures = itertools.islice(container.decode(video=0), args.frames)
            frames = [picture.to_ndarray(format="rgb24") for picture in pictures]
        frames = resized(frames, args.side / max(frames[0].shape))
        encoder = WatermarkEncoder()
        encoder.set_watermark("bits", bits.tolist())
        started = time.perf_counter()
        marked = [encoder.encode(frame[..., ::-1], method)[..., ::-1] for frame in frames]
        seconds = (time.perf_counter() - started) / len(frames)
        error = np.mean([(a.astype(float) - b) ** 2 for a, b in zip(frames, marked, strict=True)])
        print(f"{method}, {clip.name}: PSNR {10 * np.log10(255**2 / error):.1f} dB, {seconds:.2f} s a frame to mark")
        for name, attack in ATTACKS.items():
            decoder = WatermarkDecoder("bits", BITS)
            read = np.array([decoder.decode(frame[..., ::-1], method) for frame in attack(marked)], dtype=int)
            pooled = (read.mean(0) > 0.5).astype(int)
            shares = f"a frame {np.mean(read == bits):4.0%}  pooled {np.mean(pooled == bits):4.0%}"
            print(f"  {name:24} {shares}", flush=True)


if __name__ == "__main__":
    main()
