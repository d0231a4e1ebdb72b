"""A portrait driven on its face mesh, without a network: what a small model's default result is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flashportrait.canvas import View
from flashportrait.errors import UserError
from flashportrait.face.motion import MotionFeatures
from flashportrait.inputs import (
    DrivingSource,
    FaceChoice,
    FramedPortrait,
    Framing,
    MotionControls,
    ProgressHook,
    load_motion,
)
from flashportrait.preparing import Prepared, prepare
from flashportrait.prompts import refuse_words
from flashportrait.result import PortraitVideo, to_pictures
from flashportrait.settings import SamplingSettings
from flashportrait.workdir import WorkDirectory, describe_inputs

Part = TypeVar("Part")
Drawn = TypeVar("Drawn")

DRAWN_STRENGTH = {"turned": 0.0, "animated": 1.0}
"""References that are drawn on a face mesh, with the strength of the expression in them."""


class MeshPipeline:
    """Animates a portrait on its mesh alone, frame for frame what ``FlashPortraitPipeline`` makes at ``refine`` 0, and
    starts in half the time: no network is read.

    Args:
        index: of the model, as in its ``model_index.json``; its reference must be one that is drawn.
        name: of the model, for the mark in files.

    Raises:
        UserError: the index says what isn't known.
    """

    def __init__(self, index: Mapping[str, Any], name: str | None = None) -> None:
        self.motion_layout: str = index.get("motion_layout", "blendshapes")
        try:
            self.framing = Framing(**index.get("framing", {}))
        except TypeError as error:
            raise UserError(f"the model's framing can't be used ({error}): is it of another version?") from error
        self.reference: str = index["reference"]
        self._defaults: dict[str, Any] = index.get("defaults", {})
        self._name = name

    @staticmethod
    def suffices(index: Mapping[str, Any], refine: float | None = None) -> bool:
        """Whether all of the result is drawn: by a model of this index, with ``refine`` if it is given."""
        refine = index.get("defaults", {}).get("refine", SamplingSettings.refine) if refine is None else refine
        return index.get("reference") in DRAWN_STRENGTH and refine == 0

    def settings(self, speed: str | None = None, **given: Any) -> SamplingSettings:
        """As of ``FlashPortraitPipeline``: they are checked, though only ``refine`` counts.

        Raises:
            UserError: an unknown setting, both a speed and a predictor, or a ``refine`` that needs the network.
        """
        settings = SamplingSettings.resolve(self._defaults, speed, given)
        if settings.refine != 0:
            raise UserError(f"refine is {settings.refine}, which needs the network: use load_pipeline")
        return settings

    def read_motion(
        self, driving: DrivingSource, face: FaceChoice | None = None, progress: bool | ProgressHook = True
    ) -> MotionFeatures:
        """Motion rows of a driving clip, one per frame, as extracted (``load_motion``)."""
        return load_motion(driving, self.motion_layout, face or FaceChoice(), progress=progress)

    @torch.no_grad()
    def __call__(
        self,
        portrait: str | Path | Image.Image | FramedPortrait,
        driving: DrivingSource,
        *,
        prompt: str = "",
        negative_prompt: str | None = None,
        size: int | None = None,
        view: View = "whole",
        seed: int = 0,
        speed: str | None = None,
        controls: MotionControls | None = None,
        face: FaceChoice | None = None,
        stream: bool = False,
        progress: bool | ProgressHook = True,
        work: WorkDirectory | None = None,
        helpers: Sequence[Any] = (),
        **sampling: Any,
    ) -> PortraitVideo:
        """Animate ``portrait`` with the motion of ``driving``; arguments as of ``FlashPortraitPipeline``.

        ``seed`` and ``helpers`` change nothing here: no noise is drawn and no network run.

        Raises:
            UserError: an input or a setting that can't be honoured, with what to do.
        """
        self.settings(speed, **sampling)
        refuse_words(prompt, negative_prompt)
        prepared = prepare(
            portrait,
            lambda choice: self.read_motion(driving, choice, progress),
            self.framing,
            size=size,
            view=view,
            controls=controls,
            face=face,
            progress=progress,
            work=work,
        )
        clip = drawn_clip(self.reference, prepared.framed, prepared.motion.values)
        assert clip is not None  # ``suffices`` has said so
        return prepared.video(draw_frames(clip, prepared, self.reference, work), self._name, stream=stream)


class DrawnClip:
    """The portrait on a face mesh, drawn with a motion row a frame: the driver's head pose and, by a strength,
    expression.

    Args:
        framed: the portrait, with its canvas.
        motion: a row for each pixel frame, [t 57].
        strength: of the expression drawn, in [0, 1]; at 0 the portrait keeps its own.
    """

    def __init__(self, framed: FramedPortrait, motion: Tensor, strength: float = 1.0) -> None:
        self.canvas, self._rig = framed.drawn_on()
        self.motion = self._rig.reachable(motion)
        """The rows as they are drawn, [t 57]: heads turn only as far as the mesh has something to show."""
        self.strength = strength

    def draw(self, frames: Sequence[int]) -> Tensor:
        """The moving part in some frames, [t 3 h w] in [0, 1]; those beyond the ends are the first and the last."""
        rows = self.motion[torch.tensor(frames).clamp(0, len(self.motion) - 1)]
        return self._rig.draw(rows, self.canvas.size, self.strength)

    def finish(self, drawn: Tensor) -> np.ndarray:
        """Frames of the result, uint8 RGB [t H W 3], from the moving part."""
        return self.canvas.place(to_pictures(drawn))

    def __iter__(self) -> Iterator[np.ndarray]:
        """The result's frames, uint8 RGB [H W 3], as the mesh alone draws them.

        On a CPU as many are drawn at once as there are threads.
        """
        together = torch.get_num_threads() if self.motion.device.type == "cpu" else 1
        yield from side_by_side(self._finished, range(len(self.motion)), together)

    def _finished(self, frame: int) -> np.ndarray:
        return self.finish(self.draw([frame]))[0]


def drawn_clip(reference: str, framed: FramedPortrait, motion: np.ndarray) -> DrawnClip | None:
    """What is drawn on the face mesh, where a model's reference is; ``motion`` has a row for each frame, [t d]."""
    strength = DRAWN_STRENGTH.get(reference)
    return None if strength is None else DrawnClip(framed, torch.from_numpy(motion), strength)


def draw_frames(
    clip: DrawnClip, prepared: Prepared, reference: str, work: WorkDirectory | None = None
) -> Iterator[np.ndarray]:
    """Frames as the mesh alone draws them. They are one window, and are drawn anew by a run that goes on."""
    report = prepared.report
    report.windows = 1
    report.seams = [()]
    if work is not None:
        work.bind({"refine": 0, "reference": reference, **describe_inputs(prepared.framed, prepared.motion)})

    def counted() -> Iterator[np.ndarray]:
        for frame in report.timed("decode", iter(clip)):
            report.note_memory()
            report.note_frame()
            yield frame

    return counted()


def side_by_side(draw: Callable[[Part], Drawn], parts: Iterable[Part], together: int) -> Iterator[Drawn]:
    """``draw(part)`` of each part, in their order; each by one thread, ``together`` at once.

    Drawing is many small steps, which threads that share them spend most of their time waiting for.
    """
    with ThreadPoolExecutor(together, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        coming = deque[Future[Drawn]]()
        try:
            for part in parts:
                coming.append(pool.submit(draw, part))
                if len(coming) > 2 * together:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            for future in coming:
                future.cancel()
