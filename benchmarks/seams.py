"""How much it shows where windows meet: where the right answer is known, and with the embedded model's network.

    python benchmarks/seams.py [--quick] [--window 21] [--overlaps 0 1 3 5 8 10] [--channels 4000] [--json FILE]
    python benchmarks/seams.py --network turned animated [--lengths 51:30 21:5 ...] [--clips 3] [--frames 285]
                               [--temperature T] [--faces DIR] [--media DIR] [--quick] [--json FILE]

The first: clips are drawn from a Gaussian process in time, for which the best velocity that a network seeing one window
can give is a matrix. The figure is the largest root mean square change from one latent frame to the next over the
typical one; ``whole`` is the clip sampled in one window. ``latents blended`` is the causal order with latents rather
than velocities blended at every step, which compounds the weights: the way not taken.

The second: one portrait follows one long driver with windows of each length and overlap (``L:V``, in latent frames),
and sampled in one window. References are ``turned``, which leaves expression to the network and whose right answer the
mesh draws, and ``animated``, which leaves it what the mesh lacks. Five of 30 steps are computed, by the rule that the
14B's ``--speed fast`` follows. A row has

``passes``  of the network for one guidance branch
``seen``    latent frames of all windows over those of the clip
``seam``, ``worst``            the report's own measure, mean over a clip's windows and the largest
``none seam``, ``none worst``  the same at the same frames of the clip sampled in one window, which has no seams
``change``  from the first of ``--lengths``, PSNR in dB
``truth``   PSNR in dB with what the mesh draws, for ``turned``
and what ``embedded.py`` has as ``following``: correlations with the driver and likeness.

Photographs from DIR/*.jpg of ``--faces`` follow clips of ``--media`` (DIR/driving); without, the examples follow
made-up talking.
"""

from __future__ import annotations

import argparse
import functools
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from embedded import AS_FILMED, followed, likeness
from flashportrait.avatars.performance import sample_performance
from flashportrait.conditioning import Conditions
from flashportrait.drawing import DRAWN_STRENGTH, DrawnClip
from flashportrait.evaluation.extractors import read_faces
from flashportrait.evaluation.report import QualityMonitor
from flashportrait.face.blendshapes import FaceLandmarker
from flashportrait.face.motion import MotionFeatures
from flashportrait.inputs import FaceChoice, FramedPortrait, frame_portrait, load_motion, shape_motion
from flashportrait.loading import load_pipeline
from flashportrait.models.streaming_vae import streaming_decoder
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.result import PortraitVideo, RunReport, to_pictures
from flashportrait.sampling.denoise import blend_start, denoiser
from flashportrait.sampling.noise import FrameNoise
from flashportrait.sampling.solver import Step, steps_of
from flashportrait.sampling.speed import SPEEDS, planned_steps
from flashportrait.sampling.windows import Window, WindowPlan, latent_frame_count

LENGTHS = ("51:30", "31:5", "21:12", "21:5", "13:3")
DRIVERS = ("liveportrait_d10", "liveportrait_d3", "vitallens_sample2", "liveportrait_d14")
SIZE, STEPS = 256, 30


def covariance(frames: int, reach: float) -> Tensor:
    """Smooth motion of the given reach in latent frames, and a little that changes from frame to frame."""
    distance = (torch.arange(frames)[:, None] - torch.arange(frames)).abs().double()
    return 0.9 * torch.exp(-0.5 * (distance / reach) ** 2) + 0.1 * torch.exp(-distance / 0.7)


@functools.cache
def best_velocity(frames: int, reach: float, sigma: float) -> Tensor:
    """E[noise - x | x_sigma] = (x_sigma - E[x | x_sigma]) / sigma, as a matrix over the frames of a window."""
    unit, signal = torch.eye(frames, dtype=torch.float64), covariance(frames, reach)
    expected = (1 - sigma) * signal @ torch.linalg.inv((1 - sigma) ** 2 * signal + sigma**2 * unit)
    return ((unit - expected) / sigma).float()


