"""`flashportrait studio` as a person types it, where it can't begin."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from flashportrait.cli import main


def test_without_the_extra_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)
    assert main(["studio", "--folder", str(tmp_path / "history")]) == 2
    assert capsys.readouterr().err.strip().endswith("pip install 'flashportrait[studio]'")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--port", "70000"], "there is no port 70000"),
        (["--keep", "0"], "--keep is 0"),
        (["--model", "nowhere"], "there is no model folder 'nowhere'"),
        (["--share-token", "no"], "at least 8"),
        (["--host", "203.0.113.7", "--port", "0"], "no address of this machine"),
        (["--threads", "0"], "--threads is '0'"),
    ],
)
def test_bad_words_are_one_line(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("gradio", reason="needs the extra studio")
    assert main(["studio", "--folder", str(tmp_path / "history"), *words]) == 2
    line = capsys.readouterr().err.strip()
    assert said in line
    assert "\n" not in line
    assert list(tmp_path.iterdir()) == []


def test_a_taken_port_is_told_with_a_free_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gradio", reason="needs the extra studio")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["studio", "--folder", str(tmp_path / "history"), "--port", str(port)]) == 2
    assert f"port {port} is taken, perhaps by another studio: try --port " in capsys.readouterr().err
