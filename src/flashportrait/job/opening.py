"""A job's files, checked and opened before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashportrait.errors import UserError
from flashportrait.files import sha256_of
from flashportrait.job.job import MODELS, Job

if TYPE_CHECKING:
    from PIL import Image

    from flashportrait.face.motion import MotionFeatures
    from flashportrait.media.reader import VideoReader

TEMPLATE_SUFFIX = ".safetensors"
"""By which a motion template is told from a video."""


@dataclass(frozen=True)
class Inputs:
    """What a job reads."""

    portrait: Image.Image
    reader: VideoReader | None
    """The driving video; None where motion comes from a template."""
    driving: VideoReader | MotionFeatures
    output: Path


def open_inputs(job: Job) -> Inputs:
    """Check where the result goes and that the model is there, and open portrait and driver.

    Raises:
        UserError: the first thing that is wrong.
    """
    from flashportrait.marking.certificate import given_identity
    from flashportrait.media.clip import is_swapped
    from flashportrait.media.portrait import load_portrait
    from flashportrait.media.writer import check_output

    output = check_output(job.output, [job.portrait, job.driving])
    check_model(job)
    if job.mark:
        given_identity(job.sign_cert, job.sign_key)
    for file in job.lora:
        if not file.exists():
            raise UserError(f"there is no LoRA '{file}'")
    try:
        portrait = load_portrait(job.portrait)
        driving = open_driving(job)
    except UserError as error:
        if is_swapped(job.portrait, job.driving):
            raise UserError(
                f"the portrait '{job.portrait}' is a clip and the driver '{job.driving}' a picture: give the picture "
                "first, then the clip"
            ) from error
        raise
    reader = driving if hasattr(driving, "info") else None
    if reader is not None and job.audio:
        check_output(job.output, [job.portrait, job.driving], reader.audio)
    return Inputs(portrait, reader, driving, output)


def check(job: Job) -> None:
    """Refuse what can't be opened or written, without loading a model.

    Raises:
        UserError: the first thing that is wrong.
    """
    open_inputs(job)


def check_model(job: Job) -> None:
    """Refuse a model that is neither a known name nor a folder, and one in the released layout that isn't whole.

    Raises:
        UserError: what there is instead, or what has to be fetched.
    """
    from flashportrait.weights.loading import check_files, released_model

    if job.model not in MODELS and not Path(job.model).is_dir():
        raise UserError(f"there is no model '{job.model}': give {', '.join(MODELS)} or the folder of a saved pipeline")
    released = released_model(job.model)
    if released is not None:
        check_files(released, videos=job.driving.suffix.lower() != TEMPLATE_SUFFIX)


def open_driving(job: Job) -> VideoReader | MotionFeatures:
    """The driving clip, cut and resampled as asked."""
    if job.driving.suffix.lower() != TEMPLATE_SUFFIX:
        from flashportrait.media.clip import open_clip

        return open_clip(job.driving, job.trim, job.fps, job.frames)
    from flashportrait.face.motion import MotionFeatures
    from flashportrait.media.timing import Trim

    motion = MotionFeatures.load(job.driving)
    if job.trim is not None:
        motion = motion.trimmed(*Trim.parse(job.trim).frames(len(motion), motion.rate))
    return motion if job.fps is None else motion.resampled(job.fps)


def motion_key(job: Job, layout: str) -> str:
    """What decides the motion rows of a job's driving video, as a hash: jobs with the same key share them.

    Args:
        job: whose driver is a video.
        layout: name of the motion rows' layout, which the model chooses.
    """
    from flashportrait.media.clip import source_files

    chosen: tuple[Any, ...] = (job.trim, job.fps, job.frames, job.face, job.face_box, layout)
    return sha256_of(source_files(job.driving), repr(chosen).encode())
