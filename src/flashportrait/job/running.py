"""Runs a job: opens, checks, plans memory, animates, writes, measures."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from flashportrait.errors import UserError
from flashportrait.job.job import Job
from flashportrait.job.marks import Marks, open_marks
from flashportrait.job.memory import describe_plan, plan_memory
from flashportrait.job.models import ModelCache
from flashportrait.job.opening import Inputs, motion_key, open_inputs
from flashportrait.job.progress import Cancelled, Flag, Progress, Stopped, Teller
from flashportrait.job.summary import Summary

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from flashportrait.drawing import MeshPipeline
    from flashportrait.face.motion import MotionFeatures
    from flashportrait.pipeline import FlashPortraitPipeline
    from flashportrait.result import PortraitVideo
    from flashportrait.sampling.sharing import Evaluate
    from flashportrait.weights.plan import Plan
    from flashportrait.workdir import WorkDirectory

MotionFor = Callable[[str, "Callable[[], MotionFeatures]"], "MotionFeatures"]
"""``motion_for(key, extract)``: the motion rows kept under ``key``, or those of ``extract()``, kept from then on."""

Helper = Callable[["Job", "Plan | None", Mapping[str, Any]], "Tensor"]
"""``helper(job, plan, inputs)`` has :func:`evaluate` run where the helper is."""

NOT_COMPARED = (
    *("output", "keep_work", "restart", "threads", "audio", "compare"),
    *("mark", "ingredients", "sign_cert", "sign_key", "label", "label_corner", "label_size"),
)
"""Settings that may differ between the two parts of a run."""


def run(
    job: Job,
    *,
    models: ModelCache | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    resume: bool = False,
    cancel: Flag | None = None,
    motion_for: MotionFor | None = None,
    helpers: Sequence[Helper] = (),
) -> Summary:
    """Animate as the job says, keeping progress beside the output (``OUT.mp4.work``) until it is whole.

    Args:
        job: what to make.
        models: where loaded models are kept for the next run; without it they are let go at the end.
        on_progress: told how far each stage is, and every warning; from this thread, so it should return soon.
        resume: go on with what an interrupted run of the same job left, if there is something.
        cancel: once it is set, the run stops at the next step or frame.
        motion_for: where motion rows of driving videos are kept, so that each is read once (``MotionCache``).
        helpers: others with the same model, to whom the network's work on windows is shared out (:func:`evaluate`). The
            frames are the same, if they compute alike; one that fails is done without.

    Raises:
        UserError: something that the user can mend; ``InUse`` if another run is writing to this output.
        Cancelled: ``cancel`` was set; the work folder is kept.
    """

    @contextmanager
    def open_work(job: Job) -> Iterator[WorkDirectory]:
        from flashportrait.workdir import WorkDirectory

        with _alone(WorkDirectory.beside(job.output)):
            yield work_of(job, resume=resume)

    return _perform(job, open_work, models, on_progress, cancel, motion_for, helpers)


def evaluate(job: Job, plan: Plan | None, inputs: Mapping[str, Any], models: ModelCache) -> Tensor:
    """What a helper does for another's :func:`run`: the output of the job's network, on the CPU.

    Args:
        job, plan: decide the model that is loaded.
        inputs: of the network, by name; none only loads the model.
        models: where it is kept.
    """
    import torch

    with _threads(job.threads), models.using(job, plan) as pipeline:
        return cast("FlashPortraitPipeline", pipeline)._evaluate(inputs).cpu() if inputs else torch.empty(0)


def resume(
    work: str | Path,
    *,
    keep_work: bool = False,
    models: ModelCache | None = None,
    on_progress: Callable[[Progress], None] | None = None,
    cancel: Flag | None = None,
    motion_for: MotionFor | None = None,
) -> Summary:
    """Go on with the run whose folder ``work`` is, from where it stopped; the frames are those of a run in one go.

    Args:
        work: ``OUT.mp4.work``.
        keep_work: keep the folder at the end.
        models, on_progress, cancel, motion_for: as of ``run``.

    Raises:
        UserError, Cancelled: as ``run``; also if an input has changed since.
    """
    from flashportrait.workdir import WorkDirectory

    if not WorkDirectory.is_one(work):
        raise UserError(f"'{work}' is not a work directory: give the folder OUT.mp4.work that a run left")
    with _alone(Path(work)):
        folder = WorkDirectory.open(work)
        job = replace(Job.from_dict(folder.command), keep_work=keep_work, restart=False)
        return _perform(job, lambda _: nullcontext(folder), models, on_progress, cancel, motion_for)


def stored_device(work: str | Path) -> str | None:
    """Where the run whose folder ``work`` is was told to compute; None if that was left open, or can't be read."""
    import json

    with suppress(OSError, ValueError, AttributeError):
        return json.loads((Path(work) / "manifest.json").read_text())["command"].get("device")
    return None


