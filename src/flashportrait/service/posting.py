"""Turns a posted form into a queued job: its files saved and looked at, its settings read."""

from __future__ import annotations

import asyncio
import os
import secrets
import shutil
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from flashportrait.errors import UserError
from flashportrait.intake import Inspection, inspect
from flashportrait.intake.limits import Kind, Limits
from flashportrait.job import Job, JobError
from flashportrait.service.errors import Refused
from flashportrait.service.fetching import fetch
from flashportrait.service.keys import Key
from flashportrait.service.settings import FORMATS, ServiceSettings, offered
from flashportrait.service.store import Entry, Store

DAY = 24 * 3600.0
FORM_BYTES = 64 << 10
"""Of fields that are no files."""
FIELDS = 100
NAME_LETTERS = 100
FREE_BYTES = 1 << 30
"""Of the disk, that have to stay free."""


@dataclass(frozen=True)
class Posted:
    """A form, as it was sent."""

    form: FormData

    def file(self, name: str) -> UploadFile | None:
        """The file of that name, if one was chosen."""
        value = self.form.get(name)
        return value if isinstance(value, UploadFile) and (value.filename or value.size) else None

    def words(self) -> dict[str, str]:
        """Fields that are no files, and not empty."""
        return {name: value for name, value in self.form.multi_items() if isinstance(value, str) and value != ""}


async def read_form(request: Request, limits: Limits) -> Posted:
    """Read a multipart form, refusing it as soon as it is too long.

    Raises:
        Refused: it is too long, or no such form.
    """
    most = 2 * limits.bytes + FORM_BYTES
    too_long = Refused(413, f"the request has more than {most >> 20} MiB: send smaller files")
    stated = request.headers.get("content-length", "0")
    if stated.isdecimal() and int(stated) > most:
        raise too_long
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        raise Refused(415, "the request is no multipart/form-data: send portrait and driving as files of a form")

    async def counted() -> AsyncGenerator[bytes, None]:
        size = 0
        async for block in request.stream():
            size += len(block)
            if size > most:
                raise too_long
            yield block

    try:
        parser = MultiPartParser(
            Headers(raw=request.headers.raw), counted(), max_files=2, max_fields=FIELDS, max_part_size=FORM_BYTES
        )
        return Posted(await parser.parse())
    except (MultiPartException, KeyError, ValueError, UnicodeError, LookupError) as error:
        reason = getattr(error, "message", "") or str(error) or type(error).__name__
        raise Refused(400, f"the form can't be read ({reason}): send multipart/form-data") from error


async def post(
    request: Request, owner: Key, settings: ServiceSettings, store: Store, looking: asyncio.Semaphore
) -> tuple[Entry, bool]:
    """Queue the job that a request describes, once ``looking`` lets its files be looked at.

    Returns:
        It, and whether it is new: a request under a name (``Idempotency-Key``) that came before is not done again.

    Raises:
        Refused: what is wrong with it, or what is used up.
    """
    named = request.headers.get("idempotency-key")
    if named is not None and not (0 < len(named) <= 200 and named.isprintable()):
        raise Refused(400, "the Idempotency-Key is not 1 to 200 printable letters: send a shorter one")
    if named is not None and (known := await run_in_threadpool(store.posted_before, owner.name, named)) is not None:
        return known, False
    await run_in_threadpool(check_quota, owner, settings, store)
    posted = await read_form(request, settings.limits)
    try:
        async with looking:  # or else many large files at once would take the memory, and the threads of other calls
            return await run_in_threadpool(_queue, posted, owner, settings, store, named)
    finally:
        await posted.form.close()


def check_quota(owner: Key, settings: ServiceSettings, store: Store) -> None:
    """Refuse a job that would be one too many.

    Raises:
        Refused: which limit is reached, and when to come again.
    """
    if store.count("queued", "running", owner=owner.name) >= owner.waiting:
        raise Refused(429, f"{owner.waiting} jobs of this key wait or run, which is its limit: wait", retry_after=10)
    if store.count(owner=owner.name, since=time.time() - DAY) >= owner.daily:
        raise Refused(429, f"{owner.daily} jobs were posted with this key in 24 hours: wait", retry_after=3600)
    if store.count("queued") >= settings.waiting:
        raise Refused(503, f"{settings.waiting} jobs wait, which is the server's limit: wait", retry_after=30)
    if shutil.disk_usage(settings.data).free < FREE_BYTES:
        raise Refused(507, "the server's disk is full: wait until results have expired", retry_after=600)


def _queue(
    posted: Posted, owner: Key, settings: ServiceSettings, store: Store, named: str | None
) -> tuple[Entry, bool]:
    id = secrets.token_urlsafe(16)
    folder = settings.jobs / id
    folder.mkdir(parents=True)
    try:
        job, asked = _describe(posted, folder, settings)
        entry = store.add(id, owner.name, job.to_dict(), asked, named)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    if entry.id != id:  # the same request came twice at once
        shutil.rmtree(folder, ignore_errors=True)
    return entry, entry.id == id


