"""Fitting the released model to the machine before it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashportrait.job.job import Job

if TYPE_CHECKING:
    from flashportrait.weights.plan import Machine, Plan

PLANNED = ("14b", "14b-fast")
"""Models that are too large to be put on the device without a thought."""

OFFLOAD = {None: None, True: "offload", False: "resident"}


def plan_memory(job: Job, machine: Machine, portrait_size: tuple[int, int], frames: int) -> Plan:
    """The plan for a job whose model is one of ``PLANNED``.

    Args:
        job: what is to be made.
        machine: what it is to be made with.
        portrait_size: width and height of the portrait.
        frames: of the driving clip.

    Raises:
        UserError: nothing fits, with what would be needed.
    """
    from flashportrait.inputs import Framing, whole_size
    from flashportrait.loading import OFFICIAL
    from flashportrait.sampling.windows import latent_frame_count
    from flashportrait.weights.plan import Work, make_plan

    framing = Framing(**OFFICIAL["framing"])
    width, height = whole_size(portrait_size, job.size or framing.resolution, framing.multiple)
    full_passes, branches = _passes(job)
    work = Work(
        height,
        width,
        latent_frame_count(frames),
        full_passes,
        branches,
        lora=bool(job.lora) or job.model.endswith("-fast"),
    )
    return make_plan(machine, work, storage=job.weights, placement=OFFLOAD[job.offload], window=job.window)


def _passes(job: Job) -> tuple[int, int]:
    """Steps that are computed in each window (at the least, where a tolerance chooses), and guidance branches."""
    from flashportrait.loading import FAST, OFFICIAL
    from flashportrait.sampling.guidance import Guidance
    from flashportrait.sampling.speed import parse_predictor, preset

    defaults: dict[str, Any] = OFFICIAL["defaults"] | (FAST if job.model.endswith("-fast") else {})
    steps = job.steps or defaults["num_inference_steps"]
    scales = (
        defaults[name] if given is None else given
        for name, given in (("text_scale", job.text_scale), ("emotion_scale", job.emotion_scale))
    )
    branches = len(Guidance(*scales, same_prompts=True).weights())
    predictor = parse_predictor(job.predictor) if job.predictor else preset(job.speed or "exact")
    if predictor is None:
        return steps, branches
    step = full = 0
    while step < steps:
        full, step = full + 1, predictor.next_full_step(step, steps)
    return full, branches
