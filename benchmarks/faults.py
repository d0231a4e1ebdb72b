"""Kill animations at random moments, let them go on, and compare their frames with those of one left alone.

    python benchmarks/faults.py [--quick] [--kills 50] [--frames 200] [--model nano] [--schedules NAME ...] [--json F]

Each run is a process of its own, ended by SIGKILL: nothing in it gets to clean up. Needs a system with ``fork``.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from flashportrait.avatars.performance import sample_performance
from flashportrait.face.motion import MotionFeatures
from flashportrait.loading import load_pipeline
from flashportrait.media.reader import VideoReader
from flashportrait.media.writer import VideoWriter
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.workdir import WorkDirectory

RATE = 25
PORTRAIT = Path(__file__).resolve().parents[1] / "examples" / "drawn_1.png"


def animate(pipeline: FlashPortraitPipeline, motion: MotionFeatures, output: Path, schedule: str, speed: str) -> None:
    """Start the animation, or go on with it, and write it whole."""
    folder = WorkDirectory.beside(output)
    started = (folder / "manifest.json").is_file()
    work = WorkDirectory.open(folder) if started else WorkDirectory.create(folder, {}, {"portrait": PORTRAIT})
    work.state_interval_seconds = 0.2
    video = pipeline(PORTRAIT, motion, schedule=schedule, speed=speed, work=work, stream=True, progress=False)
    with VideoWriter(output, video.rate) as writer:
        for frame in video:
            writer.write(frame)
    work.remove()


def run_apart(task, *args: object, limit_seconds: float | None = None) -> bool:
    """Run a task in a child process; kill it after a time. True if it came to its end."""
    child = os.fork()
    if child == 0:
        done = False
        try:
            task(*args)
            done = True
        finally:  # nothing of the parent's, such as its temporary folder, may be cleaned up here
            if not done:
                traceback.print_exc()
            os._exit(not done)
    deadline = None if limit_seconds is None else time.monotonic() + limit_seconds
    while True:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            if status != 0:
                sys.exit("a run failed of itself; see above")
            return True
        if deadline is not None and time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.002)


def frames_of(path: Path) -> np.ndarray:
    """All frames of a video, uint8 RGB [t h w 3]."""
    return np.stack(list(VideoReader(path)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 kills of runs of 17 frames at turbo speed")
    parser.add_argument("--kills", type=int, help="in all; default: 50")
    parser.add_argument("--frames", type=int, help="default: 200")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--schedules", nargs="+", default=["synchronous", "diagonal", "causal"])
    parser.add_argument("--speed", help="default: balanced")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.kills = args.kills or (3 if args.quick else 50)
    args.speed = args.speed or ("turbo" if args.quick else "balanced")
    args.frames = args.frames or (17 if args.quick else 200)

    torch.set_num_threads(1)  # threads don't survive a fork
    pipeline = load_pipeline(args.model, device="cpu")
    generator = torch.Generator().manual_seed(args.seed)
    rows = sample_performance(args.frames, rate=RATE, kind="talking", generator=generator)
    motion, chance = MotionFeatures(rows.numpy(), RATE), random.Random(args.seed)
    results = []
    with tempfile.TemporaryDirectory() as folder, tqdm(total=args.kills, unit="kill") as bar:
        for number, schedule in enumerate(args.schedules):
            alone = Path(folder) / f"{schedule}.mp4"
            started = time.monotonic()
            run_apart(animate, pipeline, motion, alone, schedule, args.speed)
            seconds, expected = time.monotonic() - started, frames_of(alone)
            quota = (args.kills + number) // len(args.schedules)
            kills = runs = 0
            while kills < quota:
                output, before = Path(folder) / f"{schedule}-{runs}.mp4", kills
                task = animate, pipeline, motion, output, schedule, args.speed
                while not run_apart(*task, limit_seconds=chance.uniform(0, 0.7 * seconds) if kills < quota else None):
                    kills += 1
                    bar.update()
                    assert not output.exists(), "a half-written output"
                same = np.array_equal(frames_of(output), expected)
                results.append({"schedule": schedule, "kills": kills - before, "identical": same})
                runs += 1
    print(f"{'schedule':12} {'runs':>5} {'kills':>6} {'identical':>10}")
    for schedule in args.schedules:
        own = [result for result in results if result["schedule"] == schedule]
        identical = sum(result["identical"] for result in own)
        print(f"{schedule:12} {len(own):5} {sum(result['kills'] for result in own):6} {identical:>7}/{len(own)}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1))
    if not all(result["identical"] for result in results):
        sys.exit("frames differ")


if __name__ == "__main__":
    main()
