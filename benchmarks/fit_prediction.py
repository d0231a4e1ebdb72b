"""Fits the speed dial to a model: which steps to compute at each speed, and how to cross the gaps.

    python benchmarks/fit_prediction.py [--quick] [--model M] [--clips 8] [--move [SWEEPS]] [--write] [--json FILE]

Runs a few drawn clips of one window exactly, fits predictions to them (``sampling/fitted.py``), and prints the relative
error of the latents on clips that were not fitted to, beside Adaptive Latent Prediction's at the same number of calls.
``--write`` puts the result into the model's ``model_index.json``, where ``--speed`` finds it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from acceleration_clips import Clip, make_clip
from flashportrait.conditioning import GuidedVelocity
from flashportrait.loading import load_pipeline
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.sampling.fitted import ExactRun, FittedPrediction, fit_with_moved_steps, run_exactly
from flashportrait.sampling.guidance import Guidance
from flashportrait.sampling.predictor import AdaptiveLatentPrediction, evenly_spread, relative_error
from flashportrait.sampling.solver import steps_of
from flashportrait.sampling.windows import WindowPlan, pixel_frame_count
from flashportrait.weights.folder import model_folder

KINDS = ("talking", "large", "calm")
CALLS = {"balanced": 10, "fast": 5, "turbo": 3}
"""Computed steps at each speed, of the model's 30."""
STEPS = 30


def window_clips(pipeline: FlashPortraitPipeline, count: int, seed: int) -> list[Clip]:
    """Clips of one window each."""
    window = pipeline.settings("exact").window
    frames = pixel_frame_count(window)
    return [make_clip(pipeline, KINDS[i % len(KINDS)], frames, seed + i, window) for i in range(count)]


def schedule(pipeline: FlashPortraitPipeline, steps: int) -> list[float]:
    """Sigmas of the model's schedule, one more than steps."""
    pipeline.scheduler.set_timesteps(steps)
    return [float(sigma) for sigma in pipeline.scheduler.sigmas]


@torch.no_grad()
def exact_runs(pipeline: FlashPortraitPipeline, clips: list[Clip], steps: int) -> list[ExactRun]:
    """Every clip, run step by step under the model's own guidance."""
    sigmas, settings = schedule(pipeline, steps), pipeline.settings("exact")
    run_steps = steps_of(pipeline.scheduler)
    runs = []
    for clip in tqdm(clips, desc="exact runs", file=sys.stderr):
        plan = WindowPlan(clip.noise.shape[2], settings.window, settings.overlap)
        conditions = clip.conditions.padded_to(plan).to(pipeline.device, pipeline.transformer.dtype)
        network = GuidedVelocity(
            pipeline.transformer,
            pipeline.portrait_encoder,
            conditions,
            Guidance(settings.text_scale, settings.emotion_scale, conditions.same_prompts),
            steps=len(run_steps) + 1,  # its tokens are kept after the last step: the clip will be run again
            batched=settings.batched,
        )

        def velocity(latents: Tensor, step: int, network=network, window=plan[0]) -> Tensor:
            return network(latents, run_steps[step], window)

        runs.append(run_exactly(velocity, clip.noise.to(pipeline.device), sigmas))
    return runs


@torch.no_grad()
def error_of(
    predictor: FittedPrediction | AdaptiveLatentPrediction, runs: list[ExactRun], sigmas: list[float]
) -> float:
    """Mean relative error of the final latents."""
    errors = []
    for run in runs:
        state, latents = predictor.start(sigmas), run.latents[0]
        for step in range(len(sigmas) - 1):
            velocity = state.step(0, step, lambda x=latents, s=step, run=run: run.velocity(x, s))
            latents = latents + (sigmas[step + 1] - sigmas[step]) * velocity
        errors.append(relative_error(latents, run.latents[-1]))
    return statistics.mean(errors)


def main(argv: list[str] | None = None) -> None:
    """Fits, checks and stores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="nano", help="nano, or the folder of a model")
    parser.add_argument("--quick", action="store_true", help="2 clips to fit to, one thread: within five minutes")
    parser.add_argument("--clips", type=int, help="clips to fit to, half as many are held out; default: 8")
    parser.add_argument(
        "--move",
        type=int,
        nargs="?",
        const=1,
        default=0,
        metavar="SWEEPS",
        help="also search for better computed steps",
    )
    parser.add_argument("--write", action="store_true", help="store the result in the model's folder")
    parser.add_argument("--json", type=Path, help="where the result goes")
    parser.add_argument("--seed", type=int, default=5000, help="of people, performances and noise")
    args = parser.parse_args(argv)
    args.clips = args.clips or (2 if args.quick else 8)
    if args.quick:
        torch.set_num_threads(1)  # more threads wait for each other, ten times as long, where others use the cores

    pipeline = load_pipeline(args.model, dtype=torch.float32)  # rounding must not be fitted to
    clips = window_clips(pipeline, args.clips + max(1, args.clips // 2), args.seed)
    sigmas = schedule(pipeline, STEPS)
    runs = exact_runs(pipeline, clips, STEPS)
    known, held_out = runs[: args.clips], runs[args.clips :]
    speeds = {}
    print("| speed | calls | computed steps | fitted | held out | Newton 1 corrected | ALP |\n" + "|---" * 7 + "|")
    for speed, calls in CALLS.items():
        with torch.no_grad():
            fitted = fit_with_moved_steps(known, sigmas, evenly_spread(calls, STEPS), sweeps=args.move)
        rivals = (
            AdaptiveLatentPrediction(method="newton", order=1, corrected=True, speedup=STEPS / calls),
            AdaptiveLatentPrediction(speedup=STEPS / calls),
        )
        errors = [error_of(fitted, known, sigmas), *(error_of(each, held_out, sigmas) for each in (fitted, *rivals))]
        cells = " | ".join(f"{error:.4f}" for error in errors)
        print(f"| {speed} | {calls} | {' '.join(map(str, fitted.full_steps))} | {cells} |", flush=True)
        speeds[speed] = asdict(fitted)
    if args.json is not None:
        args.json.write_text(json.dumps(speeds, indent=1) + "\n")
    if args.write:
        path = model_folder(args.model) / "model_index.json"
        index = json.loads(path.read_text())
        index["defaults"] = {**index.get("defaults", {}), "speeds": speeds}
        path.write_text(json.dumps(index, indent=2) + "\n")


if __name__ == "__main__":
    main()
