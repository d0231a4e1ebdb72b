"""What users bring, made ready for the model: the portrait as its pixels, the driving clip as motion rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import count
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from flashportrait.canvas import VIEWS, Canvas, View
from flashportrait.errors import UserError
from flashportrait.face.blendshapes import FaceLandmarker
from flashportrait.face.crop import PortraitCrop, align_portrait
from flashportrait.face.motion import LAYOUTS, PDFGC, MotionFeatures, MotionLayout
from flashportrait.face.resting import adapted
from flashportrait.face.tracker import FaceTracker, extract_motion
from flashportrait.media.clip import open_clip
from flashportrait.media.portrait import load_portrait, reduction
from flashportrait.media.reader import VideoReader, read_ahead
from flashportrait.rig.mesh import average_landmarks
from flashportrait.rig.photo import PhotoRig
from flashportrait.rig.pose import COMFORTABLE_CAUTION, GUIDE_REACH, head_pose_limits

DrivingSource = str | Path | MotionFeatures | VideoReader | Iterable[np.ndarray | Image.Image]
"""A video's or motion template's path, an opened video, motion rows, or frames (uint8 RGB [h w 3], or images)."""

ProgressHook = Callable[[str, int, int | None], object]
"""``hook(stage, done, total)``, called as a stage proceeds; what it raises ends the work."""

TRACKING_THREADS = 2
"""Threads that read motion: a second one saves a quarter of the time, and changes no bit."""
FRAMES_RATE = Fraction(25)
"""Frames per second of a driving clip given as bare frames."""

MIN_SIZE, MAX_SIZE = 16, 4096
"""Pixels of the result's longer side."""

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class FaceChoice:
    """Which face is meant where there are several, or where none is found by itself."""

    driving: int | None = None
    """Number of the face to follow, from 1 at the left; the most prominent unless given."""
    driving_box: Box | None = None
    """x0, y0, x1, y1 in pixels of the driving clip's first frame."""
    portrait: int | None = None
    """Number of the face to animate, from 1 at the left."""
    portrait_box: Box | None = None
    """x0, y0, x1, y1 in pixels of the portrait."""


MOTIONS = ("adapted", "absolute", "relative")


@dataclass(frozen=True)
class MotionControls:
    """How the driver's motion is taken over."""

    motion: Literal["adapted", "absolute", "relative"] = "adapted"
    """``adapted``: the portrait takes the driver's pose and expression, but at rest keeps its own resting face, turned
    aside as it is; ``absolute``: it takes them as they are; ``relative``: only the changes, from its own."""
    head: float = 1.0
    """Gain of head motion: 0 still, 1 as in the driving video."""
    eyes: float = 1.0
    emotion: float = 1.0
    mouth: float = 1.0
    smooth: float = 1.0
    """Strength of temporal smoothing, which spares blinks; 0 none."""

    def __post_init__(self) -> None:
        if self.motion not in MOTIONS:
            raise UserError(f"motion is {self.motion!r}; choose one of {', '.join(MOTIONS)}")


@dataclass(frozen=True)
class Framing:
    """How a portrait is cut and scaled to what the model was trained to see."""

    mode: Literal["face", "whole"] = "whole"
    """``face``: a square around the face, as large as its surroundings in training; ``whole``: all of the picture."""
    resolution: int = 720
    """Pixels of the longer side that the model makes."""
    multiple: int = 16
    """Both sides are multiples of this."""
    face_size: float = 0.52
    """``face`` only: height of the face, hairline to chin, as a fraction of the square's side."""
    face_center: tuple[float, float] = (0.5, 0.48)
    """``face`` only: where the head's centre lies, from the left and from the top, as fractions of the side."""


