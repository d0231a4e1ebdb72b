"""LoRA files in every spelling, merged whole or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_official_transformer import TOY, inputs, reference, relative

from flashportrait.errors import UserError
from flashportrait.models.transformer import FlashPortraitTransformer3DModel
from flashportrait.weights.lora import Lora, distilled_sigmas, load_lora

RANK = 3


def model() -> FlashPortraitTransformer3DModel:
    return FlashPortraitTransformer3DModel.from_official(reference().state_dict(), **TOY)


def noise(shape, seed: int) -> torch.Tensor:
    return 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def distillation_lora() -> dict[str, torch.Tensor]:
    """A file like the released 4-step LoRA: pairs for every linear of the blocks, differences for all the rest."""
    lora = {}
    for seed, (key, tensor) in enumerate(reference().state_dict().items()):
        module, _, leaf = key.rpartition(".")
        if leaf == "modulation":
            lora[f"diffusion_model.{module}.diff_m"] = noise(tensor.shape, seed)
        elif leaf == "bias":
            lora[f"diffusion_model.{module}.diff_b"] = noise(tensor.shape, seed)
        elif tensor.ndim == 2 and key.startswith("blocks."):
            lora[f"diffusion_model.{module}.lora_down.weight"] = noise((RANK, tensor.shape[1]), seed)
            lora[f"diffusion_model.{module}.lora_up.weight"] = noise((tensor.shape[0], RANK), seed + 1000)
        else:
            lora[f"diffusion_model.{module}.diff"] = noise(tensor.shape, seed)
    return lora


def merged_by_hand(lora: dict[str, torch.Tensor], strength: float) -> dict[str, torch.Tensor]:
    """The same differences added to the released state dict, one formula a kind."""
    state = {key: tensor.clone() for key, tensor in reference().state_dict().items()}
    for key, tensor in lora.items():
        module, _, kind = key.removeprefix("diffusion_model.").rpartition(".")
        if kind == "diff_m":
            state[f"{module}.modulation"] += strength * tensor
        elif kind == "diff_b":
            state[f"{module}.bias"] += strength * tensor
        elif kind == "diff":
            state[f"{module}.weight"] += strength * tensor
        elif module.endswith("lora_down"):
            up = lora[key.replace("lora_down", "lora_up")]
            state[module.replace("lora_down", "weight")] += strength * torch.einsum("or,ri->oi", up, tensor)
    return state


@pytest.mark.parametrize("strength", [1.0, 0.6])
@torch.no_grad()
def test_the_distillation_lora_is_applied_whole(tmp_path: Path, strength: float):
    lora = distillation_lora()
    save_file(lora, tmp_path / "fast_lora_rank64.safetensors")
    ours = model()
    load_lora(tmp_path / "fast_lora_rank64.safetensors", ours).merge(ours, strength)
    expected = merged_by_hand(lora, strength)
    before = reference().state_dict()
    for key, tensor in ours.to_official().items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-5, atol=1e-6)
        if "emo_" not in key:
            assert not torch.equal(tensor, before[key]), f"{key} is unchanged"
    theirs = reference()
    theirs.load_state_dict(expected)
    assert relative(ours(**inputs()), theirs(*inputs().values())) < 1e-5


def test_merging_the_opposite_takes_it_out():
    ours, before = model(), model().state_dict()
    lora = load_lora(distillation_lora(), ours)
    lora.merge(ours, 0.8)
    lora.merge(ours, -0.8)
    for key, tensor in ours.state_dict().items():
        torch.testing.assert_close(tensor, before[key], rtol=1e-5, atol=1e-6)


def test_several_as_one():
    """Merged at once or one after the other, whole differences and pairs alike."""
    at_once, in_turn = model(), model()
    first = load_lora(distillation_lora(), at_once)
    second = load_lora({"blocks.0.ffn.0.diff_b": torch.ones(80), "blocks.1.norm3.diff": torch.ones(48)}, at_once)
    Lora.joined([(first, 0.5), (second, -2.0)]).merge(at_once)
    first.merge(in_turn, 0.5)
    second.merge(in_turn, -2.0)
    for key, tensor in at_once.state_dict().items():
        torch.testing.assert_close(tensor, in_turn.state_dict()[key], rtol=1e-5, atol=1e-6)


SPELLINGS = {
    "lightx2v": ("diffusion_model.blocks.1.self_attn.q", "lora_down.weight", "lora_up.weight"),
    "released": ("blocks.1.self_attn.q", "lora_A.weight", "lora_B.weight"),
    "comfy": ("model.diffusion_model.blocks.1.self_attn.q", "lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_unet_blocks_1_self_attn_q", "lora_down.weight", "lora_up.weight"),
    "diffusers": ("transformer.blocks.1.attn1.to_q", "lora_A.weight", "lora_B.weight"),
    "peft": ("base_model.model.blocks.1.attn1.to_q", "lora_A.default.weight", "lora_B.default.weight"),
    "old diffusers": ("transformer.blocks.1.attn1.to_q", "lora.down.weight", "lora.up.weight"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("alpha", [None, 6.0])
def test_spellings(spelling: str, alpha: float | None):
    name, down_suffix, up_suffix = SPELLINGS[spelling]
    down, up = noise((RANK, 48), 1), noise((48, RANK), 2)
    state = {f"{name}.{down_suffix}": down, f"{name}.{up_suffix}": up}
    if alpha is not None:
        state[f"{name}.alpha"] = torch.tensor(alpha)
    ours, before = model(), model()
    load_lora(state, ours).merge(ours)
    change = ours.blocks[1].attn1.to_q.weight - before.blocks[1].attn1.to_q.weight
    torch.testing.assert_close(change, (1.0 if alpha is None else alpha / RANK) * up @ down, rtol=1e-4, atol=1e-6)
    assert torch.equal(ours.blocks[0].attn1.to_q.weight, before.blocks[0].attn1.to_q.weight)


@torch.no_grad()
@pytest.mark.parametrize("rank_stabilised", [False, True])
def test_peft_folder_gives_what_peft_gives(tmp_path: Path, rank_stabilised: bool):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=RANK, lora_alpha=5, target_modules=["to_q", "to_v"], init_lora_weights=False, use_rslora=rank_stabilised
    )
    adapted = peft.get_peft_model(model(), config)
    adapted.save_pretrained(tmp_path)
    ours = model()
    load_lora(tmp_path, ours).merge(ours)
    assert relative(ours(**inputs()), adapted(**inputs())) < 1e-5
    assert relative(ours(**inputs()), model()(**inputs())) > 1e-3


def test_alpha_from_diffusers_metadata(tmp_path: Path):
    down, up = noise((RANK, 48), 1), noise((48, RANK), 2)
    name = "transformer.blocks.0.attn2.add_k_proj"
    metadata = {"lora_adapter_metadata": json.dumps({"transformer.r": RANK, "transformer.lora_alpha": 12})}
    path = tmp_path / "pytorch_lora_weights.safetensors"
    save_file({f"{name}.lora_A.weight": down, f"{name}.lora_B.weight": up}, path, metadata)
    ours, before = model(), model()
    load_lora(path, ours).merge(ours)
    change = ours.blocks[0].attn2.add_k_proj.weight - before.blocks[0].attn2.add_k_proj.weight
    torch.testing.assert_close(change, 4.0 * up @ down, rtol=1e-4, atol=1e-6)


def test_convolution_pairs():
    shape = reference().state_dict()["patch_embedding.weight"].shape
    down, up = noise((RANK, *shape[1:]), 1), noise((shape[0], RANK, 1, 1, 1), 2)
    name = "diffusion_model.patch_embedding"
    ours, before = model(), model()
    load_lora({f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up}, ours).merge(ours)
    change = ours.patch_embedding.weight - before.patch_embedding.weight
    torch.testing.assert_close(change, torch.einsum("or,rcthw->octhw", up.flatten(1), down), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("extra", "named"),
    [
        ({"diffusion_model.blocks.99.ffn.0.diff_b": torch.zeros(80)}, "blocks.99.ffn.0.diff_b"),
        ({"lora_te_text_model_encoder.lora_down.weight": torch.zeros(1, 1)}, "lora_te_text_model"),
        ({"diffusion_model.blocks.0.ffn.0.hada_w1_a": torch.zeros(1)}, "hada_w1_a"),
        ({"diffusion_model.blocks.0.ffn.0.lora_up.weight": torch.zeros(80, RANK)}, "blocks.0.ffn.0 has up without"),
        ({"diffusion_model.blocks.0.ffn.0.alpha": torch.ones(())}, "blocks.0.ffn.0 has alpha without"),
        ({"diffusion_model.blocks.0.modulation.lora_down": torch.ones(1)}, "modulation.lora_down"),
    ],
)
def test_what_matches_nothing_is_named(extra: dict, named: str):
    lora = {
        "diffusion_model.blocks.1.ffn.0.lora_down.weight": torch.zeros(RANK, 48),
        "diffusion_model.blocks.1.ffn.0.lora_up.weight": torch.zeros(80, RANK),
    }
    with pytest.raises(UserError, match=named):
        load_lora(lora | extra, model())


def test_wrong_shapes_change_nothing():
    ours, before = model(), model().state_dict()
    lora = {"blocks.0.norm3.diff": torch.ones(48), "blocks.1.norm3.diff": torch.ones(49)}
    with pytest.raises(UserError, match=r"norm2.weight as \(49,\) for a parameter of \(48,\)"):
        load_lora(lora, ours)
    assert all(torch.equal(tensor, before[key]) for key, tensor in ours.state_dict().items())


def test_fp8_is_refused():
    ours = model()
    lora = load_lora({"blocks.0.self_attn.q.diff": torch.ones(48, 48)}, ours)
    ours.blocks[0].attn1.to_q.to(torch.float8_e4m3fn)
    with pytest.raises(UserError, match="before the model is cast"):
        lora.merge(ours)


def test_the_four_steps():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=5)
    scheduler.set_timesteps(sigmas=distilled_sigmas())
    grid = torch.linspace(1, 0, 1001)[:-1]
    shifted = 5 * grid / (1 + 4 * grid)
    expected = torch.stack([shifted[1000 - timestep] for timestep in (1000, 750, 500, 250)])
    torch.testing.assert_close(scheduler.timesteps, 1000 * expected)
    torch.testing.assert_close(scheduler.sigmas, torch.cat([expected, torch.zeros(1)]))
