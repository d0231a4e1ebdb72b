"""The studio's server: its address, who may come in, and the page."""

from __future__ import annotations

import logging
import os
import re
import secrets
import socket
import threading
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashportrait.errors import UserError
from flashportrait.listening import is_loopback, listen, serve_until_ended

if TYPE_CHECKING:
    from flashportrait.studio.studio import Studio

TOKEN = re.compile(r"[A-Za-z0-9_-]{8,}")
HERE = Path(__file__).parent


@dataclass(frozen=True)
class Address:
    """Where the studio is reached."""

    host: str
    port: int
    token: str | None
    """Needed to come in; None on this machine alone, where it isn't asked for."""

    @property
    def url(self) -> str:
        """To open in a browser."""
        host = {"0.0.0.0": socket.gethostname(), "::": socket.gethostname()}.get(self.host, self.host)
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}/" + (f"?token={self.token}" if self.token else "")


def check_installed() -> None:
    """Refuse to begin without what the page is made with; nothing is reported to anybody by it.

    Raises:
        UserError: the extra ``studio`` isn't installed.
    """
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # read when Gradio is imported
    try:
        import fastapi  # noqa: F401
        import gradio  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(
            "the studio needs Gradio, which is not installed: pip install 'flashportrait[studio]'"
        ) from error


def open_address(host: str, port: int, token: str | None) -> tuple[Address, socket.socket]:
    """Take an address, before anything else is loaded; one that others reach has a token, made up unless given.

    Raises:
        UserError: the port is taken, with a free one; the host isn't this machine's; the token is too weak.
    """
    if token is not None and not TOKEN.fullmatch(token):
        raise UserError("a token needs at least 8 letters, digits, - or _: give another, or none to have one made")
    if token is None and not is_loopback(host):
        token = secrets.token_urlsafe(16)
    sock = listen(host, port, "another studio")
    return Address(host, sock.getsockname()[1], token), sock


def make_app(studio: Studio, address: Address) -> Any:
    """The whole application, ASGI."""
    os.environ["GRADIO_TEMP_DIR"] = str(studio.history.uploads)
    import gradio as gr
    from fastapi import FastAPI

    from flashportrait.studio.events import wire
    from flashportrait.studio.guard import Guard
    from flashportrait.studio.page import lay_out
    from flashportrait.studio.web import routes

    app = FastAPI(openapi_url=None)
    app.include_router(routes(studio.history, studio.runner))
    app.include_router(studio.live.route())
    blocks, page = lay_out(studio)
    wire(studio, blocks, page)
    # Fonts of the system: nothing is fetched from elsewhere.
    fonts = {"font": ["system-ui", "sans-serif"], "font_mono": ["ui-monospace", "monospace"]}
    theme = gr.themes.Base(primary_hue="indigo", neutral_hue="slate", **fonts).set(
        block_info_text_color="*neutral_600", block_info_text_color_dark="*neutral_300"
    )
    app = gr.mount_gradio_app(
        app,
        blocks,
        path="/",
        server_name=address.host,
        server_port=address.port,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=True,
        max_file_size=studio.uploads.limits.bytes,
        ssr_mode=False,
        enable_monitoring=False,
        mcp_server=False,
        theme=theme,
        css_paths=HERE / "page.css",
        head=f"<script>{(HERE / 'page.js').read_text(encoding='utf-8')}</script>",
    )
    # Gradio checks that visitors name files of theirs alone only in apps that it has launched itself.
    blocks.has_launched = True
    return Guard(app, address.token, loopback=is_loopback(address.host))


def serve(studio: Studio, address: Address, sock: socket.socket, ready: Callable[[str], None], browser: bool) -> None:
    """Serve until the process is told to end (Ctrl-C, SIGTERM); what runs then can be resumed at the next start.

    Args:
        studio: what is served.
        address, sock: of ``open_address``.
        ready: told the address to open, when it can be.
        browser: open it.
    """
    app = make_app(studio, address)
    import uvicorn

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets)
            ready(address.url)
            if browser:
                threading.Thread(target=webbrowser.open, args=(address.url,), daemon=True).start()

    config = uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=1, ws="auto")
    server = Server(config)
    # Pages that are open when it ends are cut off, which is no error of anybody's.
    logging.getLogger("uvicorn.error").addFilter(lambda record: not server.should_exit)
    studio.start()
    try:
        serve_until_ended(server, sock)
    finally:
        studio.close()
