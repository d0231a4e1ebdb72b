"""Fetching a model from a hub on the loopback interface and from a folder."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from flashportrait.errors import UserError
from flashportrait.weights import download
from flashportrait.weights.download import MODELS, download_model, format_bytes
from flashportrait.weights.hub import FLASHPORTRAIT_REPOSITORY, WAN_REPOSITORY

COMMIT = "0" * 40
WAN_FILES = (
    "model_index.json",
    "tokenizer/spiece.model",
    "text_encoder/model-00001-of-00002.safetensors",
    "text_encoder/model-00002-of-00002.safetensors",
    "image_encoder/model.safetensors",
    "image_processor/preprocessor_config.json",
    "vae/config.json",
)
UNWANTED = "transformer/diffusion_pytorch_model.safetensors"


def contents() -> dict[str, dict[str, bytes]]:
    """Small stand-ins for every file, by repository."""
    released = MODELS["14b"][0].patterns
    return {
        FLASHPORTRAIT_REPOSITORY: {path: path.encode() * 100 for path in (*released, "README.md")},
        WAN_REPOSITORY: {path: path.encode() * 50 for path in (*WAN_FILES, UNWANTED)},
    }


class Hub:
    """As much of a model hub as a download needs; remembers what was asked of it."""

    def __init__(self):
        self.files = contents()
        self.requests: list[tuple[str, str, str | None]] = []
        self.cut: str | None = None
        """Name of a file whose first transfer breaks off halfway."""
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_HEAD(self):
                hub.answer(self, body=False)

            def do_GET(self):
                hub.answer(self, body=True)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer(self, request: BaseHTTPRequestHandler, body: bool) -> None:
        self.requests.append((request.command, request.path, request.headers.get("Range")))
        path = request.path.split("?")[0]
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/revision/\w+)?", path):
            return self.send(request, 200, json.dumps(self.info(match[1])).encode(), {}, body)
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/\w+/(.+)", path)
        data = self.files.get(match[1], {}).get(match[2]) if match else None
        if data is None:
            return self.send(request, 404, b"", {}, body)
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        status = 200
        if ranged := re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("Range") or ""):
            first, status = int(ranged[1]), 206
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
            data = data[first:]
        return self.send(request, status, data, headers, body)

    def info(self, repository: str) -> dict:
        siblings = [
            {
                "rfilename": path,
                "size": len(data),
                "lfs": {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130},
            }
            for path, data in self.files[repository].items()
        ]
        return {"id": repository, "modelId": repository, "sha": COMMIT, "siblings": siblings, "tags": []}

    def send(self, request, status: int, data: bytes, headers: dict, body: bool) -> None:
        request.send_response(status)
        for name, value in ({"Content-Length": str(len(data))} | headers).items():
            request.send_header(name, value)
        request.end_headers()
        if body and self.cut and request.path.endswith(self.cut):
            self.cut = None
            request.wfile.write(data[: len(data) // 2])
            request.close_connection = True
        elif body:
            request.wfile.write(data)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants, hf_api

    server = Hub()
    # huggingface_hub reads HF_ENDPOINT when it is imported, which other tests may have done already.
    template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "ENDPOINT", server.url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(hf_api.constants, "ENDPOINT", server.url)
    yield server
    server.server.shutdown()


def check_complete(folder: Path) -> None:
    for repository, files in contents().items():
        root = folder if repository == FLASHPORTRAIT_REPOSITORY else folder / WAN_REPOSITORY.split("/")[1]
        for path, data in files.items():
            if path in ("README.md", UNWANTED):
                assert not (root / path).exists(), path
            else:
                assert (root / path).read_bytes() == data, path


def offline_folder(root: Path) -> Path:
    for repository, files in contents().items():
        for path, data in files.items():
            target = root / repository.split("/")[1] / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    return root


def test_from_a_hub(hub: Hub, tmp_path: Path):
    lines: list[str] = []
    assert download_model("14b", tmp_path, report=lines.append) == tmp_path
    check_complete(tmp_path)
    text = "\n".join(lines)
    assert "licence Apache-2.0: " in text
    assert re.search(r"licence none stated.*: .*pd_fpg\.pth", text)
    assert f"FLASHPORTRAIT_CACHE={tmp_path}" in text
    assert "free" in text
    assert re.search(r"FrancisRing/FlashPortrait: 7 files, \d+\.\d kB", text)


def test_what_is_there_is_not_fetched_again(hub: Hub, tmp_path: Path):
    download_model("14b", tmp_path, report=str)
    (tmp_path / "transformer.pt").unlink()
    hub.requests.clear()
    download_model("14b", tmp_path, report=str)
    check_complete(tmp_path)
    fetched = {path.split("/main/")[1] for method, path, _ in hub.requests if method == "GET" and "/main/" in path}
    assert fetched <= {"transformer.pt"}


def test_a_transfer_that_breaks_off_is_resumed(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 100)
    hub.cut = "fast_lora_rank64.safetensors"
    download_model("14b", tmp_path, report=str)
    check_complete(tmp_path)
    half = len(contents()[FLASHPORTRAIT_REPOSITORY]["fast_lora_rank64.safetensors"]) // 2
    assert f"bytes={half}-" in {ranged for _, path, ranged in hub.requests if "fast_lora" in path}


def test_a_damaged_file_is_refused(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    honest = hub.info

    def lying(repository: str) -> dict:
        info = honest(repository)
        for sibling in info["siblings"]:
            sibling["lfs"]["sha256"] = "f" * 64
        return info

    monkeypatch.setattr(hub, "info", lying)
    with pytest.raises(UserError, match="sha256"):
        download_model("14b", tmp_path, report=str)


def test_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="--from DIR"):
        download_model("14b", tmp_path, report=str)


def test_offline_mode_is_respected(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE"):
        download_model("14b", tmp_path, report=str)
    assert not hub.requests


@pytest.mark.parametrize("layout", ["by repository", "owner too", "former download"])
def test_from_a_folder(tmp_path: Path, layout: str):
    source = offline_folder(tmp_path / "stick")
    if layout == "owner too":
        for repository in contents():
            owner, name = repository.split("/")
            (source / owner).mkdir()
            (source / name).rename(source / owner / name)
    elif layout == "former download":
        for path in (source / "FlashPortrait").iterdir():
            path.rename(source / path.name)
    download_model("14b", tmp_path / "to", source, report=str)
    check_complete(tmp_path / "to")


def test_a_copy_is_resumed(tmp_path: Path):
    source = offline_folder(tmp_path / "stick")
    (tmp_path / "to").mkdir()
    data = contents()[FLASHPORTRAIT_REPOSITORY]["transformer.pt"]
    marked = b"X" * 10 + data[10:700]
    (tmp_path / "to" / "transformer.pt.part").write_bytes(marked)
    download_model("14b", tmp_path / "to", source, report=str)
    assert (tmp_path / "to" / "transformer.pt").read_bytes() == marked + data[700:], "the first 700 bytes were kept"


def test_an_incomplete_folder_is_named(tmp_path: Path):
    source = offline_folder(tmp_path / "stick")
    (source / "FlashPortrait" / "transformer.pt").unlink()
    with pytest.raises(UserError, match=r"lacks transformer\.pt"):
        download_model("14b", tmp_path / "to", source, report=str)
    with pytest.raises(UserError, match="no folder"):
        download_model("14b", tmp_path / "to", tmp_path / "nowhere", report=str)


def test_too_little_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    source = offline_folder(tmp_path / "stick")
    monkeypatch.setattr(download, "SPARE_BYTES", 1 << 60)
    with pytest.raises(UserError, match="make room"):
        download_model("14b", tmp_path / "to", source, report=str)
    assert not (tmp_path / "to").exists()


def test_unknown_model(tmp_path: Path):
    with pytest.raises(UserError, match="'70b'"):
        download_model("70b", tmp_path, report=str)


@pytest.mark.parametrize(
    ("count", "text"), [(None, "unknown size"), (7, "7 bytes"), (1500, "1.5 kB"), (34_467_479_168, "34.5 GB")]
)
def test_format_bytes(count: int | None, text: str):
    assert format_bytes(count) == text
