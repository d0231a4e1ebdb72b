"""What a run gives back: frames as they come, and a report that is complete when they have come."""

from __future__ import annotations

import base64
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from flashportrait.errors import UserError

if TYPE_CHECKING:
    from flashportrait.face.motion import MotionFeatures
    from flashportrait.marking.credentials import Credentials
    from flashportrait.marking.label import Label
    from flashportrait.media.reader import AudioSpan, VideoReader

Item = TypeVar("Item")

PREVIEW_PIXELS, PREVIEW_SECONDS = 320, 20
"""Longer side and length up to which a notebook shows a video."""


@dataclass
class RunReport:
    """Measurements of one run; filled in while the frames come."""

    frames: int = 0
    """Frames given so far; in the end as many as the driving clip has."""
    windows: int = 0
    """Windows in the plan."""
    seams: list[tuple[int, ...]] = field(default_factory=list)
    """For each window, the frames where a seam could show: the first that it has a say in, and the first that is its
    alone."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall time by stage: ``motion``, ``conditions``, ``denoise``, ``decode``, and what
    callers add."""
    steps_computed: int = 0
    """Window steps at which the network ran."""
    steps_predicted: int = 0
    """Window steps at which its velocity was predicted."""
    network_calls: int = 0
    """Forward passes of the network; branches in one batch are one pass."""
    helped_calls: int = 0
    """Those of them that helpers made."""
    peak_memory_bytes: int = 0
    """Most memory held at once by this process so far: its resident set."""
    peak_device_memory_bytes: int = 0
    """Most memory allocated at once on the GPU, 0 without one."""
    attention: str = ""
    """Kernel of attention."""
    processes: str = ""
    """How the network's passes were shared out; empty for one process."""
    missing_faces: list[int] = field(default_factory=list)
    """Driving frames in which no face was seen; their motion is interpolated."""
    seconds_to_first_frame: float | None = None
    """From the call to the first frame."""
    warnings: list[str] = field(default_factory=list)
    """One line each."""
    quality: dict[str, Any] = field(default_factory=dict)
    """Measures of the frames themselves, put here by whoever measures them (see ``evaluation``)."""
    started: float = field(default_factory=time.perf_counter, repr=False)
    """When the run began, on the performance counter."""

    @contextmanager
    def stage(self, name: str, tell: Callable[[str, int, int], object] | None = None) -> Iterator[None]:
        """Add the time spent inside to a stage; ``tell(name, done, 1)`` is called before and after it."""
        if tell is not None:
            tell(name, 0, 1)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
        if tell is not None:
            tell(name, 1, 1)

    def timed(self, name: str, items: Iterator[Item]) -> Iterator[Item]:
        """The same items; the time spent on making them is added to a stage."""
        while True:
            with self.stage(name):
                item = next(items, None)
            if item is None:
                return
            yield item

    def note_step(self, network_calls: int, *, predicted: bool) -> None:
        """Count a window's step; ``network_calls`` is the total so far."""
        self.network_calls = network_calls
        self.steps_predicted += predicted
        self.steps_computed += not predicted
        self.note_memory()

    def note_frame(self) -> None:
        """Count a frame that leaves the pipeline."""
        if self.seconds_to_first_frame is None:
            self.seconds_to_first_frame = time.perf_counter() - self.started
        self.frames += 1

    def note_memory(self) -> None:
        """Bring the memory peaks up to date."""
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak_resident_bytes())
        if torch.cuda.is_available():
            self.peak_device_memory_bytes = max(self.peak_device_memory_bytes, torch.cuda.max_memory_allocated())

    def to_dict(self) -> dict[str, Any]:
        """All but the clock, fit for JSON."""
        values = asdict(self)
        del values["started"]
        return values


