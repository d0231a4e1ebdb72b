"""``flashportrait animate``: a portrait and a driving video or motion template to an animated portrait."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashportrait.cli.console import PROGRESS_DELAY_SECONDS, Console
from flashportrait.cli.memory import add_memory_options, plan_memory
from flashportrait.cli.options import (
    add_clip_options,
    add_device_options,
    add_face_options,
    add_lora_options,
    apply_threads,
    box,
    count,
    existing_model,
    gain,
    positive,
    torch_device,
    torch_dtype,
)
from flashportrait.cli.work import kept_if_unfinished, start_work
from flashportrait.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from flashportrait.face.motion import MotionFeatures
    from flashportrait.media.reader import VideoReader
    from flashportrait.pipeline import FlashPortraitPipeline
    from flashportrait.result import PortraitVideo
    from flashportrait.weights.plan import Plan
    from flashportrait.workdir import WorkDirectory

TEMPLATE_SUFFIX = ".safetensors"
"""By which a motion template is told from a video."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All of the pipeline's settings, none of which is needed."""
    parser.epilog = "While OUT.mp4 is made it grows as .OUT.part.mp4 beside it, which players can open already."
    parser.add_argument("portrait", type=Path, metavar="PORTRAIT", help="a picture: JPEG, PNG, WebP, ...")
    parser.add_argument("driving", type=Path, metavar="DRIVING", help="a video, or a template made by extract")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help=".mp4, .mov, .mkv or .webm")
    parser.add_argument(
        "--model", default="nano", metavar="NAME", help="nano, 14b, 14b-fast or a folder; default: nano"
    )
    parser.add_argument("--size", type=positive, metavar="PIXELS", help="longer side; default: the model's own")
    parser.add_argument("--seed", type=int, default=0, help="of the noise, at temperatures above 0; default: 0")
    parser.add_argument("--no-audio", action="store_true", help="leave the driving video's sound out")
    parser.add_argument("--keep-work", action="store_true", help="keep OUT.work, from which resume goes on, at the end")
    parser.add_argument("--restart", action="store_true", help="drop the progress of an unfinished run to this output")
    parser.add_argument("--compare", action="store_true", help="show portrait, driver and result side by side")
    add_clip_options(parser)
    _add_motion_options(parser)
    add_face_options(parser)
    faces = parser.add_argument_group("which face of the portrait")
    faces.add_argument("--portrait-face", type=positive, metavar="N", help="face number N (see: flashportrait faces)")
    faces.add_argument("--portrait-box", type=box, metavar="X0,Y0,X1,Y1", help="the face inside this box; for drawings")
    _add_sampling_options(parser)
    add_device_options(parser)
    add_memory_options(parser)
    add_lora_options(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Animate from the start, keeping progress beside the output until it is whole."""
    return perform(args, console, start_work)


def perform(
    args: argparse.Namespace, console: Console, open_work: Callable[[argparse.Namespace], WorkDirectory]
) -> int:
    """Check what can be checked cheaply, load the model, and write frames as they come.

    `open_work` gives the work directory once the inputs are known to be good.
    """
    from flashportrait.media.portrait import load_portrait
    from flashportrait.media.writer import check_output

    if args.speed is not None and args.predictor is not None:
        raise UserError("--speed and --predictor both choose the steps to compute: give one of them")
    output = check_output(args.output, [args.portrait, args.driving])
    existing_model(args.model)
    portrait = load_portrait(args.portrait)
    driving = open_driving(args)
    reader = driving if hasattr(driving, "info") else None
    for warning in reader.warnings if reader else []:
        console.warn(warning)

    plan = plan_memory(args, console, portrait.size, len(driving))
    started = time.perf_counter()
    settings = _settings(args)
    with kept_if_unfinished(open_work(args), console, keep=args.keep_work) as work:
        pipeline = _load(args, plan)
        loaded = time.perf_counter()
        video = pipeline(portrait, driving, work=work, **settings)
        size = _write(args, console, output, video, reader, portrait)
    for warning in [*(reader.warnings if reader else []), *video.report.warnings]:
        console.warn(warning)
    seconds = {"load": loaded - started, **video.report.seconds, "total": time.perf_counter() - started}
    summary = {
        "output": str(output),
        "model": args.model,
        "rate": str(video.rate),
        "variable_rate": reader is not None and reader.info.variable_rate,
        "size": size,
        "seed": args.seed,
        **video.report.to_dict(),
        "seconds": {stage: round(duration, 3) for stage, duration in seconds.items()},
    }
    console.result(summary, _describe(summary))
    return 0


def open_driving(args: argparse.Namespace) -> VideoReader | MotionFeatures:
    """The driving clip, cut and resampled as asked."""
    if args.driving.suffix.lower() != TEMPLATE_SUFFIX:
        from flashportrait.media.reader import VideoReader

        return VideoReader(args.driving, trim=args.trim, fps=args.fps)
    from flashportrait.face.motion import MotionFeatures
    from flashportrait.media.timing import Trim, parse_rate

    motion = MotionFeatures.load(args.driving)
    if args.trim is not None:
        motion = motion.trimmed(*Trim.parse(args.trim).frames(len(motion), motion.rate))
    return motion if args.fps is None else motion.resampled(parse_rate(args.fps))


def _add_motion_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("motion")
    for name, moves in (
        ("head", "head"),
        ("eyes", "gaze and lids"),
        ("emotion", "brows, cheeks and nose"),
        ("mouth", "jaw and lips"),
    ):
        group.add_argument(
            f"--{name}", type=gain, default=1.0, metavar="GAIN", help=f"{moves}: 0 still, 1 as filmed (default)"
        )
    group.add_argument(
        "--motion",
        choices=("absolute", "relative"),
        default="absolute",
        help="take the driver's pose and expression as they are, or only their changes, from the portrait's own",
    )
    group.add_argument(
        "--smooth",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="take the tracking's jitter out; blinks stay (default: on)",
    )
    group.add_argument(
        "--calibrate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="try the portrait first, and make up for what of its own expression stays (default: on, where the model "
        "names coefficients to calibrate)",
    )


def _add_sampling_options(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("sampling (default: the model's own)")
    group.add_argument("--steps", type=positive, metavar="N", help="denoising steps")
    group.add_argument("--text-scale", type=float, metavar="SCALE", help="guidance by text")
    group.add_argument("--emotion-scale", type=float, metavar="SCALE", help="guidance by expression")
    group.add_argument("--window", type=positive, metavar="N", help="latent frames denoised together")
    group.add_argument("--overlap", type=count, metavar="N", help="latent frames that neighbouring windows share")
    group.add_argument("--schedule", choices=("synchronous", "diagonal", "causal"), help="order of work over windows")
    group.add_argument("--temperature", type=float, metavar="T", help="of the first noise; at 0 seeds don't count")
    group.add_argument("--speed", choices=("exact", "balanced", "fast", "turbo"), help="how many steps to predict")
    group.add_argument("--predictor", metavar="SPEC", help="exactly how, as in alp:interval=5,order=3")


def _load(args: argparse.Namespace, plan: Plan | None) -> FlashPortraitPipeline:
    from diffusers.utils import logging

    from flashportrait.loading import load_pipeline

    (logging.disable_progress_bar if args.quiet else logging.enable_progress_bar)()
    apply_threads(args.threads)
    pipeline = load_pipeline(
        args.model,
        device=torch_device(args.device),
        dtype=torch_dtype(args.dtype),
        plan=plan,
        loras=[(path, args.lora_strength) for path in args.lora],
    )
    pipeline.set_progress_bar_config(desc="denoise", unit=" steps", delay=PROGRESS_DELAY_SECONDS, dynamic_ncols=True)
    return pipeline


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The pipeline call's arguments: those that were given."""
    from flashportrait.inputs import FaceChoice, MotionControls
    from flashportrait.sampling.speed import parse_predictor

    sampling = {
        "num_inference_steps": args.steps,
        "text_scale": args.text_scale,
        "emotion_scale": args.emotion_scale,
        "window": args.window,
        "overlap": args.overlap,
        "schedule": args.schedule,
        "temperature": args.temperature,
        "predictor": None if args.predictor is None else parse_predictor(args.predictor),
    }
    return {
        "size": args.size,
        "seed": args.seed,
        "speed": args.speed,
        "controls": MotionControls(
            motion=args.motion,
            head=args.head,
            eyes=args.eyes,
            emotion=args.emotion,
            mouth=args.mouth,
            smooth=float(args.smooth),
        ),
        "face": FaceChoice(
            driving=args.face,
            driving_box=args.face_box,
            portrait=args.portrait_face,
            portrait_box=args.portrait_box,
        ),
        "calibrate": args.calibrate,
        "stream": True,
        "progress": not args.quiet,
        **{name: value for name, value in sampling.items() if value is not None},
    }


def _write(
    args: argparse.Namespace,
    console: Console,
    output: Path,
    video: PortraitVideo,
    reader: VideoReader | None,
    portrait: Image.Image,
) -> tuple[int, int]:
    """Write and measure the frames as they come; returns the (width, height) of what was written."""
    from flashportrait.evaluation.report import QualityMonitor
    from flashportrait.media.writer import VideoWriter

    if reader is not None and reader.info.frames != len(video):
        # A resumed run has not read the clip, and damage shows only then.
        sum(1 for _ in reader)
    audio = None if reader is None or args.no_audio else reader.audio
    times = None if reader is None else reader.times
    frames = QualityMonitor(video).watch()
    if args.compare:
        frames = _compared(frames, reader, portrait)
    with VideoWriter(output, video.rate, times=times, audio=audio, model=Path(args.model).name) as writer:
        with console.bar(len(video), "frames") as bar:
            for frame in frames:
                writer.write(frame)
                bar.update()
        return writer.size


def _compared(frames: Iterator[np.ndarray], reader: VideoReader | None, portrait: Image.Image) -> Iterator[np.ndarray]:
    """Each frame beside the portrait and, where there is one, the driver's."""
    import numpy as np

    from flashportrait.media.montage import side_by_side

    still = np.asarray(portrait)
    drivers = iter(reader) if reader is not None else iter(())
    for frame in frames:
        driver = next(drivers, None)
        row = [still, frame] if driver is None else [still, driver, frame]
        yield side_by_side(row, frame.shape[0])


def _describe(summary: dict[str, Any]) -> str:
    from flashportrait.evaluation.report import quality_lines

    seconds = summary["seconds"]
    stages = ", ".join(f"{stage} {duration:.1f} s" for stage, duration in seconds.items() if stage != "total")
    width, height = summary["size"]
    rate = f"{summary['rate']} frames per second" + (
        " on average, each at its driver's time" * summary["variable_rate"]
    )
    lines = [
        f"{summary['output']}: {summary['frames']} frames of {width}x{height} at {rate}",
        f"{seconds['total']:.1f} s, {summary['frames'] / max(seconds['total'], 1e-9):.2f} frames per second ({stages})",
        f"first frame after {summary['seconds_to_first_frame']:.1f} s; "
        f"steps computed {summary['steps_computed']}, predicted {summary['steps_predicted']}; "
        f"peak memory {summary['peak_memory_bytes'] / 2**30:.2f} GiB; faces missed {len(summary['missing_faces'])}",
        *quality_lines(summary["quality"]),
    ]
    return "\n".join(lines)
