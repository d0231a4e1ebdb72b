"""The service under load and under fire: many clients, many jobs, a server and workers that are killed; bad files.

    python benchmarks/service.py [--quick] [--parts NAME ...] [--media DIR] [--json FILE]

``load``: clients post jobs over the loopback interface, each under a name of its own (``Idempotency-Key``), ask for
them until they have ended, and fetch the results; whatever fails is tried again. Meanwhile the server is killed
(SIGKILL) and started again, and workers are killed. Afterwards every result is compared with what the same job gives by
itself, and the jobs are counted. The machine should have nothing else to do.

``malformed``: clients post damaged files, files of other types, headers that lie and bombs (``malformed.py``); what is
taken is followed to its end and removed. Answers are counted, and what is left of processes and files.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

import malformed
from flashportrait.job import Job, ModelCache, run
from flashportrait.media.reader import VideoReader

ROOT = Path(__file__).resolve().parents[1]
PORTRAITS = (ROOT / "examples" / "portrait_1.jpg", ROOT / "examples" / "drawn_1.png")
FRAMES = (3, 5, 9)
"""Lengths of the drivers."""
SETTINGS = {"view": "face", "size": "128"}
PARTS = ("load", "malformed")
STRANGERS_SETTINGS = {**SETTINGS, "trim": ":1"}
"""The first second of what is taken is animated, so that long clips don't keep the others waiting."""
RETRY_SECONDS = 0.2
POLL_SECONDS = 1.0


class Server:
    """A server that can be killed and started again on the same port and folder."""

    def __init__(self, data: Path, templates: Path, workers: int, temporary: Path | None = None) -> None:
        self._words = ["--data", data, "--templates", templates, "--workers", workers, "--max-waiting", 100_000]
        self._environment = {**os.environ, **({} if temporary is None else {"TMPDIR": str(temporary)})}
        self.templates, self.port = templates, 0
        self.start()

    def start(self) -> None:
        """Start it, and wait until it listens."""
        words = ["-m", "flashportrait", "serve", "--port", self.port, *self._words]
        command = [sys.executable, *map(str, words)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=self._environment)
        assert self.process.stderr is not None
        line = ""
        while not (found := re.search(r"http://127\.0\.0\.1:(\d+)", line)):
            line = self.process.stderr.readline()
            if not line:
                raise SystemExit("the server did not start")
        self.port = int(found[1])
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def kill(self) -> None:
        """As the system would, were memory short."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def worker(self) -> psutil.Process | None:
        """One of its workers that is at work; None if there is none."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
            found = [child for child in children if child.memory_info().rss > 200 << 20]
        except psutil.Error:
            return None
        return random.choice(found) if found else None

    def children(self) -> Counter[str]:
        """What its processes are, and how many of each."""
        found: Counter[str] = Counter()
        for child in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                kinds = ("forkserver", "resource_tracker", "spawn_main")
                kind = next((kind for kind in kinds if any(kind in word for word in child.cmdline())), "other")
                found["zombie" if child.status() == psutil.STATUS_ZOMBIE else kind] += 1
        return found

    def memory(self) -> int:
        """Resident bytes of the server's own process."""
        try:
            return psutil.Process(self.process.pid).memory_info().rss
        except psutil.Error:
            return 0

    def family_memory(self) -> int:
        """Resident bytes of the server and all its processes; what they share is counted for each."""
        total = self.memory()
        with suppress(psutil.Error):
            for child in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.Error):
                    total += child.memory_info().rss
        return total


def cases(folder: Path) -> list[tuple[Path, str]]:
    """Portraits and names of drivers, each with another result."""
    from flashportrait.face.motion import MotionFeatures

    folder.mkdir()
    whole = ROOT / "examples" / "driving_talking.mp4"
    rows = folder.parent / "rows.safetensors"
    subprocess.run([sys.executable, "-m", "flashportrait", "extract", whole, "-o", rows, "--quiet"], check=True)
    motion = MotionFeatures.load(rows)
    for frames in FRAMES:
        motion.trimmed(40, 40 + frames).save(folder / f"{frames}.safetensors")
    return [(portrait, str(frames)) for portrait in PORTRAITS for frames in FRAMES]


