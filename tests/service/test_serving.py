"""Jobs over a real socket: posted, followed, fetched, cancelled, removed."""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Any

import av
import httpx
import pytest

from batches import frames_of
from flashportrait.job import Job
from serving import Server, files, serving

QUICK = {"view": "face", "size": "64"}
"""Settings under which the embedded model takes a second."""


def slow(toy_model: Path, **settings: str) -> dict[str, str]:
    """Settings of a job that takes a while, and doesn't look for a face."""
    return {"model": toy_model.name, "template": "long", "steps": "20", "size": "64", **settings}


def post(server: Server, portrait: Path, data: dict[str, str], **files: Any) -> httpx.Response:
    """A job with a portrait."""
    sent = {"portrait": (portrait.name, portrait.read_bytes()), **files}
    return server.client.post("/v1/jobs", data=data, files=sent)


def test_a_job_is_posted_followed_and_fetched(server: Server, face: Path, motions: Path, tmp_path: Path):
    answer = server.client.post("/v1/jobs", data=QUICK, files=files(face, motions / "short.safetensors"))
    assert answer.status_code == 201
    told = answer.json()
    assert answer.headers["location"] == told["links"]["self"] == f"/v1/jobs/{told['id']}"
    assert told["settings"] == {
        **QUICK,
        "size": 64,
        "model": "nano",
        "format": "mp4",
        "portrait": "drawn_1.png",
        "driving": "short.safetensors",
    }
    assert told["files"]["driving"]["media"] == "template"
    assert len(told["files"]["portrait"]["faces"]) == 1
    states = []
    with server.client.stream("GET", told["links"]["events"]) as events:
        assert events.headers["content-type"].startswith("text/event-stream")
        for line in events.iter_lines():
            if line.startswith("data: "):
                states.append(json.loads(line.removeprefix("data: "))["state"])
    assert states[-1] == "done"
    assert set(states) <= {"queued", "running", "done"}
    done = server.client.get(told["links"]["self"]).json()
    assert done["summary"]["frames"] == 9
    assert done["expires"] > done["ended"]
    result = server.client.get(told["links"]["result"])
    assert result.headers["content-type"] == "video/mp4"
    path = tmp_path / "result.mp4"
    path.write_bytes(result.content)
    assert frames_of(path).shape == (9, 64, 64, 3)
    part = server.client.get(told["links"]["result"], headers={"Range": "bytes=100-199"})
    assert (part.status_code, part.content) == (206, result.content[100:200])
    assert part.headers["content-range"] == f"bytes 100-199/{len(result.content)}"


@pytest.mark.parametrize("kind", ["webm", "gif", "webp"])
def test_other_formats_are_made(kind: str, server: Server, face: Path):
    told = post(server, face, {**QUICK, "template": "short", "format": kind}).json()
    assert server.ended(told["id"])["state"] == "done"
    result = server.client.get(told["links"]["result"])
    assert result.headers["content-type"] == f"{'video' if kind == 'webm' else 'image'}/{kind}"


def test_nothing_of_this_machine_is_told(server: Server, face: Path):
    told = post(server, face, {**QUICK, "template": "short"}).json()
    done = server.ended(told["id"])
    assert "/" not in json.dumps(
        {**done, "links": None, "settings": None, "summary": {**done["summary"], "rate": None}}
    )


def test_a_request_sent_again_makes_no_second_job(server: Server, face: Path):
    sent = {"data": {**QUICK, "template": "short"}, "files": {"portrait": face.read_bytes()}}
    first, second = (server.client.post("/v1/jobs", headers={"Idempotency-Key": "mine"}, **sent) for _ in range(2))
    assert (first.status_code, second.status_code) == (201, 200)
    assert first.json()["id"] == second.json()["id"]


