"""Sheets of what the mesh draws."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

import sheets

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_an_extreme_row_asks_for_its_actions_of_both_sides_and_keeps_the_rest_of_the_pose() -> None:
    own = torch.full((57,), 0.1)
    rows = dict(zip(sheets.EXTREMES, sheets.extreme_rows(own), strict=True))
    assert torch.equal(rows["own"], own)
    smile = rows["smile"][6:]
    assert [smile[sheets.BLENDSHAPE_NAMES.index(f"mouthSmile{side}")] for side in ("Left", "Right")] == [0.9, 0.9]
    assert smile[sheets.BLENDSHAPE_NAMES.index("jawOpen")] == 0
    assert torch.equal(rows["smile"][:6], own[:6])
    assert rows["left"][0] > 0.5


def test_a_sheet_has_a_row_a_portrait_and_names_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a_black.png")
    Image.open(EXAMPLES / "portrait_1.jpg").resize((192, 192)).save(tmp_path / "b_face.png")
    out = tmp_path / "sheet.png"
    options = ["--out", str(out), "--size", "64", "--tile", "32", "--crop", "mouth"]
    monkeypatch.setattr(sys, "argv", ["sheets.py", str(tmp_path), *options])
    sheets.main()
    with Image.open(out) as sheet:
        assert sheet.size == (22 + 32 * len(sheets.EXTREMES), 14 + 32)
    assert "a_black.png is left out" in capsys.readouterr().err