@dataclass(frozen=True)
class FramedPortrait:
    """A portrait as the model takes it."""

    pixels: Tensor
    """[1 3 h w] in [0, 1]"""
    row: np.ndarray | None = None
    """Its own motion row [d], where the face was looked for."""
    canvas: Canvas | None = None
    """Where it is drawn, where the face was looked for."""
    warning: str | None = None
    """One line for the user, where something had to be assumed."""

    def drawn_on(self) -> tuple[Canvas, PhotoRig]:
        """The canvas, and the portrait made ready to be drawn on it.

        Raises:
            UserError: the face wasn't looked for, as the model's framing is of whole pictures.
        """
        if self.canvas is None or self.row is None:
            raise UserError("this model draws the portrait on a mesh, so its framing must be 'face', not 'whole'")
        return self.canvas, self.canvas.rig(torch.from_numpy(self.row))


def frame_portrait(
    source: str | Path | Image.Image | FramedPortrait,
    framing: Framing,
    choice: FaceChoice,
    size: int | None = None,
    view: View = "whole",
) -> FramedPortrait:
    """Load a portrait and make it ready for the model; one that is framed already is taken as it is.

    ``size`` is the wanted longer side of the result in pixels, ``view`` what it shows. A model that sees whole pictures
    works at that size, and has no other view; one that sees faces works at its own, and the result is put together on
    a canvas of any size.

    Raises:
        UserError: it can't be read, no face is found where one is needed, or the size is out of range.
    """
    if size is not None and not MIN_SIZE <= size <= MAX_SIZE:
        raise UserError(f"a size of {size} pixels found; give {MIN_SIZE} to {MAX_SIZE}")
    if view not in VIEWS:
        raise UserError(f"the view is {view!r}; choose one of {', '.join(VIEWS)}")
    if isinstance(source, FramedPortrait):
        return source
    image = load_portrait(source)
    if framing.mode == "whole":
        if view != "whole":
            raise UserError(f"the view is {view!r}, and this model makes whole pictures only; crop the portrait first")
        width, height = whole_size(image.size, size or framing.resolution, framing.multiple)
        return FramedPortrait(_to_tensor(image.resize((width, height), Image.Resampling.LANCZOS)))
    crop = align_portrait(
        image,
        FaceLandmarker(),
        choice.portrait,
        _in_pixels_of(image, choice.portrait_box),
        framing.resolution,
        framing.face_size,
        framing.face_center,
    )
    landmarks = _landmarks(crop, framing)
    canvas = (Canvas.of_face if view == "face" else Canvas.of_whole)(image.convert("RGB"), crop, landmarks, size)
    return FramedPortrait(_to_tensor(crop.image), crop.row, canvas, crop.warning)


def _in_pixels_of(image: Image.Image, box: Box | None) -> Box | None:
    """A box that was given in pixels of the portrait's file."""
    if box is None:
        return None
    x0, y0, x1, y1 = (value / reduction(image) for value in box)
    return x0, y0, x1, y1


def _landmarks(crop: PortraitCrop, framing: Framing) -> Tensor:
    """Landmarks [478 3] in the source's pixels; an average face's where only the face's box is known."""
    if crop.face is not None:
        return torch.from_numpy(crop.face.landmarks)
    left, top, right, _ = crop.box
    x, y = framing.face_center
    side = right - left
    return average_landmarks((left + x * side, top + y * side), framing.face_size * side)


def load_motion(
    source: DrivingSource,
    layout_name: str,
    choice: FaceChoice,
    *,
    progress: bool | ProgressHook = True,
    weights: Path | None = None,
    device: torch.device | None = None,
) -> MotionFeatures:
    """Motion rows of a driving clip, one per frame, as extracted; ``progress`` shows a bar, or is told of each frame.

    ``weights`` is the folder of PD-FGC's files, for a model that has its own; it runs on ``device``, while faces are
    found on the CPU.

    Raises:
        UserError: the source can't be read, shows no face, or its rows are of another extractor than the model's.
    """
    layout = LAYOUTS[layout_name]
    if isinstance(source, (str, Path)):
        path = Path(source)
        source = MotionFeatures.load(path) if path.suffix == ".safetensors" else open_clip(path)
    if isinstance(source, MotionFeatures):
        if source.layout != layout:
            raise UserError(
                f"the motion is of the extractor {source.layout.name}, this model takes {layout.name}; "
                "extract it again for this model"
            )
        return source
    return _extract(source, layout, choice, progress, weights, device)


