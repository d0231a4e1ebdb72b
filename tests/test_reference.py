"""What shows the network the portrait: the paper's clip, and the turned one as a stream."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.errors import UserError
from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.reference import PortraitFirst, PortraitTurned, with_mask
from flashportrait.rig.mesh import average_landmarks
from flashportrait.rig.photo import PhotoRig
from flashportrait.sampling.denoise import diagonal_rounds, synchronous_rounds
from flashportrait.sampling.windows import Window, WindowPlan

SIZE = 32


@pytest.fixture(scope="module")
def vae() -> TinyVideoAutoencoder:
    torch.manual_seed(0)
    return TinyVideoAutoencoder(8, (8, 8, 8), align="start").eval()


@pytest.fixture(scope="module")
def rig() -> PhotoRig:
    picture = torch.rand(3, 2 * SIZE, 2 * SIZE, generator=torch.Generator().manual_seed(0))
    return PhotoRig(picture, average_landmarks((SIZE, SIZE), SIZE), torch.zeros(57))


def head_poses(frames: int) -> torch.Tensor:
    """Rows [frames 6] that sway."""
    time = torch.arange(frames)[:, None] / 5 + torch.arange(6)
    return 0.1 * time.sin()


def test_the_mask_marks_the_first_latent_frame():
    portrait = torch.randn(1, 16, 3, 2, 2)
    reference = with_mask(portrait)
    assert reference.shape == (1, 20, 3, 2, 2)
    assert (reference[:, :4, 0] == 1).all()
    assert (reference[:, :4, 1:] == 0).all()
    assert torch.equal(reference[:, 4:], portrait)


def test_the_papers_reference_is_the_same_in_every_window_and_cut_to_it():
    reference = PortraitFirst(torch.randn(1, 20, 5, 2, 3))
    assert reference.grid == (2, 3)
    assert torch.equal(reference(Window(4, 12, 15, 2, 3)), reference.latents[:, :, :3])
    with pytest.raises(UserError, match="5 latent frames; a window needs 6"):
        reference(Window(0, 0, 6, 0, 6))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 90), st.integers(1, 8), st.data())
def test_windows_of_the_turned_portrait_are_cut_from_one_clip(vae, rig, frames, window, data):
    plan = WindowPlan(-(-(frames - 1) // 4) + 1, window, data.draw(st.integers(0, window - 1)))
    rows = head_poses(frames)
    last = rows[-1:].expand(4 * (plan.latent_frames - 1) + 1 - frames, -1)
    clip = rig.turn(torch.cat([rows, last]), SIZE)
    with torch.no_grad():
        expected = vae.encode(clip[None]).transpose(1, 2)
    reference = PortraitTurned(rig, rows, vae, SIZE)
    assert reference.grid == (SIZE // 8, SIZE // 8)
    for part in plan:
        latents = reference(part)
        assert (latents[:, :4, 0] == 1).all()
        assert (latents[:, :4, 1:] == 0).all()
        torch.testing.assert_close(latents[:, 4:], expected[:, :, part.start : part.stop])


def test_any_order_of_windows_gives_the_same_bits(vae, rig):
    plan, rows = WindowPlan(40, 6, 3), head_poses(157)
    in_order = PortraitTurned(rig, rows, vae, SIZE)
    expected = [in_order(part) for part in plan]
    other = PortraitTurned(rig, rows, vae, SIZE)
    for index in (11, 0, 5, 5, 8, 2):
        assert torch.equal(other(plan[index]), expected[index])


def test_a_long_clip_holds_no_more_than_a_window(vae, rig):
    plan = WindowPlan(60, 6, 3)
    reference = PortraitTurned(rig, head_poses(237), vae, SIZE)
    for part in plan:
        reference(part)
        assert len(reference._held) <= 6


@pytest.mark.parametrize(("rounds", "most"), [(diagonal_rounds, 60), (synchronous_rounds, 160)])
def test_orders_that_come_back_are_served_from_memory(vae, rig, monkeypatch, rounds, most):
    plan, calls = WindowPlan(160, 6, 3), []
    whole = vae.encode_chunk
    monkeypatch.setattr(vae, "encode_chunk", lambda *given: calls.append(1) or whole(*given))
    reference = PortraitTurned(rig, head_poses(637), vae, SIZE)
    for pairs in rounds(plan, 8):
        for index, _ in pairs:
            reference(plan[index])
    assert len(reference._held) <= most
    assert len(calls) < 3 * plan.latent_frames


def test_a_portrait_in_its_own_pose_is_itself(rig):
    turned = rig.turn(torch.zeros(1, 6), 2 * SIZE)
    picture = rig.atlas[:, rig.margin :, rig.margin : -rig.margin][:, : 2 * SIZE]
    torch.testing.assert_close(turned[0], picture, atol=0.02, rtol=0)


def test_turning_stops_where_the_mesh_has_nothing_more_to_show(rig):
    far = torch.zeros(2, 6)
    far[:, 0] = torch.tensor([0.7, 2.0])
    turned = rig.turn(far, SIZE)
    assert torch.equal(turned[0], turned[1])
