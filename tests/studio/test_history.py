"""The folder of animations."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from flashportrait.errors import UserError
from flashportrait.job import JobError
from flashportrait.studio.history import CANCELLED, DONE, INTERRUPTED, RUNNING, WAITING, Entry, History


@pytest.fixture
def history(tmp_path: Path) -> History:
    return History(tmp_path / "history", keep=3)


def add(history: History, portrait: Path, template: Path, **settings: object) -> Entry:
    return history.add(portrait, template, settings, {"portrait": "Anna.png", "driver": "x.safetensors"}, b"png")


def test_an_entry_is_all_that_its_job_needs(history: History, portrait: Path, template: Path) -> None:
    entry = add(history, portrait, template, mouth=1.5)
    again = History(history.folder).get(entry.id)
    assert again == entry
    assert again.state == WAITING
    job = again.job()
    assert (job.mouth, job.output) == (1.5, entry.folder / "result.mp4")
    assert job.portrait.read_bytes() == portrait.read_bytes()
    assert job.driving.read_bytes() == template.read_bytes()
    assert again.poster.read_bytes() == b"png"


def test_bad_settings_leave_nothing(history: History, portrait: Path, template: Path) -> None:
    before = sorted(history.folder.rglob("*"))
    with pytest.raises(JobError, match="mouth is 9: give a number from 0 to 5"):
        add(history, portrait, template, mouth=9)
    assert sorted(history.folder.rglob("*")) == before


@pytest.mark.parametrize("name", ["..", "uploads", "../history", "20260101-000000-abcd", "20260101-000000-abcd/..", ""])
def test_only_entries_can_be_named(history: History, portrait: Path, template: Path, name: str) -> None:
    add(history, portrait, template)
    assert history.get(name) is None
    history.delete(name)
    assert len(history.entries()) == 1


def test_the_oldest_that_have_ended_make_room(history: History, portrait: Path, template: Path) -> None:
    entries = []
    for number in range(4):
        folder = add(history, portrait, template).folder
        entries.append(folder.rename(folder.with_name(f"20260101-00000{number}-abcd")).name)
        history.mark(entries[-1], RUNNING if number == 0 else DONE)
    history.prune()
    assert [entry.id for entry in history.entries()] == [entries[3], entries[2], entries[0]]
    with pytest.raises(UserError, match="cancel it first"):
        history.delete(entries[0])


def test_what_was_open_is_interrupted_and_what_is_whole_is_done(
    history: History, portrait: Path, template: Path
) -> None:
    entries = [add(history, portrait, template) for _ in range(3)]
    for entry, state in zip(entries, (RUNNING, RUNNING, CANCELLED), strict=True):
        history.mark(entry.id, state)
    entries[1].output.write_bytes(b"whole")
    assert [entry.id for entry in History(history.folder).interrupt()] == [entries[0].id]
    states = [history.get(entry.id).state for entry in entries]
    assert states == [INTERRUPTED, DONE, CANCELLED]


def test_a_full_disk_is_one_line_and_states_are_remembered(
    history: History, portrait: Path, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = add(history, portrait, template)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("flashportrait.studio.history._write", full)
    with pytest.raises(UserError, match=r"No space left on device\): make room"):
        add(history, portrait, template)
    history.mark(entry.id, DONE)
    assert history.get(entry.id).state == DONE
    assert json.loads((entry.folder / "state.json").read_text())["state"] == WAITING
    monkeypatch.undo()
    history.mark(entry.id, CANCELLED)
    assert History(history.folder).get(entry.id).state == CANCELLED


def test_old_uploads_go(history: History, portrait: Path, template: Path) -> None:
    entry = add(history, portrait, template)
    old, new = history.uploads / "old", history.uploads / "new"
    for folder in (old, new):
        folder.mkdir()
        (folder / "file").touch()
    os.utime(old, (0, 0))
    (history.temporary / "link").symlink_to(entry.folder)
    os.utime(history.temporary / "link", (0, 0), follow_symlinks=False)
    history.clean()
    assert [path.name for path in history.uploads.iterdir()] == ["new"]
    assert list(history.temporary.iterdir()) == []
    assert history.get(entry.id) == entry


def test_a_folder_that_can_not_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="give another with --folder"):
        History(tmp_path / "file" / "history")


def test_entries_of_other_versions_and_damaged_ones_are_left_out(
    history: History, portrait: Path, template: Path
) -> None:
    one, other = add(history, portrait, template), add(history, portrait, template)
    (one.folder / "job.json").write_text("{")
    (other.folder / "state.json").write_text('{"mood": "good"}')
    assert history.entries() == []
