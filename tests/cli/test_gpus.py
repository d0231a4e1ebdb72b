"""``--gpus N`` with real processes on the CPU: the frames of one, resumed with another number, ended when one dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import pytest
from safetensors.torch import load_file

from flashportrait.cli import main
from toys import toy_pipeline

EXACT = ("--dtype", "float32")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps of two branches, in windows of three latent frames of 64 px, at which x264 is repeatable."""
    folder = tmp_path_factory.mktemp("models") / "toy"
    pipeline = toy_pipeline(num_inference_steps=8, window=3, overlap=1, emotion_scale=2.0)
    pipeline.register_to_config(framing={"mode": "whole", "resolution": 64})
    pipeline.save_pretrained(folder)
    return folder


def options(model: Path, portrait: Path, template: Path, out: Path) -> list[str]:
    return ["animate", str(portrait), str(template), "-o", str(out), "--model", str(model), "--device", "cpu", *EXACT]


def start(arguments: Sequence[str]) -> subprocess.Popen:
    source = str(Path(__file__).resolve().parents[2] / "src")
    return subprocess.Popen(
        [sys.executable, "-m", "flashportrait", *arguments],
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def latents(work: Path) -> dict[str, np.ndarray]:
    return {file.name: load_file(file)["latents"].numpy() for file in sorted(work.glob("window-*"))}


def frame_count(video: Path) -> int:
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


def test_the_latents_are_those_of_one_process(model, portrait, template, tmp_path):
    alone, together = tmp_path / "alone.mp4", tmp_path / "together.mp4"
    assert main([*options(model, portrait, template, alone), "--keep-work", "--threads", "1"]) == 0
    shared = start([*options(model, portrait, template, together), "--keep-work", "--gpus", "4", "--json"])
    said, error = shared.communicate(timeout=180)
    assert shared.returncode == 0, error
    assert "2 together on each pass" in json.loads(said)["processes"]
    assert frame_count(together) == frame_count(alone) == 11
    one, other = latents(Path(f"{alone}.work")), latents(Path(f"{together}.work"))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5)


def test_a_dead_process_ends_the_job(model, portrait, template, tmp_path):
    out = tmp_path / "out.mp4"
    running = start([*options(model, portrait, template, out), "--gpus", "2", "--steps", "300"])
    work = Path(f"{out}.work")
    deadline = time.monotonic() + 120
    while not (work / "motion.safetensors").exists():
        assert time.monotonic() < deadline
        assert running.poll() is None, running.stderr.read()
        time.sleep(0.02)
    (follower,) = [pid for pid in children(running.pid) if b"RANK=1" in environment(pid)]
    os.kill(follower, signal.SIGKILL)
    error = running.communicate(timeout=60)[1]
    assert running.returncode == 2, error
    assert "process 1 of 2 was ended by SIGKILL" in error
    assert not out.exists()


def test_a_stopped_job_goes_on_with_another_number(model, portrait, template, tmp_path, monkeypatch):
    """Begun by one process and stopped between two rounds, ended by two."""
    from flashportrait.job import Cancelled, Job, run
    from flashportrait.workdir import WorkDirectory

    class AfterSome:
        looks = 0

        def is_set(self) -> bool:
            self.looks += 1
            return self.looks > 12

    alone, out = tmp_path / "alone.mp4", tmp_path / "out.mp4"
    settings = {"model": str(model), "device": "cpu", "dtype": "float32", "threads": 1, "keep_work": True}
    run(Job(portrait, template, alone, **settings))
    monkeypatch.setattr("flashportrait.workdir.STATE_INTERVAL_SECONDS", 0.0)
    with pytest.raises(Cancelled):
        run(Job(portrait, template, out, **settings), cancel=AfterSome())
    assert WorkDirectory.has_progress(Path(f"{out}.work"))
    ended = start(["resume", f"{out}.work", "--keep-work", "--gpus", "2"])
    error = ended.communicate(timeout=120)[1]
    assert ended.returncode == 0, error
    one, other = latents(Path(f"{alone}.work")), latents(Path(f"{out}.work"))
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_allclose(one[name], other[name], rtol=1e-4, atol=1e-5)


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def environment(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")


def test_more_processes_than_gpus_are_refused(portrait, template, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    command = ["animate", str(portrait), str(template), "-o", str(tmp_path / "out.mp4"), "--gpus", "2"]
    assert main(command) == 2
    assert "--gpus is 2, but this machine has 0" in capsys.readouterr().err
    assert main([*command[:-1], "0"]) == 2
    assert "give 1 or more" in capsys.readouterr().err
