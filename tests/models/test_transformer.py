"""The transformer as a whole: shapes, padding, saving, and errors that help."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flashportrait.models.transformer import FlashPortraitTransformer3DModel

CONFIG = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "text_dim": 8,
    "ffn_dim": 32,
    "num_layers": 2,
    "image_dim": 10,
    "added_kv_proj_dim": 24,
    "text_len": 4,
    "expression_dim": 6,
}


@pytest.fixture
def model() -> FlashPortraitTransformer3DModel:
    torch.manual_seed(0)
    return FlashPortraitTransformer3DModel(**CONFIG).eval()


def arguments(frames: int = 3, height: int = 4, width: int = 6, batch: int = 2) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(frames)
    return {
        "hidden_states": torch.randn(batch, 36, frames, height, width, generator=generator),
        "timestep": torch.full((batch,), 500.0),
        "encoder_hidden_states": torch.randn(batch, 2, 8, generator=generator),
        "encoder_hidden_states_image": torch.randn(batch, 5, 10, generator=generator),
        "expression_tokens": torch.randn(batch, frames, 9, 6, generator=generator),
    }


@torch.no_grad()
@pytest.mark.parametrize(("frames", "height", "width"), [(1, 2, 2), (3, 4, 6), (5, 8, 4)])
def test_velocity_has_the_latents_shape(model, frames: int, height: int, width: int) -> None:
    assert model(**arguments(frames, height, width)).shape == (2, 16, frames, height, width)


@torch.no_grad()
def test_text_is_padded_with_zeros(model) -> None:
    given = arguments()
    padded = torch.nn.functional.pad(given["encoder_hidden_states"], (0, 0, 0, 2))
    assert torch.equal(model(**given), model(**given | {"encoder_hidden_states": padded}))


@torch.no_grad()
def test_diffusers_callers_get_what_they_expect(model) -> None:
    given = arguments()
    velocity = model(**given)
    assert torch.equal(model(**given, return_dict=False)[0], velocity)
    assert torch.equal(model(**given, return_dict=True).sample, velocity)


@torch.no_grad()
def test_saved_and_loaded_it_is_the_same(model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    loaded = FlashPortraitTransformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(loaded(**arguments()), model(**arguments()))


def test_gradients_reach_the_expression_branch(model) -> None:
    model(**arguments()).square().mean().backward()
    for block in model.blocks:
        assert block.attn2.emo_k_proj.weight.grad.abs().sum() > 0
        assert block.attn2.emo_v_proj.weight.grad.abs().sum() > 0


@torch.no_grad()
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"expression_tokens": torch.zeros(2, 4, 9, 6)}, "4 latent frames"),
        ({"encoder_hidden_states": torch.zeros(2, 5, 8)}, "at most 4"),
        ({"hidden_states": torch.zeros(2, 36, 3, 5, 6)}, "5x6"),
    ],
)
def test_errors_say_what_was_found(model, change: dict, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        model(**arguments() | change)
