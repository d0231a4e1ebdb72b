"""Sends results, also while they grow."""

from __future__ import annotations

import re
from pathlib import Path

from fastapi import Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool

from flashportrait.files import growing
from flashportrait.service.errors import Refused
from flashportrait.service.service import Service
from flashportrait.service.settings import FORMATS
from flashportrait.service.store import Entry

BLOCK = 256 << 10
"""Bytes that are read at a time."""
RANGE = re.compile(r"bytes=(\d*)-(\d*)")


async def send_result(service: Service, entry: Entry, request: Request) -> Response:
    """A job's result, or the range of it that is asked for.

    Of a job that runs, what there is so far is sent, and then the rest as it comes; a range is answered with what is
    there of it, with the whole length unknown (``bytes 0-999/*``). What has been sent of a growing file may differ from
    the finished one, whose index and credentials are written at the end: clients that want those ask again.

    Raises:
        Refused: there is nothing yet, or nothing any more, or the range lies beyond what there is.
    """
    if entry.state in ("failed", "cancelled"):
        raise Refused(409, f"the job has {'failed: ' + str(entry.error) if entry.error else 'been cancelled'}")
    if entry.state == "expired":
        raise Refused(410, "the result has expired: post the job again")
    output = Path(entry.job["output"])
    kind = FORMATS[output.suffix[1:]]
    if entry.state == "done":
        return await run_in_threadpool(_whole, entry, output, kind, request)
    live = service.dispatcher.live(entry.id)
    if live is None or live.part is None or not live.part.is_file():
        raise Refused(409, "there is nothing of the result yet: wait, or follow the job's events", retry_after=1)
    return _growing(service, entry, live.part, kind, request)


def _whole(entry: Entry, output: Path, kind: str, request: Request) -> Response:
    from starlette.responses import FileResponse

    if not output.is_file():
        raise Refused(410, "the result has expired: post the job again")
    name = f"{Path(entry.asked.get('portrait') or 'result').stem}{output.suffix}"
    return FileResponse(output, media_type=kind, filename=name, content_disposition_type="inline")


def _growing(service: Service, entry: Entry, part: Path, kind: str, request: Request) -> Response:
    asked = RANGE.fullmatch(request.headers.get("range", ""))
    size = part.stat().st_size
    headers = {"Cache-Control": "no-store", "Accept-Ranges": "bytes", "X-Job-State": "running"}
    if asked is None or not (asked[1] or asked[2]):
        content = growing(part.open("rb"), lambda: service.dispatcher.live(entry.id) is not None)
        return StreamingResponse(content, media_type=kind, headers=headers)
    first = int(asked[1]) if asked[1] else max(0, size - int(asked[2]))
    last = min(size - 1, int(asked[2])) if asked[1] and asked[2] else size - 1
    if first > last:
        raise Refused(416, f"only {size} bytes are there yet: ask again", retry_after=1)
    with part.open("rb") as file:
        file.seek(first)
        content = file.read(min(last - first + 1, 64 * BLOCK))
    headers["Content-Range"] = f"bytes {first}-{first + len(content) - 1}/*"
    return Response(content, 206, media_type=kind, headers=headers)
