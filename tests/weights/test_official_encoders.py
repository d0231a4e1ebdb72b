"""Text encoder, image encoder and VAE from the original files, compared with independent readings and round trips."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import wan_reference

from flashportrait.checkpoints.tables import TEXT_ENCODER, VAE, image_encoder_table
from flashportrait.errors import UserError
from flashportrait.models.clip_vision import CLIP_MEAN, CLIP_STD, clip_pixels, clip_tokens
from flashportrait.weights.official import load_image_encoder, load_text_encoder, load_vae

TEXT = {"vocab_size": 50, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 3, "num_heads": 4}
IMAGE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "image_size": 28,
    "patch_size": 7,
}
SMALL_VAE = {"base_dim": 8, "z_dim": 4, "latents_mean": [0.0] * 4, "latents_std": [1.0] * 4}


def released_shapes(layout: Path) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for key, shape in json.loads(layout.read_text())["shapes"].items():
        span = re.search(r"\{(\d+)\.\.(\d+)\}", key)
        for i in range(int(span[1]), int(span[2]) + 1) if span else [None]:
            shapes[key.replace(span[0], str(i)) if span else key] = tuple(shape)
    return shapes


def shapes_of(official: dict[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in official.items()}


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return ((ours - theirs).norm() / theirs.norm()).item()


def text_reference() -> wan_reference.TextEncoder:
    # Without scaled logits, weights of unit gain would saturate the softmax; the released ones are small too.
    return wan_reference.randomize(wan_reference.TextEncoder(50, 32, 48, 4, 3), scale=0.6)


def open_clip_file(visual: wan_reference.Visual) -> dict[str, torch.Tensor]:
    state = {f"visual.{key}": tensor for key, tensor in visual.state_dict().items()}
    return state | {"log_scale": torch.zeros(()), "textual.blocks.0.attn.q.weight": torch.zeros(2, 2)}


def image_reference() -> wan_reference.Visual:
    return wan_reference.randomize(wan_reference.Visual(28, 7, 32, 64, 4, 3, 24))


@torch.no_grad()
def test_text_encoder_matches_an_independent_reading(tmp_path: Path):
    theirs = text_reference()
    torch.save(theirs.state_dict(), tmp_path / "models_t5_umt5-xxl-enc-bf16.pth")
    ours = load_text_encoder(tmp_path / "models_t5_umt5-xxl-enc-bf16.pth", **TEXT)
    ids = torch.randint(0, 50, (2, 40), generator=torch.Generator().manual_seed(1))
    mask = torch.ones(2, 40, dtype=torch.long)
    mask[1, 17:] = 0
    got, expected = ours(ids, attention_mask=mask).last_hidden_state, theirs(ids, mask)
    assert relative(got[0], expected[0]) < 2e-6
    assert relative(got[1, :17], expected[1, :17]) < 2e-6


@torch.no_grad()
def test_text_encoder_layouts_agree(tmp_path: Path):
    from transformers import UMT5EncoderModel

    ours = load_text_encoder(text_reference().state_dict(), **TEXT)
    assert ours.encoder.embed_tokens.weight is ours.shared.weight
    ours.save_pretrained(tmp_path)
    again = UMT5EncoderModel.from_pretrained(tmp_path)
    ids = torch.arange(12)[None]
    assert torch.equal(ours(ids).last_hidden_state, again(ids).last_hidden_state)
    back = TEXT_ENCODER.to_official(again.state_dict())
    for key, tensor in text_reference().state_dict().items():
        assert torch.equal(back.pop(key), tensor), key
    assert not back


def test_text_encoder_full_size_layout_is_the_released_one(shared: Path):
    from transformers import UMT5Config, UMT5EncoderModel

    from flashportrait.weights.official import TEXT_ENCODER_XXL

    with torch.device("meta"):
        model = UMT5EncoderModel(UMT5Config(**TEXT_ENCODER_XXL))
    released = released_shapes(shared / "layouts" / "official_text_encoder.json")
    assert shapes_of(TEXT_ENCODER.to_official(model.state_dict())) == released


@torch.no_grad()
def test_image_encoder_matches_an_independent_reading(tmp_path: Path):
    theirs = image_reference()
    torch.save(open_clip_file(theirs), path := tmp_path / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    ours = load_image_encoder(path, **IMAGE)
    image = torch.rand(2, 3, 50, 37, generator=torch.Generator().manual_seed(2))
    square = F.interpolate(image, (28, 28), mode="bicubic", align_corners=False)
    normal = torch.stack([(square[:, i] - CLIP_MEAN[i]) / CLIP_STD[i] for i in range(3)], dim=1)
    tokens = clip_tokens(ours, image)
    assert tokens.shape == (2, 17, 32)
    assert relative(tokens, theirs(normal)) < 2e-6


@torch.no_grad()
def test_image_encoder_layouts_agree(tmp_path: Path):
    from transformers import CLIPVisionModel

    ours = load_image_encoder(open_clip_file(image_reference()), **IMAGE)
    ours.save_pretrained(tmp_path)
    again = CLIPVisionModel.from_pretrained(tmp_path)
    image = torch.rand(1, 3, 28, 28)
    assert torch.equal(clip_tokens(ours, image), clip_tokens(again, image))
    prefix = "vision_model." if hasattr(again, "vision_model") else ""
    back = image_encoder_table(prefix).to_official(again.state_dict())
    visual = {key: t for key, t in open_clip_file(image_reference()).items() if key.startswith("visual.")}
    visual.pop("visual.head")
    assert back.keys() == visual.keys()
    assert all(torch.equal(back[key], tensor) for key, tensor in visual.items())


def test_image_encoder_is_vit_h():
    """The file's shapes are public: ViT-H/14 at 224, width 1280, 32 layers."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    from flashportrait.weights.official import IMAGE_ENCODER_VIT_H

    with torch.device("meta"):
        model = CLIPVisionModel(CLIPVisionConfig(**IMAGE_ENCODER_VIT_H))
    prefix = "vision_model." if hasattr(model, "vision_model") else ""
    shapes = shapes_of(image_encoder_table(prefix).to_official(model.state_dict()))
    assert shapes["visual.pos_embedding"] == (1, 257, 1280)
    assert shapes["visual.cls_embedding"] == (1, 1, 1280)
    assert shapes["visual.patch_embedding.weight"] == (1280, 3, 14, 14)
    assert shapes["visual.transformer.31.attn.to_qkv.weight"] == (3840, 1280)
    assert shapes["visual.transformer.31.mlp.0.weight"] == (5120, 1280)
    assert len(shapes) == 32 * 12 + 7


