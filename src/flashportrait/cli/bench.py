"""``flashportrait bench``: what this machine does with a model, stage by stage."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import TYPE_CHECKING, Any

from flashportrait.cli.console import Console
from flashportrait.cli.options import add_settings, chosen_settings, table
from flashportrait.errors import UserError

if TYPE_CHECKING:
    from flashportrait.evaluation.machine import Stage
    from flashportrait.pipeline import FlashPortraitPipeline
    from flashportrait.settings import SamplingSettings
    from flashportrait.weights.machine import Machine
    from flashportrait.weights.plan import Plan, Work

SETTINGS = ("model", "window", "overlap", "device", "dtype", "attention", "compile", "threads", "weights", "offload")
"""Those of a job that choose the model and how it is run."""
RATE = 25


@dataclass(frozen=True)
class _Loaded:
    """A model, and for the 14B how it was fitted to what."""

    pipeline: FlashPortraitPipeline
    fitted: tuple[Machine, Work, Plan] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, the size, the length of the clip to reckon for."""
    parser.epilog = "A table to paste into an issue; nothing about you or your files is in it."
    parser.add_argument("--width", type=int, metavar="PIXELS", help="of the picture, for models of whole pictures")
    parser.add_argument("--height", type=int, metavar="PIXELS", help="of the picture; default: 480x832")
    parser.add_argument("--seconds", type=float, default=20.0, help="of a clip to reckon for; default: 20")
    parser.add_argument("--repeats", type=int, default=3, metavar="N", help="measurements of each stage; default: 3")
    add_settings(parser, only=SETTINGS)


