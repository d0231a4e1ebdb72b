"""What shows the network the portrait: the paper's clip, and the drawn one as a stream."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.canvas import Canvas
from flashportrait.drawing import DrawnClip
from flashportrait.errors import UserError
from flashportrait.inputs import FramedPortrait
from flashportrait.models.streaming_vae import streaming_decoder
from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.models.transformer import with_mask
from flashportrait.reference import PortraitDrawn, PortraitFirst
from flashportrait.rig.mesh import average_landmarks
from flashportrait.rig.pose import GUIDE_REACH
from flashportrait.sampling.denoise import diagonal_rounds, synchronous_rounds
from flashportrait.sampling.windows import Window, WindowPlan

SIZE = 32


@pytest.fixture(scope="module")
def vae() -> TinyVideoAutoencoder:
    torch.manual_seed(0)
    return TinyVideoAutoencoder(8, (8, 8, 8), align="start").eval()


@pytest.fixture(scope="module")
def framed() -> FramedPortrait:
    """A face on a canvas of which the network sees all, at its own size."""
    texture = torch.rand(3, 2 * SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(0))
    canvas = Canvas(texture, average_landmarks((SIZE, SIZE), SIZE), (SIZE, SIZE), (0, 0, SIZE, SIZE))
    pixels = torch.nn.functional.avg_pool2d(texture[None], 2)
    return FramedPortrait(pixels, torch.zeros(57).numpy(), canvas)


def motion_rows(frames: int) -> torch.Tensor:
    """Rows [frames 57] that sway, and open and shut a mouth."""
    time = torch.arange(frames)[:, None] / 5 + torch.arange(57)
    rows = 0.1 * time.sin()
    rows[:, 6:] = rows[:, 6:].abs()
    return rows


def drawn(
    framed: FramedPortrait, rows: torch.Tensor, vae: TinyVideoAutoencoder, strength: float = 1.0
) -> PortraitDrawn:
    return PortraitDrawn(DrawnClip(framed, rows, strength), framed.pixels, vae)


def test_the_mask_marks_the_first_latent_frame():
    portrait = torch.randn(1, 16, 3, 2, 2)
    reference = with_mask(portrait)
    assert reference.shape == (1, 20, 3, 2, 2)
    assert (reference[:, :4, 0] == 1).all()
    assert (reference[:, :4, 1:] == 0).all()
    assert torch.equal(reference[:, 4:], portrait)


def test_the_mask_of_the_other_frames_says_how_much_expression_is_drawn():
    reference = with_mask(torch.randn(2, 16, 3, 2, 2), torch.tensor([0.25, 1.0]))
    assert (reference[:, :4, 0] == 1).all()
    assert (reference[0, :4, 1:] == 0.25).all()
    assert (reference[1, :4, 1:] == 1).all()


def test_the_papers_reference_is_the_same_in_every_window_and_cut_to_it():
    reference = PortraitFirst(torch.randn(1, 20, 5, 2, 3))
    assert reference.grid == (2, 3)
    assert torch.equal(reference(Window(4, 12, 15, 2, 3)), reference.latents[:, :, :3])
    with pytest.raises(UserError, match="5 latent frames; a window needs 6"):
        reference(Window(0, 0, 6, 0, 6))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 90), st.integers(1, 8), st.sampled_from((0.0, 0.4, 1.0)), st.data())
def test_windows_of_the_drawn_portrait_are_cut_from_one_clip(vae, framed, frames, window, strength, data):
    plan = WindowPlan(-(-(frames - 1) // 4) + 1, window, data.draw(st.integers(0, window - 1)))
    rows = motion_rows(frames)
    last = rows[-1:].expand(4 * (plan.latent_frames - 1) + 1 - frames, -1)
    clip = framed.drawn_on()[1].draw(torch.cat([rows, last]), SIZE, strength)
    with torch.no_grad():
        expected = vae.encode((clip * 255).round()[None] / 255).transpose(1, 2)
    reference = drawn(framed, rows, vae, strength)
    assert reference.grid == (SIZE // 8, SIZE // 8)
    for part in plan:
        latents = reference(part)
        assert (latents[:, :4, 0] == 1).all()
        assert (latents[:, :4, 1:] == strength).all()
        torch.testing.assert_close(latents[:, 4:], expected[:, :, part.start : part.stop])


def test_any_order_of_windows_gives_the_same_bits(vae, framed):
    plan, rows = WindowPlan(40, 6, 3), motion_rows(157)
    in_order = drawn(framed, rows, vae)
    expected = [in_order(part) for part in plan]
    other = drawn(framed, rows, vae)
    for index in (11, 0, 5, 5, 8, 2):
        assert torch.equal(other(plan[index]), expected[index])


def test_a_long_clip_holds_no_more_than_a_window(vae, framed):
    plan = WindowPlan(60, 6, 3)
    reference = drawn(framed, motion_rows(237), vae)
    for part in plan:
        reference(part)
        assert len(reference._held) <= 6


@pytest.mark.parametrize(("rounds", "most"), [(diagonal_rounds, 60), (synchronous_rounds, 160)])
def test_orders_that_come_back_are_served_from_memory(vae, framed, monkeypatch, rounds, most):
    plan, calls = WindowPlan(160, 6, 3), []
    whole = vae.encode_chunk
    monkeypatch.setattr(vae, "encode_chunk", lambda *given: calls.append(1) or whole(*given))
    reference = drawn(framed, motion_rows(637), vae, 0.0)
    for pairs in rounds(plan, 8):
        for index, _ in pairs:
            reference(plan[index])
    assert len(reference._held) <= most
    assert len(calls) < 3 * plan.latent_frames


def test_what_a_network_without_a_blend_makes_is_put_in_the_square_that_it_saw(vae):
    """On a whole picture: the square holds the decoder's frames, what lies around the portrait's own pixels."""
    texture = torch.full((3, 2 * SIZE, 4 * SIZE), 0.5)
    still = np.full((SIZE, 3 * SIZE, 3), 51, dtype=np.uint8)
    square = (SIZE, 0, 2 * SIZE, SIZE)
    landmarks = average_landmarks((3 * SIZE, SIZE), SIZE)
    canvas = Canvas(texture, landmarks, (SIZE, 2 * SIZE), square, still, (SIZE, 0))
    framed = FramedPortrait(torch.full((1, 3, SIZE, SIZE), 0.5), torch.zeros(57).numpy(), canvas)
    reference, decoder = drawn(framed, motion_rows(5), vae), streaming_decoder(vae)
    latents = torch.randn(1, 16, 2, SIZE // 8, SIZE // 8, generator=torch.Generator().manual_seed(1))
    decoded = streaming_decoder(vae).push(latents)
    frames = np.concatenate([reference.decode(i, latents[:, :, i : i + 1], decoder) for i in range(2)])
    assert frames.shape == (5, SIZE, 3 * SIZE, 3)
    assert (frames[:, :, :SIZE] == 51).all()
    middle = slice(SIZE // 2 - 4, SIZE // 2 + 4)
    seen = torch.from_numpy(frames[:, :, 2 * SIZE :]).permute(0, 3, 1, 2).float() / 255
    torch.testing.assert_close(seen[..., middle, middle], decoded[0, ..., middle, middle], atol=0.003, rtol=0)


def test_a_portrait_in_its_own_pose_is_itself(framed):
    canvas, rig = framed.drawn_on()
    drawn = rig.draw(torch.zeros(1, 57), 2 * SIZE, 0.0)
    torch.testing.assert_close(drawn[0], canvas.texture, atol=0.02, rtol=0)


def test_turning_stops_where_the_mesh_has_nothing_more_to_show(framed):
    far = torch.zeros(2, 57)
    far[:, 0] = torch.tensor([0.7, 2.0])
    turned = framed.drawn_on()[1].draw(far, SIZE, 0.0)
    assert torch.equal(turned[0], turned[1])


def test_the_mesh_alone_draws_a_frame_a_row(framed):
    clip = DrawnClip(framed, motion_rows(7))
    frames = list(clip)
    assert len(frames) == 7
    for index in (0, 3, 6):
        assert np.array_equal(frames[index], clip.finish(clip.draw([index]))[0])
    assert not np.array_equal(frames[0], frames[6])


def test_rows_are_told_as_far_as_they_are_drawn(framed):
    far = torch.zeros(1, 57)
    far[0, 0], far[0, 6:] = 1.5, 0.3
    told = DrawnClip(framed, far).motion
    assert told[0, 0] == pytest.approx(GUIDE_REACH[0])
    assert told[0, 6:].max() == pytest.approx(0.3)