def test_what_grows_can_be_fetched_and_a_job_be_cancelled(server: Server, portrait: Path, toy_model: Path):
    told = post(server, portrait, slow(toy_model, portrait_box="0,0,64,64")).json()
    server.wait(told["id"], lambda job: job["state"] == "running" and job["progress"]["stage"] in ("denoise", "decode"))
    early = server.client.get(told["links"]["result"], headers={"Range": "bytes=0-99"})
    assert early.status_code in (206, 409, 416)
    cancelled = server.client.post(f"/v1/jobs/{told['id']}/cancel")
    assert cancelled.json()["state"] == "cancelled"
    assert server.client.post(f"/v1/jobs/{told['id']}/cancel").status_code == 409
    assert server.client.get(told["links"]["result"]).status_code == 409
    # The worker is free again at once.
    next_job = post(server, portrait, slow(toy_model, template="short", portrait_box="0,0,64,64")).json()
    assert server.ended(next_job["id"])["state"] == "done"


def test_a_result_that_is_followed_while_it_grows_can_be_played(
    server: Server, portrait: Path, toy_model: Path, tmp_path: Path
):
    told = post(server, portrait, slow(toy_model, portrait_box="0,0,64,64")).json()
    server.wait(
        told["id"],
        lambda _: server.client.get(told["links"]["result"], headers={"Range": "bytes=0-9"}).status_code != 409,
    )
    with server.client.stream("GET", told["links"]["result"]) as growing:
        state = growing.headers.get("x-job-state", "done")
        content = b"".join(growing.iter_bytes())
    path = tmp_path / "followed.mp4"
    path.write_bytes(content)
    assert state in ("running", "done")
    with av.open(path) as container:
        assert sum(1 for _ in container.decode(video=0)) == 81


def test_a_removed_job_is_gone(server: Server, face: Path):
    told = post(server, face, {**QUICK, "template": "short"}).json()
    assert server.client.delete(told["links"]["self"]).status_code == 204
    for path in told["links"].values():
        assert server.client.get(path).status_code == 404
    assert server.client.delete(told["links"]["self"]).status_code == 404


def test_jobs_are_listed_page_by_page(server: Server, face: Path):
    made = [post(server, face, {**QUICK, "template": "short"}).json()["id"] for _ in range(3)]
    first = server.client.get("/v1/jobs", params={"limit": 2}).json()["jobs"]
    assert [job["id"] for job in first] == made[:0:-1]
    second = server.client.get("/v1/jobs", params={"limit": 1, "before": made[1]}).json()["jobs"]
    assert [job["id"] for job in second] == made[:1]


def test_what_there_is_to_choose_is_listed(server: Server, toy_model: Path):
    assert server.client.get("/v1/templates").json() == {"templates": ["long", "short"]}
    assert server.client.get("/v1/models").json() == {"models": ["nano", toy_model.name]}
    names = {setting["name"] for setting in server.client.get("/v1/settings").json()["settings"]}
    assert names < Job.settings().keys()
    assert "view" in names
    assert not names & {"output", "sign_key", "lora", "device", "mark"}
    form = server.client.get("/openapi.json").json()["paths"]["/v1/jobs"]["post"]["requestBody"]
    assert names < form["content"]["multipart/form-data"]["schema"]["properties"].keys()


@pytest.mark.parametrize(
    ("data", "status", "complaint"),
    [
        ({"template": "short", "siz": "64"}, 422, "siz: there is no such setting"),
        ({"template": "short", "output": "/etc/passwd"}, 422, "output: there is no such setting"),
        ({"template": "short", "mark": "false"}, 422, "mark: there is no such setting"),
        ({"template": "short", "size": "4000"}, 422, "size: '4000' found; give at most 1280"),
        ({"template": "short", "view": "side", "head": "9"}, 422, "view.*head"),
        ({"template": "short", "model": "../../etc"}, 422, "model: .* choose nano"),
        ({"template": "short", "format": "exe"}, 422, "choose mp4, webm, gif, webp"),
        ({"template": "../../etc/passwd"}, 422, "no template '../../etc/passwd': choose long, short"),
        ({"driving_url": "https://example.com/a.mp4"}, 422, "fetches no addresses"),
        ({}, 422, "no driving"),
    ],
)
def test_what_can_not_be_honoured_is_refused(
    data: dict[str, str], status: int, complaint: str, server: Server, face: Path
):
    answer = post(server, face, data)
    assert answer.status_code == status
    assert re.search(complaint, answer.json()["error"])


