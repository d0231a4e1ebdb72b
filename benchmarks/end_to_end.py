"""Frames per second of the whole command, file to file, for a 10 s clip.

    python benchmarks/end_to_end.py [--quick] [--model nano] [--speeds exact fast ...] [--json FILE]

An avatar performs the driving clip (256 px, 25 frames/s); ``flashportrait animate`` runs in a fresh process for each
row, so loading, extraction, sampling, decoding and encoding all count.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RATE = 25
SPEEDS = ("exact", "balanced", "fast", "turbo")


def perform(folder: Path, seconds: float, size: int = 256, seed: int = 7) -> tuple[Path, Path]:
    """An avatar's portrait and its talking performance, as files."""
    import torch
    from PIL import Image

    from flashportrait.avatars.identity import sample_identities
    from flashportrait.avatars.performance import sample_performance
    from flashportrait.avatars.renderer import render
    from flashportrait.media.writer import VideoWriter

    generator = torch.Generator().manual_seed(seed)
    identity = sample_identities(1, generator)
    rows = sample_performance(round(seconds * RATE), rate=RATE, kind="talking", generator=generator)
    portrait, driving = folder / "portrait.png", folder / "driving.mp4"
    with VideoWriter(driving, Fraction(RATE)) as writer:
        for part in rows.split(8):
            pictures = (render(identity, part, size=size).frames * 255).round().byte()
            for picture in pictures.permute(0, 2, 3, 1).numpy():
                writer.write(picture)
    still = (render(identity, torch.zeros_like(rows[:1]), size=size).frames[0] * 255).round().byte()
    Image.fromarray(still.permute(1, 2, 0).numpy()).save(portrait)
    return portrait, driving


def measure(
    portrait: Path, driving: Path, model: str, speed: str, folder: Path, options: Sequence[str] = ()
) -> dict[str, Any]:
    """One run of the command, with further options, in a process of its own."""
    command = [sys.executable, "-m", "flashportrait", "animate", str(portrait), str(driving)]
    command += ["-o", str(folder / f"{speed}.mp4"), "--model", model, "--speed", speed, "--json", "--quiet", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stderr.strip()}")
    summary = json.loads(done.stdout)
    seconds = summary["seconds"]
    return {
        "speed": speed,
        "frames": summary["frames"],
        "frames_per_second": summary["frames"] / seconds["total"],
        "first_frame_seconds": summary["seconds_to_first_frame"],
        "network_calls": summary["network_calls"],
        "peak_memory_mib": summary["peak_memory_bytes"] / 2**20,
        "seconds": seconds,
    }


def print_table(rows: list[dict[str, Any]]) -> None:
    """One line a row; the stages in seconds."""
    stages = [stage for stage in rows[0]["seconds"] if stage != "total"]
    heads = ["speed", "frames/s", "first frame s", "calls", "peak MiB", *stages]
    print("  ".join(f"{head:>13}" for head in heads))
    for row in rows:
        numbers = [row["frames_per_second"], row["first_frame_seconds"], row["network_calls"], row["peak_memory_mib"]]
        numbers += [row["seconds"].get(stage, 0.0) for stage in stages]
        print("  ".join([f"{row['speed']:>13}", *(f"{number:13.2f}" for number in numbers)]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a 3 s clip and two speeds")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--speeds", nargs="+", choices=SPEEDS, metavar="SPEED")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    speeds = args.speeds or (("exact", "fast") if args.quick else SPEEDS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        portrait, driving = perform(folder, 3 if args.quick else 10)
        rows = [measure(portrait, driving, args.model, speed, folder) for speed in speeds]
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    print(f"model {args.model}, commit {commit.stdout.strip()}, {machine}, Python {platform.python_version()}")
    print_table(rows)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