class PortraitVideo:
    """Frames of a run, uint8 RGB [h w 3], made while they are iterated over.

    Iterate once to take each frame as soon as it is ready, read ``frames`` to have all of them, or ``save`` them.
    """

    def __init__(
        self,
        frames: Iterator[np.ndarray],
        *,
        length: int,
        rate: Fraction,
        report: RunReport,
        portrait: np.ndarray,
        model: str | None = None,
        motion: MotionFeatures | None = None,
        face_area: tuple[int, int, int, int] | None = None,
    ) -> None:
        self.portrait = portrait
        """The portrait as the model saw it, uint8 RGB [h w 3]."""
        self.rate = rate
        """Frames per second, exact."""
        self.report = report
        """Complete when the last frame has come."""
        self.model = model
        """Name of the model, for the mark in files."""
        self.motion = motion
        """What the frames follow, a row for each, where it is known."""
        self.face_area = face_area
        """Left, top, right, bottom of the square around the face, in the frames' pixels; None where it is not known."""
        self._length = length
        self._frames = frames
        self._collected: np.ndarray | None = None

    def __len__(self) -> int:
        """Frames in all."""
        return self._length

    def __iter__(self) -> Iterator[np.ndarray]:
        return self._frames if self._collected is None else iter(self._collected)

    def collect(self) -> np.ndarray:
        """Make all frames; from then on the video may be iterated over any number of times.

        Raises:
            UserError: some were taken one by one before, and are gone.
        """
        if self._collected is None:
            frames = list(self._frames)
            if len(frames) < len(self):
                raise UserError(
                    f"{len(self) - len(frames)} of {len(self)} frames have been taken already: collect() them before "
                    "they are iterated over or saved, or run without stream"
                )
            self._collected = np.stack(frames)
        return self._collected

    @property
    def frames(self) -> np.ndarray:
        """All frames, uint8 RGB [t h w 3]."""
        return self.collect()

    def save(
        self,
        path: str | Path,
        *,
        audio: str | Path | VideoReader | AudioSpan | None = None,
        mark: bool = True,
        credentials: Credentials | None = None,
        label: Label | None = None,
    ) -> Path:
        """Write the frames to a video at their exact rate, with the mark that it is synthetic.

        Frames that have not come yet are made and not kept. The file appears only when it is whole.

        Args:
            path: .mp4, .mov, .mkv or .webm.
            audio: a video or sound file whose sound is carried along from its start, or the ``VideoReader`` of the
                driving clip, whose sound is that of its span and whose frame times are kept where they vary.
            mark, credentials, label: how the video says that it is synthetic; see ``VideoWriter``.

        Returns:
            The path.

        Raises:
            UserError: a bad place, no sound in ``audio``, frames that are gone, or a full disk.
        """
        from flashportrait.media.reader import VideoReader
        from flashportrait.media.writer import VideoWriter

        times = None
        if isinstance(audio, VideoReader) and audio.info.variable_rate and audio.info.frames == len(self):
            times = audio.times
        sound = None if audio is None else _sound(audio, len(self), self.rate)
        with VideoWriter(
            path,
            self.rate,
            times=times,
            audio=sound,
            model=self.model,
            mark=mark,
            credentials=credentials,
            label=label,
        ) as writer:
            for frame in self:
                writer.write(frame)
            if writer.frames < len(self):
                raise UserError(
                    f"{len(self) - writer.frames} of {len(self)} frames have been taken already: save before they are "
                    "iterated over, or run without stream"
                )
        return writer.path

    def _repr_html_(self) -> str:
        """A small player for notebooks; where frames have not come yet, only how many there will be."""
        text = f"{len(self)} frames at {self.rate} frames per second"
        if self._collected is None:
            return f"<p>{text}, not made yet: call collect() or save()</p>"
        shown = min(len(self), int(PREVIEW_SECONDS * self.rate) + 1)
        height, width = self._collected.shape[1:3]
        scale = min(1.0, PREVIEW_PIXELS / max(height, width))
        size = max(2, round(width * scale)), max(2, round(height * scale))
        frames = self._collected[:shown]
        if scale < 1:
            frames = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in frames]
        preview = PortraitVideo(
            iter(frames), length=shown, rate=self.rate, report=self.report, portrait=self.portrait, model=self.model
        )
        with TemporaryDirectory() as folder:
            data = base64.b64encode(preview.save(Path(folder) / "preview.mp4").read_bytes()).decode()
        note = text if shown == len(self) else f"{text}; the first {PREVIEW_SECONDS} s are shown"
        return (
            f'<video controls loop muted width="{size[0]}" height="{size[1]}" '
            f'src="data:video/mp4;base64,{data}"></video><p>{note}</p>'
        )

    def close(self) -> None:
        """Give up the frames that have not come yet, and free what they need."""
        self._frames.close()


def _sound(source: str | Path | VideoReader | AudioSpan, frames: int, rate: Fraction) -> AudioSpan:
    """The sound of a file, or of a reader's span, for so many frames.

    Raises:
        UserError: there is none.
    """
    import av

    from flashportrait.media.opening import open_input
    from flashportrait.media.reader import AudioSpan, VideoReader

    if isinstance(source, AudioSpan):
        return source
    path = source.path if isinstance(source, VideoReader) else Path(source)
    if not path.is_file():
        raise UserError(f"there is no file '{path}'")
    try:
        with open_input(path) as container:
            filmed, heard = bool(container.streams.video), bool(container.streams.audio)
    except av.FFmpegError as error:
        raise UserError(f"'{path}' can't be read as sound: give a video or a sound file") from error
    reader = source if isinstance(source, VideoReader) else VideoReader(path) if filmed and heard else None
    span = AudioSpan(path, Fraction(0), None) if reader is None else reader.audio
    if not heard or span is None:
        raise UserError(f"there is no sound in '{path}'")
    whole = reader is not None and (reader is source or reader.info.frames == frames)
    return span if whole else replace(span, end=span.start + frames / rate)


def to_pictures(frames: Tensor) -> np.ndarray:
    """Frames [t 3 h w] in [0, 1] -> uint8 RGB [t h w 3]."""
    return rearrange((frames * 255).round().clamp(0, 255).to(torch.uint8), "t c h w -> t h w c").cpu().numpy()


def peak_resident_bytes() -> int:
    """Most memory this process ever had resident, 0 where the system doesn't tell."""
    try:  # Linux; its getrusage also counts what the process that started this one held then
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
