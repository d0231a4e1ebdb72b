"""What a batch saves: many short clips with one driver, and one long clip over two workers.

    python benchmarks/batch.py [--quick] [--json FILE]

Clips: ``flashportrait batch``, with one worker and with two, against as many ``flashportrait animate`` one after
another, each in a fresh process. Split: one clip by a worker of one core, alone and helped by another through Ray
(needs the extra ``ray``). Portraits and driver are those of ``examples/``; the machine should have nothing else to do.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = ROOT / "examples"
DRIVING = EXAMPLES / "driving_talking.mp4"


def portraits(folder: Path, count: int) -> list[Path]:
    """Copies of the examples' portraits."""
    known = sorted([*EXAMPLES.glob("portrait_*.jpg"), *EXAMPLES.glob("drawn_*.png")])
    copies = []
    for index in range(count):
        source = known[index % len(known)]
        copies.append(Path(shutil.copy(source, folder / f"{index:02}{source.suffix}")))
    return copies


def seconds_of(*words: object) -> float:
    """How long a command takes."""
    started = time.perf_counter()
    command = [sys.executable, "-m", "flashportrait", *map(str, words), "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stderr.strip()}")
    return time.perf_counter() - started


def clips(folder: Path, count: int, frames: int, timed: int) -> dict[str, Any]:
    """Batches of one and two workers against single commands, of which some are timed, before, between and after."""
    pictures, trim = portraits(folder, count), ("--trim", f":{frames}f")
    words = ("--portraits", *pictures, "--driving", DRIVING, *trim)
    singles: list[float] = []
    seconds: dict[str, float] = {}

    def time_singles(number: int) -> None:
        for picture in pictures[len(singles) : len(singles) + number]:
            singles.append(seconds_of("animate", picture, DRIVING, "-o", folder / f"{picture.stem}.mp4", *trim))

    time_singles(timed // 3)
    for workers in (1, 2):
        seconds[f"{workers}_workers"] = seconds_of("batch", *words, "--out", folder / f"{workers}", "-j", workers)
        time_singles(timed // 3 if workers == 1 else timed - len(singles))
    single = sum(singles) / len(singles) * count
    gains = {workers: single / taken for workers, taken in seconds.items()}
    return {"clips": count, "frames": frames, "singles": singles, "single": single, "batch": seconds, "gain": gains}


def split(folder: Path, frames: int, schedule: str, speed: str, repeats: int) -> dict[str, Any]:
    """One clip by one worker and with another's help, of one core each, models loaded; the best of some repeats."""
    import ray

    from flashportrait.batch.cluster import Actor, _helper
    from flashportrait.job import Job, ModelCache, run

    settings = {"trim": f":{frames}f", "schedule": schedule, "threads": 1, "device": "cpu", "refine": 1, "speed": speed}
    job = Job(EXAMPLES / "portrait_1.jpg", DRIVING, folder / "split.mp4", **settings)
    ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR", log_to_driver=False)
    best: dict[str, Any] = {}
    try:
        actor = ray.remote(Actor).options(num_cpus=1, max_concurrency=4).remote(1, "benchmark")
        ray.get(actor.evaluate.remote(job, None, {}))
        with ModelCache() as models:
            for _ in range(repeats):
                for workers in (1, 2):
                    cpu = time.process_time()
                    summary = run(job, models=models, helpers=[_helper(actor)] * (workers - 1))
                    row = {
                        "seconds": sum(summary.seconds[stage] for stage in ("denoise", "decode")),
                        "cpu_seconds_of_first": time.process_time() - cpu,
                        "passes": summary.report.network_calls,
                        "helped": summary.report.helped_calls,
                    }
                    best[f"{workers}_workers"] = min(best.get(f"{workers}_workers", row), row, key=_seconds)
    finally:
        ray.shutdown()
    gain = best["1_workers"]["seconds"] / best["2_workers"]["seconds"]
    return {"frames": frames, "schedule": schedule, "speed": speed, **best, "gain": gain}


def _seconds(row: dict[str, Any]) -> float:
    return row["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="clips of half a second, three single commands, no split")
    parser.add_argument("--only", choices=("clips", "split"))
    parser.add_argument("--schedules", nargs="+", default=["causal", "diagonal"], help="of splits")
    parser.add_argument("--speed", default="exact", help="of splits: exact is where the network takes most of the time")
    parser.add_argument("--repeats", type=int, default=3, help="of a split; the best counts")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    results: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.only != "split":
            row = results["clips"] = clips(folder, 20, 12 if args.quick else 25, 3 if args.quick else 20)
            print(
                f"{row['clips']} clips of {row['frames']} frames: {row['single']:.1f} s by single commands; as a batch "
                + ", ".join(f"{row['batch'][key]:.1f} s by {key[0]} ({row['gain'][key]:.2f}x)" for key in row["gain"])
            )
        if args.only != "clips" and not args.quick:
            for schedule in args.schedules:
                row = results[f"split_{schedule}"] = split(folder, 125, schedule, args.speed, args.repeats)
                one, two = row["1_workers"], row["2_workers"]
                helped = f"{two['helped']} of {two['passes']} passes helped"
                print(
                    f"one clip of {row['frames']} frames, {schedule}, {args.speed}: {one['seconds']:.1f} s alone, "
                    f"{two['seconds']:.1f} s by two ({helped}): {row['gain']:.2f}x; CPU of the first: "
                    f"{one['cpu_seconds_of_first']:.1f} and {two['cpu_seconds_of_first']:.1f} s"
                )
    print(f"load average {results['load_before']:.1f} before, {os.getloadavg()[0]:.1f} after, {os.cpu_count()} cores")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