class MotionCache:
    """Keeps motion rows of driving videos in a folder, by what decides them: the file's content, span, rate, face.

    Give it to ``run`` as ``motion_for``; several processes may share the folder.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def __call__(self, key: str, extract: Callable[[], MotionFeatures]) -> MotionFeatures:
        """The rows kept under ``key``; if there are none, those of ``extract()``, which are kept."""
        from flashportrait.face.motion import MotionFeatures

        file = self.folder / f"{key}.safetensors"
        if file.is_file():
            with suppress(OSError):
                file.touch()  # who removes what hasn't been used for long goes by this
            return MotionFeatures.load(file)
        motion = extract()
        self.folder.mkdir(parents=True, exist_ok=True)
        motion.save(file)
        return motion


def _perform(
    job: Job,
    open_work: Callable[[Job], AbstractContextManager[WorkDirectory]],
    models: ModelCache | None,
    on_progress: Callable[[Progress], None] | None,
    cancel: Flag | None,
    motion_for: MotionFor | None,
    helpers: Sequence[Helper] = (),
) -> Summary:
    """Check what can be checked cheaply, load the model, and write frames as they come."""
    from flashportrait.weights.loading import released_model

    teller = Teller(on_progress, cancel)
    with teller.listening(), nullcontext(models) if models is not None else ModelCache() as cache:
        inputs = open_inputs(job)
        marks = open_marks(job, teller)
        reader = inputs.reader
        for warning in reader.warnings if reader else []:
            teller.warn(warning)
        for note in reader.notes if reader else []:
            teller.note(note)
        plan = None
        released = released_model(job.model)
        if released is not None:
            machine = cache.machine(job.device)
            given = job, released, machine, inputs.portrait.size, len(inputs.driving)
            plan = plan_memory(*given)
            teller.note(describe_plan(plan, *given))
            # Settled here, so that a run that goes on with other memory free has the same windows.
            job = replace(job, window=plan.window, overlap=plan.overlap)
        started = time.perf_counter()
        with (
            open_work(job) as folder,
            _kept_if_unfinished(folder, teller, keep=job.keep_work) as work,
            _threads(job.threads),
        ):
            teller("load", 0, 1)
            with cache.using(job, plan) as pipeline:
                teller("load", 1, 1)
                loaded = time.perf_counter()
                asked = [partial(helper, job, plan) for helper in helpers]
                video, size, sound_lost = _animate(
                    job,
                    inputs,
                    marks,
                    pipeline,
                    work,
                    teller,
                    motion_for,
                    asked,
                    batched=plan is not None and plan.batched,
                )
            teller.finish()
        for warning in [*(reader.warnings if reader else []), *video.report.warnings]:
            teller.warn(warning)
    return Summary(
        output=inputs.output,
        model=job.model,
        rate=video.rate,
        variable_rate=reader is not None and reader.info.variable_rate,
        size=size,
        seed=job.seed,
        mark=marks.description,
        report=video.report,
        seconds={"load": loaded - started, **video.report.seconds, "total": time.perf_counter() - started},
        warnings=tuple(teller.messages),
        sound_lost=sound_lost,
    )


def _alone(folder: Path) -> AbstractContextManager[None]:
    """Keep other runs out of a work folder, and so from its output."""
    from flashportrait.media.lock import held

    refusal = f"another run is writing to '{folder}': wait for its end, or give another output"
    return held(folder, refusal)


def work_of(job: Job, *, resume: bool) -> WorkDirectory:
    """The work folder of a run: a new one, or the one to go on with.

    Raises:
        UserError: an unfinished run is there that is neither to be dropped nor to go on.
    """
    from flashportrait.workdir import WorkDirectory

    path = WorkDirectory.beside(job.output)
    if resume and not job.restart and WorkDirectory.is_one(path):
        work = WorkDirectory.open(path)
        before, now = Job.from_dict(work.command).to_dict(), job.absolute().to_dict()
        for name in now.keys() - {*NOT_COMPARED}:
            settled = name in ("window", "overlap") and now[name] is None
            if before[name] != now[name] and not settled:
                raise UserError(
                    f"'{path}' holds an unfinished run with another {name} ({before[name]}, now {now[name]}): go on "
                    f"with `{resume_command(path)}`, or drop its progress with --restart"
                )
        return work
    if WorkDirectory.has_progress(path) and not job.restart:
        raise UserError(
            f"'{path}' holds an unfinished run to this output: go on with `{resume_command(path)}`, "
            "or drop its progress with --restart"
        )
    inputs = {"portrait": job.portrait, "driving": job.driving}
    return WorkDirectory.create(path, job.absolute().to_dict(), inputs)


def resume_command(path: Path) -> str:
    """What to type to go on with the run in ``path``."""
    return f"flashportrait resume {shlex.quote(str(path))}"


@contextmanager
def _kept_if_unfinished(work: WorkDirectory, teller: Teller, *, keep: bool) -> Iterator[WorkDirectory]:
    """Remove ``work`` when the block ends well; when it doesn't, keep what progress there is and say how to go on.

    After an error that the user has to mend, only finished windows count as progress: other settings may be next. A
    run that was told to stop always leaves its folder.
    """
    try:
        yield work
    except Stopped:
        raise Cancelled(work.path) from None
    except BaseException as error:
        motion_counts = not isinstance(error, UserError)
        if work.has_progress(work.path) or (motion_counts and work.motion() is not None):
            teller.note(f"progress is kept; to go on: {resume_command(work.path)}")
        else:
            work.remove()
        raise
    if not keep:
        work.remove()


@contextmanager
def _threads(threads: int | None) -> Iterator[None]:
    """Bound the CPU threads of the numeric libraries for a while."""
    import torch

    before = torch.get_num_threads()
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        yield
    finally:
        if threads is not None:
            torch.set_num_threads(before)


def _animate(
    job: Job,
    inputs: Inputs,
    marks: Marks,
    pipeline: FlashPortraitPipeline | MeshPipeline,
    work: WorkDirectory,
    teller: Teller,
    motion_for: MotionFor | None,
    helpers: Sequence[Evaluate],
    batched: bool,
) -> tuple[PortraitVideo, tuple[int, int], str | None]:
    """Make, write and measure the frames; returns them with the (width, height) of what was written, and lost sound."""
    settings = _pipeline_settings(job) | ({"batched": True} if batched else {})
    driving, seconds = inputs.driving, 0.0
    if motion_for is not None and inputs.reader is not None and work.motion() is None:
        reader, started = inputs.reader, time.perf_counter()
        driving = motion_for(
            motion_key(job, pipeline.motion_layout),
            lambda: pipeline.read_motion(reader, settings["face"], progress=teller),
        )
        teller("motion", len(driving), len(driving))
        seconds = time.perf_counter() - started
    video = pipeline(inputs.portrait, driving, work=work, progress=teller, stream=True, helpers=helpers, **settings)
    video.report.seconds["motion"] += seconds
    with closing(video):
        return video, *_write(job, inputs, marks, video, teller)


def _pipeline_settings(job: Job) -> dict[str, Any]:
    """The pipeline call's arguments: those that were given."""
    from flashportrait.inputs import FaceChoice, MotionControls
    from flashportrait.sampling.speed import parse_predictor

    given = {
        "prompt": job.prompt,
        "negative_prompt": job.negative_prompt,
        "num_inference_steps": job.steps,
        "text_scale": job.text_scale,
        "emotion_scale": job.emotion_scale,
        "window": job.window,
        "overlap": job.overlap,
        "schedule": job.schedule,
        "temperature": job.temperature,
        "refine": job.refine,
        "predictor": None if job.predictor is None else parse_predictor(job.predictor),
    }
    return {
        "size": job.size,
        "seed": job.seed,
        "speed": job.speed,
        "controls": MotionControls(job.motion, job.head, job.eyes, job.emotion, job.mouth, float(job.smooth)),
        "face": FaceChoice(job.face, job.face_box, job.portrait_face, job.portrait_box),
        "view": job.view,
        **{name: value for name, value in given.items() if value is not None},
    }


