"""The tiny video autoencoder against its description, written out frame by frame with plain functions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.models.tiny_vae import TinyVideoAutoencoder, bend

Weights = dict[str, Tensor]
Frames = list[Tensor]
"""A clip as its frames, ``[b c h w]`` each."""


def random_weights(like: Weights) -> Weights:
    """Weights that keep activations near unit size through all layers."""
    generator = torch.Generator().manual_seed(0)
    return {
        key: torch.randn(value.shape, generator=generator) * (value[0].numel() ** -0.5 if value.ndim > 1 else 0.1)
        for key, value in like.items()
    }


@pytest.fixture(scope="module")
def official_weights(shared: Path) -> Weights:
    shapes = json.loads((shared / "layouts" / "official_tiny_vae.json").read_text())["shapes"]
    return random_weights({key: torch.empty(shape, device="meta") for key, shape in shapes.items()})


def make_vae(align: str = "end") -> TinyVideoAutoencoder:
    vae = TinyVideoAutoencoder(encoder_channels=4, decoder_channels=(8, 6, 4), latent_channels=3, align=align)
    vae.load_state_dict(random_weights(vae.state_dict()))
    return vae.eval()


class Restatement:
    """Encoder and decoder by the released names: every layer is a function from frames to frames."""

    def __init__(self, weights: Weights):
        self.w = weights

    def conv(self, name: str, frames: Frames, stride: int = 1) -> Frames:
        weight, bias = self.w[f"{name}.weight"], self.w.get(f"{name}.bias")
        return [F.conv2d(frame, weight, bias, stride=stride, padding=weight.shape[-1] // 2) for frame in frames]

    def memory(self, name: str, frames: Frames) -> Frames:
        outputs, past = [], torch.zeros_like(frames[0])
        for frame in frames:
            y = torch.cat([frame, past], dim=1)
            for index in (0, 2, 4):
                (y,) = self.conv(f"{name}.conv.{index}", [y])
                y = y.relu() if index < 4 else y
            outputs.append((y + frame).relu())
            past = frame
        return outputs

    def pool(self, name: str, frames: Frames, ratio: int) -> Frames:
        groups = [torch.cat(frames[i : i + ratio], dim=1) for i in range(0, len(frames), ratio)]
        return self.conv(f"{name}.conv", groups)

    def grow(self, name: str, frames: Frames, ratio: int) -> Frames:
        width = frames[0].shape[1]
        kernel = self.w[f"{name}.conv.weight"][-width * ratio :]
        return [part for frame in frames for part in F.conv2d(frame, kernel).chunk(ratio, dim=1)]

    def encode(self, frames: Tensor) -> Tensor:
        x = list(frames.unbind(1))
        x += [x[-1]] * (-len(x) % 4)
        x = [frame.relu() for frame in self.conv("encoder.0", x)]
        for first, ratio in ((2, 2), (7, 2), (12, 1)):
            x = self.conv(f"encoder.{first + 1}", self.pool(f"encoder.{first}", x, ratio), stride=2)
            for index in range(first + 2, first + 5):
                x = self.memory(f"encoder.{index}", x)
        return torch.stack(self.conv("encoder.17", x), dim=1)

    def decode(self, latents: Tensor) -> Tensor:
        x = [3 * torch.tanh(latent / 3) for latent in latents.unbind(1)]
        x = [frame.relu() for frame in self.conv("decoder.1", x)]
        for first, ratio in ((3, 1), (9, 2), (15, 2)):
            for index in range(first, first + 3):
                x = self.memory(f"decoder.{index}", x)
            x = [frame.repeat_interleave(2, -1).repeat_interleave(2, -2) for frame in x]
            x = self.conv(f"decoder.{first + 5}", self.grow(f"decoder.{first + 4}", x, ratio))
        x = self.conv("decoder.22", [frame.relu() for frame in x])
        return torch.stack(x, dim=1)[:, 3:].clamp(0, 1)


def distance(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    return float((got - expected).norm() / expected.norm())


@torch.no_grad()
@pytest.mark.parametrize("frame_count", [1, 6])
def test_official_size_follows_its_description(official_weights: Weights, frame_count: int):
    vae, restatement = TinyVideoAutoencoder.from_official(official_weights), Restatement(official_weights)
    generator = torch.Generator().manual_seed(1)
    frames = torch.rand(1, frame_count, 3, 16, 24, generator=generator)
    latents = restatement.encode(frames)
    assert distance(vae.encode(frames), latents) <= 1e-5
    assert distance(vae.encode(frames, parallel=True), latents) <= 1e-5
    latents = 4 * torch.randn(1, frame_count, 16, 2, 3, generator=generator)
    decoded = restatement.decode(latents)
    assert decoded.shape == (1, 4 * (frame_count - 1) + 1, 3, 16, 24)
    assert decoded.std() > 0.05  # not clamped to nothing
    assert distance(vae.decode(latents), decoded) <= 1e-5
    assert distance(vae.decode(latents, parallel=True), decoded) <= 1e-5


@torch.no_grad()
def test_clips_of_a_batch_do_not_mix():
    vae = make_vae()
    frames = torch.rand(2, 9, 3, 16, 8)
    latents = vae.encode(frames)
    pictures = vae.decode(latents)
    for clip in range(2):
        torch.testing.assert_close(vae.encode(frames[clip : clip + 1]), latents[clip : clip + 1])
        torch.testing.assert_close(vae.decode(latents[clip : clip + 1]), pictures[clip : clip + 1])


def pieces(clip: Tensor, cuts: list[int]) -> Iterator[Tensor]:
    """``clip [b t ...]`` cut at ``cuts``, empty pieces left out."""
    bounds = [0, *sorted(cut % clip.shape[1] for cut in cuts), clip.shape[1]]
    for start, stop in pairwise(bounds):
        if stop > start:
            yield clip[:, start:stop]


@torch.no_grad()
@settings(max_examples=25, deadline=None)
@given(
    latent_frames=st.integers(1, 5),
    extra=st.integers(-3, 0),
    cuts=st.lists(st.integers(0, 100), max_size=4),
    align=st.sampled_from(["start", "end"]),
)
def test_streams_equal_the_whole_bit_for_bit(latent_frames: int, extra: int, cuts: list[int], align: str):
    vae = make_vae(align)
    frame_count = 4 * latent_frames - 3 if align == "start" else 4 * latent_frames + extra
    frames = torch.rand(1, frame_count, 3, 8, 16)
    latents = vae.encode(frames)
    assert latents.shape[1] == latent_frames
    streamed = list(vae.encode_stream(pieces(frames, cuts)))
    assert all(latent.shape[1] == 1 for latent in streamed)
    assert torch.equal(torch.cat(streamed, dim=1), latents)
    decoded = list(vae.decode_stream(pieces(latents, cuts)))
    assert [part.shape[1] for part in decoded] == [1] + [4] * (latent_frames - 1)
    assert torch.equal(torch.cat(decoded, dim=1), vae.decode(latents))


def make_blending(upscale: int) -> TinyVideoAutoencoder:
    torch.manual_seed(0)
    vae = TinyVideoAutoencoder(4, (8, 6, 4), 3, align="start", reference_channels=5, upscale=upscale).eval()
    torch.nn.init.normal_(vae.blend.plan.weight, std=0.1)
    return vae


@torch.no_grad()
@pytest.mark.parametrize("upscale", [1, 2])
def test_a_frame_takes_from_the_reference_of_the_same_frame(upscale: int):
    vae = make_blending(upscale)
    latents, reference = torch.randn(1, 3, 3, 2, 2), torch.rand(1, 9, 3, 16 * upscale, 16 * upscale)
    frames = vae.decode(latents, reference=reference)
    assert frames.shape == reference.shape
    torch.testing.assert_close(frames, vae.decode(latents, parallel=True, reference=reference))
    reference[:, 4] = 1 - reference[:, 4]
    changed = (vae.decode(latents, reference=reference) != frames).flatten(2).any(-1)[0]
    assert changed.tolist() == [False] * 4 + [True] + [False] * 4


@torch.no_grad()
def test_a_new_blend_is_half_reference_and_a_missing_reference_is_refused():
    torch.manual_seed(0)
    plain = make_vae("start")
    vae = TinyVideoAutoencoder(4, (8, 6, 4), 3, align="start", reference_channels=5).eval()
    vae.load_state_dict(plain.state_dict(), strict=False)
    latents, reference = torch.randn(1, 2, 3, 1, 2), torch.rand(1, 5, 3, 8, 16)
    half = (plain.decode_chunk(latents, {})[:, 3:] + reference) / 2
    torch.testing.assert_close(vae.decode(latents, reference=reference), half.clamp(0, 1))
    with pytest.raises(ValueError, match=r"reference frames \[1, 4, 3, 8, 16\]; found none"):
        vae.decode(latents)


@torch.no_grad()
def test_restoring_shows_training_what_decoding_hides():
    vae, latents, reference = make_blending(2), 5 * torch.randn(1, 2, 3, 1, 2), torch.rand(1, 5, 3, 16, 32)
    frames, bent, flow, painted, mask = vae.restore(latents, reference)
    torch.testing.assert_close(painted + mask * (bent - painted), frames)
    assert torch.equal(frames.clamp(0, 1), vae.decode(latents, parallel=True, reference=reference))
    assert not torch.equal(frames, frames.clamp(0, 1))
    assert not torch.allclose(bent, reference, atol=1e-3)
    enlarged = F.interpolate(flow.flatten(0, 1), scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(bend(reference.flatten(0, 1), enlarged), bent.flatten(0, 1))
    vae.blend.plan.weight.zero_()
    vae.blend.plan.bias.zero_()
    restored = vae.restore(latents, reference)
    torch.testing.assert_close(restored.bent, reference)
    assert not restored.flow.any()
    with pytest.raises(ValueError, match="reference_channels is 0"):
        make_vae("start").restore(latents, reference)


@torch.no_grad()
def test_upscaled_latents_are_those_of_the_smaller_picture():
    vae, frames = make_blending(2), torch.rand(1, 5, 3, 32, 48)
    small = TinyVideoAutoencoder(4, (8, 6, 4), 3, align="start").eval()
    small.load_state_dict(vae.state_dict(), strict=False)
    pooled = F.avg_pool2d(frames[0], 2)[None]
    assert torch.equal(vae.encode(frames), small.encode(pooled))
    assert torch.equal(torch.cat(list(vae.encode_stream(pieces(frames, [2, 3]))), dim=1), vae.encode(frames))
    with pytest.raises(ValueError, match="multiples of 16"):
        vae.encode(frames[..., :40])
    with pytest.raises(ValueError, match="upscale is 2 without reference_channels"):
        TinyVideoAutoencoder(4, (8, 6, 4), 3, upscale=2)


@torch.no_grad()
@pytest.mark.parametrize("upscale", [1, 2])
def test_a_second_encoder_is_given_the_reference(upscale: int):
    options = {"align": "start", "reference_channels": 5, "upscale": upscale}
    vae = TinyVideoAutoencoder(4, (8, 6, 4), 3, differences=True, **options).eval()
    first = TinyVideoAutoencoder(4, (8, 6, 4), 3, **options).eval()
    first.load_state_dict({k: v for k, v in vae.state_dict().items() if not k.startswith("difference_")})
    frames, reference = torch.rand(2, 2, 9, 3, 32, 48)
    assert torch.equal(vae.encode(frames), first.encode(frames))
    assert torch.equal(first.encode(frames, reference=reference), first.encode(frames))
    latents = vae.encode(frames, reference=reference)
    torch.testing.assert_close(vae.encode(frames, parallel=True, reference=reference), latents)
    state, parts = {}, [torch.cat([x[:, :1].repeat(1, 3, 1, 1, 1), x], dim=1).split(4, 1) for x in (frames, reference)]
    streamed = [vae.encode_chunk(f, state, r) for f, r in zip(*parts, strict=True)]
    assert torch.equal(torch.cat(streamed, dim=1), latents)
    for changed in (vae.encode(frames), vae.encode(frames, reference=frames)):
        assert not torch.equal(changed, latents)
    with pytest.raises(ValueError, match="differences is True without reference_channels"):
        TinyVideoAutoencoder(4, (8, 6, 4), 3, differences=True)


def test_bending_takes_pixels_from_where_the_flow_points():
    picture = torch.arange(30.0).view(1, 1, 5, 6)
    right_and_up = torch.tensor([1.0, -2.0]).view(1, 2, 1, 1).expand(1, 2, 5, 6)
    bent = bend(picture, right_and_up)
    torch.testing.assert_close(bent[0, 0, 2:, :5], picture[0, 0, :3, 1:])
    torch.testing.assert_close(bend(picture, 0 * right_and_up), picture)
    halfway = bend(picture, 0 * right_and_up + 0.5)
    torch.testing.assert_close(halfway[0, 0, 0, 0], torch.tensor((0 + 1 + 6 + 7) / 4))


@torch.no_grad()
@pytest.mark.parametrize("align", ["start", "end"])
def test_a_latent_frame_depends_on_no_later_frame(align: str):
    """Latent frame i sees frames up to 4i (start) or 4i + 3 (end), and the next frame changes the next one alone."""
    vae = make_vae(align)
    frames = torch.rand(1, 13, 3, 8, 8)
    first_of_2 = 5 if align == "start" else 8
    changed = frames.clone()
    changed[:, first_of_2] = 1 - changed[:, first_of_2]
    before, after = vae.encode(frames), vae.encode(changed)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.equal(before[:, 2], after[:, 2])


@torch.no_grad()
def test_start_alignment_repeats_the_first_frame():
    """What ``align="start"`` means: the published encoding of the clip with its first frame shown four times."""
    frames = torch.rand(1, 9, 3, 8, 8)
    repeated = torch.cat([frames[:, :1]] * 3 + [frames], dim=1)
    assert torch.equal(make_vae("start").encode(frames), make_vae("end").encode(repeated))


@torch.no_grad()
def test_statistics_normalise_the_latents():
    plain = make_vae()
    mean, std = [0.5, -1.0, 2.0], [2.0, 0.25, 1.5]
    scaled = TinyVideoAutoencoder(4, (8, 6, 4), 3, latents_mean=mean, latents_std=std)
    scaled.load_state_dict(plain.state_dict())
    frames = torch.rand(1, 5, 3, 8, 8)
    latents = plain.encode(frames)
    expected = (latents - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    torch.testing.assert_close(scaled.encode(frames), expected)
    torch.testing.assert_close(scaled.decode(expected), plain.decode(latents), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_larger_time_growing_kernels_keep_their_last_channels():
    weights = make_vae().state_dict()
    larger = dict(weights)
    for key, width in (("decoder.7.conv.weight", 8), ("decoder.13.conv.weight", 6)):
        larger[key] = torch.cat([torch.full((width, width, 1, 1), 9.0), weights[key]])
    loaded = TinyVideoAutoencoder.from_official(larger)
    assert loaded.state_dict().keys() == weights.keys()
    assert all(torch.equal(value, weights[key]) for key, value in loaded.state_dict().items())
    assert larger["decoder.7.conv.weight"].shape[0] == 16  # the caller's own are left alone


def test_from_official_infers_sizes_and_keeps_every_bit(tmp_path: Path):
    weights = make_vae().to_official()
    torch.save(weights, tmp_path / "fast_vae.pth")
    loaded = TinyVideoAutoencoder.from_official(tmp_path / "fast_vae.pth")
    assert tuple(loaded.config.decoder_channels) == (8, 6, 4)
    assert (loaded.config.encoder_channels, loaded.config.latent_channels) == (4, 3)
    assert all(torch.equal(value, weights[key]) for key, value in loaded.state_dict().items())


def test_keys_and_shapes_are_the_released_ones(official_weights: Weights):
    with torch.device("meta"):
        ours = TinyVideoAutoencoder().state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in official_weights.items()}


def test_from_official_names_the_wrong_key():
    weights = make_vae().state_dict()
    for key, value, complaint in (
        ("decoder.16.conv.2.bias", None, "lacks decoder.16.conv.2.bias"),
        ("decoder.8.weight", None, "lacks decoder.8.weight"),
        ("decoder.7.conv.weight", None, "lacks decoder.7.conv.weight"),
        ("decoder.23.weight", torch.zeros(1), "has decoder.23.weight"),
        ("encoder.8.weight", torch.zeros(2, 2, 3, 3), "wrong shape in encoder.8.weight"),
        ("decoder.13.conv.weight", torch.zeros(6, 6, 1, 1), "wrong shape in decoder.13.conv.weight"),
    ):
        wrong = {name: tensor for name, tensor in weights.items() if name != key}
        if value is not None:
            wrong[key] = value
        with pytest.raises(UserError, match=re.escape(complaint)):
            TinyVideoAutoencoder.from_official(wrong)


def test_pictures_that_do_not_fit_are_refused():
    frames = torch.zeros(1, 5, 3, 12, 8)
    with pytest.raises(ValueError, match="12x8"):
        make_vae().encode(frames)
    with pytest.raises(ValueError, match="12x8"):
        next(make_vae().encode_stream([frames]))
    with pytest.raises(ValueError, match="6 frames"):
        make_vae("start").encode(torch.zeros(1, 6, 3, 8, 8))
    with pytest.raises(ValueError, match="3 frames short"):
        list(make_vae("start").encode_stream([torch.zeros(1, 6, 3, 8, 8)]))