def sample(order: str, plan: WindowPlan, noise: FrameNoise, reach: float) -> Tensor:
    """Latents [channels frames] in one of the orders, or ``latents blended``."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5)
    scheduler.set_timesteps(30)

    def velocity(latents: Tensor, step: Step, window: Window) -> Tensor:
        return torch.einsum("bcfhw,gf->bcghw", latents, best_velocity(latents.shape[2], reach, step.sigma))

    if order == "latents blended":
        return blend_latents(velocity, steps_of(scheduler), plan, noise)[0, :, :, 0, 0]
    run = denoiser(order, velocity, scheduler, plan, noise)
    return torch.cat([latents for windows in run.run() for _, latents in windows], dim=2)[0, :, :, 0, 0]


def blend_latents(velocity, steps: list[Step], plan: WindowPlan, noise: FrameNoise) -> Tensor:
    """The causal order, each window's latents drawn towards its left neighbour's after every Euler step."""
    parts, band = [], []
    for window in plan:
        latents, left, band = noise(window.start, window.stop), band, []
        for step in steps:
            latents = latents + (step.next_sigma - step.sigma) * velocity(latents, step, window)
            if window.overlap:
                latents = blend_start(latents, left[step.index], window)
            band.append(latents[:, :, window.owned :])
        parts.append(latents[:, :, : window.owned])
    return torch.cat(parts, dim=2)


def largest_jump(clip: Tensor) -> float:
    """Of the root mean square changes from one frame to the next, the largest over the typical."""
    jumps = clip.diff(dim=1).square().mean(dim=0).sqrt()
    return float(jumps.max() / jumps.median())


def process(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Orders of work and overlaps on the Gaussian process."""
    orders = ("diagonal", "causal", "latents blended")
    noise, rows = FrameNoise(0, args.channels or (200 if args.quick else 4000), 1, 1), []
    print(f"{'reach':>6} {'overlap':>8} {'whole':>7} " + " ".join(f"{order:>16}" for order in orders))
    for reach in (2.0, 5.0):
        for overlap in args.overlaps:
            plan = WindowPlan(args.window + 4 * (args.window - overlap), args.window, overlap)
            whole = largest_jump(
                sample("diagonal", WindowPlan(plan.latent_frames, plan.latent_frames, 0), noise, reach)
            )
            jumps = {order: largest_jump(sample(order, plan, noise, reach)) for order in orders}
            rows.append({"reach": reach, "overlap": overlap, "whole": whole, **jumps})
            figures = " ".join(f"{jumps[order]:16.3f}" for order in orders)
            print(f"{reach:6.1f} {overlap:8} {whole:7.3f} {figures}")
    return rows


@dataclass
class Clip:
    """A portrait and the performance that it follows."""

    name: str
    framed: FramedPortrait
    motion: MotionFeatures
    frames: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)
    """Results [t h w 3] by window and overlap."""


def clips(args: argparse.Namespace, pipeline: FlashPortraitPipeline) -> Iterator[Clip]:
    """Photographs with real drivers, or the examples with made-up talking."""
    examples = Path(__file__).resolve().parents[1] / "examples"
    portraits = sorted((args.faces or examples).glob("*.jpg"))
    drivers = [args.media / "driving" / f"{name}.mp4" for name in DRIVERS] if args.media else [None]
    for index in range(args.clips):
        portrait, driver = portraits[index % len(portraits)], drivers[index % len(drivers)]
        if driver is None:
            generator = torch.Generator().manual_seed(index)
            motion = MotionFeatures(sample_performance(args.frames, kind="talking", generator=generator).numpy(), 25)
        else:
            motion = load_motion(driver, "blendshapes", FaceChoice(), progress=False)
            motion = motion.trimmed(0, min(len(motion), args.frames))
        framed = frame_portrait(portrait, pipeline.framing, FaceChoice(), SIZE, "face")
        name = f"{portrait.stem}, {driver.stem if driver else f'talking {index}'}"
        yield Clip(name, framed, shape_motion(motion, AS_FILMED, framed.row))


def network(args: argparse.Namespace) -> list[dict[str, Any]]:
    """Windows of each length, with the embedded model's network, reference by reference and clip by clip."""
    pipeline, landmarker, rows = load_pipeline(args.model), FaceLandmarker(), []
    pipeline.set_progress_bar_config(disable=True)
    lengths = [tuple(int(part) for part in text.split(":")) for text in args.lengths]
    for reference in args.network:
        pipeline.register_to_config(reference=reference)
        for clip in clips(args, pipeline):
            whole = latent_frame_count(len(clip.motion))
            conditions = pipeline.encode_conditions(clip.framed, clip.motion.values, whole)
            truth = list(DrawnClip(clip.framed, torch.from_numpy(clip.motion.values)))
            about = {"reference": reference, "clip": clip.name}
            for window, overlap in [(whole, 0), *lengths]:
                plan = WindowPlan(whole, window, overlap)
                clip.frames[window, overlap] = frames = sampled(pipeline, conditions, plan, args.temperature)
                row = {**about, "window": window, "overlap": overlap, "windows": len(plan), **cost(plan)}
                row |= seams(clip, frames, plan)
                row |= {f"none {name}": value for name, value in seams(clip, clip.frames[whole, 0], plan).items()}
                if lengths[0] in clip.frames and (window, overlap) != lengths[0]:
                    row["change"] = psnr(frames, clip.frames[lengths[0]])
                if DRAWN_STRENGTH[reference] == 0:
                    row["truth"] = psnr(frames, np.stack(truth))
                every = MotionFeatures(clip.motion.values[::2], clip.motion.rate / 2)
                seen = read_faces(frames[::2], landmarker)
                row |= followed(seen, every)
                row["identity"] = likeness(frames[::2], seen, clip.framed, landmarker)
                rows.append(row)
                print("  ".join(f"{name} {_short(value)}" for name, value in row.items()), flush=True)
                if args.json:  # a long run that is stopped has told something
                    args.json.write_text(json.dumps(rows, indent=1) + "\n")
    return rows


