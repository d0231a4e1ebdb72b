"""Decoding as a stream against decoding at once, on both autoencoders."""

from __future__ import annotations

import pytest
import torch
from diffusers import AutoencoderKLWan
from einops import rearrange

from flashportrait.models.streaming_vae import encode_clip, encode_portrait, streaming_decoder
from flashportrait.models.tiny_vae import TinyVideoAutoencoder

STATISTICS = {"latents_mean": [0.1] * 16, "latents_std": [2.0] * 16}


@pytest.fixture(scope="module")
def wan() -> AutoencoderKLWan:
    torch.manual_seed(0)
    return AutoencoderKLWan(base_dim=8, dim_mult=[1, 1, 2, 2], num_res_blocks=1, **STATISTICS).eval()


@pytest.fixture(scope="module")
def tiny() -> TinyVideoAutoencoder:
    torch.manual_seed(0)
    return TinyVideoAutoencoder(8, (8, 8, 8), align="start", **STATISTICS).eval()


@torch.no_grad()
def decode_at_once(vae, latents: torch.Tensor) -> torch.Tensor:
    if isinstance(vae, TinyVideoAutoencoder):
        return vae.decode(rearrange(latents, "b c f h w -> b f c h w"))
    video = vae.decode(latents * 2.0 + 0.1).sample
    return rearrange(video * 0.5 + 0.5, "b c t h w -> b t c h w")


def assert_same(name: str, found: torch.Tensor, expected: torch.Tensor) -> None:
    """To the bit; but convolutions in three dimensions are computed otherwise for other lengths on some processors."""
    if name == "tiny":
        assert torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["wan", "tiny"])
@pytest.mark.parametrize("pieces", [(1, 1, 1, 1, 1), (5,), (2, 3), (3, 1, 1)])
def test_a_stream_in_any_pieces_equals_decoding_at_once(name, pieces, request):
    vae = request.getfixturevalue(name)
    latents = torch.randn(1, 16, 5, 2, 3, generator=torch.Generator().manual_seed(1))
    whole = decode_at_once(vae, latents)
    decoder = streaming_decoder(vae)
    parts = [decoder.push(piece) for piece in latents.split(list(pieces), dim=2)]
    assert [part.shape[1] for part in parts] == [4 * n - (3 if i == 0 else 0) for i, n in enumerate(pieces)]
    assert_same(name, torch.cat(parts, dim=1), whole)
    assert whole.shape == (1, 17, 3, 16, 24)


@pytest.mark.parametrize("name", ["wan", "tiny"])
def test_decoders_of_two_clips_do_not_disturb_each_other(name, request):
    vae = request.getfixturevalue(name)
    first, second = torch.randn(2, 1, 16, 3, 2, 2, generator=torch.Generator().manual_seed(2))
    decoders = [streaming_decoder(vae), streaming_decoder(vae)]
    frames = [[], []]
    for i in range(3):
        for decoder, latents, out in zip(decoders, (first, second), frames, strict=True):
            out.append(decoder.push(latents[:, :, i : i + 1]))
    assert_same(name, torch.cat(frames[0], dim=1), decode_at_once(vae, first))
    assert_same(name, torch.cat(frames[1], dim=1), decode_at_once(vae, second))


@pytest.mark.parametrize("name", ["wan", "tiny"])
def test_encoding_gives_the_networks_latents(name, request):
    vae = request.getfixturevalue(name)
    frames = torch.rand(1, 9, 3, 16, 24, generator=torch.Generator().manual_seed(3))
    latents = encode_clip(vae, frames)
    assert latents.shape == (1, 16, 3, 2, 3)
    assert latents.dtype == torch.float32
    with torch.no_grad():
        if name == "tiny":
            expected = rearrange(vae.encode(frames), "b f c h w -> b c f h w")
        else:
            expected = (vae.encode(rearrange(frames, "b t c h w -> b c t h w") * 2 - 1).latent_dist.mode() - 0.1) / 2.0
    torch.testing.assert_close(latents, expected)


@pytest.mark.parametrize("name", ["wan", "tiny"])
@pytest.mark.parametrize("latent_frames", [1, 2, 16])
def test_the_portraits_clip_is_encoded_as_if_whole(name, latent_frames, request):
    vae = request.getfixturevalue(name)
    portrait = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(4))
    clip = torch.full((1, 4 * (latent_frames - 1) + 1, 3, 16, 24), 0.5)
    clip[:, 0] = portrait
    assert torch.equal(encode_portrait(vae, portrait, latent_frames), encode_clip(vae, clip))
