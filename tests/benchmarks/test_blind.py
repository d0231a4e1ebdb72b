"""Blind sheets of resting faces: what was chosen is counted by the key."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

import blind
from flashportrait.inputs import MOTIONS

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = {"1": ["absolute", "relative", "adapted"], "2": ["adapted", "absolute", "relative"]}


def test_choices_are_counted_by_kind_of_motion() -> None:
    assert blind.tally("1 C\n2 AB\n", KEY) == {"adapted": 1.5, "absolute": 0.5, "none": 0}
    assert blind.tally("1 -\n\n2 C", KEY) == {"relative": 1, "none": 1}


@pytest.mark.parametrize("line", ["3 A", "1 D", "1"])
def test_a_line_that_is_no_choice_is_named(line: str) -> None:
    with pytest.raises(ValueError, match=f"'{line}' found"):
        blind.tally(line, KEY)


def test_sheets_show_the_driver_and_all_kinds_and_keep_the_key_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Image.open(EXAMPLES / "portrait_1.jpg") as picture:
        faces = [picture.resize((192, 192)), picture.rotate(4).resize((192, 192))]
    for number in range(6):
        (tmp_path / "driver").mkdir(exist_ok=True)
        faces[number % 2].save(tmp_path / "driver" / f"{number}.png")
    out = tmp_path / "out"
    options = ["--drivers", str(tmp_path / "driver"), "--out", str(out), "--tile", "32", "--frames", "2", "--seed", "1"]
    monkeypatch.setattr(sys, "argv", ["blind.py", str(EXAMPLES / "portrait_1.jpg"), *options])
    blind.main()
    with Image.open(out / "01.png") as sheet:
        assert sheet.size == (22 + 2 * 32, 14 + 4 * 32)
    key = json.loads((out / blind.KEY).read_text())
    assert sorted(key["1"]) == sorted(MOTIONS)
    (tmp_path / "verdict.txt").write_text("1 B\n")
    monkeypatch.setattr(sys, "argv", ["blind.py", "--out", str(out), "--verdict", str(tmp_path / "verdict.txt")])
    blind.main()
    assert f"{key['1'][1]} 1.0" in capsys.readouterr().out