def _describe(posted: Posted, folder: Path, settings: ServiceSettings) -> tuple[Job, dict[str, Any]]:
    """The job, and what the client chose of it."""
    words = posted.words()
    kind = words.pop("format", "mp4")
    if kind not in FORMATS:
        raise Refused(422, f"the format is '{kind}': choose {', '.join(FORMATS)}", problems={"format": "unknown"})
    sources = {name: words.pop(name, None) for name in ("portrait_url", "driving_url", "template")}
    chosen = _settings(words, settings)
    portrait, portrait_name, seen = _portrait(posted, sources, folder, settings, faces="portrait_box" not in chosen)
    driving, driving_name, moving = _driver(posted, sources, folder, settings)
    output = folder / f"result.{kind}"
    try:
        job = Job(portrait=portrait, driving=driving, output=output, **chosen)
    except JobError as error:
        raise Refused(422, str(error), problems=dict(error.problems)) from error
    asked = {name: value for name, value in job.to_dict().items() if name in chosen and name != "model"}
    asked |= {"model": Path(str(job.model)).name, "format": kind, "portrait": portrait_name, "driving": driving_name}
    asked["files"] = {"portrait": _facts(seen), "driving": _facts(moving)}
    return job.absolute(), asked


def _settings(words: Mapping[str, str], settings: ServiceSettings) -> dict[str, Any]:
    """Settings that may be chosen, and the server's own."""
    known = offered(settings)
    problems = {name: "there is no such setting here" for name in words if name not in known}
    models = settings.model_names()
    model = words.get("model", next(iter(models)))
    if model not in models:
        problems["model"] = f"'{model}' found; choose {', '.join(models)}"
    chosen: dict[str, Any] = {**words, "model": models.get(model, model)}
    size = words.get("size")
    if size is not None and size.isdecimal() and int(size) > settings.size:
        problems["size"] = f"'{size}' found; give at most {settings.size}"
    if problems:
        raise Refused(422, "; ".join(f"{name}: {line}" for name, line in problems.items()), problems=problems)
    return chosen


def _portrait(
    posted: Posted, sources: Mapping[str, str | None], folder: Path, settings: ServiceSettings, faces: bool
) -> tuple[Path, str, Inspection]:
    """The portrait, what the client calls it, and what is in it; with a box for the face, none has to be found."""
    path = folder / "portrait"
    name = _save(posted.file("portrait"), sources["portrait_url"], "portrait", path, settings)
    return path, name, _look(path, "portrait", name, settings, faces)


def _driver(
    posted: Posted, sources: Mapping[str, str | None], folder: Path, settings: ServiceSettings
) -> tuple[Path, str, Inspection | None]:
    chosen = sources["template"]
    if chosen is not None:
        return templates(settings).get(chosen) or _unknown_template(chosen, settings), chosen, None
    path = folder / "driving"
    name = _save(posted.file("driving"), sources["driving_url"], "driving", path, settings)
    found = _look(path, "driving", name, settings)
    if found.media == "template":  # which is told from a video by its ending
        path = path.rename(path.with_suffix(".safetensors"))
    return path, name, found


def templates(settings: ServiceSettings) -> dict[str, Path]:
    """Drivers that clients may name, by their names."""
    if settings.templates is None:
        return {}
    files = sorted(path for path in settings.templates.iterdir() if path.is_file() and path.name[0] != ".")
    return {path.stem: path.absolute() for path in files}


def _unknown_template(name: str, settings: ServiceSettings) -> Path:
    known = ", ".join(templates(settings)) or "none: this server has no templates"
    raise Refused(
        422, f"there is no template '{name[:NAME_LETTERS]}': choose {known}", problems={"template": "unknown"}
    )


def _save(file: UploadFile | None, address: str | None, field: str, path: Path, settings: ServiceSettings) -> str:
    """Save a file that was sent, or fetch the one that was named; returns what the client calls it."""
    limits = settings.limits
    if file is not None:
        if (file.size or 0) > limits.bytes:
            raise Refused(413, f"the {field} has more than {limits.bytes >> 20} MiB: send a smaller file")
        with path.open("wb") as target:
            shutil.copyfileobj(file.file, target)
        return Path((file.filename or field).replace("\\", "/")).name[:NAME_LETTERS] or field
    if address is None:
        advice = " or the name of a template" if field == "driving" else ""
        raise Refused(422, f"there is no {field}: send it as a file{advice}", problems={field: "missing"})
    if not settings.fetch:
        raise Refused(422, f"this server fetches no addresses: send the {field} as a file")
    fetch(address, path, limits)
    return Path(address.split("?")[0]).name[:NAME_LETTERS] or field


def _look(path: Path, kind: Kind, name: str, settings: ServiceSettings, faces: bool = True) -> Inspection:
    """What is in a file, found in a confined process."""
    try:
        return inspect(path, kind, settings.limits, faces=faces, name=name)
    except UserError as error:
        raise Refused(422, str(error).replace(str(path.parent) + os.sep, ""), problems={kind: "refused"}) from error


def _facts(found: Inspection | None) -> dict[str, Any] | None:
    """What is told of a file."""
    if found is None:
        return None
    return {
        "media": found.media,
        "width": found.width,
        "height": found.height,
        "frames": found.frames,
        "seconds": round(found.seconds, 3),
        "sound": found.has_sound,
        "faces": [{"face": face.number, "box": face.box} for face in found.faces],
        "warnings": list(found.warnings),
    }
