"""Runs the application on a socket."""

from __future__ import annotations

import logging
from collections.abc import Callable

import uvicorn
from filelock import FileLock, Timeout

from flashportrait.errors import UserError
from flashportrait.listening import is_loopback, listen, serve_until_ended
from flashportrait.service.app import create_app
from flashportrait.service.keys import Keys
from flashportrait.service.settings import ServiceSettings

SHUTDOWN_SECONDS = 5
"""How long answers may take that were begun, when the server ends; running jobs have time of their own after that."""


def serve(settings: ServiceSettings, keys: Keys, host: str, port: int, *, tell: Callable[[str], object]) -> None:
    """Serve until the process is interrupted or asked to end (SIGTERM).

    Args:
        settings, keys: of the server.
        host, port: where to listen; port 0 takes any that is free.
        tell: told where it listens, once it does.

    Raises:
        UserError: the port is taken, or another server works in this folder.
    """
    _check(settings)
    settings.data.mkdir(parents=True, exist_ok=True)
    lock = FileLock(settings.data / "server.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another server works in '{settings.data}': stop it, or give another folder with --data"
        ) from None
    with lock, listen(host, port, "another server") as listening:
        address = listening.getsockname()
        shown = f"[{address[0]}]" if ":" in address[0] else address[0]
        app = create_app(settings, keys, local=is_loopback(address[0]))
        config = uvicorn.Config(
            app, log_level=logging.WARNING, access_log=False, timeout_graceful_shutdown=SHUTDOWN_SECONDS, lifespan="on"
        )
        asked = "keys are asked for" if keys.needed else "no keys are asked for"
        tell(f"serving on http://{shown}:{address[1]} (interface: /docs); {asked}")
        if settings.ray is not None:
            up = len(app.state.service.dispatcher.pids)
            tell(f"workers on the Ray cluster: {up or 'none yet, jobs wait for one'}")
        serve_until_ended(uvicorn.Server(config), listening)


def _check(settings: ServiceSettings) -> None:
    """Refuse models and templates that aren't there, before anything is started."""
    from pathlib import Path

    from flashportrait.job import MODELS

    for model in settings.models:
        if model not in MODELS and not Path(model).is_dir():
            raise UserError(f"there is no model '{model}': give {', '.join(MODELS)} or the folder of a saved pipeline")
    if settings.templates is not None and not settings.templates.is_dir():
        raise UserError(f"there is no folder '{settings.templates}': give one with motion templates or videos")