def digest(path: Path) -> str:
    """Of a video's frames."""
    return hashlib.sha256(np.stack(list(VideoReader(path))).tobytes()).hexdigest()


def expected(known: Sequence[tuple[Path, str]], templates: Path, folder: Path) -> dict[tuple[Path, str], str]:
    """What each case gives by itself."""
    found = {}
    with ModelCache() as models:
        for portrait, driver in known:
            output = folder / f"{portrait.stem}-{driver}.mp4"
            run(Job(portrait, templates / f"{driver}.safetensors", output, **SETTINGS), models=models)
            found[portrait, driver] = digest(output)
    return found


class Clients:
    """Threads that post jobs, ask how they are, and fetch results.

    Args:
        server: to speak with.
        todo: numbers of jobs and their cases.
        folder: for the results.
    """

    def __init__(self, server: Server, todo: list[tuple[int, tuple[Path, str]]], folder: Path) -> None:
        self._server, self._todo, self._folder = server, todo, folder
        self._lock = threading.Lock()
        self.ids: dict[int, str] = {}
        self.ended: dict[int, str] = {}
        self.status_seconds: list[float] = []
        self.retries = 0

    def work(self) -> None:
        """One client's life."""
        with httpx.Client(timeout=30) as client:
            while True:
                with self._lock:
                    if not self._todo:
                        return
                    number, case = self._todo.pop()
                self._do(client, number, case)

    def _do(self, client: httpx.Client, number: int, case: tuple[Path, str]) -> None:
        portrait, driver = case
        job = self._ask(
            client,
            "POST",
            "/v1/jobs",
            headers={"Idempotency-Key": f"job-{number}"},
            data={**SETTINGS, "template": driver},
            files={"portrait": portrait.read_bytes()},
        ).json()
        self.ids[number] = job["id"]
        while job["state"] in ("queued", "running"):
            time.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))
            started = time.perf_counter()
            job = self._ask(client, "GET", f"/v1/jobs/{job['id']}").json()
            self.status_seconds.append(time.perf_counter() - started)
        if job["state"] == "done":
            content = self._ask(client, "GET", job["links"]["result"]).content
            (self._folder / f"{number}.mp4").write_bytes(content)
        self.ended[number] = job["state"] if job["error"] is None else f"{job['state']}: {job['error']}"

    def _ask(self, client: httpx.Client, method: str, path: str, **request: Any) -> httpx.Response:
        """An answer, tried again while the server is away; waiting for it is not counted as an answer's time."""
        while True:
            try:
                answer = client.request(method, f"http://127.0.0.1:{self._server.port}{path}", **request)
                if answer.status_code < 500:
                    return answer
            except httpx.HTTPError:
                pass
            self.retries += 1
            time.sleep(RETRY_SECONDS)


