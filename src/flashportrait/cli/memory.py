"""Fitting the released model to the machine: the options, and the plan, said before anything starts."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from flashportrait.cli.console import Console
from flashportrait.cli.options import torch_device

if TYPE_CHECKING:
    from flashportrait.weights.plan import Plan

PLANNED = ("14b", "14b-fast")
"""Models that are too large to be put on the device without a thought."""

OFFLOAD = {None: None, True: "offload", False: "resident"}


def add_memory_options(parser: argparse.ArgumentParser) -> None:
    """What the plan would else choose."""
    group = parser.add_argument_group("memory (14b; default: what fits, planned before it starts)")
    group.add_argument("--weights", choices=("bf16", "fp8"), help="type in which the transformer's blocks are kept")
    group.add_argument(
        "--offload",
        action=argparse.BooleanOptionalAction,
        help="keep the transformer's blocks in host memory and stream them, or keep them on the device",
    )


def plan_memory(args: argparse.Namespace, console: Console, portrait_size: tuple[int, int], frames: int) -> Plan | None:
    """The plan for this run, told to the user; None for a small model.

    Settles ``args.window`` and ``args.overlap`` where they were left open, so that a resumed run has the same.

    Args:
        args: of ``animate``.
        console: told the plan.
        portrait_size: width and height of the portrait.
        frames: of the driving clip.

    Raises:
        UserError: nothing fits, with what would be needed.
    """
    if args.model not in PLANNED:
        return None
    from flashportrait.inputs import Framing, whole_size
    from flashportrait.loading import OFFICIAL, default_device
    from flashportrait.sampling.windows import latent_frame_count
    from flashportrait.weights.plan import Work, detect_machine, make_plan

    framing = Framing(**OFFICIAL["framing"])
    width, height = whole_size(portrait_size, args.size or framing.resolution, framing.multiple)
    full_passes, branches = _passes(args)
    work = Work(
        height,
        width,
        latent_frame_count(frames),
        full_passes,
        branches,
        lora=bool(args.lora) or args.model.endswith("-fast"),
    )
    machine = detect_machine(torch_device(args.device) or default_device())
    plan = make_plan(machine, work, storage=args.weights, placement=OFFLOAD[args.offload], window=args.window)
    console.note(f"{machine.name}: {plan.summary()}")
    args.window = plan.window
    args.overlap = plan.overlap if args.overlap is None else args.overlap
    return plan


def _passes(args: argparse.Namespace) -> tuple[int, int]:
    """Steps that are computed in each window (at the least, where a tolerance chooses), and guidance branches."""
    from flashportrait.loading import FAST, OFFICIAL
    from flashportrait.sampling.guidance import Guidance
    from flashportrait.sampling.speed import parse_predictor, preset

    defaults: dict[str, Any] = OFFICIAL["defaults"] | (FAST if args.model.endswith("-fast") else {})
    steps = args.steps or defaults["num_inference_steps"]
    scales = (
        defaults[name] if given is None else given
        for name, given in (("text_scale", args.text_scale), ("emotion_scale", args.emotion_scale))
    )
    branches = len(Guidance(*scales, same_prompts=True).weights())
    predictor = parse_predictor(args.predictor) if args.predictor else preset(args.speed or "exact")
    if predictor is None:
        return steps, branches
    step = full = 0
    while step < steps:
        full, step = full + 1, predictor.next_full_step(step, steps)
    return full, branches
