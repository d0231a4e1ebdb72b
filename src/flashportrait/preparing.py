"""What every run begins with: the portrait framed, the driver's motion read and shaped for it, a report begun."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flashportrait.canvas import View
from flashportrait.face.motion import MotionFeatures
from flashportrait.inputs import (
    FaceChoice,
    FramedPortrait,
    Framing,
    MotionControls,
    ProgressHook,
    frame_portrait,
    shape_motion,
)
from flashportrait.result import PortraitVideo, RunReport, to_pictures
from flashportrait.workdir import WorkDirectory


@dataclass(frozen=True)
class Prepared:
    """A portrait and the motion that it takes, made ready."""

    framed: FramedPortrait
    motion: MotionFeatures
    """As shaped for the portrait, a row for each frame of the result."""
    report: RunReport

    def video(self, frames: Iterator[np.ndarray], model: str | None, *, stream: bool) -> PortraitVideo:
        """The result: frames as they come (``stream``), or all of them made now."""
        canvas = self.framed.canvas
        video = PortraitVideo(
            frames,
            length=len(self.motion),
            rate=self.motion.rate,
            report=self.report,
            portrait=to_pictures(self.framed.pixels)[0],
            model=model,
            motion=self.motion,
            face_area=None if canvas is None else canvas.face_area,
        )
        if not stream:
            video.collect()
        return video


def prepare(
    portrait: str | Path | Image.Image | FramedPortrait,
    read_motion: Callable[[FaceChoice], MotionFeatures],
    framing: Framing,
    *,
    size: int | None = None,
    view: View = "whole",
    controls: MotionControls | None = None,
    face: FaceChoice | None = None,
    progress: bool | ProgressHook = True,
    work: WorkDirectory | None = None,
) -> Prepared:
    """Frame the portrait, and read and shape the motion.

    Args:
        portrait, size, view, controls, face, progress, work: as of ``FlashPortraitPipeline``.
        read_motion: gives the driver's motion rows, where ``work`` doesn't hold them already.
        framing: how the model takes portraits.

    Raises:
        UserError: an input or a setting that can't be honoured, with what to do.
    """
    face, report = face or FaceChoice(), RunReport()
    with report.stage("portrait", progress if callable(progress) else None):
        framed = frame_portrait(portrait, framing, face, size, view)
        report.warnings += [framed.warning] if framed.warning else []
    with report.stage("motion"):
        extracted = work.motion() if work is not None else None
        if extracted is None:
            extracted = read_motion(face)
        if work is not None:
            work.save_motion(extracted)
        motion = shape_motion(extracted, controls or MotionControls(), framed.row)
    report.missing_faces = list(motion.missing)
    return Prepared(framed, motion, report)
