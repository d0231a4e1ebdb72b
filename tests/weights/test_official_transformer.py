"""The released transformer's keys and numbers, at toy size."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import wan_reference
from safetensors.torch import save_file

from flashportrait.checkpoints.config import transformer_config
from flashportrait.checkpoints.tables import TRANSFORMER
from flashportrait.errors import UserError
from flashportrait.models.transformer import FlashPortraitTransformer3DModel

TOY = {
    "dim": 48,
    "ffn_dim": 80,
    "num_heads": 2,
    "num_layers": 3,
    "in_dim": 12,
    "out_dim": 4,
    "text_dim": 20,
    "freq_dim": 16,
    "text_len": 9,
    "eps": 1e-6,
    "cross_attn_norm": True,
    "qk_norm": True,
    "image_dim": 28,
    "expression_dim": 24,
}


def reference(seed: int = 0, **changes) -> wan_reference.Transformer:
    return wan_reference.randomize(wan_reference.Transformer(**TOY | changes), seed)


def inputs(batch: int = 2, frames: int = 3, text: int = 5, dtype: torch.dtype = torch.float32) -> dict:
    generator = torch.Generator().manual_seed(7)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float32).to(dtype)

    return {
        "hidden_states": noise(batch, TOY["in_dim"], frames, 6, 4),
        "timestep": torch.tensor([993.71, 251.3][:batch]),
        "encoder_hidden_states": noise(batch, text, TOY["text_dim"]),
        "encoder_hidden_states_image": noise(batch, 7, TOY["image_dim"]),
        "expression_tokens": noise(batch, frames, 5, TOY["expression_dim"]),
    }


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


@pytest.mark.parametrize("scale", [1.0, 0.0, 0.7])
@torch.no_grad()
def test_velocity_matches_an_independent_reading(scale: float):
    theirs = reference()
    ours = FlashPortraitTransformer3DModel.from_official(theirs.state_dict(), **TOY)
    given = inputs()
    expected = theirs(*given.values(), scale)
    assert relative(ours(**given, expression_scale=scale), expected) < 2e-6


@pytest.mark.parametrize(
    "change",
    [
        {"eps": 1e-2},
        {"cross_attn_norm": False},
        {"qk_norm": False},
        {"text_len": 14},
        {"dim": 32, "num_heads": 2},
        {"dim": 40, "num_heads": 4},
        {"dim": 128, "num_heads": 1},
    ],
    ids=str,
)
@torch.no_grad()
def test_every_word_of_the_configuration_is_obeyed(change: dict):
    theirs = reference(**change)
    ours = FlashPortraitTransformer3DModel.from_official(theirs.state_dict(), **TOY | change)
    expected = theirs(*inputs().values())
    assert relative(ours(**inputs()), expected) < 2e-6
    assert relative(reference()(*inputs().values()), expected) > 1e-4, "the change should matter"


@torch.no_grad()
def test_words_of_the_released_configuration_that_change_nothing():
    theirs = reference()
    words = {"model_type": "i2v", "patch_size": [1, 2, 2], "window_size": [-1, -1]}
    ours = FlashPortraitTransformer3DModel.from_official(theirs.state_dict(), **TOY, **words)
    assert relative(ours(**inputs()), theirs(*inputs().values())) < 2e-6


@torch.no_grad()
def test_time_embedding_is_as_exact_as_float64_angles():
    """At timestep 1000 float32 angles are wrong in the fourth decimal, which the whole network would inherit."""
    theirs = reference(num_layers=0, freq_dim=256)
    ours = FlashPortraitTransformer3DModel.from_official(
        theirs.state_dict(), **TOY | {"num_layers": 0, "freq_dim": 256}
    )
    given = inputs() | {"timestep": torch.tensor([1000.0, 999.37])}
    assert relative(ours(**given), theirs(*given.values())) < 1e-6


@torch.no_grad()
def test_padding_is_attended():
    """Text shorter than text_len is padded with zeros that take part: padding by hand changes nothing."""
    ours = FlashPortraitTransformer3DModel.from_official(reference().state_dict(), **TOY)
    given = inputs()
    padded = torch.nn.functional.pad(given["encoder_hidden_states"], (0, 0, 0, TOY["text_len"] - 5))
    assert torch.equal(ours(**given), ours(**given | {"encoder_hidden_states": padded}))


def test_round_trip_is_bit_identical():
    model = FlashPortraitTransformer3DModel.from_official(reference().state_dict(), **TOY)
    official = model.to_official()
    again = FlashPortraitTransformer3DModel.from_official(official, **TOY)
    assert official.keys() == reference().state_dict().keys()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[key]), key


def test_full_size_layout_is_the_released_one(shared: Path):
    layout = json.loads((shared / "layouts" / "official_transformer.json").read_text())
    released = {}
    for key, shape in layout["shapes"].items():
        span = re.search(r"\{(\d+)\.\.(\d+)\}", key)
        for i in range(int(span[1]), int(span[2]) + 1) if span else [None]:
            released[key.replace(span[0], str(i)) if span else key] = tuple(shape)
    with torch.device("meta"):
        model = FlashPortraitTransformer3DModel(**transformer_config())
    ours = {key: tuple(tensor.shape) for key, tensor in TRANSFORMER.to_official(model.state_dict()).items()}
    assert ours == released
    assert sum(p.numel() for p in model.parameters()) == layout["parameters"]


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (lambda s: s.pop("blocks.1.cross_attn.emo_k_proj.weight"), "blocks.1.cross_attn.emo_k_proj.weight"),
        (lambda s: s.update({"blocks.9.modulation": torch.zeros(1, 6, 48)}), "blocks.9.modulation"),
        (lambda s: s.update({"surprise": torch.zeros(1)}), "surprise"),
        (lambda s: s.update({"head.head.bias": torch.zeros(15)}), r"head.head.bias \(15,\), not \(16,\)"),
        (lambda s: s.update({"blocks.0.self_attn.q.wieght": s.pop("blocks.0.self_attn.q.weight")}), "wieght"),
    ],
)
def test_wrong_keys_are_named(damage, named: str):
    state = reference().state_dict()
    damage(state)
    with pytest.raises(UserError, match=named):
        FlashPortraitTransformer3DModel.from_official(state, **TOY)


def test_unknown_configuration_is_refused():
    with pytest.raises(UserError, match="num_head"):
        transformer_config(num_head=4)
    with pytest.raises(UserError, match="model_type"):
        transformer_config(model_type="t2v")
    with pytest.raises(UserError, match="multiple of num_heads"):
        transformer_config(dim=100, num_heads=3)


@pytest.mark.parametrize("form", ["pt", "pth", "wrapped", "safetensors", "shards", "index", "pickled shards"])
def test_every_form_of_checkpoint_loads_alike(tmp_path: Path, form: str):
    state = reference().state_dict()
    keys = list(state)
    halves = [{k: state[k] for k in keys[::2]}, {k: state[k] for k in keys[1::2]}]
    path = tmp_path
    if form in ("pt", "pth"):
        torch.save(state, path := tmp_path / f"transformer.{form}")
    elif form == "wrapped":
        torch.save({"state_dict": state}, path := tmp_path / "transformer.pt")
    elif form == "safetensors":
        save_file(state, path := tmp_path / "transformer.safetensors")
    elif form == "pickled shards":
        for i, half in enumerate(halves):
            torch.save(half, tmp_path / f"part{i}.pt")
    else:
        for i, half in enumerate(halves):
            save_file(half, tmp_path / f"part{i}.safetensors")
        if form == "index":
            save_file({"stray": torch.zeros(1)}, tmp_path / "another.safetensors")
            names = {key: f"part{i}.safetensors" for i, half in enumerate(halves) for key in half}
            (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    loaded = FlashPortraitTransformer3DModel.from_official(path, **TOY)
    for key, tensor in TRANSFORMER.to_official(loaded.state_dict()).items():
        assert torch.equal(tensor, state[key]), key


def test_the_model_does_not_share_memory_with_a_state_dict():
    state = reference().state_dict()
    model = FlashPortraitTransformer3DModel.from_official(state, **TOY)
    model.proj_out.bias.data.zero_()
    assert state["head.head.bias"].abs().sum() > 0


@torch.no_grad()
def test_bfloat16_keeps_the_delicate_parts_in_float32():
    model = FlashPortraitTransformer3DModel.from_official(reference().state_dict(), torch_dtype=torch.bfloat16, **TOY)
    assert model.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    assert model.blocks[0].scale_shift_table.dtype == torch.float32
    assert model.condition_embedder.time_embedder.linear_1.weight.dtype == torch.float32
    exact = FlashPortraitTransformer3DModel.from_official(reference().state_dict(), **TOY)(**inputs())
    assert relative(model(**inputs(dtype=torch.bfloat16)).float(), exact) < 0.05


@torch.no_grad()
def test_diffusers_folder_gives_the_same_model(tmp_path: Path):
    model = FlashPortraitTransformer3DModel.from_official(reference().state_dict(), **TOY)
    model.save_pretrained(tmp_path)
    again = FlashPortraitTransformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(model(**inputs()), again(**inputs()))
