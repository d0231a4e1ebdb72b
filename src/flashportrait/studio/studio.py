"""What the page can do, without the page: the history, the queue, uploads, and what a person asks for."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flashportrait.confinement import Confinement, gpu_devices
from flashportrait.errors import UserError
from flashportrait.files import user_folder
from flashportrait.intake import Limits
from flashportrait.job import MODELS, Job, JobError, convert
from flashportrait.studio.history import DONE, Entry, History
from flashportrait.studio.live import Live
from flashportrait.studio.models import missing
from flashportrait.studio.rates import Rates
from flashportrait.studio.runner import Runner, count_gpus, readable
from flashportrait.studio.uploads import Uploads
from flashportrait.studio.web import KINDS
from flashportrait.workers import WorkerProcess

GIF_SIDE = 480
"""Longest side of a GIF in pixels: larger ones take tens of megabytes."""


class Studio:
    """Everything behind the page.

    Args:
        folder: of the history.
        keep: entries to keep.
        models: names and folders on offer.
        limits: what uploads may be.
        examples: folder of example portraits (``*.png``, ``*.jpg``) and drivers (``*.mp4``); it may be missing.
        options: settings of every job, such as the device.

    Raises:
        UserError: the folder can't be written.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 100,
        models: Sequence[str] = MODELS,
        limits: Limits | None = None,
        examples: Path | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.history = History(folder, keep)
        self.models, self.options = tuple(models), dict(options or {})
        self.examples = examples if examples is not None and examples.is_dir() else None
        self.uploads = Uploads([self.history.uploads, *([self.examples] if self.examples else [])], limits or Limits())
        self.rates = Rates(self.history.folder / "rates.json")
        confinement = Confinement(writable=(self.history.folder, user_folder("config")), devices=gpu_devices())
        gpus = 0 if self.options.get("device") else count_gpus()
        workers = [
            WorkerProcess(motions=self.history.motions, gpu=gpu, confinement=confinement)
            for gpu in (range(gpus) if gpus else (None,))
        ]
        self.runner = Runner(self.history, workers, self.rates)
        self.live = Live(self.history.temporary)
        self._converting = threading.Lock()
        self.history.clean()
        self.interrupted = self.history.interrupt()
        """Entries that an earlier studio left unfinished."""
        self.missing: dict[str, str] = {}
        """Models that can't be used here, with the line that says why; found out soon after the start."""

    def start(self) -> None:
        """Begin to run jobs."""
        self.runner.start()
        threading.Thread(target=self._look_for_models, daemon=True).start()

    def close(self) -> None:
        """End all processes; what ran can be resumed."""
        self.runner.close()

    def create(self, portrait: str | None, driver: str | None, settings: Mapping[str, Any]) -> Entry:
        """Put a new animation into the history and the queue.

        Args:
            portrait, driver: files that were uploaded.
            settings: of a job.

        Raises:
            JobError: what is missing or can't be honoured, by name: a job's settings, ``portrait`` and ``driving``.
            UserError: the disk is full.
        """
        problems = {}
        if not portrait:
            problems["portrait"] = "choose a portrait"
        if not driver:
            problems["driving"] = "choose a driver: a video, or a motion template"
        if portrait is None or driver is None or problems:
            raise JobError(problems)
        files, poster = {}, b""
        for kind, given in (("portrait", portrait), ("driving", driver)):
            try:
                found = self.uploads.look(given, kind)
                files[kind] = self.uploads.path(given)
                poster = poster or found.preview
            except UserError as error:
                if "portrait_box" in settings and kind == "portrait" and "no face" in str(error):
                    files[kind] = self.uploads.path(given)  # a drawing whose face is pointed out
                    continue
                problems[kind] = str(error)
        if problems:
            raise JobError(problems)
        names = {"portrait": files["portrait"].name, "driver": files["driving"].name}
        entry = self.history.add(files["portrait"], files["driving"], {**self.options, **settings}, names, poster)
        self.runner.submit(entry.id)
        return entry

    def estimate(
        self, portrait: str | None, driver: str | None, settings: Mapping[str, Any]
    ) -> tuple[int, float | None] | None:
        """Frames that would be made and the seconds that takes, None while nothing like it was measured; None as long
        as files are missing or bad."""
        if not portrait or not driver:
            return None
        try:
            picture, clip = self.uploads.look(portrait, "portrait"), self.uploads.look(driver, "driving")
        except UserError:
            return None
        start, _, end = str(settings.get("trim") or "").partition(":")
        begin = float(start) if start else 0.0
        stop = min(clip.seconds, float(end)) if end else clip.seconds
        rate = float(settings.get("fps") or clip.rate)
        frames = round((stop - begin) * rate)
        if frames < 1:
            return None
        seconds = self.rates.estimate({**self.options, **settings}, frames, max(picture.width, picture.height))
        return frames, seconds

    def _look_for_models(self) -> None:
        named = [name for name in self.models if name != Job.settings()["model"].default]
        self.missing = missing(named)

    def convert(self, name: str, kind: str) -> None:
        """Make a result available as another kind of file.

        Raises:
            UserError: there is no such result, or the file can't be written.
        """
        entry = self.history.get(name)
        if entry is None or entry.state != DONE or kind not in KINDS:
            raise UserError("this animation is no longer in the history: make it again")
        output = entry.output.with_suffix(f".{kind}")
        with self._converting:
            if output.exists():
                return
            try:
                convert(entry.job(), output, GIF_SIDE if kind == "gif" else None)
            except UserError as error:
                raise UserError(readable(str(error), entry)) from error

    def files_again(self, entry: Entry) -> tuple[Path, Path]:
        """Portrait and driver of an entry as if they had been uploaded again, under their first names.

        Raises:
            UserError: they are gone, or there is no room.
        """
        folder = self.history.uploads / entry.id
        found = []
        try:
            for role, file in (("portrait", entry.portrait), ("driver", entry.driver)):
                target = folder / role / Path(entry.names.get(role, file)).name
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.exists():
                    shutil.copyfile(entry.folder / file, target)
                found.append(target)
        except OSError as error:
            raise UserError(f"the files of this animation can't be read again ({error.strerror})") from error
        return found[0], found[1]

    def delete(self, name: str) -> None:
        """Remove an entry with its files.

        Raises:
            UserError: it is waiting or running.
        """
        self.history.delete(name)
        if self.history.get(name) is None:
            shutil.rmtree(self.history.uploads / name, ignore_errors=True)


def examples_folder() -> Path | None:
    """The examples of a clone; None where there are none, as beside an installed package."""
    folder = Path(__file__).parents[3] / "examples"
    return folder if folder.is_dir() else None
