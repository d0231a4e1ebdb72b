"""``flashportrait fit-speed``: fit the speed dial to a model, on this machine."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashportrait.cli.console import Console
from flashportrait.cli.options import add_settings, chosen_settings, table
from flashportrait.errors import UserError

if TYPE_CHECKING:
    from flashportrait.evaluation.fitting import FitClip, SpeedFit
    from flashportrait.pipeline import FlashPortraitPipeline

SETTINGS = ("model", "size", "window", "device", "dtype", "threads", "weights", "offload")
"""Those of a job that choose the model and how it is run."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, what to fit to, how hard to look."""
    parser.epilog = (
        "What it costs is printed before the work begins. Interrupted, it goes on where it stopped when it is called "
        "again. The result is kept with the model, and is what --speed means from then on."
    )
    parser.add_argument(
        "pairs", nargs="*", metavar="PORTRAIT DRIVING", help="what to fit to; default: drawn people, if the model can"
    )
    parser.add_argument("--clips", type=int, default=6, metavar="N", help="windows in all, from 2; default: 6")
    parser.add_argument(
        "--sweeps",
        type=int,
        default=0,
        metavar="N",
        help="also look for better steps to compute, in at most N rounds; many times the cost; default: 0",
    )
    parser.add_argument("--seed", type=int, default=5000, help="of the noise, and of drawn people; default: 5000")
    parser.add_argument("--work", type=Path, metavar="DIR", help="where progress is kept; default: in the cache")
    add_settings(parser, only=SETTINGS)