def test_forms_that_are_none_are_refused(server: Server):
    assert server.client.post("/v1/jobs", json={"portrait": "a.png"}).status_code == 415
    broken = server.client.post("/v1/jobs", content=b"--x\r\n", headers={"content-type": "multipart/form-data"})
    assert broken.status_code == 400
    assert "multipart" in broken.json()["error"]


def test_swapped_empty_and_damaged_files_are_refused_by_the_clients_names(server: Server, face: Path, motions: Path):
    short = (motions / "short.safetensors").read_bytes()
    for sent, name in (
        ({"portrait": ("talk.mp4", short), "driving": ("face.png", face.read_bytes())}, "talk.mp4"),
        ({"portrait": ("face.png", b""), "driving": ("talk.mp4", short)}, "face.png"),
        ({"portrait": ("../../../face.png", face.read_bytes()[:500]), "driving": ("talk.mp4", short)}, "'face.png"),
        ({"portrait": ("face.png", face.read_bytes()), "driving": ("talk.mp4", short[:100])}, "talk.mp4"),
    ):
        answer = server.client.post("/v1/jobs", files=sent)
        assert answer.status_code == 422
        assert name in answer.json()["error"]
        assert "/" not in answer.json()["error"]


def test_a_server_says_that_it_lives_and_what_it_does(server: Server):
    assert server.client.get("/healthz").status_code == 200
    assert server.client.get("/readyz").json() == {"status": "ready"}
    assert server.client.get("/v1/jobs/none").status_code == 404
    text = server.client.get("/metrics").text
    assert 'flashportrait_jobs{state="done"}' in text
    assert 'path="/v1/jobs/{id}"' in text
    assert server.client.get("/nowhere").json() == {"error": "Not Found"}


def test_the_page_that_shows_the_interface_comes_from_this_server_alone(server: Server):
    page = server.client.get("/docs")
    assert page.status_code == 200
    named = re.findall(r"""(?:src|href)=["']([^"']+)["']""", page.text)
    assert len(named) >= 3
    for address in named:
        assert address.startswith("/")
        assert server.client.get(address).status_code == 200


def test_a_second_server_in_the_same_folder_and_a_taken_port_are_refused(server: Server, tmp_path: Path):
    import subprocess
    import sys

    port = server.client.base_url.port
    command = [sys.executable, "-m", "flashportrait", "serve", "--data", str(tmp_path), "--port", str(port)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2
    assert "is taken" in answer.stderr
    with serving("--data", tmp_path):
        answer = subprocess.run([*command[:-1], "0"], capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2
    assert "another server works" in answer.stderr


def test_a_killed_server_loses_nothing_and_a_stopped_one_stops_well(
    words: list[object], portrait: Path, toy_model: Path, tmp_path: Path
):
    data = slow(toy_model, portrait_box="0,0,64,64")
    first = Server("--data", tmp_path, *words)
    ids = [post(first, portrait, data).json()["id"] for _ in range(2)]
    first.wait(ids[0], lambda job: job["state"] == "running" and job["progress"]["stage"] in ("denoise", "decode"))
    first.stop(__import__("signal").SIGKILL)
    second = Server("--data", tmp_path, *words)
    second.wait(ids[0], lambda job: job["state"] == "running" and job["progress"]["stage"] in ("denoise", "decode"))
    assert second.stop() == 0
    with serving("--data", tmp_path, *words) as third:
        done = [third.ended(id) for id in ids]
        assert [job["state"] for job in done] == ["done", "done"]
        contents = [third.client.get(f"/v1/jobs/{id}/result").content for id in ids]
    for index, content in enumerate(contents):
        (tmp_path / f"{index}.mp4").write_bytes(content)
    # The one that was interrupted twice has the frames of the one that wasn't.
    assert (frames_of(tmp_path / "0.mp4") == frames_of(tmp_path / "1.mp4")).all()


def test_many_clients_at_once_get_each_their_own(server: Server, face: Path):
    results: dict[int, str] = {}

    def client(number: int) -> None:
        settings = {**QUICK, "template": "short", "seed": str(number)}
        results[number] = post(server, face, settings).json()["id"]

    threads = [threading.Thread(target=client, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(results.values())) == 10
    for number, id in results.items():
        told = server.ended(id)
        assert (told["state"], told["settings"]["seed"]) == ("done", number)