def _write(
    job: Job, inputs: Inputs, marks: Marks, video: PortraitVideo, teller: Teller
) -> tuple[tuple[int, int], str | None]:
    """Write and measure the frames as they come; returns their (width, height) and why sound is missing."""
    from flashportrait.evaluation.report import QualityMonitor
    from flashportrait.media.writer import VideoWriter

    reader = inputs.reader
    if reader is not None and reader.info.frames != len(video):
        # A run that goes on has not read the clip, and damage shows only then.
        sum(1 for _ in reader)
    audio = None if reader is None or not job.audio else reader.audio
    times = None if reader is None else reader.times
    frames = QualityMonitor(video).watch()
    if job.compare:
        frames = _compared(frames, inputs)
    with VideoWriter(
        inputs.output,
        video.rate,
        times=times,
        audio=audio,
        model=Path(job.model).name,
        mark=job.mark,
        credentials=marks.credentials,
        label=marks.label,
    ) as writer:
        teller.part = writer.part
        for frame in frames:
            writer.write(frame)
            teller("decode", writer.frames, len(video))
    return writer.size, writer.sound_lost


def _compared(frames: Iterator[np.ndarray], inputs: Inputs) -> Iterator[np.ndarray]:
    """Each frame beside the portrait and, where there is one, the driver's."""
    import numpy as np

    from flashportrait.media.montage import side_by_side

    still = np.asarray(inputs.portrait)
    drivers = iter(inputs.reader) if inputs.reader is not None else iter(())
    for frame in frames:
        driver = next(drivers, None)
        row = [still, frame] if driver is None else [still, driver, frame]
        yield side_by_side(row, frame.shape[0])
