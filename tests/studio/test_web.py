"""Files of entries: what can be named, and as what it is sent."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

pytest.importorskip("gradio", reason="needs the extra studio")

from fastapi import FastAPI
from fastapi.testclient import TestClient

from flashportrait.studio.history import DONE, RUNNING, Entry, History
from flashportrait.studio.rates import Rates
from flashportrait.studio.runner import Runner, Status
from flashportrait.studio.web import routes, title


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history")


@pytest.fixture
def runner(history: History) -> Runner:
    return Runner(history, [], Rates(history.folder / "rates.json"))


@pytest.fixture
def client(history: History, runner: Runner) -> TestClient:
    app = FastAPI()
    app.include_router(routes(history, runner))
    return TestClient(app)


@pytest.fixture
def entry(history: History, tmp_path: Path, template: Path) -> Entry:
    page = tmp_path / "page.html"
    page.write_text("<script>alert(1)</script>")
    names = {"portrait": "../An na/<b>.html", "driver": "x.safetensors"}
    entry = history.add(page, template, {}, names, b"png")
    entry.output.write_bytes(b"0123456789")
    history.mark(entry.id, DONE)
    return history.get(entry.id)


def test_uploads_are_never_pages(client: TestClient, entry: Entry) -> None:
    answer = client.get(f"/entry/{entry.id}/portrait")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert client.get(f"/entry/{entry.id}/poster").headers["content-type"] == "image/png"


def test_results_are_sent_in_parts_and_under_a_plain_name(client: TestClient, entry: Entry) -> None:
    answer = client.get(f"/entry/{entry.id}/result.mp4", headers={"range": "bytes=2-4"})
    assert (answer.status_code, answer.content) == (206, b"234")
    answer = client.get(f"/entry/{entry.id}/result.mp4?download=1")
    assert f'filename="{title(entry)}.mp4"' in answer.headers["content-disposition"]
    assert title(entry) == "b-x"


@pytest.mark.parametrize(
    "path",
    [
        "state.json",
        "result.json",
        "result.webm",
        "result.mp4.work",
        "..%2f..%2frates.json",
        "preview",
        "../uploads/portrait",
    ],
)
def test_nothing_else_can_be_named(client: TestClient, entry: Entry, path: str) -> None:
    assert client.get(f"/entry/{entry.id}/{path}").status_code == 404
    assert client.get("/entry/..%2f..%2fetc/portrait").status_code == 404


def test_a_preview_lasts_as_long_as_the_run(
    client: TestClient, history: History, runner: Runner, entry: Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = entry.folder / ".result.part.mp4"
    part.write_bytes(b"begin")
    ended = threading.Event()

    def status(name: str) -> Status:
        return Status(DONE if ended.is_set() else RUNNING, part=part)

    monkeypatch.setattr(runner, "status", status)

    def grow() -> None:
        with part.open("ab") as file:
            file.write(b" and end")
        ended.set()

    timer = threading.Timer(0.3, grow)
    timer.start()
    assert client.get(f"/entry/{entry.id}/preview").content == b"begin and end"
    timer.join()