def run(args: argparse.Namespace, console: Console) -> int:
    """Fit, check, store."""
    from flashportrait.evaluation.fitting import SpeedFitter, as_speeds, check_fittable
    from flashportrait.weights.plan import format_seconds
    from flashportrait.weights.speeds import check_writable, speeds_file, write_speeds

    given = [name for name in SETTINGS if hasattr(args, name)]
    chosen = dict.fromkeys(SETTINGS) | chosen_settings(args, given)
    model = chosen["model"] or "nano"
    if args.clips < 2:
        raise UserError(f"--clips is {args.clips}: give 2 or more, since some are for checking")
    if args.sweeps < 0:
        raise UserError(f"--sweeps is {args.sweeps}: give 0 or more")
    if len(args.pairs) % 2:
        raise UserError(f"{len(args.pairs)} files given: give a driving video after every portrait")
    pairs = list(zip(args.pairs[::2], args.pairs[1::2], strict=True))
    for file in map(Path, args.pairs):
        if not file.is_file():
            raise UserError(f"there is no file '{file}'")
    target = speeds_file(model)
    check_writable(target)
    pipeline = _load(model, chosen, pairs, console)
    check_fittable(pipeline.settings("exact"))
    folder = args.work or _work_folder(pipeline)
    clips = _clips(pipeline, pairs, args.clips, args.seed, chosen["size"], console)
    fitter = SpeedFitter(pipeline, clips, max(1, args.clips // 3), args.sweeps, folder)
    cost = fitter.cost()
    time = f"{cost.seconds_a_call:.2f} s a call, {format_seconds(cost.seconds)}" if cost.seconds else "kept from before"
    console.note(
        f"{len(clips)} clips of {clips[0].noise.shape[2]} latent frames: at most {cost.calls} calls, {cost.passes} "
        f"passes of the network; {time}; progress is kept in {folder}: interrupted, call again to go on"
    )
    fits = []
    with console.bar(len(clips), "exact runs", unit="clips") as bar:
        for fit in fitter.run(lambda done, total: bar.update()):
            fits.append(fit)
            console.note(f"{fit.speed}: {_errors(fit)}")
    speeds = as_speeds(fits)
    write_speeds(target, speeds)
    shutil.rmtree(folder, ignore_errors=True)
    summary: dict[str, Any] = {
        "model": str(model),
        "stored": str(target),
        "computed_calls": fitter.computed,
        "speeds": speeds,
    }
    summary["errors"] = {fit.speed: [fit.own_error, fit.held_out_error, fit.general_error] for fit in fits}
    console.result(summary, f"{_table(fits)}\nstored in {target}: --speed means this from now on")
    return 0


def _load(model: str, chosen: dict[str, Any], pairs: list[tuple[str, str]], console: Console) -> FlashPortraitPipeline:
    """The model, fitted to the machine if it is a large one."""
    import torch

    from flashportrait.job.memory import OFFLOAD
    from flashportrait.job.models import torch_device
    from flashportrait.loading import load_pipeline
    from flashportrait.media.portrait import load_portrait
    from flashportrait.weights.loading import check_files, released_model, sizes_of
    from flashportrait.weights.machine import default_device, detect_machine
    from flashportrait.weights.plan import Work, make_plan

    device, plan, released = torch_device(chosen["device"]) or default_device(), None, released_model(model)
    # Rounding must not be fitted to, where the model isn't too large for float32.
    dtype = getattr(torch, chosen["dtype"]) if chosen["dtype"] else (None if released else torch.float32)
    if released is not None:
        from flashportrait.inputs import Framing, whole_size
        from flashportrait.loading import OFFICIAL

        check_files(released, videos=True)
        if not pairs:
            raise UserError(
                "this model reads motion that drawn people don't have: give portraits and driving videos to fit to, as "
                f"in `flashportrait fit-speed FACE.jpg DRIVE.mp4 --model {model}`"
            )
        framing = Framing(**OFFICIAL["framing"])
        size = load_portrait(pairs[0][0]).size
        width, height = whole_size(size, chosen["size"] or framing.resolution, framing.multiple)
        window = chosen["window"] or OFFICIAL["defaults"]["window"]
        machine = detect_machine(device)
        plan = make_plan(
            machine,
            Work(height, width, window, sizes=sizes_of(released.folder)),
            storage=chosen["weights"],
            placement=OFFLOAD[chosen["offload"]],
            window=window,
        )
        console.note(f"{machine.name}: {plan.summary()}")
    pipeline = load_pipeline(model, device, dtype, plan)
    if chosen["window"]:
        settings = {**pipeline.config.defaults, "window": chosen["window"]}
        settings["overlap"] = min(settings.get("overlap", 0), chosen["window"] - 1)
        pipeline.register_to_config(defaults=settings)
    return pipeline


def _clips(
    pipeline: FlashPortraitPipeline,
    pairs: list[tuple[str, str]],
    count: int,
    seed: int,
    size: int | None,
    console: Console,
) -> list[FitClip]:
    from flashportrait.evaluation.fitting import drawn_clips, filmed_clips
    from flashportrait.inputs import FaceChoice, MotionControls, frame_portrait, load_motion, shape_motion

    if not pairs:
        return list(drawn_clips(pipeline, count, seed))
    read = []
    for portrait, driving in pairs:
        framed = frame_portrait(portrait, pipeline.framing, FaceChoice(), size)
        motion = load_motion(
            driving,
            pipeline.config.motion_layout,
            FaceChoice(),
            progress=not console.quiet,
            weights=pipeline.weights_folder,
        )
        read.append((framed, shape_motion(motion, MotionControls(), framed.row)))
    return list(filmed_clips(pipeline, read, count, seed))


def _work_folder(pipeline: FlashPortraitPipeline) -> Path:
    """A folder in the cache that belongs to these weights."""
    from flashportrait.files import user_folder
    from flashportrait.workdir import describe_model

    digest = describe_model(pipeline)["model"][:16]
    return user_folder("cache") / "fit-speed" / digest


def _errors(fit: SpeedFit) -> str:
    steps = " ".join(map(str, fit.prediction.full_steps))
    return (
        f"steps {steps}; relative error {fit.held_out_error:.4f} on clips not fitted to, "
        f"{fit.general_error:.4f} by the general rule"
    )


def _table(fits: list[SpeedFit]) -> str:
    rows = [
        (
            fit.speed,
            len(fit.prediction.full_steps),
            f"{fit.own_error:.4f}",
            f"{fit.held_out_error:.4f}",
            f"{fit.general_error:.4f}",
        )
        for fit in fits
    ]
    return table(rows, ("speed", "calls", "own clips", "other clips", "general rule"))
