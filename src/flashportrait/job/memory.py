"""Fitting the released model to the machine before it is loaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flashportrait.job.job import Job

if TYPE_CHECKING:
    from flashportrait.weights.loading import Released
    from flashportrait.weights.machine import Machine
    from flashportrait.weights.plan import Placement, Plan, Work

OFFLOAD: dict[bool | None, tuple[Placement, ...] | None] = {
    None: None,
    True: ("offload",),
    False: ("resident", "shard"),
}
"""Placements of the transformer to choose from, by what was said about offloading."""


def plan_memory(job: Job, model: Released, machine: Machine, portrait_size: tuple[int, int], frames: int) -> Plan:
    """The plan for a job whose model is in the released layout.

    Args:
        job: what is to be made.
        model: its model.
        machine: what it is to be made with.
        portrait_size: width and height of the portrait.
        frames: of the driving clip.

    Raises:
        UserError: nothing fits, with what would be needed; or a file of the model is broken.
    """
    from flashportrait.weights.plan import make_plan

    return make_plan(
        machine,
        work_for(job, model, portrait_size, frames),
        storage=job.weights,
        placement=OFFLOAD[job.offload],
        window=job.window,
        overlap=job.overlap,
        compile=job.compile,
    )


def work_for(job: Job, model: Released, portrait_size: tuple[int, int], frames: int) -> Work:
    """What a job asks of its model; arguments as of ``plan_memory``."""
    from flashportrait.inputs import Framing, whole_size
    from flashportrait.loading import OFFICIAL
    from flashportrait.sampling.windows import latent_frame_count
    from flashportrait.weights.loading import sizes_of
    from flashportrait.weights.plan import Work

    framing = Framing(**OFFICIAL["framing"])
    width, height = whole_size(portrait_size, job.size or framing.resolution, framing.multiple)
    full_passes, branches = _passes(job, model.fast)
    return Work(
        height,
        width,
        latent_frame_count(frames),
        full_passes,
        branches,
        lora=bool(job.lora) or model.fast,
        sizes=sizes_of(model.folder),
    )


def describe_plan(
    plan: Plan, job: Job, model: Released, machine: Machine, portrait_size: tuple[int, int], frames: int
) -> str:
    """The plan in a line for the user, and what would be quicker, where windows weren't chosen."""
    from flashportrait.job.lengths import quicker

    said = f"{machine.name}: {plan.summary()}"
    if job.window is None and job.overlap is None:
        hint = quicker(machine, work_for(job, model, portrait_size, frames), plan)
        return said if hint is None else f"{said}; {hint}"
    return said


def _passes(job: Job, fast: bool) -> tuple[int, int]:
    """Steps that are computed in each window (at the least, where a tolerance chooses), and guidance branches."""
    from flashportrait.loading import FAST, OFFICIAL
    from flashportrait.sampling.guidance import Guidance
    from flashportrait.sampling.speed import parse_predictor, preset

    defaults: dict[str, Any] = OFFICIAL["defaults"] | (FAST if fast else {})
    steps = job.steps or defaults["num_inference_steps"]
    scales = (
        defaults[name] if given is None else given
        for name, given in (("text_scale", job.text_scale), ("emotion_scale", job.emotion_scale))
    )
    branches = len(Guidance(*scales).weights())
    predictor = parse_predictor(job.predictor) if job.predictor else preset(job.speed or "exact")
    if predictor is None:
        return steps, branches
    return len(predictor.planned_steps(steps)), branches
