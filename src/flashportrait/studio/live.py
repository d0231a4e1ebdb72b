"""A live look: the webcam drives the portrait. The newest frame wins; others are dropped in the browser, not queued."""

from __future__ import annotations

import asyncio
import contextlib
import io
import secrets
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, WebSocket, WebSocketDisconnect

from flashportrait.confinement import Confinement
from flashportrait.errors import UserError
from flashportrait.workers import Died, Supervised

if TYPE_CHECKING:
    from flashportrait.job import LivePortrait

QUALITY = 80
"""Of the JPEG pictures that are sent back."""
MOST_BYTES = 1 << 20
"""Of a frame that comes in."""
TICKETS = 32
"""Portraits that are remembered for those about to come."""
MEMORY = 4 << 30
"""Bytes that drawing may take."""
WAIT_SECONDS = 60.0
"""For the process to draw a frame; the first one includes its start."""


class Drawer:
    """Draws frames in its process (``workers.process.Worker``): an order is a portrait's path, a frame, or None.

    A path opens a portrait, a frame (JPEG) is answered with the portrait (JPEG; empty where there is no face), None
    takes the next face for the driver's at rest. What went wrong is answered as text.
    """

    def __init__(self, cancel: Any) -> None:
        import torch

        torch.set_num_threads(1)  # a frame is many small steps: more threads wait for each other
        self._portrait: LivePortrait | None = None

    def run(self, order: Path | bytes | None, tell: Callable[[Any], None]) -> bytes | str:
        """Carry an order out."""
        try:
            if isinstance(order, Path):
                from flashportrait.job import LivePortrait

                self._portrait = LivePortrait(order)
                return b""
            assert self._portrait is not None, "a portrait comes first"
            if order is None:
                self._portrait.rest()
                return b""
            return _drawn(self._portrait, order)
        except UserError as error:
            return str(error)
        except Exception as error:  # noqa: BLE001 - one frame's failure must not end the process
            return " ".join(f"internal error: {type(error).__name__}: {error}".split())


def _drawn(portrait: LivePortrait, frame: bytes) -> bytes:
    """A JPEG for a JPEG; empty where there is no face.

    Raises:
        UserError: the frame is no picture.
    """
    import numpy as np
    from PIL import Image

    try:
        with Image.open(io.BytesIO(frame), formats=["JPEG"]) as image:
            pixels = np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise UserError("the webcam's picture can't be read") from error
    drawn = portrait.draw(pixels)
    if drawn is None:
        return b""
    file = io.BytesIO()
    Image.fromarray(drawn).save(file, "JPEG", quality=QUALITY)
    return file.getvalue()


class Live:
    """Who may look live at which portrait: one at a time.

    Args:
        temporary: folder for what libraries write while they are loaded.
    """

    def __init__(self, temporary: Path) -> None:
        self._confinement = Confinement(MEMORY, writable=(temporary,))
        self._tickets: OrderedDict[str, Path] = OrderedDict()
        self._free = asyncio.Lock()

    def ticket(self, portrait: Path) -> str:
        """A word with which a browser may come in."""
        ticket = secrets.token_urlsafe(12)
        self._tickets[ticket] = portrait
        while len(self._tickets) > TICKETS:
            self._tickets.popitem(last=False)
        return ticket

    def route(self) -> APIRouter:
        """``/live?ticket=...``: pictures go in, pictures come out; text is for people. "rest" begins anew."""
        router = APIRouter()

        @router.websocket("/live")
        async def live(socket: WebSocket, ticket: str = "") -> None:
            await socket.accept()
            portrait = self._tickets.get(ticket)
            if portrait is None:
                await _refuse(socket, "choose a portrait first")
            elif self._free.locked():
                await _refuse(socket, "somebody else is looking live: try again when they have finished")
            else:
                async with self._free:
                    await self._serve(socket, portrait)

        return router

    async def _serve(self, socket: WebSocket, portrait: Path) -> None:
        process = Supervised(Drawer, confinement=self._confinement, name="flashportrait-live")
        ask = partial(asyncio.to_thread, _ask, process)
        try:
            answer = await ask(portrait)
            if isinstance(answer, str):
                await _refuse(socket, answer)
                return
            await socket.send_text("ready")
            while True:
                message = await socket.receive()
                if message["type"] == "websocket.disconnect":
                    return
                frame = message.get("bytes")
                if frame is not None and len(frame) > MOST_BYTES:
                    await _refuse(socket, "the webcam's picture is too large")
                    return
                answer = await ask(frame)
                if isinstance(answer, str):
                    await _refuse(socket, answer)
                    return
                if frame is not None:
                    await socket.send_bytes(answer)
        except (WebSocketDisconnect, RuntimeError):  # gone in the middle of a frame
            return
        finally:
            await asyncio.shield(asyncio.to_thread(process.close))


def _ask(process: Supervised, order: Path | bytes | None) -> bytes | str:
    """What the process answers; its death is told as text."""
    process.start(order)
    waited = 0.0
    while waited < WAIT_SECONDS:
        for news in process.poll(0.5):
            return news.why if isinstance(news, Died) else news
        waited += 0.5
    process.cancel(0.0)
    return "drawing takes too long on this machine"


async def _refuse(socket: WebSocket, why: str) -> None:
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await socket.send_text(why)
        await socket.close()


def live_html() -> str:
    """What the page shows; ``page.js`` brings it to life."""
    return (
        '<div class="live"><figure><video id="live-webcam" muted playsinline aria-label="the webcam"></video>'
        "<figcaption>Webcam, mirrored</figcaption></figure>"
        '<figure><canvas id="live-portrait" width="256" height="256" aria-label="the portrait, live"></canvas>'
        "<figcaption>Portrait</figcaption></figure></div>"
        '<p class="facts" id="live-said" role="status">Look straight ahead, at rest, when you start.</p>'
    )
