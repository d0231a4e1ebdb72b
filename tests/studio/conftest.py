"""A studio that runs as a person starts it, and a real browser in front of it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from clips import SAMPLE_RATE, beeps
from studios import EXAMPLES, Served

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One studio for all tests of the session."""
    pytest.importorskip("gradio", reason="needs the extra studio")
    studio = Served(tmp_path_factory.mktemp("studio") / "history")
    yield studio
    studio.end()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    """Starts studios of a test's own: ``serve(folder, *options)``."""
    pytest.importorskip("gradio", reason="needs the extra studio")
    started: list[Served] = []

    def start(folder: Path, *options: str) -> Served:
        started.append(Served(folder, *options))
        return started[-1]

    yield start
    for studio in started:
        studio.end()


@pytest.fixture(scope="session")
def webcam(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A film for Chromium to show in a webcam's place."""
    path = tmp_path_factory.mktemp("webcam") / "talking.mjpeg"
    with av.open(str(EXAMPLES / "driving_talking.mp4")) as source, path.open("wb") as target:
        for _, frame in zip(range(50), source.decode(video=0), strict=False):
            frame.to_image().save(target, "JPEG", quality=90)
    return path


@pytest.fixture(scope="session")
def browser(webcam: Path) -> Iterator[Any]:
    """Chromium."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("needs chromium: apt install chromium")
    arguments = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    arguments.append(f"--use-file-for-fake-video-capture={webcam}")
    if os.name != "nt" and os.geteuid() == 0:
        arguments.append("--no-sandbox")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 120 frames of an example, with a sound."""
    path = tmp_path_factory.mktemp("drivers") / "talking <b>.mp4"
    samples = (beeps(4.8) * 32767).astype(np.int16)
    with av.open(str(EXAMPLES / "driving_talking.mp4")) as source, av.open(str(path), "w") as target:
        pictures = target.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        pictures.width, pictures.height, pictures.pix_fmt = 256, 256, "yuv420p"
        sound = target.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        for index, frame in zip(range(120), source.decode(video=0), strict=False):
            frame.pts, frame.time_base = index, Fraction(1, 25)
            target.mux(pictures.encode(frame))
        heard = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
        heard.sample_rate, heard.pts, heard.time_base = SAMPLE_RATE, 0, Fraction(1, SAMPLE_RATE)
        for stream, last in ((sound, heard), (sound, None), (pictures, None)):
            target.mux(stream.encode(last))
    return path