def sampled(
    pipeline: FlashPortraitPipeline, conditions: Conditions, plan: WindowPlan, temperature: float | None
) -> np.ndarray:
    """Frames [t h w 3]; drawn pictures are kept in the conditions for the next plan."""
    own, reference = pipeline.settings("exact"), conditions.reference
    channels = pipeline.transformer.config.out_channels
    heat = own.temperature if temperature is None else temperature
    noise = FrameNoise(0, channels, *reference.grid, temperature=heat)(0, plan.latent_frames)
    latents = pipeline.sample_latents(
        noise,
        *(conditions.prompt_embeds, conditions.negative_prompt_embeds, conditions.image_embeds, reference),
        conditions.motion,
        num_inference_steps=STEPS,
        text_scale=own.text_scale,
        emotion_scale=own.emotion_scale,
        window=plan.window,
        overlap=plan.overlap,
        predictor=SPEEDS["fast"],
    )
    decoder = streaming_decoder(pipeline.vae)
    with torch.no_grad():
        parts = [reference.decode(index, latent, decoder) for index, latent in enumerate(latents.split(1, dim=2))]
    return np.concatenate(parts)[: conditions.motion.shape[1]]


def cost(plan: WindowPlan) -> dict[str, float]:
    """Passes of one guidance branch, and the latent frames they see over those of the clip."""
    computed = planned_steps(SPEEDS["fast"], STEPS)
    assert computed is not None
    seen = sum(len(window) for window in plan)
    return {"passes": len(computed) * len(plan), "seen": seen / plan.latent_frames}


def seams(clip: Clip, frames: np.ndarray, plan: WindowPlan) -> dict[str, float]:
    """The report's measure at the frames where windows of a plan meet; nothing for one window."""
    report = RunReport(windows=len(plan))
    report.seams = [tuple(seam for seam in window.seams if seam < len(frames)) for window in plan]
    assert clip.framed.canvas is not None
    video = PortraitVideo(
        iter(frames),
        length=len(frames),
        rate=clip.motion.rate,
        report=report,
        portrait=to_pictures(clip.framed.pixels)[0],
        motion=clip.motion,
        face_area=clip.framed.canvas.face_area,
    )
    for _ in QualityMonitor(video, identity=False).watch():
        pass
    scores = [row["seam"] for row in report.quality["windows"] if row["seam"] is not None]
    return {"seam": float(np.mean(scores)), "worst": max(scores)} if scores else {}


def psnr(frames: np.ndarray, other: np.ndarray) -> float:
    """dB between frames [t h w 3]."""
    error = np.mean([np.square(a.astype(np.float32) - b).mean() for a, b in zip(frames, other, strict=True)])
    return float(10 * np.log10(255**2 / max(float(error), 1e-9)))


def means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each window and overlap over clips, with the standard error of each figure where there are several."""
    places = dict.fromkeys((row["reference"], row["window"], row["overlap"]) for row in rows)
    table = []
    for place in places:
        same = [row for row in rows if (row["reference"], row["window"], row["overlap"]) == place]
        mean = dict(zip(("reference", "window", "overlap"), place, strict=True)) | {"clips": len(same)}
        for name in dict.fromkeys(name for row in same for name in row if name not in {*mean, "clip"}):
            values = [row[name] for row in same if row.get(name) is not None]
            error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
            mean[name] = (float(np.mean(values)), error) if values else (None, None)
        table.append(mean)
    return table


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--window", type=int, default=21)
    parser.add_argument("--overlaps", type=int, nargs="+", default=[0, 1, 3, 5, 8, 10])
    parser.add_argument("--quick", action="store_true", help="200 clips of the process; one of the network, shorter")
    parser.add_argument("--channels", type=int, help="independent clips: more make the figure sharper; default: 4000")
    parser.add_argument("--network", nargs="+", choices=list(DRAWN_STRENGTH), help="use the network, with references")
    parser.add_argument("--lengths", nargs="+", metavar="L:V", help="windows and overlaps of the network's clips")
    parser.add_argument("--clips", type=int, help="of the network, default: 3")
    parser.add_argument("--frames", type=int, help="of each of them, default: 285, two of the longest windows")
    parser.add_argument("--temperature", type=float, help="of the starting noise; default: the model's own")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--faces", type=Path, metavar="DIR")
    parser.add_argument("--media", type=Path, metavar="DIR")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    args.clips = args.clips or (1 if args.quick else 3)
    args.frames = args.frames or (53 if args.quick else 285)
    args.lengths = args.lengths or (["8:3", "5:3"] if args.quick else list(LENGTHS))
    rows = network(args) if args.network else process(args)
    if args.network:
        print()
        for mean in means(rows):
            print("  ".join(f"{name} {_spread(value)}" for name, value in mean.items()))
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


def _spread(value: Any) -> str:
    if not isinstance(value, tuple):
        return str(value)
    mean, error = value
    return "-" if mean is None else f"{mean:.3f}" + (f" +- {error:.3f}" if error is not None else "")


if __name__ == "__main__":
    main()
