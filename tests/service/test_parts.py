"""Keys, the list of jobs, expiry, addresses: by themselves."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from flashportrait.errors import UserError
from flashportrait.intake import Limits
from flashportrait.service import fetching
from flashportrait.service.errors import Refused
from flashportrait.service.expiry import Sweeper
from flashportrait.service.fetching import check_address, fetch
from flashportrait.service.keys import Keys, add_key, digest_of
from flashportrait.service.service import Service
from flashportrait.service.settings import ServiceSettings
from flashportrait.service.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty list."""
    return Store(tmp_path / "jobs.sqlite")


def fill(store: Store, count: int, owner: str = "ada") -> list[str]:
    """Some jobs' ids, in order."""
    return [store.add(f"{owner}-{number}", owner, {"a": 1}, {}, None).id for number in range(count)]


def test_keys_are_kept_as_hashes_alone(tmp_path: Path):
    file = tmp_path / "keys.json"
    first, second = add_key(file, "ada", waiting=2, daily=3), add_key(file, "bob")
    assert first not in file.read_text()
    assert file.stat().st_mode & 0o077 == 0
    keys = Keys(file)
    owner = keys.owner(first)
    assert owner is not None
    assert (owner.name, owner.waiting, owner.daily, owner.sha256) == ("ada", 2, 3, digest_of(first))
    assert keys.owner(second).name == "bob"
    assert keys.owner(None) is keys.owner("") is keys.owner(first[:-1]) is None
    assert Keys(None).owner(None).name == "anyone"


def test_keys_come_and_go_while_a_server_runs(tmp_path: Path):
    file = tmp_path / "keys.json"
    first = add_key(file, "ada")
    keys = Keys(file)
    second = add_key(file, "bob")
    assert keys.owner(second).name == "bob"
    entries = [each for each in json.loads(file.read_text())["keys"] if each["name"] != "ada"]
    file.write_text(json.dumps({"keys": entries}) + " ")
    assert keys.owner(first) is None


@pytest.mark.parametrize("content", ["", "[]", '{"keys": [{"name": "ada"}]}', '{"keys": [{"nom": "ada"}]}'])
def test_what_is_no_file_of_keys_is_refused(content: str, tmp_path: Path):
    file = tmp_path / "keys.json"
    file.write_text(content)
    with pytest.raises(UserError, match="not a file of keys"):
        Keys(file)
    with pytest.raises(UserError, match="can't be read"):
        Keys(tmp_path / "gone.json")


def test_a_name_has_one_key(tmp_path: Path):
    add_key(tmp_path / "keys.json", "ada")
    with pytest.raises(UserError, match="choose another name"):
        add_key(tmp_path / "keys.json", "ada")


def test_jobs_are_taken_in_order_and_never_twice(store: Store):
    ids = fill(store, 40)
    taken: list[str] = []

    def take() -> None:
        while (entry := store.take()) is not None:
            taken.append(entry.id)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(taken) == sorted(ids)
    assert {entry.attempts for entry in store.in_state("running")} == {1}


def test_a_job_that_is_put_back_is_the_next(store: Store):
    first, second = fill(store, 2)
    store.take()
    store.put_back(first)
    assert store.place(store[second]) == 1
    again = store.take()
    assert (again.id, again.attempts) == (first, 2)
    store.put_back(first, again=True)
    assert store[first].attempts == 1


def test_a_job_ends_once(store: Store):
    (id,) = fill(store, 1)
    assert store.end(id, "cancelled")
    assert not store.end(id, "done", summary={"frames": 3})
    assert (store[id].state, store[id].summary) == ("cancelled", None)
    store.put_back(id)
    assert store.take() is None


def test_one_name_makes_one_job_for_each_owner(store: Store):
    first = store.add("a", "ada", {}, {}, "mine")
    assert store.add("b", "ada", {}, {}, "mine").id == first.id
    assert store.add("c", "bob", {}, {}, "mine").id == "c"
    with pytest.raises(KeyError):
        store["b"]


def test_the_list_is_there_after_a_restart(store: Store, tmp_path: Path):
    ids = fill(store, 3)
    store.take()
    store.close()
    again = Store(tmp_path / "jobs.sqlite")
    assert [entry.id for entry in again.in_state("running")] == ids[:1]
    assert again.count("queued", owner="ada") == 2
    assert [entry.id for entry in again.of_owner("ada", 2)] == ids[:0:-1]


def test_what_has_expired_is_removed(store: Store, tmp_path: Path):
    settings = ServiceSettings(tmp_path, keep_seconds=100)
    ids = fill(store, 3)
    for name in [*ids, "unknown"]:
        (settings.jobs / name).mkdir(parents=True)
    store.end(ids[0], "done", summary={})
    ended = store[ids[0]].ended
    sweeper = Sweeper(settings, store)
    sweeper.sweep(ended + 99)
    assert (settings.jobs / ids[0]).is_dir()
    sweeper.sweep(ended + 101)
    assert not (settings.jobs / ids[0]).exists()
    assert store[ids[0]].state == "expired"
    assert (settings.jobs / "unknown").is_dir()
    sweeper.sweep(ended + 4000)
    assert not (settings.jobs / "unknown").exists()
    assert (settings.jobs / ids[1]).is_dir()
    with pytest.raises(KeyError):
        store[ids[0]]


