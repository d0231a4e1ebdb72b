"""Every frame of the result shows the expression of the same frame of the driver."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from flashportrait.conditioning import Conditions, GuidedVelocity
from flashportrait.errors import UserError
from flashportrait.models.portrait_encoder import tokens_per_latent_frame
from flashportrait.reference import PortraitFirst
from flashportrait.sampling.denoise import ORDERS, denoiser
from flashportrait.sampling.guidance import Guidance
from flashportrait.sampling.noise import FrameNoise
from flashportrait.sampling.solver import Step
from flashportrait.sampling.windows import WindowPlan, latent_frame_count

STEPS = 3


class RowNumbers(nn.Module):
    """A portrait encoder whose one token per frame is the frame's motion row itself."""

    def forward(self, motion: Tensor) -> Tensor:
        return motion

    def tokens_per_latent_frame(self, tokens: Tensor, frames: int) -> Tensor:
        return tokens_per_latent_frame(tokens, frames, tokens_per_frame=1)


class Writer(nn.Module):
    """A network that drives latent frame i to its expression tokens: channel j ends as the row of frame 4i - 3 + j."""

    def cache_context(self, *_: object, **__: object) -> nullcontext:
        return nullcontext()

    def forward(self, hidden_states, timestep, expression_tokens, **_):
        target = expression_tokens[..., 1:, 0].transpose(1, 2)[..., None, None]
        # A window's first latent frame sees one driving frame, first among its tokens; it is the last of the four.
        target[:, :, 0] = 0
        target[:, 3, 0] = expression_tokens[:, 0, 0, 0, None, None]
        sigma = (timestep / 1000).view(-1, 1, 1, 1, 1)
        return (hidden_states[:, :4] - target) / sigma


def conditions(rows: Tensor, window: int) -> Conditions:
    return Conditions(
        prompt_embeds=torch.zeros(1, 1, 1),
        negative_prompt_embeds=torch.zeros(1, 1, 1),
        image_embeds=torch.zeros(1, 1, 1),
        reference=PortraitFirst(torch.zeros(1, 20, window, 1, 1)),
        motion=rows,
    )


def final_latents(frames: int, plan: WindowPlan, order: str) -> Tensor:
    rows = torch.arange(1.0, frames + 1).view(1, frames, 1)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5)
    scheduler.set_timesteps(STEPS)
    given_conditions = conditions(rows, len(plan[0])).padded_to(plan)
    velocity = GuidedVelocity(Writer(), RowNumbers(), given_conditions, Guidance(), steps=STEPS)
    run = denoiser(order, velocity, scheduler, plan, FrameNoise(0, 4, 1, 1))
    return torch.cat([latents for windows in run.run() for _, latents in windows], dim=2)[0, :, :, 0, 0]


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 500), st.integers(1, 60), st.sampled_from(ORDERS), st.data())
def test_frame_i_shows_the_expression_of_frame_i(frames, window, order, data):
    plan = WindowPlan(latent_frame_count(frames), window, data.draw(st.integers(0, window - 1)))
    latents = final_latents(frames, plan, order)
    shown = latents.T.flatten()[3:]  # latent frame 0 holds one frame, in its last channel
    expected = torch.arange(1.0, len(shown) + 1).clamp_max(frames)
    known = torch.ones(len(shown), dtype=torch.bool)
    if plan.overlap < 2 or (len(plan) > 1 and plan[len(plan) - 1].overlap < 2):
        for start in (part.start for part in plan if part.start):
            known[4 * start - 3 : 4 * start] = False  # the window's first latent frame knows its last frame alone
    torch.testing.assert_close(shown[known], expected[known], atol=1e-2, rtol=1e-4)


def test_motion_of_a_window_is_encoded_once_and_let_go():
    class Counting(RowNumbers):
        calls = 0

        def forward(self, motion):
            Counting.calls += 1
            return motion

    plan = WindowPlan(9, 5, 2)
    velocity = GuidedVelocity(Writer(), Counting(), conditions(torch.zeros(1, 33, 1), 5), Guidance(), steps=STEPS)
    for window in plan:
        for step in range(STEPS):
            velocity(torch.zeros(1, 4, 5, 1, 1), Step(step, torch.tensor(500.0), 0.5, 0.4), window)
    assert Counting.calls == len(plan)
    assert velocity._expression_tokens == {}
    assert velocity.calls == len(plan) * STEPS


@pytest.mark.parametrize(("frames", "fits"), [(29, False), (30, True), (33, True), (34, False)])
def test_motion_must_be_of_the_clips_length(frames, fits):
    plan = WindowPlan(9, 5, 2)
    given_conditions = conditions(torch.rand(1, frames, 1), 5)
    if not fits:
        with pytest.raises(UserError, match="33 rows"):
            given_conditions.padded_to(plan)
        return
    padded = given_conditions.padded_to(plan)
    assert padded.motion.shape[1] == 33
    assert torch.equal(padded.motion[:, :frames], given_conditions.motion)
    assert (padded.motion[:, frames:] == given_conditions.motion[:, -1:]).all()


def test_prompts_come_to_one_length_with_zeros():
    short, long = torch.ones(1, 2, 3), torch.ones(1, 4, 3)
    reference = PortraitFirst(torch.zeros(1, 20, 5, 1, 1))
    given_conditions = Conditions(short, long, torch.zeros(1, 1, 1), reference, torch.zeros(1, 33, 1))
    padded = given_conditions.padded_to(WindowPlan(9, 5, 2))
    assert padded.prompt_embeds.shape == padded.negative_prompt_embeds.shape
    assert padded.prompt_embeds[:, 2:].abs().sum() == 0
    assert not padded.same_prompts
    assert conditions(torch.zeros(1, 33, 1), 5).same_prompts
