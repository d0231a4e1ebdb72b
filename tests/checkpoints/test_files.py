"""Opening checkpoints: nothing executed, nothing copied, everything named."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from flashportrait.checkpoints.files import load_strictly, read_checkpoint
from flashportrait.checkpoints.tables import KeyTable, Rule, listing
from flashportrait.errors import UserError


class Trap:
    """A pickle that creates a file when it is executed."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("form", ["torch", "plain"])
def test_pickles_that_run_code_are_refused(tmp_path: Path, form: str):
    trap, path = Trap(tmp_path / "sprung"), tmp_path / "model.pt"
    if form == "torch":
        torch.save({"weight": torch.zeros(1), "trap": trap}, path)
    else:
        path.write_bytes(pickle.dumps(trap, protocol=2))
    with pytest.raises(UserError, match="refused"):
        read_checkpoint(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("suffix", ["pt", "safetensors"])
def test_cut_files_are_named(tmp_path: Path, suffix: str):
    whole, path = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    state = {"weight": torch.zeros(1000)}
    torch.save(state, whole) if suffix == "pt" else save_file(state, whole)
    path.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(UserError, match=f"cut.{suffix} is"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: folder / "missing.pt", "no such checkpoint"),
        (lambda folder: folder, "has no .safetensors or .pt"),
        (lambda folder: _write(folder / "model.gguf", b"GGUF"), "found .gguf"),
        (lambda folder: _save([torch.zeros(1)], folder / "list.pt"), "holds a list"),
        (lambda folder: _save({"epoch": 3}, folder / "odd.pt"), "epoch"),
        (lambda folder: _indexed(folder), r"lacks part2\.safetensors"),
        (lambda folder: _twice(folder), "weight is in b.pt and in an earlier shard"),
    ],
)
def test_what_is_wrong_is_said(tmp_path: Path, make, message: str):
    with pytest.raises(UserError, match=message):
        read_checkpoint(make(tmp_path))


def _write(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _save(content, path: Path) -> Path:
    torch.save(content, path)
    return path


def _indexed(folder: Path) -> Path:
    save_file({"a": torch.zeros(1)}, folder / "part1.safetensors")
    index = '{"weight_map": {"a": "part1.safetensors", "b": "part2.safetensors"}}'
    (folder / "model.safetensors.index.json").write_text(index)
    return folder


def _twice(folder: Path) -> Path:
    _save({"weight": torch.zeros(1)}, folder / "a.pt")
    _save({"weight": torch.zeros(1)}, folder / "b.pt")
    return folder


def test_old_format_is_read_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    torch.save({"weight": torch.arange(3.0)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(read_checkpoint(tmp_path / "old.pth")["weight"], torch.arange(3.0))
    assert "can't be memory-mapped" in caplog.text


def linear() -> nn.Module:
    with torch.device("meta"):
        return nn.Sequential(nn.Linear(300, 200), nn.BatchNorm1d(200))


def saved(folder: Path, form: str) -> tuple[Path, dict[str, torch.Tensor]]:
    state = nn.Sequential(nn.Linear(300, 200), nn.BatchNorm1d(200)).state_dict()
    path = folder / f"model.{form}"
    torch.save(state, path) if form == "pt" else save_file(state, path)
    return path, state


@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_tensors_are_views_of_the_mapped_file(tmp_path: Path, form: str):
    """The weights lie inside the file's mapping, and writing to them leaves the file alone."""
    path, state = saved(tmp_path, form)
    model = linear()
    load_strictly(model, path, KeyTable.same_names("model", model.state_dict()))
    address = model[0].weight.data_ptr()
    mappings = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
    spans = [[int(end, 16) for end in line[0].split("-")] for line in mappings if line[-1] == str(path)]
    assert any(first <= address < last for first, last in spans)
    model[0].weight.data.zero_()
    again = linear()
    load_strictly(again, path, KeyTable.same_names("model", again.state_dict()))
    assert torch.equal(again[0].weight, state["0.weight"])


def test_types_and_buffers(tmp_path: Path):
    path, state = saved(tmp_path, "safetensors")
    model = linear()
    table = KeyTable.same_names("model", model.state_dict())
    load_strictly(model, path, table, dtype=torch.bfloat16, keep_in_float32=("1",))
    assert model[0].weight.dtype == torch.bfloat16
    assert model[1].weight.dtype == torch.float32
    assert model[1].num_batches_tracked.dtype == torch.int64
    assert torch.equal(model[1].running_var, state["1.running_var"])
    assert isinstance(model[0].weight, nn.Parameter)
    assert not any(tensor.is_meta for tensor in model.state_dict().values())


TABLE = KeyTable(
    "toy",
    (
        Rule("block.{i}.qkv.{p}", ("layers.{i}.q.{p}", "layers.{i}.k.{p}", "layers.{i}.v.{p}")),
        Rule("token", ("cls",), leading_ones=2),
        Rule("norm.{p}", ("final.{p}",)),
    ),
    ignored=("unused.",),
)


def test_tables_read_both_ways():
    official = {
        "block.10.qkv.weight": torch.arange(12.0).reshape(6, 2),
        "token": torch.arange(3.0).reshape(1, 1, 3),
        "norm.bias": torch.ones(3),
    }
    ours = TABLE.to_ours(official | {"unused.head": torch.ones(1)})
    assert torch.equal(ours["layers.10.k.weight"], official["block.10.qkv.weight"][2:4])
    assert ours["cls"].shape == (3,)
    back = TABLE.to_official(ours)
    assert back.keys() == official.keys()
    assert all(torch.equal(back[key], official[key]) for key in official)


def test_tables_refuse_what_they_do_not_know():
    with pytest.raises(UserError, match=r"block\.x\.qkv\.weight"):
        TABLE.to_ours({"block.x.qkv.weight": torch.zeros(6, 2)})
    with pytest.raises(UserError, match="stranger"):
        TABLE.to_official({"stranger": torch.zeros(1)})


def test_listing():
    assert listing(["a", "b"]) == "a, b"
    assert listing(list("abcdefg")) == "a, b, c, d and 3 more"
