"""Any still picture becomes upright, opaque sRGB."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms

from flashportrait.errors import UserError
from flashportrait.media.portrait import BACKDROP, load_portrait


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
        "bomb.png": "8192",
        "text.png": "not a picture",
        "empty.png": "not a picture",
        "cut.jpg": "is it complete",
        "missing.png": "no file",
        ".": "folder",
    }
    for name, reason in reasons.items():
        with pytest.raises(UserError, match=reason) as caught:
            load_portrait(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_real_portraits_load(shared: Path) -> None:
    for path in sorted((shared / "media" / "portraits").iterdir()):
        image = load_portrait(path)
        assert image.mode == "RGB"
        assert min(image.size) >= 64
