"""Who may come in."""

from __future__ import annotations

import pytest

pytest.importorskip("gradio", reason="needs the extra studio")

from fastapi import FastAPI, WebSocket
from fastapi.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from flashportrait.errors import UserError
from flashportrait.listening import is_loopback
from flashportrait.studio.guard import Guard
from flashportrait.studio.server import open_address


def app() -> FastAPI:
    app = FastAPI()

    @app.get("/")
    def page() -> str:
        return "welcome"

    @app.websocket("/live")
    async def live(socket: WebSocket) -> None:
        await socket.accept()
        await socket.send_text("welcome")

    return app


def test_strangers_need_the_token_once() -> None:
    guarded = Guard(app(), "a-right-token", loopback=False)
    client = TestClient(guarded, base_url="http://studio.example", follow_redirects=False)
    assert client.get("/").status_code == 401
    assert client.get("/?token=a-wrong-token").status_code == 401
    assert client.get("/", headers={"cookie": "flashportrait-studio=a-wrong-token"}).status_code == 401
    with pytest.raises(WebSocketDisconnect), client.websocket_connect("/live"):
        pass
    answer = client.get("/?token=a-right-token")
    assert (answer.status_code, answer.headers["location"]) == (303, "./")
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert client.get("/").json() == "welcome"
    with client.websocket_connect("/live", headers={"cookie": "flashportrait-studio=a-right-token"}) as socket:
        assert socket.receive_text() == "welcome"


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:7860", 200), ("127.0.0.1", 200), ("[::1]:7860", 200), ("evil.example", 403), ("localhost.evil", 403)],
)
def test_on_the_loopback_other_names_lead_nowhere(host: str, status: int) -> None:
    client = TestClient(Guard(app(), None, loopback=True))
    assert client.get("/", headers={"host": host}).status_code == status


def test_pages_of_other_sites_are_turned_away() -> None:
    client = TestClient(Guard(app(), None, loopback=True), base_url="http://localhost:7860")
    assert client.get("/", headers={"origin": "http://localhost:7860"}).status_code == 200
    assert client.get("/", headers={"origin": "http://evil.example"}).status_code == 403
    with (
        pytest.raises(WebSocketDisconnect),
        client.websocket_connect("/live", headers={"origin": "http://evil.example"}),
    ):
        pass


def test_an_address_that_others_reach_has_a_token() -> None:
    address, sock = open_address("0.0.0.0", 0, None)
    sock.close()
    assert len(address.token) >= 16
    assert address.url.endswith(f":{address.port}/?token={address.token}")
    address, sock = open_address("127.0.0.1", 0, None)
    sock.close()
    assert address.token is None
    assert is_loopback("127.0.0.1")
    assert not is_loopback("0.0.0.0")


def test_a_taken_port_is_told_with_a_free_one() -> None:
    address, sock = open_address("127.0.0.1", 0, None)
    with sock, pytest.raises(UserError, match=rf"port {address.port} is taken.*--port \d+"):
        open_address("127.0.0.1", address.port, None)
    with pytest.raises(UserError, match="no address of this machine"):
        open_address("203.0.113.7", 0, "some-token-given")
    with pytest.raises(UserError, match="at least 8"):
        open_address("127.0.0.1", 0, "short")
