"""Files that the writer signs: intact, broken by any change, the same film as without, read whoever wrote them."""

from __future__ import annotations

import errno
import hashlib
import json
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import c2pa
import numpy as np
import pytest
from PIL import Image

from clips import make_clip, numbered_frame
from conftest import Files
from flashportrait.errors import UserError
from flashportrait.marking import credentials
from flashportrait.marking.certificate import given_identity, local_identity
from flashportrait.marking.credentials import Credentials, Ingredient, can_carry
from flashportrait.marking.label import Label
from flashportrait.marking.reading import BROKEN, INTACT, NONE, read_origin
from flashportrait.media.reader import VideoReader
from flashportrait.media.writer import VideoWriter

MOST_BYTES = 16_384
"""What credentials with two ingredients may add to a file."""


def write(path: Path, frames: int = 30, source: Path | None = None, **marking: Any) -> Path:
    """A clip of numbered frames, with the sound of another."""
    audio = None if source is None else VideoReader(source).audio
    with VideoWriter(path, Fraction(25), audio=audio, **marking) as writer:
        for index in range(frames):
            writer.write(numbered_frame(index))
    return path


def streams(path: Path) -> list[tuple[Any, ...]]:
    """All that a player sees of a file: its streams' clocks and lengths, and each packet."""
    with av.open(str(path)) as container:
        heads = [
            (s.type, s.codec_context.name, s.time_base, s.start_time, s.duration, s.frames) for s in container.streams
        ]
        packets = [(p.stream_index, p.pts, p.dts, p.duration, bytes(p)) for p in container.demux() if p.size]
        return [(container.duration, container.start_time), *heads, *packets]


def flip(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".MP4"])
def test_a_written_file_says_what_made_it_from_what(tmp_path: Path, suffix: str) -> None:
    portrait, driver = tmp_path / "me é.png", make_clip(tmp_path / "drive.mp4", 30, 25)
    Image.new("RGB", (8, 8)).save(portrait)
    parts = [Ingredient.of(portrait, "portrait"), Ingredient.of(driver, "driving video")]
    out = write(tmp_path / f"out{suffix}", model="toy", credentials=Credentials(model="toy", ingredients=parts))
    origin = read_origin(out)
    assert (origin.state, origin.changes, origin.iptc_tag) == (INTACT, (), True)
    assert (origin.program or "").startswith("flashportrait")
    assert (origin.model, origin.actions, origin.source_type) == ("toy", ("c2pa.created",), "trainedAlgorithmicMedia")
    assert (origin.local, origin.trusted) == (True, False)
    assert origin.when is not None
    for source, file in zip(origin.ingredients, (portrait, driver), strict=True):
        assert (source.name, source.sha256) == (file.name, hashlib.sha256(file.read_bytes()).hexdigest())
    json.dumps(origin.to_dict())
    assert sorted(file.name for file in tmp_path.iterdir()) == sorted([portrait.name, driver.name, out.name])


def test_python_callers_get_the_mark_and_can_leave_it_out(tmp_path: Path) -> None:
    assert read_origin(write(tmp_path / "on.mp4", model="toy")).model == "toy"
    origin = read_origin(write(tmp_path / "off.mp4", mark=False))
    assert (origin.state, origin.iptc_tag) == (NONE, False)


