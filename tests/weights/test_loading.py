"""The 14B's parts from both layouts of its folder, at toy size."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from test_lora import distillation_lora, merged_by_hand
from test_official_encoders import IMAGE, SMALL_VAE, TEXT, image_reference, open_clip_file, small_vae, text_reference
from test_official_transformer import TOY, inputs, reference

from flashportrait.checkpoints import config as released_config
from flashportrait.checkpoints.files import read_checkpoint
from flashportrait.checkpoints.tables import VAE
from flashportrait.errors import UserError
from flashportrait.loading import load_pipeline
from flashportrait.models.portrait_encoder import PortraitEncoder
from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.weights import official
from flashportrait.weights.loading import (
    ModelFiles,
    load_components,
    load_fast_lora,
    load_wan_image_encoder,
    load_wan_text_encoder,
    load_wan_vae,
)
from flashportrait.weights.plan import Plan


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The released sizes, made small."""
    monkeypatch.setattr(released_config, "TRANSFORMER_14B", released_config.TRANSFORMER_14B | TOY)


def tokenizer(folder: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<pad>": 0, "</s>": 1, "<unk>": 2, "singing": 3}, "<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(folder)


def original_wan(folder: Path) -> Path:
    folder.mkdir(parents=True)
    torch.save(text_reference().state_dict(), folder / "models_t5_umt5-xxl-enc-bf16.pth")
    clip = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
    torch.save(open_clip_file(image_reference()), folder / clip)
    torch.save(VAE.to_official(small_vae().state_dict()), folder / "Wan2.1_VAE.pth")
    tokenizer(folder / "google" / "umt5-xxl")
    return folder


def diffusers_wan(folder: Path) -> Path:
    official.load_text_encoder(text_reference().state_dict(), **TEXT).save_pretrained(folder / "text_encoder")
    official.load_image_encoder(open_clip_file(image_reference()), **IMAGE).save_pretrained(folder / "image_encoder")
    small_vae().save_pretrained(folder / "vae")
    tokenizer(folder / "tokenizer")
    return folder


def flashportrait_files(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(reference().state_dict(), folder / "transformer.pt")
    torch.manual_seed(0)
    small = PortraitEncoder(token_dim=16, resampler_dim=16, resampler_depth=1)
    torch.save(small.state_dict(), folder / "portrait_encoder.pt")
    torch.save(TinyVideoAutoencoder(8, (16, 8, 8), 4).state_dict(), folder / "fast_vae.pth")
    save_file(distillation_lora(), folder / "fast_lora_rank64.safetensors")


@torch.no_grad()
def test_both_layouts_of_wan_give_the_same_parts(tmp_path: Path):
    original, diffusers = original_wan(tmp_path / "original"), diffusers_wan(tmp_path / "diffusers")
    for load, config in (
        (load_wan_text_encoder, TEXT),
        (load_wan_image_encoder, IMAGE),
        (load_wan_vae, SMALL_VAE),
    ):
        first, second = load(original, **config).state_dict(), load(diffusers).state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first), load


@pytest.mark.parametrize("nested", [False, True])
def test_the_image_encoder_loads_nested_or_not(tmp_path: Path, nested: bool):
    """Releases of transformers differ in whether the vision tower's names start with ``vision_model.``."""
    folder = diffusers_wan(tmp_path) / "image_encoder"
    plain = {key.removeprefix("vision_model."): tensor for key, tensor in read_checkpoint(folder).items()}
    expected = {key: tensor.clone() for key, tensor in plain.items()}
    stored = {("vision_model." if nested else "") + key: tensor for key, tensor in expected.items()}
    save_file(stored, folder / "model.safetensors")
    loaded = load_wan_image_encoder(tmp_path).state_dict()
    assert {key.removeprefix("vision_model."): tensor.sum() for key, tensor in loaded.items()} == {
        key: tensor.sum() for key, tensor in expected.items()
    }


@pytest.mark.parametrize("part", ["text_encoder", "image_encoder", "vae"])
def test_diffusers_folders_are_loaded_strictly(tmp_path: Path, part: str):
    (file,) = (diffusers_wan(tmp_path) / part).glob("*.safetensors")
    state = {key: tensor.clone() for key, tensor in read_checkpoint(file).items()}
    lost = sorted(state)[-1]
    del state[lost]
    save_file(state, file)
    load = {
        "text_encoder": load_wan_text_encoder,
        "image_encoder": load_wan_image_encoder,
        "vae": load_wan_vae,
    }[part]
    with pytest.raises(UserError, match=re.escape(lost)):
        load(tmp_path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("layout", ["download", "released checkpoints"])
@torch.no_grad()
def test_all_parts_from_a_folder(tmp_path: Path, layout: str):
    diffusers_wan(tmp_path / ("Wan2.1-I2V-14B-720P" + ("-Diffusers" if layout == "download" else "")))
    flashportrait_files(tmp_path if layout == "download" else tmp_path / "FlashPortrait")
    parts = load_components(tmp_path, torch_dtype=torch.float32)
    assert parts["scheduler"].config.shift == 5
    back = parts["transformer"].to_official()
    assert all(torch.equal(back[key], tensor) for key, tensor in reference().state_dict().items())
    assert parts["text_encoder"](**parts["tokenizer"]("singing", return_tensors="pt")).last_hidden_state.shape[-1] == 32
    assert parts["portrait_encoder"](torch.zeros(1, 5, 554)).shape == (1, 120, 16)


@pytest.mark.usefixtures("small")
@torch.no_grad()
def test_fast_parts(tmp_path: Path):
    diffusers_wan(tmp_path / "Wan2.1-I2V-14B-720P-Diffusers")
    flashportrait_files(tmp_path)
    parts = load_components(tmp_path, torch_dtype=torch.float32, fast=True)
    load_fast_lora(parts["transformer"], tmp_path).merge(parts["transformer"])
    assert isinstance(parts["vae"], TinyVideoAutoencoder)
    expected = merged_by_hand(distillation_lora(), 1.0)
    for key, tensor in parts["transformer"].to_official().items():
        torch.testing.assert_close(tensor, expected[key], rtol=1e-5, atol=1e-6)


def test_missing_files_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(UserError, match=r"transformer\.pt .* isn't in .* download 14b` --to"):
        ModelFiles(tmp_path).find("transformer_14b")
    with pytest.raises(UserError, match=r"Wan2\.1-I2V-14B-720P-Diffusers"):
        ModelFiles(tmp_path).wan()
    monkeypatch.setenv("FLASHPORTRAIT_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="FLASHPORTRAIT_TRANSFORMER_14B"):
        ModelFiles(None).find("transformer_14b")
    (tmp_path / "Wan2.1-I2V-14B-720P").mkdir()
    with pytest.raises(UserError, match="models_t5"):
        load_wan_text_encoder(ModelFiles(tmp_path).wan())


@pytest.mark.usefixtures("small")
@torch.no_grad()
def test_the_14b_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """``load_pipeline`` finds what was downloaded, plans or not, and samples the fast model in its four steps."""
    diffusers_wan(tmp_path / "Wan2.1-I2V-14B-720P-Diffusers")
    flashportrait_files(tmp_path)
    monkeypatch.setenv("FLASHPORTRAIT_CACHE", str(tmp_path))
    plan = Plan("bf16", "offload", "offload", 51, 30, 0, 0, 0.0)
    plain = load_pipeline("14b-fast", "cpu", torch.float32)
    planned = load_pipeline("14b-fast", "cpu", torch.float32, plan)
    assert plain.settings().sigmas == [1.0, 0.75, 0.5, 0.25]
    velocity = plain.transformer(**inputs())
    assert torch.equal(velocity, planned.transformer(**inputs()))
    user = tmp_path / "user.safetensors"
    save_file({"diffusion_model.head.head.diff_b": torch.ones(16)}, user)
    shifted = load_pipeline("14b-fast", "cpu", torch.float32, plan, [(user, 0.25)])
    torch.testing.assert_close(shifted.transformer(**inputs()), velocity + 0.25)
    exact = load_pipeline("14b", "cpu", torch.float32)
    assert exact.settings().num_inference_steps == 30
    assert not torch.allclose(velocity, exact.transformer(**inputs()))
