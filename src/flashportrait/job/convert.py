"""A finished result written again as another kind of file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from flashportrait.job.job import Job

if TYPE_CHECKING:
    import numpy as np


def convert(job: Job, output: Path, longest: int | None = None) -> None:
    """Write what a job has made again, with its sound and marks, as the kind of file that ``output`` ends in.

    Args:
        job: that has ended; its output is read.
        output: the new file.
        longest: pixels that the longer side may have; larger results are reduced.

    Raises:
        UserError: the result is gone, or the new file can't be written.
    """
    from flashportrait.job.marks import open_marks
    from flashportrait.job.progress import Teller
    from flashportrait.media.reader import VideoReader
    from flashportrait.media.writer import VideoWriter

    reader = VideoReader(job.output)
    marks = open_marks(replace(job, output=output), Teller(None, None))
    with VideoWriter(
        output,
        reader.info.rate,
        times=reader.times,
        audio=reader.audio,
        model=Path(job.model).name,
        mark=job.mark,
        credentials=marks.credentials,
    ) as writer:
        for frame in _reduced(iter(reader), longest):
            writer.write(frame)


def _reduced(frames: Iterator[np.ndarray], longest: int | None) -> Iterator[np.ndarray]:
    """Frames whose longer side has at most so many pixels."""
    import numpy as np
    from PIL import Image

    for frame in frames:
        height, width = frame.shape[:2]
        if longest is None or max(height, width) <= longest:
            yield frame
            continue
        size = (max(1, width * longest // max(width, height)), max(1, height * longest // max(width, height)))
        yield np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS))
