"""The live look: in a browser with a film for a webcam, and at its door."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from studios import EXAMPLES, Served, Visitor

pytest.importorskip("gradio", reason="needs the extra studio")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from flashportrait.studio.live import Drawer, Live


def test_the_webcam_moves_the_portrait(browser: Any, served: Served) -> None:
    visitor = Visitor(browser, served.url, permissions=["camera"])
    page = visitor.page
    page.get_by_role("tab", name="Live").click()
    page.click("#live-start")
    visitor.wait("choose a portrait under Animate first", "#live-told")
    page.get_by_role("tab", name="Animate").click()
    page.set_input_files("#portrait input[type=file]", EXAMPLES / "drawn_2.png")
    page.wait_for_selector("#portrait-told .good")
    page.get_by_role("tab", name="Live").click()
    page.click("#live-start")
    assert "ms behind the webcam" in visitor.wait("frames a second", "#live-said")
    picture = "document.getElementById('live-portrait').toDataURL()"
    first = page.evaluate(picture)
    page.wait_for_function(f"first => {picture} !== first", arg=first)
    page.click("#live-rest")
    page.wait_for_timeout(500)  # for what is on its way
    assert "frames a second" in page.inner_text("#live-said")
    after = page.evaluate(picture)
    page.wait_for_function(f"after => {picture} !== after", arg=after)
    page.click("#live-stop")
    visitor.wait("Stopped", "#live-said")
    visitor.context.close()
    assert visitor.trouble == []


def test_both_files_come_from_the_webcam(browser: Any, served: Served) -> None:
    visitor = Visitor(browser, served.url, permissions=["camera", "microphone"])
    page = visitor.page
    for place in ("#driver", "#portrait"):
        page.click(f"{place} button[aria-label='Capture from camera']")
        page.click(f"{place} button:has-text('Click to Access Webcam')")
    page.click("#driver button[aria-label='start recording']")
    page.wait_for_timeout(1200)
    page.click("#driver button:has-text('Stop')")
    page.click("#portrait button[aria-label='capture photo']")
    assert "with sound" in visitor.wait("One face found", "#driver-told")
    visitor.wait("One face found", "#portrait-told")
    visitor.animate()
    visitor.wait_result()
    visitor.context.close()
    assert visitor.trouble == []


def test_only_who_has_chosen_a_portrait_comes_in_and_one_at_a_time(tmp_path: Path) -> None:
    live = Live(tmp_path)
    app = FastAPI()
    app.include_router(live.route())
    client = TestClient(app)
    with client.websocket_connect("/live?ticket=none") as socket:
        assert socket.receive_text() == "choose a portrait first"
    ticket = live.ticket(EXAMPLES / "drawn_1.png")
    client.portal = None
    with client, client.websocket_connect(f"/live?ticket={ticket}") as first:
        assert first.receive_text() == "ready"
        with client.websocket_connect(f"/live?ticket={ticket}") as second:
            assert second.receive_text().startswith("somebody else is looking live")
        first.send_bytes(b"no picture")
        assert first.receive_text() == "the webcam's picture can't be read"


def test_the_process_answers_everything_with_a_picture_or_a_line(tmp_path: Path) -> None:
    drawer = Drawer(None)
    words = tmp_path / "words.png"
    words.write_text("no picture")
    assert "words.png" in drawer.run(words, print)
    assert drawer.run(b"", print).startswith("internal error: AssertionError")
    assert drawer.run(EXAMPLES / "drawn_1.png", print) == b""
    assert drawer.run(None, print) == b""
    face = EXAMPLES / "portrait_1.jpg"
    assert drawer.run(face.read_bytes(), print).startswith(b"\xff\xd8")