def shape_motion(motion: MotionFeatures, controls: MotionControls, portrait_row: np.ndarray | None) -> MotionFeatures:
    """Smooth the motion, weigh its groups, and make it relative to the portrait if so wanted.

    Raises:
        UserError: relative motion with a portrait whose own pose and expression aren't known.
    """
    shaped = motion.smoothed(controls.smooth)
    # One neutral frame for both: gains move what is measured from it, and so would move a second choice.
    anchor = shaped.neutral_frame()
    shaped = shaped.with_gains(controls.head, controls.eyes, controls.emotion, controls.mouth, anchor)
    if controls.motion == "absolute" or (controls.motion == "adapted" and portrait_row is None):
        return shaped
    if controls.motion == "adapted":
        lowest, highest = head_pose_limits(torch.from_numpy(portrait_row), GUIDE_REACH, COMFORTABLE_CAUTION)
        return adapted(shaped, portrait_row, (lowest[:3].numpy(), highest[:3].numpy()))
    if portrait_row is None:
        raise UserError(
            "relative motion needs the portrait's own expression, which this model doesn't read; use absolute"
        )
    return shaped.relative_to(portrait_row, anchor)


def _extract(
    source: VideoReader | Iterable[np.ndarray | Image.Image],
    layout: MotionLayout,
    choice: FaceChoice,
    progress: bool | ProgressHook,
    weights: Path | None,
    device: torch.device | None,
) -> MotionFeatures:
    rate, total = FRAMES_RATE, None
    if isinstance(source, VideoReader):
        rate, total, source = source.info.rate, source.info.frames, read_ahead(source)
    frames = (_to_array(frame) for frame in source)
    with counting("motion", total, progress) as advance:
        if layout == PDFGC:
            from flashportrait.face.pdfgc import extract_pdfgc_motion, load_pdfgc

            tracker, encoder = load_pdfgc(weights, choice.driving, choice.driving_box)
            return extract_pdfgc_motion(frames, rate, tracker, encoder.to(device), advance)
        landmarker = FaceLandmarker(threads=min(TRACKING_THREADS, torch.get_num_threads()))
        return extract_motion(frames, rate, FaceTracker(landmarker, choice.driving, choice.driving_box), advance)


@contextmanager
def counting(stage: str, total: int | None, progress: bool | ProgressHook) -> Iterator[Callable[[int], object]]:
    """Gives a function to call with the number of frames just done, for a bar (True), a hook, or nobody (False)."""
    if callable(progress):
        done = count()
        next(done)
        yield lambda _: progress(stage, next(done), total)
        return
    from tqdm.auto import tqdm

    with tqdm(desc=stage, total=total, unit="frame", disable=not progress, delay=1) as bar:
        yield bar.update


def whole_size(size: tuple[int, int], resolution: int, multiple: int) -> tuple[int, int]:
    """Width and height with the longer side at the resolution, each rounded up to a multiple."""
    width, height = (-(-max(1, side * resolution // max(size)) // multiple) * multiple for side in size)
    return width, height


def _to_array(frame: np.ndarray | Image.Image) -> np.ndarray:
    """uint8 RGB [h w 3], or an error that says what came instead."""
    if isinstance(frame, Image.Image):
        return np.asarray(frame.convert("RGB"))
    if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
        found = f"{frame.dtype} {list(frame.shape)}" if isinstance(frame, np.ndarray) else type(frame).__name__
        raise UserError(f"a driving frame is {found}; give images, or uint8 arrays [height width 3]")
    return frame


def _to_tensor(image: Image.Image) -> Tensor:
    """[1 3 h w] in [0, 1]"""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