def measure(jobs: int, clients: int, workers: int, server_kills: int, worker_kills: int) -> dict[str, Any]:
    """One run, in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = cases(folder / "templates")
        right = expected(known, folder / "templates", folder)
        server = Server(folder / "data", folder / "templates", workers)
        todo = [(number, known[number % len(known)]) for number in range(jobs)]
        crowd = Clients(server, list(reversed(todo)), folder)
        started = time.perf_counter()
        threads = [threading.Thread(target=crowd.work, daemon=True) for _ in range(clients)]
        for thread in threads:
            thread.start()
        memory, killed = _under_fire(server, crowd, jobs, server_kills, worker_kills)
        for thread in threads:
            thread.join()
        seconds = time.perf_counter() - started
        results = {number: folder / f"{number}.mp4" for number, _ in todo}
        wrong = [
            number for number, case in todo if not results[number].is_file() or digest(results[number]) != right[case]
        ]
        with httpx.Client(base_url=f"http://127.0.0.1:{server.port}") as client:
            text = client.get("/metrics").text
        on_record = sum(int(float(count)) for count in re.findall(r'flashportrait_jobs\{state="\w+"\} (\S+)', text))
        server.process.send_signal(signal.SIGTERM)
        stopped = server.process.wait(60)
    answers = np.array(crowd.status_seconds) * 1000
    return {
        "jobs": jobs,
        "clients": clients,
        "workers": workers,
        "server killed": killed["server"],
        "workers killed": killed["worker"],
        "results": sum(state == "done" for state in crowd.ended.values()),
        "wrong results": len(wrong),
        "not done": sorted({state for state in crowd.ended.values() if state != "done"}),
        "jobs on record": on_record,
        "different ids": len(set(crowd.ids.values())),
        "requests tried again": crowd.retries,
        "seconds": round(seconds, 1),
        "status calls": len(answers),
        "status call, median, ms": round(float(np.median(answers)), 1),
        "status call, p95, ms": round(float(np.percentile(answers, 95)), 1),
        "server memory, MiB": [round(value / (1 << 20)) for value in memory],
        "exit code": stopped,
    }


def _under_fire(
    server: Server, crowd: Clients, jobs: int, server_kills: int, worker_kills: int
) -> tuple[list[int], dict[str, int]]:
    """Kill what is to be killed, spread over the run; returns the server's memory over time, and what was killed."""
    kills = ["server"] * server_kills + ["worker"] * worker_kills
    random.Random(0).shuffle(kills)
    due = [jobs * (index + 1) // (len(kills) + 1) for index in range(len(kills))]
    killed, memory, looked = {"server": 0, "worker": 0}, [], 0.0
    while len(crowd.ended) < jobs:
        if kills and len(crowd.ended) >= due[0]:
            if kills[0] == "server":
                server.kill()
                server.start()
            elif (worker := server.worker()) is not None:
                worker.kill()
            else:
                time.sleep(0.05)
                continue
            killed[kills.pop(0)] += 1
            due.pop(0)
        if time.perf_counter() - looked > 5:
            looked = time.perf_counter()
            memory.append(server.memory())
        time.sleep(0.05)
    return [*memory, server.memory()], killed


class Strangers:
    """Threads that post malformed files, and remove what comes of those that are taken."""

    def __init__(self, server: Server, posts: Iterator[malformed.Case]) -> None:
        self._server, self._posts, self._lock = server, posts, threading.Lock()
        self.answers: Counter[int] = Counter()
        self.by_kind: dict[str, Counter[int]] = {}
        self.ended: Counter[str] = Counter()
        self.faults: list[str] = []
        self.seconds: list[tuple[float, str]] = []
        """Each answer's, with what was posted."""

    def work(self) -> None:
        """One client's life."""
        portrait, driving = (
            PORTRAITS[1].read_bytes(),
            (self._server.templates / f"{FRAMES[0]}.safetensors").read_bytes(),
        )
        with httpx.Client(base_url=f"http://127.0.0.1:{self._server.port}", timeout=120) as client:
            while True:
                with self._lock:
                    case = next(self._posts, None)
                if case is None:
                    return
                files = {"portrait": ("portrait", portrait), "driving": ("driving", driving)}
                self._post(client, case, {**files, case.field: (case.name, case.content)})

    def _post(self, client: httpx.Client, case: malformed.Case, files: dict[str, tuple[str, bytes]]) -> None:
        started = time.perf_counter()
        answer = client.post("/v1/jobs", data=STRANGERS_SETTINGS, files=files)
        self.seconds.append((time.perf_counter() - started, f"{case.kind}, {case.field} {case.name}"))
        self.answers[answer.status_code] += 1
        self.by_kind.setdefault(case.kind, Counter())[answer.status_code] += 1
        told = answer.json()
        if answer.status_code >= 500 or (answer.status_code != 201 and "\n" in told["error"]):
            self.faults.append(f"{case.kind}, {case.field} {case.name}: {answer.status_code} {told}")
        if answer.status_code != 201:
            return
        links = told["links"]
        while told["state"] in ("queued", "running"):
            time.sleep(RETRY_SECONDS)
            told = client.get(links["self"]).json()
        self.ended[told["state"]] += 1
        if "internal error" in (told["error"] or "") or told["attempts"] > 1:
            self.faults.append(f"{case.kind}, {case.field} {case.name}: {told['error']}, {told['attempts']} attempts")
        if client.delete(links["self"]).status_code != 204:
            self.faults.append(f"{case.kind}, {case.field} {case.name}: its job was not removed")


def measure_malformed(count: int, clients: int, workers: int, media: Path | None) -> dict[str, Any]:
    """One run, in a folder of its own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        known = cases(folder / "templates")
        (folder / "whole").mkdir()
        (folder / "temporary").mkdir()
        data = folder / "data"
        server = Server(data, folder / "templates", workers, folder / "temporary")
        whole = [(number, known[number]) for number in range(workers)]
        warm = Clients(server, list(whole), folder)
        before_memory, peak, everything = server.memory(), [0], [0]
        _together(warm.work, workers)  # so that workers and helpers are up
        before = server.children()
        strangers = Strangers(server, malformed.cases(folder / "whole", count, 0, media))
        done = threading.Event()

        def watch() -> None:
            while not done.wait(0.2):
                peak[0] = max(peak[0], server.memory())
                everything[0] = max(everything[0], server.family_memory())

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.perf_counter()
        _together(strangers.work, clients)
        seconds = time.perf_counter() - started
        done.set()
        watcher.join()
        time.sleep(1)
        after = server.children()
        jobs = {path.name for path in (data / "jobs").iterdir()} - set(warm.ids.values())
        temporary = [path for path in (folder / "temporary").rglob("*") if path.is_file()]
        temporary += [path for path in (data / "tmp").glob("tmp*")]
        again = Clients(server, [(len(whole), known[0])], folder)
        again.work()
        server.process.send_signal(signal.SIGTERM)
        stopped = server.process.wait(60)
    times = sorted(strangers.seconds, reverse=True)
    return {
        "files": sum(strangers.answers.values()),
        "answers": dict(sorted(strangers.answers.items())),
        "answers by kind": {kind: dict(sorted(found.items())) for kind, found in strangers.by_kind.items()},
        "5xx": sum(times for status, times in strangers.answers.items() if status >= 500),
        "jobs of those taken": dict(strangers.ended),
        "faults": strangers.faults,
        "processes before": dict(before),
        "processes after": dict(after),
        "folders of jobs left": len(jobs),
        "temporary files left": [path.name for path in temporary],
        "a whole job afterwards": again.ended[len(whole)],
        "seconds": round(seconds, 1),
        "answer, median, s": round(float(np.median([each for each, _ in times])), 2),
        "answer, p95, s": round(float(np.percentile([each for each, _ in times], 95)), 2),
        "longest answers": [f"{each:.1f} s: {what}" for each, what in times[:8]],
        "server memory, before and peak, MiB": [round(value / (1 << 20)) for value in (before_memory, peak[0])],
        "memory of all its processes, peak, MiB": round(everything[0] / (1 << 20)),
        "exit code": stopped,
    }


def _together(work: Callable[[], None], clients: int) -> None:
    threads = [threading.Thread(target=work) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--quick", action="store_true", help="40 jobs, 10 clients, one server and two workers killed; 120 files"
    )
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--media", type=Path, metavar="DIR", help="pictures and clips to damage beside the examples")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    found = {}
    if "load" in args.parts:
        plan = (40, 10, args.workers, 1, 2) if args.quick else (300, 50, args.workers, 2, 5)
        found["load"] = measure(*plan)
    if "malformed" in args.parts:
        found["malformed"] = measure_malformed(120 if args.quick else 500, 4, args.workers, args.media)
    for part, values in found.items():
        print(part)
        for name, value in values.items():
            print(f"{name:>40}  {value}")
    if args.json is not None:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
