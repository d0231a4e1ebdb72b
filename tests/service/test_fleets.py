"""A server whose jobs run on a real Ray cluster of two nodes; an actor and a node are killed in the middle."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from batches import frames_of, wait_for
from flashportrait.cli import main
from flashportrait.errors import UserError
from flashportrait.job import Job, run
from flashportrait.service.fleets import SEAL, JobActor
from flashportrait.service.settings import ServiceSettings
from serving import Server, serving

SETTINGS = {"template": "long", "steps": "20", "size": "64", "portrait_box": "0,0,64,64"}
"""Of a job that takes a while."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes of one CPU, and a head of none."""
    pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=1)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def on_cluster(cluster: Any, words: list[object], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with an actor on each node."""
    with serving("--data", tmp_path_factory.mktemp("cluster"), "--ray", cluster.address, *words) as running:
        yield running


@pytest.fixture(scope="module")
def portrait(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture of nobody."""
    path = tmp_path_factory.mktemp("portrait") / "portrait.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    return path


@pytest.fixture(scope="module")
def alone(portrait: Path, motions: Path, toy_model: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """Frames of the job run by itself."""
    output = tmp_path_factory.mktemp("alone") / "out.mp4"
    settings = {name: value for name, value in SETTINGS.items() if name != "template"}
    run(Job(portrait, motions / "long.safetensors", output, model=str(toy_model), threads=1, **settings))
    return frames_of(output)


def post(server: Server, portrait: Path, toy_model: Path) -> str:
    """A job's id."""
    sent = {"portrait": (portrait.name, portrait.read_bytes())}
    answer = server.client.post("/v1/jobs", data={**SETTINGS, "model": toy_model.name}, files=sent)
    assert answer.status_code == 201, answer.text
    return answer.json()["id"]


def at_work(told: dict[str, Any]) -> bool:
    return told["state"] == "running" and told.get("progress", {}).get("stage") in ("denoise", "decode")


def result(server: Server, id: str, folder: Path) -> np.ndarray:
    """A result's frames."""
    path = folder / f"{id}.mp4"
    path.write_bytes(server.client.get(f"/v1/jobs/{id}/result").content)
    return frames_of(path)


def actors(*ids: str) -> list[psutil.Process]:
    """Actors whose processes have files of these jobs open."""
    found = []
    for child in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if any(id in file.path for file in child.open_files() for id in ids):
                found.append(child.parent())
    return [process for process in found if process is not None and process.cmdline()[0].startswith("ray::JobActor")]


def test_a_job_is_followed_and_has_the_frames_of_a_run_alone(
    on_cluster: Server, portrait: Path, toy_model: Path, alone: np.ndarray, tmp_path: Path
):
    id = post(on_cluster, portrait, toy_model)
    with on_cluster.client.stream("GET", f"/v1/jobs/{id}/events") as events:
        names = [line.removeprefix("event: ") for line in events.iter_lines() if line.startswith("event: ")]
    assert "running" in names
    assert names[-1] == "done"
    assert np.array_equal(result(on_cluster, id, tmp_path), alone)
    assert "flashportrait_workers 2.0" in on_cluster.client.get("/metrics").text


def test_a_job_whose_actor_is_killed_goes_on_with_another(
    on_cluster: Server, portrait: Path, toy_model: Path, alone: np.ndarray, tmp_path: Path
):
    id = post(on_cluster, portrait, toy_model)
    on_cluster.wait(id, at_work)
    (actor,) = actors(id)
    actor.kill()
    told = on_cluster.ended(id)
    assert (told["state"], told["attempts"]) == ("done", 2)
    assert np.array_equal(result(on_cluster, id, tmp_path), alone)


def test_jobs_are_cancelled_and_removed_and_their_workers_are_free_again(
    on_cluster: Server, portrait: Path, toy_model: Path
):
    first = post(on_cluster, portrait, toy_model)
    on_cluster.wait(first, at_work)
    assert on_cluster.client.post(f"/v1/jobs/{first}/cancel").json()["state"] == "cancelled"
    second = post(on_cluster, portrait, toy_model)
    on_cluster.wait(second, at_work)
    assert on_cluster.client.delete(f"/v1/jobs/{second}").status_code == 204
    assert not (Path(on_cluster.data) / "jobs" / second).exists()
    wait_for(lambda: not actors(first, second))
    assert on_cluster.ended(post(on_cluster, portrait, toy_model))["state"] == "done"


def test_a_killed_server_loses_nothing_and_a_dead_node_costs_a_try(
    cluster: Any,
    words: list[object],
    on_cluster: Server,
    portrait: Path,
    toy_model: Path,
    alone: np.ndarray,
    tmp_path: Path,
):
    id = post(on_cluster, portrait, toy_model)
    on_cluster.wait(id, at_work)
    on_cluster.stop(signal.SIGKILL)
    with serving("--data", on_cluster.data, "--ray", cluster.address, *words) as second:
        second.wait(id, at_work)
        (actor,) = actors(id)
        node = {each.all_processes["raylet"][0].process.pid: each for each in cluster.worker_nodes}[actor.ppid()]
        cluster.remove_node(node)
        told = second.ended(id)
        assert (told["state"], told["attempts"]) == ("done", 2)
        assert np.array_equal(result(second, id, tmp_path), alone)
        assert second.stop() == 0


def test_a_folder_that_is_not_the_servers_is_told_of(tmp_path: Path):
    actor = JobActor(1, ServiceSettings(tmp_path), "the server's")
    with pytest.raises(UserError, match="give a --data folder that all nodes share"):
        actor.ready()
    (tmp_path / SEAL).write_text("another's")
    with pytest.raises(UserError, match="is not the server's"):
        actor.run(Job(Path("a"), Path("b"), tmp_path / "out.mp4"))
    (tmp_path / SEAL).write_text("the server's")
    assert actor.ready() == psutil.Process().pid


@pytest.mark.parametrize(
    ("address", "installed", "complaint"),
    [("127.0.0.1:9", True, "there is no Ray cluster at '127.0.0.1:9'"), ("local", False, "flashportrait[ray]")],
)
def test_without_a_cluster_or_ray_the_server_says_so(
    address: str,
    installed: bool,
    complaint: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
):
    if not installed:
        monkeypatch.setitem(sys.modules, "ray", None)
    assert main(["serve", "--port", "0", "--data", str(tmp_path), "--ray", address]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert len(error.splitlines()) == 1