def test_rows_of_drivers_and_files_of_killed_workers_are_removed_in_time(store: Store, tmp_path: Path):
    settings = ServiceSettings(tmp_path, keep_seconds=100)
    settings.jobs.mkdir()
    rows, left, kept = tmp_path / "motions" / "a.safetensors", tmp_path / "tmp" / "tmpabc", tmp_path / "tmp" / "cache"
    for folder in (rows.parent, left, kept):
        folder.mkdir(parents=True)
    rows.touch()
    written = rows.stat().st_mtime
    sweeper = Sweeper(settings, store)
    sweeper.sweep(written + 90)
    assert rows.is_file()
    assert left.is_dir()
    sweeper.sweep(written + 200)
    assert not rows.exists()
    assert left.is_dir()
    sweeper.sweep(written + 25 * 3600)
    assert not left.exists()
    assert kept.is_dir()


@pytest.mark.parametrize(
    "address",
    [
        "http://example.com/a.mp4",
        "file:///etc/passwd",
        "https://example.com:8443/a.mp4",
        "https://user:secret@example.com/a.mp4",
        "https:///a.mp4",
        "https://[::1",
        "",
    ],
)
def test_addresses_of_other_kinds_are_refused(address: str):
    with pytest.raises(Refused, match="https://"):
        check_address(address)


@pytest.mark.parametrize(
    "found",
    ["127.0.0.1", "10.1.2.3", "192.168.0.1", "169.254.169.254", "172.16.0.1", "::1", "fd00::1", "0.0.0.0", "224.0.0.1"],
)
def test_hosts_in_private_networks_are_refused(found: str, monkeypatch: pytest.MonkeyPatch):
    def look_up(*_: Any, **__: Any) -> list[Any]:
        return [(0, 0, 0, "", ("93.184.216.34", 443)), (0, 0, 0, "", (found, 443))]

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    with pytest.raises(Refused, match="private network"):
        check_address("https://example.com/a.mp4")


class Answers:
    """Stands for the network: answers of hosts, by their network address and path."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, answers: dict[str, Any]) -> None:
        import httpx

        self.asked: list[tuple[str, str, str]] = []
        hosts = {"good.example": "93.184.216.34", "inner.example": "10.0.0.1"}

        def look_up(host: str, *_: Any, **__: Any) -> list[Any]:
            return [(0, 0, 0, "", (hosts[host], 443))]

        def answer(request: httpx.Request) -> httpx.Response:
            self.asked.append((request.url.host, request.headers["host"], request.extensions["sni_hostname"]))
            return answers[request.url.path]

        client = httpx.Client
        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        monkeypatch.setattr(
            fetching.httpx, "Client", lambda **options: client(transport=httpx.MockTransport(answer), **options)
        )


def test_a_file_is_fetched_from_the_address_that_was_checked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    import httpx

    moved = httpx.Response(302, headers={"location": "/b.mp4"})
    network = Answers(monkeypatch, {"/a.mp4": moved, "/b.mp4": httpx.Response(200, content=iter([b"vid", b"eo"]))})
    fetch("https://good.example/a.mp4", tmp_path / "file", Limits())
    assert (tmp_path / "file").read_bytes() == b"video"
    assert network.asked == [("93.184.216.34", "good.example", "good.example")] * 2


@pytest.mark.parametrize(
    ("path", "status", "complaint"),
    [
        ("/inner", 422, "private network"),
        ("/loop", 422, "redirected more than"),
        ("/gone", 422, "answered 404"),
        ("/large", 413, "more than"),
    ],
)
def test_what_can_not_be_fetched_is_refused(
    path: str, status: int, complaint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    import httpx

    answers = {
        "/inner": httpx.Response(302, headers={"location": "https://inner.example/secret"}),
        "/loop": httpx.Response(302, headers={"location": "/loop"}),
        "/gone": httpx.Response(404),
        "/large": httpx.Response(200, content=iter([bytes(600)] * 3)),
    }
    Answers(monkeypatch, answers)
    with pytest.raises(Refused, match=complaint) as refusal:
        fetch(f"https://good.example{path}", tmp_path / "file", Limits(bytes=1000))
    assert refusal.value.status == status


def test_a_server_with_no_workers_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="from 1 up"):
        ServiceSettings(tmp_path, workers=0)


def test_a_job_that_runs_always_tells_how_far_it_is(tmp_path: Path):
    service = Service(ServiceSettings(tmp_path, workers=1), Keys(None))
    try:
        (id,) = fill(service.store, 1)
        waiting = service.store[id]
        taken = service.store.take()  # by a dispatcher that has not noted it yet
        assert taken is not None
        assert service.status(taken)["progress"] | {"stage": "load", "done": 0} == service.status(taken)["progress"]
        service.store.end(id, "done", summary={"frames": 3})
        told = service.status(taken)  # it ended after it had been looked up
        assert (told["state"], told["summary"], "progress" in told) == ("done", {"frames": 3}, False)
        assert "progress" not in service.status(waiting)
    finally:
        service.store.close()
