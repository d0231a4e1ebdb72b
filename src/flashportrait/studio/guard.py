"""Who may come in: this machine alone, or those who were given the token."""

from __future__ import annotations

import hmac
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import parse_qs

from flashportrait.listening import stranger

COOKIE = "flashportrait-studio"


class Guard:
    """ASGI middleware that turns away who has no token, pages of other sites, and other names for this machine.

    Args:
        app: what is guarded.
        token: needed from everyone, once in the address (``?token=...``) and then as a cookie; None for none.
        loopback: only names of the loopback are taken for this machine's, so that no other site's name, made to lead
            here, gets in.
    """

    def __init__(self, app: Any, token: str | None, loopback: bool) -> None:
        self._app, self._token, self._loopback = app, token, loopback

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        """Let a request through, or answer it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = stranger(headers.get("host", ""), headers.get("origin"), local=self._loopback)
        if refusal is not None:
            await _answer(scope, send, 403, f"The studio {refusal}.")
        elif self._token is None or self._is_known(headers):
            await self._app(scope, receive, send)
        elif scope["type"] == "http" and self._is_right(_asked_token(scope)):
            cookie = f"{COOKIE}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            await _answer(scope, send, 303, "", [(b"location", b"./"), (b"set-cookie", cookie.encode())])
        else:
            await _answer(
                scope, send, 401, "The studio needs its token: open the address that it printed when it started."
            )

    def _is_known(self, headers: dict[str, str]) -> bool:
        try:
            cookie = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
        except CookieError:
            return False
        return cookie is not None and self._is_right(cookie.value)

    def _is_right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), (self._token or "").encode())


def _asked_token(scope: dict[str, Any]) -> str:
    return parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[0]


async def _answer(
    scope: dict[str, Any], send: Any, status: int, text: str, headers: list[tuple[bytes, bytes]] | None = None
) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    plain = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": [*plain, *(headers or [])]})
    await send({"type": "http.response.body", "body": text.encode()})
