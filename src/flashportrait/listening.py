"""What servers on this machine share: the address they listen on, and whom they turn away."""

from __future__ import annotations

import errno
import os
import socket
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from flashportrait.errors import UserError

if TYPE_CHECKING:
    import uvicorn

NAMES = ("localhost", "127.0.0.1", "[::1]")
"""Of this machine, as it names itself."""
TRIED_PORTS = 100
"""How far above a taken port a free one is looked for."""


def is_loopback(host: str) -> bool:
    """Whether an address to listen on is reached from this machine alone."""
    return host in ("localhost", "::1") or host.startswith("127.")


def listen(host: str, port: int, perhaps_by: str) -> socket.socket:
    """A socket that listens; port 0 takes any that is free.

    Args:
        host, port: where.
        perhaps_by: who may hold the port already, in words.

    Raises:
        UserError: the port is taken, with a free one; or it can't be listened on.
    """
    sock = _bound(host, port)
    if sock is None:
        free = next((near for near in range(port + 1, port + TRIED_PORTS) if _is_free(host, near)), None)
        offer = f"try --port {free}" if free else "give another with --port"
        raise UserError(f"port {port} is taken, perhaps by {perhaps_by}: {offer}")
    return sock


def serve_until_ended(server: uvicorn.Server, sock: socket.socket) -> None:
    """Answer requests on a socket until the process is told to end, by Ctrl-C or SIGTERM, which is a server's good end.

    uvicorn raises the signal again when it has shut down, and that becomes a ``KeyboardInterrupt`` only if the event
    loop still runs something that it can interrupt; so none is let through, whichever it was.
    """
    with suppress(KeyboardInterrupt):
        server.run(sockets=[sock])


def stranger(host: str, origin: str | None, *, local: bool) -> str | None:
    """Why a request must not be answered by a server that trusts who reaches it; None where nothing speaks against it.

    A page of another site, shown by a browser on this machine, reaches such a server as well: under a name of its own
    that it has made to lead here, or saying where it comes from.

    Args:
        host, origin: the request's headers.
        local: the server is reached from this machine alone.
    """
    name, _, port = host.rpartition(":")
    if local and (name if port.isdigit() else host) not in NAMES:
        return "answers to localhost only: ask for it by that name"
    if origin is not None and urlsplit(origin).netloc != host:
        return "doesn't answer to pages of other sites"
    return None


def _bound(host: str, port: int) -> socket.socket | None:
    """A socket on a port; None if that is taken."""
    if not 0 <= port <= 65535:
        raise UserError(f"there is no port {port}: give one from 1024 to 65535, or 0 for any that is free")
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        if os.name != "nt":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
        sock.listen(2048)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            return None
        if error.errno == errno.EACCES:
            raise UserError(f"port {port} needs more rights than these: give one above 1023 with --port") from error
        raise UserError(f"'{host}' is no address of this machine ({error.strerror or error}): give another") from error
    return sock


def _is_free(host: str, port: int) -> bool:
    sock = _bound(host, port) if port <= 65535 else None
    if sock is not None:
        sock.close()
    return sock is not None
