"""`verify`, and marks as `animate` leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from flashportrait.cli import main
from flashportrait.marking.certificate import LOCAL_FILE
from flashportrait.marking.machine import CONSENT


def animate(model: Path, *words: object) -> int:
    return main(["animate", *map(str, words), "--model", str(model), "--device", "cpu", "--threads", "1"])


def verify(capsys: pytest.CaptureFixture[str], path: Path, *words: str) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main(["verify", str(path), "--json", *words])
    return code, json.loads(capsys.readouterr().out)


def test_what_animate_writes_is_intact_until_it_is_changed(
    toy_model: Path, portrait: Path, template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    assert animate(toy_model, portrait, template, "-o", out, "--label") == 0
    assert "mark: metadata (IPTC); Content Credentials" in capsys.readouterr().out
    code, found = verify(capsys, out)
    assert (code, found["state"], found["model"]) == (0, "intact", "toy")
    assert [(source["name"], source["role"]) for source in found["ingredients"]] == [
        ("portrait.png", "portrait"),
        ("motion.safetensors", "motion template"),
    ]
    assert main(["verify", str(out)]) == 0
    told = capsys.readouterr().out
    assert all(word in told for word in ("intact", "portrait.png", "not trusted", "c2pa.created"))
    data = bytearray(out.read_bytes())
    data[data.rindex(b"mdat") + 60] ^= 1
    out.write_bytes(data)
    code, found = verify(capsys, out)
    assert (code, found["state"]) == (2, "broken")
    assert main(["verify", str(out)]) == 2
    assert "was changed after it was signed" in capsys.readouterr().out


def test_no_mark_is_reported_and_no_ingredients_names_nothing(
    toy_model: Path, portrait: Path, template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    assert animate(toy_model, portrait, template, "-o", out, "--no-mark", "--json", "--quiet") == 0
    assert json.loads(capsys.readouterr().out)["mark"] == "none, as asked for (--no-mark)"
    code, found = verify(capsys, out)
    assert (code, found["state"], found["iptc_tag"]) == (1, "none", False)
    assert animate(toy_model, portrait, template, "-o", out, "--no-ingredients", "--quiet") == 0
    assert verify(capsys, out)[1]["ingredients"] == []
    assert b"portrait.png" not in out.read_bytes()


def test_webm_says_once_what_it_lacks(
    toy_model: Path, portrait: Path, template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.webm"
    assert animate(toy_model, portrait, template, "-o", out) == 0
    assert capsys.readouterr().err.count(".webm file can't carry Content Credentials") == 1
    code, found = verify(capsys, out)
    assert (code, found["iptc_tag"]) == (1, True)


def test_the_first_run_says_the_rule_of_consent_and_whose_certificate_signs(
    toy_model: Path,
    portrait: Path,
    template: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLASHPORTRAIT_CONFIG", str(tmp_path / "config"))
    told = []
    for _ in range(2):
        assert animate(toy_model, portrait, template, "-o", tmp_path / "out.mp4") == 0
        told.append(capsys.readouterr().err)
    assert [CONSENT in lines for lines in told] == [True, False]
    assert [LOCAL_FILE in lines and "untrusted" in lines for lines in told] == [True, False]


def test_what_cannot_sign_is_refused_before_any_work(
    toy_model: Path, portrait: Path, template: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mp4"
    absent = str(tmp_path / "absent.pem")
    for words, reason in (
        (["--sign-cert", absent], "--sign-cert is given without its key"),
        (["--sign-cert", absent, "--sign-key", absent], "can't be read"),
        (["--sign-cert", absent, "--sign-key", absent, "--no-mark"], "left out"),
        (["--label", "合成"], "font lacks"),
        (["--label-size", "50"], "from 1 to 25"),
    ):
        assert animate(toy_model, portrait, template, "-o", out, *words) == 2
        assert reason in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize(("name", "reason"), [("absent.mp4", "no file"), ("notes.txt", "no kind of file")])
def test_what_cannot_be_read_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, reason: str
) -> None:
    (tmp_path / "notes.txt").write_text("words")
    assert main(["verify", str(tmp_path / name)]) == 2
    assert reason in capsys.readouterr().err
