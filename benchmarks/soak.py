"""Memory, speed and quality over the length of a clip: none of them should have a trend.

    python benchmarks/soak.py [--quick] [--lengths 500 2500 15000] [--portrait FILE] [--driver FILE] [--model nano]
                              [--json F] [--plot PNG]

Each length runs in a process of its own: a portrait (a drawn one unless given) follows made-up talking of 50 seconds,
or a driver, and frames are thrown away as they come. The performance is played forwards and backwards in turn, so that
a trend is not the driver's own. Colour (dE*ab from the first window) and identity are given by 1000 frames.
Resident memory is sampled over the run; seconds per frame don't count loading. Identity is measured with the extra
``eval``, once a window. A plot needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np

RATE = 25
PERFORMANCE_FRAMES = 1250
SAMPLES = 200
PORTRAIT = Path(__file__).resolve().parents[1] / "examples" / "drawn_1.png"


def performance(frames: int, driver: Path | None = None) -> np.ndarray:
    """Motion rows [frames 57]."""
    import torch

    from flashportrait.avatars.performance import sample_performance
    from flashportrait.inputs import FaceChoice, load_motion

    if driver is None:
        generator = torch.Generator().manual_seed(0)
        rows = sample_performance(PERFORMANCE_FRAMES, rate=RATE, kind="talking", generator=generator).numpy()
    else:
        rows = load_motion(driver, "blendshapes", FaceChoice(), progress=False).values
    there_and_back = np.concatenate([rows, rows[-2:0:-1]])
    return there_and_back[np.arange(frames) % len(there_and_back)]


def soak(frames: int, args: argparse.Namespace) -> dict[str, Any]:
    """One clip, in this process."""
    import psutil

    from flashportrait.evaluation.report import QualityMonitor
    from flashportrait.face.motion import MotionFeatures
    from flashportrait.loading import load_pipeline

    pipeline, process = load_pipeline(args.model), psutil.Process()
    pipeline.set_progress_bar_config(disable=True)
    settings = {} if args.steps is None else {"num_inference_steps": args.steps}
    video = pipeline(
        args.portrait,
        MotionFeatures(performance(frames, args.driver), RATE),
        schedule=args.schedule,
        speed=args.speed,
        stream=True,
        progress=False,
        **settings,
    )
    every, memory = max(1, frames // SAMPLES), []
    for index, _ in enumerate(QualityMonitor(video).watch()):
        if index % every == 0:
            memory.append((index, process.memory_info().rss))
    report = video.report
    seconds = sum(report.seconds[stage] for stage in ("denoise", "decode") if stage in report.seconds)
    return {
        "frames": report.frames,
        "seconds_per_frame": seconds / report.frames,
        "seconds_to_first_frame": report.seconds_to_first_frame,
        "peak_bytes": report.peak_memory_bytes,
        "memory": memory,
        "quality": report.quality,
        "warnings": report.warnings,
    }


def trend(values: list[tuple[int, float]]) -> tuple[float, float] | None:
    """Slope per 1000 frames of (frame, value) pairs, and its standard error; None with fewer than three."""
    if len(values) < 3:
        return None
    x, y = np.array(values, dtype=np.float64).T
    x = x / 1000 - x.mean() / 1000
    slope = (x @ y) / (x @ x)
    residual = y - y.mean() - slope * x
    return float(slope), float(np.sqrt(residual @ residual / (len(x) - 2) / (x @ x)))


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Memory and identity of the longest clip over its frames."""
    from matplotlib import pyplot

    longest = max(results, key=lambda result: result["frames"])
    windows = longest["quality"]["windows"]
    figure, (memory, identity) = pyplot.subplots(2, 1, sharex=True, figsize=(8, 5), layout="constrained")
    memory.plot(*np.array([(frame, size / 2**20) for frame, size in longest["memory"]]).T)
    memory.set(ylabel="resident memory, MiB", ylim=(0, None))
    identity.plot(
        [row["first_frame"] for row in windows], [row["identity"] or np.nan for row in windows], label="SFace"
    )
    identity.set(xlabel="frame", ylabel="identity (cosine)", ylim=(0, 1))
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="50 and 100 frames")
    parser.add_argument("--lengths", type=int, nargs="+", metavar="FRAMES", help="default: 500 2500 15000")
    parser.add_argument("--portrait", type=Path, default=PORTRAIT, metavar="FILE")
    parser.add_argument("--driver", type=Path, metavar="FILE", help="a clip or a motion template")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--schedule", default="causal")
    parser.add_argument("--speed", default=None)
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.lengths = args.lengths or ([50, 100] if args.quick else [500, 2500, 15000])
    if args.alone:
        print(json.dumps(soak(args.lengths[0], args)))
        return

    results = []
    same = ["--model", args.model, "--schedule", args.schedule, "--portrait", str(args.portrait)]
    same += ["--driver", str(args.driver)] if args.driver else []
    same += ["--speed", args.speed] if args.speed else []
    same += ["--steps", str(args.steps)] if args.steps else []
    print(
        f"{'frames':>7} {'s/frame':>8} {'first s':>8} {'peak MiB':>9} {'MiB/1000':>9} {'identity/1000':>20} "
        f"{'dE/1000':>18} {'dE':>5}"
    )
    for frames in args.lengths:
        command = [sys.executable, __file__, "--alone", "--lengths", str(frames), *same]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr)
        result = json.loads(done.stdout.splitlines()[-1])
        results.append(result)
        settled = result["memory"][len(result["memory"]) // 5 :]  # allocators fill up in the first windows
        growth = trend([(frame, size / 2**20) for frame, size in settled])
        windows = result["quality"]["windows"]
        identity = trend([(row["first_frame"], row["identity"]) for row in windows if row["identity"] is not None])
        colour = trend([(row["first_frame"], row["color_drift"]) for row in windows])
        print(
            f"{result['frames']:7} {result['seconds_per_frame']:8.4f} {result['seconds_to_first_frame']:8.2f} "
            f"{result['peak_bytes'] / 2**20:9.1f} {'-' if growth is None else f'{growth[0]:.2f}':>9} "
            f"{'-' if identity is None else f'{identity[0]:+.4f} +- {identity[1]:.4f}':>20} "
            f"{'-' if colour is None else f'{colour[0]:+.3f} +- {colour[1]:.3f}':>18} "
            f"{result['quality']['worst']['color_drift']:5.2f}"
        )
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    if args.plot:
        plot(results, args.plot)


if __name__ == "__main__":
    main()
