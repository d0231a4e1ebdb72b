"""What runs of jobs share, whoever has them run: patience with a run that ends, and how far the whole of one is."""

from __future__ import annotations

import time
from typing import Any

from flashportrait.job import Flag, InUse, Job, Progress, Summary, run

LOCK_SECONDS = 60.0
"""How long to wait for another run to an output to end: that of a process that is about to notice its parent's end."""
SHARES = {"motion": 0.1, "denoise": 0.7, "decode": 0.2}
"""Of a job's time, by stage, about: to say how far it is."""


def run_when_free(job: Job, cancel: Flag, **settings: Any) -> Summary:
    """``flashportrait.job.run``, once no other process writes to the output any more.

    Raises:
        InUse: another still does after ``LOCK_SECONDS``, or ``cancel`` is set before it ends.
    """
    deadline = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            return run(job, cancel=cancel, **settings)
        except InUse:
            if time.monotonic() > deadline or cancel.is_set():
                raise
            time.sleep(0.5)


class WholeRun:
    """Makes one number of what a run tells of its stages."""

    def __init__(self) -> None:
        self._parts: dict[str, float] = {}
        self.fraction = 0.0
        """Of the whole run, 0 to 1."""
        self.seconds_left: float | None = None
        """Estimated for the whole of it; None until steps or frames are counted that tell."""

    def __call__(self, progress: Progress) -> None:
        """Take in what a run tells."""
        if progress.total:
            self._parts[progress.stage] = progress.done / progress.total
        parts = dict(self._parts)
        if parts.get("decode") and "denoise" not in parts:  # the mesh alone draws
            parts["denoise"] = parts["decode"]
        if parts.get("denoise"):
            parts["motion"] = 1.0
        self.fraction = sum(share * parts.get(stage, 0.0) for stage, share in SHARES.items())
        if progress.of_whole_run:
            self.seconds_left = progress.seconds_left
