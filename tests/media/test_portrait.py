"""Any still picture becomes upright, opaque sRGB."""

from __future__ import annotations

import io
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, features

from flashportrait.errors import UserError
from flashportrait.media.pixels import BACKDROP
from flashportrait.media.portrait import load_portrait, reduction


def halves(width: int = 96, height: int = 64) -> np.ndarray:
    """uint8 [h, w, 3], red on the left, blue on the right."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2, 0] = 220
    pixels[:, width // 2 :, 2] = 220
    return pixels


def distance(image: Image.Image, expected: np.ndarray) -> float:
    return float(np.abs(np.asarray(image, np.int64) - expected).mean())


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".webp", ".bmp", ".tiff", ".gif"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"portrait{suffix}"
    Image.fromarray(halves()).save(path)
    image = load_portrait(path)
    assert (image.mode, image.size) == ("RGB", (96, 64))
    assert distance(image, halves()) < 4


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int) -> None:
    undo = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]
    stored = Image.fromarray(halves())
    stored = stored if undo is None else stored.transpose(Image.Transpose(undo))
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "turned.png", exif=exif)
    assert distance(load_portrait(tmp_path / "turned.png"), halves()) == 0


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_shows_mid_grey(tmp_path: Path, mode: str) -> None:
    rgba = np.full((64, 64, 4), 255, np.uint8)
    rgba[:32, :, 3] = 0
    Image.fromarray(rgba).convert(mode).save(tmp_path / "cut-out.png")
    pixels = np.asarray(load_portrait(tmp_path / "cut-out.png"))
    assert tuple(pixels[10, 10]) == BACKDROP
    assert tuple(pixels[50, 10]) == (255, 255, 255)


def test_half_transparency_blends() -> None:
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 128))
    assert np.abs(np.asarray(load_portrait(image))[0, 0].astype(int) - [192, 64, 64]).max() <= 1


def test_sixteen_bits_and_cmyk_and_bilevel(tmp_path: Path) -> None:
    ramp = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(ramp).save(tmp_path / "deep.png")
    assert distance(load_portrait(tmp_path / "deep.png"), np.rint(ramp / 257)[..., None]) < 1
    Image.fromarray(halves()).convert("CMYK").save(tmp_path / "print.jpg")
    assert distance(load_portrait(tmp_path / "print.jpg"), halves()) < 6
    assert set(np.unique(load_portrait(Image.fromarray(halves()).convert("1")))) <= {0, 255}


def test_an_embedded_profile_is_converted_and_a_broken_one_passed_over(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 64), (120, 60, 30))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    image.save(tmp_path / "tagged.png", icc_profile=srgb)
    assert distance(load_portrait(tmp_path / "tagged.png"), np.asarray(image)) <= 1
    image.save(tmp_path / "broken.png", icc_profile=b"no profile")
    assert distance(load_portrait(tmp_path / "broken.png"), np.asarray(image)) == 0
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    image.save(tmp_path / "odd.png", icc_profile=lab)
    assert load_portrait(tmp_path / "odd.png").mode == "RGB"


def test_bad_pictures_are_refused_in_one_line(tmp_path: Path) -> None:
    Image.new("RGB", (63, 500)).save(tmp_path / "tiny.png")
    Image.new("1", (8193, 64)).save(tmp_path / "wide.png")
    Image.new("1", (20000, 20000)).save(tmp_path / "bomb.png")
    (tmp_path / "text.png").write_text("hello")
    (tmp_path / "empty.png").write_bytes(b"")
    whole = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8)).save(whole, "JPEG")
    (tmp_path / "cut.jpg").write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    reasons = {
        "tiny.png": "63x500",
        "wide.png": "8193x64",
        "bomb.png": "268 million",
        "https://example.org/face.jpg": "addresses are not fetched",
        "text.png": "not a picture",
        "empty.png": "not a picture",
        "cut.jpg": "is it complete",
        "missing.png": "no file",
        ".": "folder",
    }
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason) as caught:
            load_portrait(name if "://" in name else tmp_path / name)
        assert "\n" not in str(caught.value)


def quarters(width: int, height: int) -> np.ndarray:
    """uint8 [h, w], dark but for its upper left quarter."""
    pixels = np.full((height, width), 30, np.uint8)
    pixels[: height // 2, : width // 2] = 220
    return pixels


@pytest.mark.parametrize(
    ("name", "mode", "size", "expected"),
    [
        ("phone.jpg", "L", (12000, 9000), (6000, 4500)),
        ("wide.jpg", "RGB", (17000, 400), (4250, 100)),
        ("deep.png", "I;16", (8200, 200), (4100, 100)),
        ("few.png", "1", (8193, 300), (4097, 150)),
        ("palette.gif", "P", (8400, 300), (4200, 150)),
        ("ink.tiff", "CMYK", (8400, 300), (4200, 150)),
        ("clear.webp", "RGBA", (8200, 300), (4100, 150)),
    ],
)
def test_large_pictures_are_reduced_by_a_whole_factor(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    name: str,
    mode: str,
    size: tuple[int, int],
    expected: tuple[int, int],
) -> None:
    picture = Image.fromarray(quarters(*size))
    picture = Image.fromarray(np.asarray(picture, np.uint16) * 257) if mode == "I;16" else picture.convert(mode)
    picture.save(tmp_path / name)
    portrait = load_portrait(tmp_path / name)
    assert (portrait.mode, portrait.size) == ("RGB", expected)
    assert reduction(portrait) == pytest.approx(size[0] / expected[0])
    seen = np.asarray(portrait.convert("L").resize((2, 2), Image.Resampling.BOX)).astype(int)
    truth = np.array([[255, 0], [0, 0]] if mode == "1" else [[220, 30], [30, 30]])
    assert np.abs(seen - truth).max() < (40 if mode in ("1", "CMYK") else 8)
    (record,) = caplog.records
    assert f"{size[0]}x{size[1]} pixels: reduced to {expected[0]}x{expected[1]}" in record.getMessage()
    assert reduction(load_portrait(portrait)) == reduction(portrait)


def test_a_turned_picture_is_reduced_before_it_is_turned(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(quarters(8200, 400)).save(tmp_path / "turned.jpg", exif=exif)
    portrait = load_portrait(tmp_path / "turned.jpg")
    assert portrait.size == (200, 4100)
    assert np.asarray(portrait)[100, [50, 150], 0] == pytest.approx([30, 220], abs=6)


def with_segment(jpeg: bytes, marker: int, data: bytes) -> bytes:
    """A JPEG with one more segment at its beginning."""
    return jpeg[:2] + bytes([0xFF, marker]) + (len(data) + 2).to_bytes(2, "big") + data + jpeg[2:]


def with_chunk(png: bytes, name: bytes, data: bytes, checksum: int | None = None) -> bytes:
    """A PNG with one more chunk after its header, whose checksum is right unless given."""
    checksum = zlib.crc32(name + data) if checksum is None else checksum
    return png[:33] + len(data).to_bytes(4, "big") + name + data + checksum.to_bytes(4, "big") + png[33:]


def test_metadata_that_cannot_be_read_is_ignored_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    jpeg, png = io.BytesIO(), io.BytesIO()
    Image.fromarray(halves()).save(jpeg, "JPEG", quality=95)
    Image.fromarray(halves()).save(png, "PNG")
    bomb = zlib.compress(bytes(80_000_000))
    broken = {
        "exif.jpg": with_segment(jpeg.getvalue(), 0xE1, b"Exif\0\0garbage-"),
        "offsets.jpg": with_segment(jpeg.getvalue(), 0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f" + bytes(range(64))),
        "profile.jpg": with_segment(jpeg.getvalue(), 0xE2, b"ICC_PROFILE\0\1\1" + b"garbage" * 40),
        "text.png": with_chunk(png.getvalue(), b"zTXt", b"Comment\0\0" + bomb),
        "itext.png": with_chunk(png.getvalue(), b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + bomb),
        "sum.png": with_chunk(png.getvalue(), b"tEXt", b"Comment\0hello", checksum=1),
        "exif.png": with_chunk(png.getvalue(), b"eXIf", b"garbage-"),
        "icc.png": with_chunk(png.getvalue(), b"iCCP", b"name\0\0" + zlib.compress(b"garbage" * 40)),
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        caplog.clear()
        portrait = load_portrait(tmp_path / name)
        assert distance(portrait, halves()) < 4, name
        assert len(caplog.records) == 1, (name, caplog.messages)
        assert str(tmp_path / name) in caplog.records[0].getMessage()


def test_xmp_of_any_content_does_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    jpeg = io.BytesIO()
    Image.fromarray(halves()).save(jpeg, "JPEG", quality=95)
    xmp = with_segment(jpeg.getvalue(), 0xE1, b"http://ns.adobe.com/xap/1.0/\0<x:xmpmeta><garbage")
    (tmp_path / "xmp.jpg").write_bytes(xmp)
    assert distance(load_portrait(tmp_path / "xmp.jpg"), halves()) < 4
    assert not caplog.records


def test_heic_is_read_with_the_extra(tmp_path: Path) -> None:
    heif = pytest.importorskip("pillow_heif")
    heif.from_pillow(Image.fromarray(halves())).save(tmp_path / "phone.heic", quality=95)
    assert distance(load_portrait(tmp_path / "phone.heic"), halves()) < 6


def test_heic_names_the_extra_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    with pytest.raises(UserError, match=r"HEIC picture.*pip install 'flashportrait\[heic\]'"):
        load_portrait(tmp_path / "phone.heic")


@pytest.mark.skipif(not features.check("avif"), reason="Pillow without AVIF")
def test_avif_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.fromarray(halves()).save(tmp_path / "phone.avif", quality=95)
    assert distance(load_portrait(tmp_path / "phone.avif"), halves()) < 6
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(UserError, match=r"AVIF picture.*Pillow 11\.3"):
        load_portrait(tmp_path / "phone.avif")


def test_real_portraits_load(shared: Path) -> None:
    for path in sorted((shared / "media" / "portraits").iterdir()):
        image = load_portrait(path)
        assert image.mode == "RGB"
        assert min(image.size) >= 64