def test_clip_pixels_of_a_flat_picture():
    pixels = clip_pixels(torch.full((1, 3, 5, 9), 0.5))
    assert pixels.shape == (1, 3, 224, 224)
    expected = [(0.5 - mean) / std for mean, std in zip(CLIP_MEAN, CLIP_STD, strict=True)]
    assert torch.allclose(pixels[0, :, 100, 100], torch.tensor(expected), atol=1e-6)


def small_vae():
    from diffusers import AutoencoderKLWan

    torch.manual_seed(3)
    return AutoencoderKLWan(**SMALL_VAE).eval()


@torch.no_grad()
def test_vae_round_trip_gives_the_same_frames(tmp_path: Path):
    vae = small_vae()
    torch.save(VAE.to_official(vae.state_dict()), tmp_path / "Wan2.1_VAE.pth")
    again = load_vae(tmp_path / "Wan2.1_VAE.pth", **SMALL_VAE)
    video = torch.rand(1, 3, 5, 16, 16) * 2 - 1
    latents = vae.encode(video).latent_dist.mode()
    assert torch.equal(latents, again.encode(video).latent_dist.mode())
    assert torch.equal(vae.decode(latents).sample, again.decode(latents).sample)


def test_vae_agrees_with_diffusers_own_conversion():
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    official = VAE.to_official(small_vae().state_dict())
    theirs = convert_wan_vae_to_diffusers(dict(official))
    ours = VAE.to_ours(official)
    assert ours.keys() == theirs.keys()
    assert all(ours[key] is theirs[key] for key in ours) or all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_vae_full_size_layout_is_the_released_one(shared: Path):
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        vae = AutoencoderKLWan()
    assert shapes_of(VAE.to_official(vae.state_dict())) == released_shapes(shared / "layouts" / "official_vae.json")


@pytest.mark.parametrize(
    ("load", "state", "config"),
    [
        (load_text_encoder, lambda: text_reference().state_dict(), TEXT),
        (load_image_encoder, lambda: open_clip_file(image_reference()), IMAGE),
        (load_vae, lambda: VAE.to_official(small_vae().state_dict()), SMALL_VAE),
    ],
)
def test_wrong_keys_are_named(load, state, config):
    lost = next(key for key in reversed(state()) if key.startswith(("blocks.", "visual.transformer", "decoder.")))
    with pytest.raises(UserError, match=re.escape(lost)):
        load({key: tensor for key, tensor in state().items() if key != lost}, **config)
    with pytest.raises(UserError, match="surprise"):
        load(state() | {"surprise": torch.zeros(1)}, **config)


@pytest.mark.parametrize("load", [load_text_encoder, load_image_encoder, load_vae])
@torch.no_grad()
def test_bfloat16(load):
    source, config = {
        load_text_encoder: (text_reference().state_dict(), TEXT),
        load_image_encoder: (open_clip_file(image_reference()), IMAGE),
        load_vae: (VAE.to_official(small_vae().state_dict()), SMALL_VAE),
    }[load]
    model = load(source, torch_dtype=torch.bfloat16, **config)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not any(tensor.is_meta for tensor in [*model.parameters(), *model.buffers()])
