"""The studio's own addresses: files of entries, and the preview that grows."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import APIRouter, HTTPException
from fastapi.responses import FileResponse, StreamingResponse

from flashportrait.files import growing
from flashportrait.studio.history import RUNNING, Entry, History
from flashportrait.studio.runner import Runner

if TYPE_CHECKING:
    from fastapi import Response

MEDIA_TYPES = {
    ".jpg": "image/jpeg",
    ".jpeg": "image/jpeg",
    ".png": "image/png",
    ".webp": "image/webp",
    ".gif": "image/gif",
    ".avif": "image/avif",
    ".mp4": "video/mp4",
    ".m4v": "video/mp4",
    ".mov": "video/mp4",
    ".webm": "video/webm",
    ".mkv": "video/x-matroska",
}
"""What a browser may show; all else is sent as bytes, so that no upload runs as a page of the studio's."""
KINDS = ("mp4", "webm", "gif")
"""What a result can be downloaded as."""


def routes(history: History, runner: Runner) -> APIRouter:
    """Files of entries, by the entry's name and their role; nothing else can be named."""
    router = APIRouter()

    def entry_of(name: str) -> Entry:
        entry = history.get(name)
        if entry is None:
            raise HTTPException(404, "no such animation")
        return entry

    @router.get("/entry/{name}/portrait")
    def portrait(name: str) -> Response:
        entry = entry_of(name)
        return _file(entry.folder / entry.portrait)

    @router.get("/entry/{name}/poster")
    def poster(name: str) -> Response:
        return _file(entry_of(name).poster)

    @router.get("/entry/{name}/driver")
    def driver(name: str) -> Response:
        entry = entry_of(name)
        return _file(entry.folder / entry.driver)

    @router.get("/entry/{name}/result.{kind}")
    def result(name: str, kind: str, download: bool = False) -> Response:
        entry = entry_of(name)
        if kind not in KINDS:
            raise HTTPException(404, "no such kind of file")
        return _file(entry.output.with_suffix(f".{kind}"), f"{title(entry)}.{kind}" if download else None)

    @router.get("/entry/{name}/preview")
    def preview(name: str) -> Response:
        entry = entry_of(name)
        status = runner.status(entry.id)
        if status is None or status.state != RUNNING or status.part is None:
            raise HTTPException(404, "nothing to see yet")
        try:
            file = status.part.open("rb")
        except OSError:
            raise HTTPException(404, "nothing to see yet") from None

        def grows() -> bool:
            now = runner.status(entry.id)
            return now is not None and now.state == RUNNING

        return StreamingResponse(growing(file, grows), media_type="video/mp4", headers={"Cache-Control": "no-store"})

    return router


def title(entry: Entry) -> str:
    """A name for a result's file: of portrait and driver."""
    parts = [Path(entry.names.get(role, role)).stem for role in ("portrait", "driver")]
    return "-".join(re.sub(r"[^\w-]+", "_", part).strip("_")[:40] or "clip" for part in parts)


def _file(path: Path, download_as: str | None = None) -> Response:
    if not path.is_file():
        raise HTTPException(404, "no such file")
    media_type = MEDIA_TYPES.get(path.suffix, "application/octet-stream")
    headers = {"X-Content-Type-Options": "nosniff"}
    return FileResponse(path, media_type=media_type, filename=download_as, headers=headers)