def test_a_signed_file_plays_as_an_unsigned_one(tmp_path: Path) -> None:
    source = make_clip(tmp_path / "in.mp4", 75, 25, sound_seconds=3)
    plain = write(tmp_path / "plain.mp4", 75, source, mark=False)
    signed = tmp_path / "signed.mp4"
    signed.write_bytes(plain.read_bytes())
    parts = [Ingredient.of(source, "portrait"), Ingredient.of(source, "driving video")]
    Credentials(model="toy", ingredients=parts).sign(signed, signed.name)
    assert read_origin(signed).state == INTACT
    assert streams(signed) == streams(plain)
    assert signed.stat().st_size - plain.stat().st_size < MOST_BYTES
    for a, b in zip(VideoReader(signed), VideoReader(plain), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("box", [b"mdat", b"moov", b"uuid"])
def test_one_changed_bit_breaks_it(tmp_path: Path, box: bytes) -> None:
    out = write(tmp_path / "out.mp4")
    assert read_origin(out).state == INTACT
    flip(out, out.read_bytes().rindex(box) + 60)
    origin = read_origin(out)
    assert origin.state == BROKEN
    assert origin.changes == ("the video's content was changed after it was signed",)


def test_changed_credentials_break_it(tmp_path: Path) -> None:
    out = write(tmp_path / "out.mp4", model="toymodel")
    data = out.read_bytes()
    position = data.index(b"toymodel")
    flip(out, position)
    origin = read_origin(out)
    assert origin.state == BROKEN
    assert origin.changes


def test_credentials_of_another_program_are_read(tmp_path: Path) -> None:
    plain, out = write(tmp_path / "plain.mp4", mark=False), tmp_path / "other.mp4"
    manifest = {
        "claim_generator_info": [{"name": "Some Camera", "version": "7"}],
        "title": "other.mp4",
        "assertions": [{"label": "c2pa.actions", "data": {"actions": [
            {"action": "c2pa.created", "digitalSourceType": "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"}
        ]}}],
    }  # fmt: skip
    identity = local_identity()
    info = c2pa.C2paSignerInfo(alg=b"es256", sign_cert=identity.chain, private_key=identity.key, ta_url=None)
    with c2pa.Signer.from_info(info) as signer, c2pa.Builder.from_json(json.dumps(manifest)) as builder:
        builder.sign_file(plain, out, signer)
    origin = read_origin(out)
    assert (origin.state, origin.program, origin.model) == (INTACT, "Some Camera 7", None)
    assert (origin.source_type, origin.ingredients, origin.iptc_tag) == ("digitalCapture", (), False)


def test_the_users_certificate_is_trusted_by_those_who_trust_its_authority(tmp_path: Path, signer: Files) -> None:
    out = write(tmp_path / "out.mp4", credentials=Credentials(given_identity(signer.cert, signer.key)))
    plain, trusting = read_origin(out), read_origin(out, signer.authority)
    assert (plain.state, plain.trusted, plain.local, plain.signer) == (INTACT, False, False, "A newspaper, Test")
    assert (trusting.state, trusting.trusted) == (INTACT, True)
    assert not read_origin(write(tmp_path / "own.mp4"), signer.authority).trusted


@pytest.mark.parametrize("suffix", [".webm", ".mkv"])
def test_files_that_carry_no_credentials_have_the_tag(tmp_path: Path, suffix: str) -> None:
    out = write(tmp_path / f"out{suffix}")
    assert not can_carry(out)
    assert (read_origin(out).state, read_origin(out).iptc_tag) == (NONE, True)


@pytest.mark.parametrize("suffix", [".png", ".webp", ".gif"])
def test_pictures_are_signed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"picture{suffix}"
    frames = [Image.fromarray(numbered_frame(index)) for index in range(3)]
    frames[0].save(path, **({"save_all": True, "append_images": frames[1:]} if suffix != ".png" else {}))
    before = [np.asarray(VideoOrPicture.frame(path, index)) for index in range(1 if suffix == ".png" else 3)]
    Credentials(model="toy").sign(path, path.name)
    assert read_origin(path).state == INTACT
    for index, frame in enumerate(before):
        np.testing.assert_array_equal(np.asarray(VideoOrPicture.frame(path, index)), frame)


class VideoOrPicture:
    """Frames of a picture file by number."""

    @staticmethod
    def frame(path: Path, index: int) -> Image.Image:
        with Image.open(path) as image:
            image.seek(index)
            return image.convert("RGB")


def test_what_cannot_be_read_is_broken_or_refused(tmp_path: Path) -> None:
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(np.random.default_rng(0).bytes(5000))
    assert read_origin(noise).state == BROKEN
    (tmp_path / "notes.txt").write_text("words")
    for name, reason in (("notes.txt", "no kind of file"), ("absent.mp4", "no file")):
        with pytest.raises(UserError, match=reason):
            read_origin(tmp_path / name)


def test_without_the_library_one_line_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(UserError, match="can't be read without c2pa-python: pip install c2pa-python"):
        read_origin(tmp_path / "a.mp4")


@pytest.mark.parametrize("failing", ["full", "refused"])
def test_a_file_that_cannot_be_signed_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    marks = Credentials()

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full") if failing == "full" else c2pa.C2paError("it broke")

    monkeypatch.setattr(credentials, "_sign", fail)
    with pytest.raises(UserError, match="disk is full" if failing == "full" else "can't be signed"):
        write(tmp_path / "out.mp4", credentials=marks)
    assert list(tmp_path.iterdir()) == []


def test_the_label_is_on_every_frame(tmp_path: Path) -> None:
    label = Label("AI", "top-left", 25)
    plain, labelled = (list(VideoReader(write(tmp_path / f"{n}.mp4", 5, label=n))) for n in (None, label))
    for before, after in zip(plain, labelled, strict=True):
        assert np.abs(before[:16, :16].astype(int) - after[:16, :16]).max() > 40
        np.testing.assert_allclose(before[16:, 40:], after[16:, 40:], atol=30)