def run(args: argparse.Namespace, console: Console) -> int:
    """Load, measure, sum up."""
    given = [name for name in SETTINGS if hasattr(args, name)]
    chosen = dict.fromkeys(SETTINGS) | chosen_settings(args, given)
    for name, least in (("width", 16), ("height", 16), ("seconds", 0.04), ("repeats", 1)):
        value = getattr(args, name)
        if value is not None and not value >= least:
            raise UserError(f"--{name} is {value}: give {least} or more")

    import time

    import torch

    from flashportrait.evaluation.machine import measure, whole_run
    from flashportrait.sampling.windows import WindowPlan
    from flashportrait.weights.plan import format_seconds

    if chosen["threads"]:
        torch.set_num_threads(chosen["threads"])
    model, started = chosen["model"] or "nano", time.perf_counter()
    height, width = (-(-side // 16) * 16 for side in (args.height or 480, args.width or 832))
    loaded = _load(model, chosen, height, width, console)
    pipeline = loaded.pipeline
    if pipeline.framing.mode == "face":
        height = width = pipeline.framing.resolution
    settings = pipeline.settings("exact")
    if chosen["window"]:
        overlap = round(chosen["window"] * settings.overlap / settings.window)
        settings = replace(settings, window=chosen["window"], overlap=min(overlap, chosen["window"] - 1))
    if chosen["overlap"] is not None:
        settings = replace(settings, overlap=chosen["overlap"])
    WindowPlan(1, settings.window, settings.overlap)  # refuses an overlap that is no part of a window
    stages, loading = [], time.perf_counter() - started
    for stage in measure(pipeline, height, width, settings.window, args.repeats):
        console.note(f"{stage.name}: {stage.seconds:.4g} {'' if stage.unit == 'GB' else 's a '}{stage.unit}")
        stages.append(stage)
    frames = max(1, round(args.seconds * RATE))
    clip = whole_run(stages, frames, settings)
    facts = _facts(pipeline, model, height, width, settings.window)
    rows = [("loading", f"{loading:.3g}", "s", "")]
    for stage in stages:
        unit = stage.unit if stage.unit == "GB" else f"s a {stage.unit}"
        rows.append((stage.name, f"{stage.seconds:.4g}", unit, stage.note))
    for speed, total in clip.items():
        rows.append((f"{frames} frames, {speed}", f"{total:.4g}", "s", f"summed: {format_seconds(total)}"))
    lines = [*(f"{name}: {value}" for name, value in facts.items()), "", table(rows, ("stage", "value", "unit", "of"))]
    windows = _windows(loaded, stages, frames, settings)
    if windows:
        lines += [
            "",
            f"windows to choose from, with what {frames} frames would take by the pass above, and by how much",
        ]
        lines += ["a seam changes more than frames without one, in the embedded model (docs/scaling.md)"]
        lines += ["", table(*_window_table(windows))]
    summary = {**facts, "loading_seconds": loading, "stages": [asdict(stage) for stage in stages]}
    summary |= {"clip_frames": frames, "clip_seconds": clip, "windows": windows}
    console.result(summary, "\n".join(lines))
    return 0


def _windows(loaded: _Loaded, stages: Sequence[Stage], frames: int, settings: SamplingSettings) -> list[dict[str, Any]]:
    """Lengths of windows that are offered, with the seconds of a clip by speed; none for other models than the 14B."""
    from flashportrait.evaluation.machine import whole_run
    from flashportrait.job.lengths import offers
    from flashportrait.sampling.windows import latent_frame_count

    if loaded.fitted is None:
        return []
    machine, work, plan = loaded.fitted
    work = replace(work, latent_frames=latent_frame_count(frames))
    streaming = work.sizes.blocks_bytes(plan.storage) / machine.bandwidth if plan.placement == "offload" else 0.0
    rows = []
    for offer in offers(machine, work, plan, settings.window):
        length = min(offer.window, work.latent_frames) / settings.window
        ratios = {"pass of the network": offer.pass_ratio, "portrait encoding": length}
        scaled = [replace(stage, seconds=stage.seconds * ratios.get(stage.name, 1.0)) for stage in stages]
        scaled = [
            replace(stage, seconds=max(stage.seconds, streaming)) if stage.name == "pass of the network" else stage
            for stage in scaled
        ]
        chosen = replace(settings, window=offer.window, overlap=offer.overlap)
        rows.append({**asdict(offer), "seconds": whole_run(scaled, frames, chosen)})
    return rows


def _window_table(rows: Sequence[dict[str, Any]]) -> tuple[list[tuple[str, ...]], tuple[str, ...]]:
    speeds: list[str] = [*rows[0]["seconds"]]
    cells: list[tuple[str, ...]] = [
        (
            *(str(row[name]) for name in ("window", "overlap", "windows")),
            *(f"{row['seconds'][speed]:.4g} s" for speed in speeds),
            "doesn't fit" if row["peak_vram"] is None else f"{row['peak_vram'] / 1e9:.1f} GB",
            f"{row['seam']:.2f}",
        )
        for row in rows
    ]
    headings: tuple[str, ...] = ("window", "overlap", "windows", *speeds, "device memory", "seam")
    return cells, headings


def _load(model: str, chosen: dict[str, Any], height: int, width: int, console: Console) -> _Loaded:
    import torch

    from flashportrait.job.memory import OFFLOAD
    from flashportrait.job.models import torch_device
    from flashportrait.loading import OFFICIAL, load_pipeline
    from flashportrait.weights.kernels import compile_blocks, set_attention
    from flashportrait.weights.loading import check_files, released_model, sizes_of
    from flashportrait.weights.machine import default_device, detect_machine
    from flashportrait.weights.plan import Work, make_plan

    device, released = torch_device(chosen["device"]) or default_device(), released_model(model)
    plan = fitting = None
    if released is not None:
        check_files(released, videos=False)
        work = Work(height, width, chosen["window"] or OFFICIAL["defaults"]["window"], sizes=sizes_of(released.folder))
        machine = detect_machine(device)
        offload = OFFLOAD[chosen["offload"]]
        fitted = {"storage": chosen["weights"], "placement": offload, "compile": chosen["compile"]}
        plan = make_plan(machine, work, window=work.latent_frames, **fitted)
        fitting = machine, work, plan
        console.note(f"{machine.name}: {plan.summary()}")
    pipeline = load_pipeline(model, device, getattr(torch, chosen["dtype"]) if chosen["dtype"] else None, plan)
    set_attention(pipeline.transformer, chosen["attention"], device)
    if chosen["compile"] and plan is None:
        compile_blocks(pipeline.transformer)
    return _Loaded(pipeline, fitting)


def _facts(pipeline: Any, model: str, height: int, width: int, window: int) -> dict[str, str]:
    """What the numbers depend on."""
    import torch

    from flashportrait.weights.kernels import attention_of

    device = pipeline._execution_device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    parameters = sum(parameter.numel() for parameter in pipeline.transformer.parameters())
    versions = ", ".join(
        f"{package} {metadata.version(package)}" for package in ("flashportrait", "torch", "diffusers")
    )
    return {
        "device": f"{device.type} ({name}), {torch.get_num_threads()} threads",
        "versions": f"{versions}, Python {platform.python_version()}, {platform.system()}",
        "model": f"{model.rsplit('/', 1)[-1]}, {parameters / 1e6:.1f} million parameters in the network",
        "attention": attention_of(pipeline.transformer),
        "picture": f"{width}x{height}, windows of {window} latent frames",
    }
