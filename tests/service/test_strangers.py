"""What strangers may try: without keys, with too much, with damaged media, with whatever the interface allows."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest
from PIL import Image

from serving import Server, serving


def new_key(file: Path, name: str, *words: str) -> str:
    """A key, made as its owner would."""
    command = [sys.executable, "-m", "flashportrait", "serve", "--key-file", str(file), "--new-key", name, *words]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[0]


def post(server: Server, key: str, face: Path) -> httpx.Response:
    data = {"view": "face", "size": "64", "template": "short"}
    headers = {"Authorization": f"Bearer {key}"}
    return server.client.post("/v1/jobs", data=data, files={"portrait": face.read_bytes()}, headers=headers)


def test_keys_part_clients_and_bound_them(face: Path, motions: Path, tmp_path: Path):
    file = tmp_path / "keys.json"
    ada, bob = new_key(file, "ada", "--waiting", "1", "--daily", "2"), new_key(file, "bob")
    with serving("--data", tmp_path / "data", "--key-file", file, "--templates", motions) as server:
        assert post(server, "fp_wrong", face).status_code == 401
        assert server.client.get("/v1/jobs").headers["www-authenticate"] == "Bearer"
        assert server.client.get("/healthz").status_code == 200
        first = post(server, ada, face).json()["id"]
        headers = {"X-API-Key": ada}
        path = f"/v1/jobs/{first}"
        assert server.client.get(path, headers={"X-API-Key": bob}).status_code == 404
        assert server.client.delete(path, headers={"X-API-Key": bob}).status_code == 404
        assert server.client.get("/v1/jobs", headers={"X-API-Key": bob}).json() == {"jobs": []}
        too_many = post(server, ada, face)
        assert too_many.status_code == 429
        assert int(too_many.headers["retry-after"]) > 0
        while server.client.get(path, headers=headers).json()["state"] in ("queued", "running"):
            pass
        assert post(server, ada, face).status_code == 201
        assert post(server, ada, face).status_code == 429


def test_a_server_is_not_opened_to_others_without_keys(tmp_path: Path):
    command = [sys.executable, "-m", "flashportrait", "serve", "--host", "0.0.0.0", "--data", str(tmp_path)]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 2
    assert "--new-key" in answer.stderr


def test_pages_of_other_sites_can_not_use_a_server_without_keys(server: Server):
    own = f"http://{server.client.base_url.host}:{server.client.base_url.port}"
    assert server.client.get("/v1/jobs", headers={"Origin": own}).status_code == 200
    assert server.client.get("/v1/jobs", headers={"Origin": "https://elsewhere.example"}).status_code == 403
    assert server.client.get("/v1/jobs", headers={"Host": "elsewhere.example:80"}).status_code == 403


def test_files_that_are_too_large_are_refused_before_they_have_come(face: Path, tmp_path: Path):
    with serving("--data", tmp_path, "--max-mib", 0.1) as server:
        stated = server.client.post("/v1/jobs", files={"portrait": face.read_bytes(), "driving": bytes(1 << 20)})
        assert stated.status_code == 413

        def endless():
            yield b'--x\r\nContent-Disposition: form-data; name="portrait"; filename="a"\r\n\r\n'
            for _ in range(100):
                yield bytes(1 << 16)

        headers = {"content-type": "multipart/form-data; boundary=x"}
        assert server.client.post("/v1/jobs", content=endless(), headers=headers).status_code == 413
        assert list((tmp_path / "jobs").iterdir()) == []


def test_damaged_media_are_refused_and_leave_nothing(server: Server, face: Path, motions: Path):
    """Cut, overwritten and shuffled files: each is taken or refused with a line; a server never fails."""
    generator = np.random.default_rng(0)
    whole = {"portrait": face.read_bytes(), "driving": (motions / "short.safetensors").read_bytes()}
    data = Path(server.data) / "jobs"
    before = {path.name for path in data.iterdir()}
    for number in range(40):
        name = ("portrait", "driving")[number % 2]
        content = bytearray(whole[name])
        if number % 4 < 2:
            content = content[: generator.integers(0, len(content))]
        else:
            for place in generator.integers(0, len(content), 20):
                content[place] = generator.integers(256)
        sent = {**whole, name: bytes(content)}
        answer = server.client.post("/v1/jobs", data={"view": "face", "size": "64"}, files=sent)
        assert answer.status_code in (201, 422), answer.text
        if answer.status_code == 201:
            server.ended(answer.json()["id"])
            server.client.delete(answer.json()["links"]["self"])
    assert {path.name for path in data.iterdir()} == before
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert not [child for child in children if child.status() == psutil.STATUS_ZOMBIE]


def test_a_crowd_of_large_pictures_is_looked_at_a_few_at_a_time(server: Server, motions: Path, tmp_path: Path):
    Image.new("L", (7000, 7000)).save(tmp_path / "large.png")
    content, short = (tmp_path / "large.png").read_bytes(), (motions / "short.safetensors").read_bytes()
    statuses, most = [], 0

    def send() -> None:
        files = {"portrait": content, "driving": short}
        statuses.append(httpx.post(f"{server.client.base_url}/v1/jobs", files=files, timeout=120).status_code)

    threads = [threading.Thread(target=send) for _ in range(7)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        for child in psutil.Process(server.process.pid).children():
            if any("forkserver" in word for word in child.cmdline()):
                most = max(most, len(child.children()))
        time.sleep(0.02)
    assert statuses == [422] * 7
    assert 1 <= most <= 4


@pytest.mark.filterwarnings("ignore")
def test_whatever_the_interface_allows_is_answered(server: Server):
    """schemathesis: requests made from the OpenAPI document, valid and invalid; no answer may be a server's error."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, given, settings

    schema = schemathesis.openapi.from_url(f"{server.client.base_url}/openapi.json")
    tried = 0
    for result in schema.get_all_operations():
        operation = result.ok()
        if operation.path == "/v1/jobs/{id}/events":
            continue  # endless by design

        @given(case=operation.as_strategy())
        @settings(max_examples=12, deadline=None, database=None, suppress_health_check=list(HealthCheck))
        def check(case) -> None:
            nonlocal tried
            tried += 1
            assert case.call().status_code < 500

        check()
    assert tried > 60
