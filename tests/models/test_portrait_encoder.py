"""The portrait encoder against its definition, written out with plain functions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.models.portrait_encoder import (
    PortraitEncoder,
    latent_frame_token_ranges,
    tokens_per_latent_frame,
)

SIZES = {
    "head_pose_dim": 3,
    "eyes_dim": 4,
    "emotion_dim": 5,
    "mouth_dim": 7,
    "token_dim": 12,
    "resampler_dim": 16,
    "resampler_depth": 2,
    "resampler_heads": 2,
    "resampler_head_dim": 8,
    "mouth_queries": 3,
    "emotion_queries": 1,
}
COLUMNS = 3 + 4 + 5 + 7
TOKENS = 4 + 3 + 1


def make_encoder(**changes: int) -> PortraitEncoder:
    torch.manual_seed(0)
    encoder = PortraitEncoder(**(SIZES | changes))
    for parameter in encoder.parameters():  # biases and scales too: a forgotten one must show
        torch.nn.init.normal_(parameter, std=0.5)
    return encoder.eval()


def layer_norm(weights: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def resample(weights: dict[str, Tensor], name: str, x: Tensor, heads: int) -> Tensor:
    """One vector ``[d]`` -> ``[queries width]``, by the released names."""
    w = {key.removeprefix(name + "."): value for key, value in weights.items() if key.startswith(name)}
    x = (w["proj_in.weight"] @ x + w["proj_in.bias"])[None]
    queries = w["latents"][0]
    depth = sum(key.endswith("to_q.weight") for key in w)
    for i in range(depth):
        normed = layer_norm(w, f"layers.{i}.0.norm2", queries)
        context = torch.cat([layer_norm(w, f"layers.{i}.0.norm1", x), normed])
        q = normed @ w[f"layers.{i}.0.to_q.weight"].T
        k, v = (context @ w[f"layers.{i}.0.to_kv.weight"].T).chunk(2, dim=-1)
        outputs = []
        for qh, kh, vh in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
            outputs.append(torch.softmax(qh @ kh.T / qh.shape[-1] ** 0.5, dim=-1) @ vh)
        queries = queries + torch.cat(outputs, dim=-1) @ w[f"layers.{i}.0.to_out.weight"].T
        hidden = layer_norm(w, f"layers.{i}.1.0", queries) @ w[f"layers.{i}.1.1.weight"].T
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
        queries = queries + hidden @ w[f"layers.{i}.1.3.weight"].T
    return layer_norm(w, "norm_out", queries @ w["proj_out.weight"].T + w["proj_out.bias"])


def reference_tokens(weights: dict[str, Tensor], row: Tensor, widths: list[int], heads: int) -> Tensor:
    """The tokens of one motion row ``[d]``."""
    head_pose, eyes, emotion, mouth = row.split(widths)
    names = ("headpose_proj", "eye_proj", "emo_proj", "mouth_proj")
    tokens = [
        layer_norm(
            weights,
            "proj_model.norm",
            weights[f"proj_model.{name}.weight"] @ group + weights.get(f"proj_model.{name}.bias", torch.zeros(())),
        )[None]
        for name, group in zip(names, (head_pose, eyes, emotion, mouth), strict=True)
    ]
    tokens.append(resample(weights, "mouth_proj_model", mouth, heads))
    tokens.append(resample(weights, "emo_proj_model", emotion, heads))
    return torch.cat(tokens)


@torch.no_grad()
@pytest.mark.parametrize("group_bias", [False, True])
def test_forward_follows_its_definition(group_bias: bool):
    encoder = make_encoder(group_bias=group_bias)
    motion = torch.randn(2, 5, COLUMNS)
    weights = encoder.state_dict()
    expected = torch.stack(
        [torch.cat([reference_tokens(weights, row, [3, 4, 5, 7], heads=2) for row in clip]) for clip in motion]
    )
    torch.testing.assert_close(encoder(motion), expected, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_official_size_follows_its_definition(shared: Path):
    shapes = json.loads((shared / "layouts" / "official_portrait_encoder.json").read_text())["shapes"]
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: torch.randn(shape, generator=generator) * (shape[-1] ** -0.5 if len(shape) > 1 else 1)
        for key, shape in shapes.items()
    }
    encoder = PortraitEncoder.from_official(weights)
    assert encoder.config.resampler_heads == 20
    row = torch.randn(554, generator=generator)
    expected = reference_tokens(weights, row, [6, 6, 30, 512], heads=20)
    tokens = encoder(row[None, None])
    assert tokens.shape == (1, 24, 2048)
    assert (tokens[0] - expected).norm() <= 1e-5 * expected.norm()


@torch.no_grad()
def test_phases_are_added_frame_by_frame():
    encoder = make_encoder(frame_phases=True)
    motion = torch.randn(1, 6, COLUMNS)
    with_phases = encoder(motion).unflatten(1, (6, TOKENS))
    phases = encoder.frame_phase.clone()
    encoder.frame_phase.zero_()
    added = with_phases - encoder(motion).unflatten(1, (6, TOKENS))
    expected = phases[[3, 0, 1, 2, 3, 0]][None, :, None].expand_as(added)
    torch.testing.assert_close(added, expected)


def test_ranges_of_the_published_example():
    ranges = latent_frame_token_ranges(5, 24)
    assert ranges == [(-73, 23), (23, 119), (119, 215), (215, 311), (311, 407)]
    numbered = torch.arange(1.0, 17 * 24 + 1)[None, :, None]  # 0 is left for padding
    split = tokens_per_latent_frame(numbered, 17)[0, :, :, 0]
    assert [int((row > 0).sum()) for row in split] == [24, 97, 97, 97, 97]
    assert torch.equal(split[0], F.pad(torch.arange(1.0, 25), (0, 73)))
    assert torch.equal(split[4], torch.arange(312.0, 409))


@settings(max_examples=60, deadline=None)
@given(frames=st.integers(1, 90), tokens_per_frame=st.integers(1, 24))
def test_ranges_follow_the_released_rule(frames: int, tokens_per_frame: int):
    """The rule as the method states it, token by token, for any window and any number of tokens a frame."""
    p, count = tokens_per_frame, tokens_per_frame * frames
    tokens = torch.randn(2, count, 3)
    split = tokens_per_latent_frame(tokens, frames, p)
    assert split.shape == (2, (frames - 1) // 4 + 1, 4 * p + 1, 3)
    start_1 = int((p * 1 + p * 5) / 2) - 1 - 2 * p
    for i, got in enumerate(split.unbind(1)):
        centre = int((p * (4 * (i - 1) + 1) + p * (4 * i + 1)) / 2) - 1
        first, last = (centre - 2 * p, centre + 2 * p) if i else (start_1 - 4 * p, start_1)
        kept = [tokens[:, n] for n in range(first, last + 1) if 0 <= n < count]
        zeros = [torch.zeros(2, 3)] * (4 * p + 1 - len(kept))
        assert torch.equal(got, torch.stack(kept + zeros, dim=1))


def test_a_window_may_be_counted_in_latent_frames():
    tokens = torch.randn(1, 17 * TOKENS, 2)
    by_pixel_frames = tokens_per_latent_frame(tokens, 17, TOKENS)
    assert torch.equal(by_pixel_frames, tokens_per_latent_frame(tokens, 5, TOKENS))


@pytest.mark.parametrize(("count", "frames"), [(17 * 24 - 1, 17), (17 * 24, 16), (0, 0)])
def test_tokens_that_do_not_fill_the_frames_are_refused(count: int, frames: int):
    with pytest.raises(UserError, match=f"{count} tokens for {frames} frames"):
        tokens_per_latent_frame(torch.zeros(1, count, 2), frames)


def test_motion_of_another_extractor_is_refused():
    with pytest.raises(UserError, match="57 columns"):
        make_encoder()(torch.zeros(1, 1, 57))


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_from_official_infers_sizes_and_keeps_every_bit(tmp_path: Path, suffix: str):
    encoder = make_encoder()
    path = tmp_path / f"portrait_encoder{suffix}"
    (torch.save if suffix == ".pt" else save_file)(encoder.to_official(), path)
    for heads in ({"resampler_head_dim": 8}, {"resampler_heads": 2}):
        loaded = PortraitEncoder.from_official(path, **heads)
        assert {name: loaded.config[name] for name in SIZES} == SIZES
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in encoder.state_dict().items())


def test_from_official_names_the_wrong_key():
    weights = make_encoder().state_dict()
    key = "mouth_proj_model.layers.1.1.3.weight"
    without = {name: value for name, value in weights.items() if name != key}
    for wrong, complaint in (
        (without, f"lacks {key}"),
        (weights | {"proj_model.proj.weight": torch.zeros(1)}, "has proj_model.proj.weight"),
        (weights | {key: torch.zeros(2, 2)}, f"wrong shape in {key}"),
        ({"anything": torch.zeros(1)}, "lacks mouth_proj_model.layers.0.0.to_q.weight"),
    ):
        with pytest.raises(UserError, match=complaint):
            PortraitEncoder.from_official(wrong, resampler_head_dim=8)


def test_what_the_released_layout_lacks_is_not_dropped():
    for extra in ("frame_phases", "group_bias"):
        with pytest.raises(UserError, match="no frame phases or group biases"):
            make_encoder(**{extra: True}).to_official()


def test_pickles_with_more_than_tensors_are_refused(tmp_path: Path):
    torch.save({"proj_model.norm.weight": Path("anything")}, tmp_path / "portrait_encoder.pt")
    with pytest.raises(UserError, match="refused"):
        PortraitEncoder.from_official(tmp_path / "portrait_encoder.pt")


def test_diffusers_round_trip(tmp_path: Path):
    encoder = make_encoder(frame_phases=True)
    encoder.save_pretrained(tmp_path)
    loaded = PortraitEncoder.from_pretrained(tmp_path)
    motion = torch.randn(1, 5, COLUMNS)
    assert torch.equal(loaded(motion), encoder(motion))
