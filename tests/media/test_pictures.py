"""PNG files: numbered from 0, exact, all there or none, and never in the place of others."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from clips import numbered_frame
from flashportrait.errors import UserError
from flashportrait.marking.provenance import DIGITAL_SOURCE_TYPE, is_marked
from flashportrait.media.pictures import numbered_files
from flashportrait.media.writer import VideoWriter, check_output


def write(path: Path, frames: int) -> None:
    with VideoWriter(path, Fraction(25), model="toy") as writer:
        for index in range(frames):
            writer.write(numbered_frame(index, 81, 33))


@pytest.mark.parametrize(
    ("output", "names"),
    [
        ("shot", ["shot/frame_000000.png", "shot/frame_000001.png", "shot/frame_000002.png"]),
        ("f_%04d.png", ["f_0000.png", "f_0001.png", "f_0002.png"]),
        ("take%d.PNG", ["take0.PNG", "take1.PNG", "take2.PNG"]),
    ],
)
def test_every_frame_is_a_marked_picture_to_the_bit(tmp_path: Path, output: str, names: list[str]) -> None:
    write(check_output(tmp_path / output), 3)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.[pP]*")) == names
    for index, name in enumerate(names):
        with Image.open(tmp_path / name) as image:
            assert np.array_equal(np.asarray(image), numbered_frame(index, 81, 33))
            assert DIGITAL_SOURCE_TYPE in image.text["XML:com.adobe.xmp"]
        assert is_marked(tmp_path / name)


def test_an_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "shot").mkdir()
    write(tmp_path / "shot", 2)
    assert len(list((tmp_path / "shot").iterdir())) == 2


@pytest.mark.parametrize("output", ["shot", "f_%04d.png"])
def test_nothing_is_there_before_the_end_nor_after_an_error(tmp_path: Path, output: str) -> None:
    def fail() -> None:
        with VideoWriter(tmp_path / output, Fraction(25)) as writer:
            writer.write(numbered_frame(0))
            assert [path.name[0] for path in tmp_path.iterdir()] == ["."]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_replaced(tmp_path: Path) -> None:
    write(tmp_path / "shot", 1)
    write(tmp_path / "f_%04d.png", 1)
    (tmp_path / "plain").write_text("a file")
    for output, words in (
        ("shot", "holds files already"),
        ("f_%04d.png", "f_0000.png' is there already"),
        ("plain", "is a file"),
        ("no/f_%04d.png", "no folder"),
        ("no/shot", "no folder"),
        ("one.png", r"one_%04d.png"),
    ):
        with pytest.raises(UserError, match=words):
            check_output(tmp_path / output)


def test_numbered_files_are_sorted_by_number(tmp_path: Path) -> None:
    for name in ("f10.png", "f9.png", "f09.png", "f.png", "f1.jpg", "g1.png", "f100.png"):
        (tmp_path / name).touch()
    assert [path.name for path in numbered_files(tmp_path / "f%d.png")] == ["f09.png", "f9.png", "f10.png", "f100.png"]
