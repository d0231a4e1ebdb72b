"""What a batch saves: many short clips with one driver, and one long clip over two workers.

    python benchmarks/batch.py [--quick] [--json FILE]

Clips: ``flashportrait batch``, with one worker and with two, against as many ``flashportrait animate`` one after
another, each in a fresh process. Split: one clip on a Ray cluster of one-core workers, one against two (needs the extra
``ray``). Portraits and driver are those of ``examples/``; the machine should have nothing else to do.
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


def clips(folder: Path, count: int, frames: int) -> dict[str, Any]:
    """Batches of one and two workers against single commands."""
    pictures, trim = portraits(folder, count), ("--trim", f":{frames}f")
    words = ("--portraits", *pictures, "--driving", DRIVING, *trim)
    seconds = {
        f"{workers}_workers": seconds_of("batch", *words, "--out", folder / f"{workers}", "-j", workers)
        for workers in (1, 2)
    }
    single = sum(seconds_of("animate", file, DRIVING, "-o", folder / f"{file.stem}.mp4", *trim) for file in pictures)
    gains = {workers: single / taken for workers, taken in seconds.items()}
    return {"clips": count, "frames": frames, "single": single, "batch": seconds, "gain": gains}


def split(folder: Path, frames: int, schedule: str) -> dict[str, Any]:
    """One clip by one worker, and by two, of one core each."""
    from ray.cluster_utils import Cluster

    rows: dict[str, Any] = {"frames": frames, "schedule": schedule}
    for workers in (1, 2):
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": workers, "include_dashboard": False})
        try:
            report, words = folder / "report.json", ("--ray", cluster.address, "-j", workers, "--schedule", schedule)
            row = {"portrait": str(EXAMPLES / "portrait_1.jpg"), "driving": str(DRIVING), "output": f"{workers}.mp4"}
            (folder / "one.jsonl").write_text(json.dumps(row))
            seconds_of("batch", folder / "one.jsonl", "--trim", f":{frames}f", *words, "--report", report)
            summary = json.loads(report.read_text())["jobs"][0]["summary"]
        finally:
            cluster.shutdown()
        seconds = summary["seconds"]
        rows[f"{workers}_workers"] = {
            "seconds": sum(seconds[stage] for stage in ("denoise", "decode")),
            "passes": summary["network_calls"],
            "helped": summary["helped_calls"],
            "stages": seconds,
        }
    rows["gain"] = rows["1_workers"]["seconds"] / rows["2_workers"]["seconds"]
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="6 clips of half a second, and no split")
    parser.add_argument("--only", choices=("clips", "split"))
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    results: dict[str, Any] = {"cores": os.cpu_count(), "load_before": os.getloadavg()[0]}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if args.only != "split":
            row = results["clips"] = clips(folder, 6 if args.quick else 20, 12 if args.quick else 25)
            print(
                f"{row['clips']} clips of {row['frames']} frames: {row['single']:.1f} s by single commands; as a batch "
                + ", ".join(f"{row['batch'][key]:.1f} s by {key[0]} ({row['gain'][key]:.2f}x)" for key in row["gain"])
            )
        if args.only != "clips" and not args.quick:
            for schedule in ("causal", "diagonal"):
                row = results[f"split_{schedule}"] = split(folder, 125, schedule)
                one, two = row["1_workers"], row["2_workers"]
                print(
                    f"one clip of {row['frames']} frames, {schedule}: {one['seconds']:.1f} s by one worker, "
                    f"{two['seconds']:.1f} s by two ({two['helped']} of {two['passes']} passes helped): "
                    f"{row['gain']:.2f}x"
                )
    print(f"load average {results['load_before']:.1f} before, {os.getloadavg()[0]:.1f} after, {os.cpu_count()} cores")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
