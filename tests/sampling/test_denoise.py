"""The three orders of work, against known answers and the released arithmetic."""

from __future__ import annotations

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.errors import UserError
from flashportrait.sampling.denoise import (
    ORDERS,
    CausalDenoiser,
    JointDenoiser,
    check_memory,
    denoiser,
    diagonal_rounds,
)
from flashportrait.sampling.noise import FrameNoise
from flashportrait.sampling.solver import steps_of
from flashportrait.sampling.windows import WindowPlan

NOISE = FrameNoise(seed=0, channels=2, height=2, width=3)
STEPS = 5


def euler(steps: int = STEPS) -> FlowMatchEulerDiscreteScheduler:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5)
    scheduler.set_timesteps(steps)
    return scheduler


def unipc() -> UniPCMultistepScheduler:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5)
    scheduler.set_timesteps(STEPS)
    return scheduler


def dpm() -> DPMSolverMultistepScheduler:
    scheduler = DPMSolverMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5)
    scheduler.set_timesteps(STEPS)
    return scheduler


def heun() -> FlowMatchHeunDiscreteScheduler:
    scheduler = FlowMatchHeunDiscreteScheduler(shift=5)
    scheduler.set_timesteps(STEPS)
    return scheduler


SCHEDULERS = pytest.mark.parametrize("make_scheduler", [euler, unipc, dpm, heun])


def curved(latents, step, window):
    """Mixes frames (as attention does) and depends on window, step and place: nothing cancels by chance."""
    mixed = latents.mean(dim=2, keepdim=True) + latents.roll(1, dims=2)
    return torch.sin(3 * mixed) + 0.3 * window.index + step.sigma * latents


def run(order, velocity, scheduler, plan, **kwargs):
    parts = [
        part for finished in denoiser(order, velocity, scheduler, plan, NOISE, **kwargs).run() for part in finished
    ]
    assert [window.index for window, _ in parts] == list(range(len(plan)))
    assert [latents.shape[2] for _, latents in parts] == [window.owned for window, _ in parts]
    return torch.cat([latents for _, latents in parts], dim=2)


def released(velocity, scheduler, plan):
    """The released loop: step every window by Euler, blend stepped latents except at the first step."""
    latents = NOISE(0, plan.latent_frames)
    sigmas = scheduler.sigmas.tolist()
    for step in steps_of(scheduler):
        moved = torch.zeros_like(latents)
        for window in plan:
            part = latents[:, :, window.start : window.stop]
            part = part + (sigmas[step.index + 1] - sigmas[step.index]) * velocity(part, step, window)
            if window.index and step.index:
                shared = slice(window.start, window.start + window.overlap)
                for j in range(window.overlap):
                    weight = j / (window.overlap - 1)
                    part[:, :, j] = part[:, :, j] * weight + moved[:, :, shared][:, :, j] * (1 - weight)
            moved[:, :, window.start : window.stop] = part
        latents = moved
    return latents


@pytest.mark.parametrize(("frames", "window", "overlap"), [(23, 9, 3), (23, 9, 6), (10, 9, 4), (30, 11, 9), (7, 9, 2)])
def test_synchronous_is_the_released_arithmetic(frames, window, overlap):
    plan = WindowPlan(frames, window, overlap)
    expected = released(curved, euler(), plan)
    torch.testing.assert_close(run("synchronous", curved, euler(), plan), expected, atol=1e-5, rtol=1e-5)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 12), st.integers(1, 6), st.data())
def test_diagonal_equals_synchronous_to_the_bit(frames, window, steps, data):
    plan = WindowPlan(frames, window, data.draw(st.integers(0, window - 1)))
    assert torch.equal(run("diagonal", curved, euler(steps), plan), run("synchronous", curved, euler(steps), plan))


@SCHEDULERS
def test_every_solver_gives_the_same_to_the_bit_in_diagonal_order(make_scheduler):
    plan = WindowPlan(31, 9, 4)
    diagonal, synchronous = (run(order, curved, make_scheduler(), plan) for order in ("diagonal", "synchronous"))
    assert torch.equal(diagonal, synchronous)


@SCHEDULERS
@pytest.mark.parametrize("order", ORDERS)
def test_one_window_is_the_plain_solver(make_scheduler, order):
    plan = WindowPlan(6, 9, 4)
    scheduler, latents = make_scheduler(), NOISE(0, 6)
    for step in steps_of(scheduler):
        velocity = curved(latents, step, plan[0])
        latents = scheduler.step(velocity, step.timestep, latents, return_dict=False)[0]
    assert torch.equal(run(order, curved, make_scheduler(), plan), latents)


@SCHEDULERS
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("overlap", [0, 1, 4, 8])
def test_constant_velocity_flow_arrives_at_the_data(make_scheduler, order, overlap):
    plan = WindowPlan(40, 9, overlap)
    target = FrameNoise(seed=7, channels=2, height=2, width=3)

    def straight(latents, step, window):
        frames = window.start, window.start + latents.shape[2]
        return NOISE(*frames) - target(*frames)

    arrived = run(order, straight, make_scheduler(), plan)
    first_sigma = float(make_scheduler().sigmas[0])  # some schedulers start a little below 1
    expected = NOISE(0, 40) - first_sigma * (NOISE(0, 40) - target(0, 40))
    torch.testing.assert_close(arrived, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("order", ["diagonal", "causal"])
def test_windows_held_do_not_grow_with_the_clip(order):
    def most_frames_held(frames: int) -> int:
        drawn, finished, most = 0, 0, 0

        def noise(start, stop):
            nonlocal drawn
            drawn = max(drawn, stop)
            return NOISE(start, stop)

        for windows in denoiser(order, curved, euler(), WindowPlan(frames, 8, 3), noise).run():
            most = max(most, drawn - finished)
            finished = windows[-1][0].owned_stop if windows else finished
        return most

    assert most_frames_held(200) == most_frames_held(100)
    assert most_frames_held(200) <= (8 * STEPS if order == "diagonal" else 8)


def test_diagonal_holds_at_most_one_window_per_step_in_flight():
    plan, steps = WindowPlan(200, 10, 5), 6
    started, finished, most = set(), set(), 0
    for pairs in diagonal_rounds(plan, steps):
        for window, step in pairs:
            started.add(window)
            most = max(most, len(started - finished))
            if step == steps - 1:
                finished.add(window)
    assert finished == set(range(len(plan)))
    assert most == steps


def test_causal_repeats_its_left_neighbour_where_that_weighs_one():
    plan = WindowPlan(13, 8, 3)
    trace = {}

    def traced(latents, step, window):
        trace[window.index, step.index] = latents
        return curved(latents, step, window)

    run("causal", traced, euler(), plan)
    for step in range(STEPS):
        torch.testing.assert_close(trace[1, step][:, :, 0], trace[0, step][:, :, 5], atol=1e-6, rtol=1e-6)
        assert torch.equal(trace[1, 0], NOISE(5, 13))


@pytest.mark.parametrize("order", ORDERS)
def test_on_step_sees_and_changes_every_step(order):
    plan, seen = WindowPlan(20, 8, 3), []

    def zero_at_the_end(window, step, latents):
        seen.append((window.index, step.index))
        return torch.zeros_like(latents) if step.index == STEPS - 1 else latents

    assert run(order, curved, euler(), plan, on_step=zero_at_the_end).abs().sum() == 0
    assert sorted(seen) == [(window, step) for window in range(len(plan)) for step in range(STEPS)]


@SCHEDULERS
@pytest.mark.parametrize("order", ORDERS)
def test_a_run_continued_anywhere_ends_in_the_same_latents(make_scheduler, order):
    plan, states, finished = WindowPlan(26, 8, 3), [], 0
    whole = run(order, curved, make_scheduler(), plan)
    first = denoiser(order, curved, make_scheduler(), plan, NOISE)
    for windows in first.run():
        finished += len(windows)
        states.append((finished, {name: value.clone() for name, value in first.state_dict().items()}))
    assert len(states) >= len(plan)
    for finished, state in states:
        again = denoiser(order, curved, make_scheduler(), plan, NOISE)
        again.load_state_dict(state)
        rest = [part for windows in again.run() for part in windows]
        assert [window.index for window, _ in rest] == list(range(finished, len(plan)))
        for window, latents in rest:
            assert torch.equal(latents, whole[:, :, window.start : window.owned_stop])


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(ORDERS), st.integers(1, 60), st.integers(1, 12), st.integers(1, 6), st.integers(2, 5), st.data())
def test_velocities_prepared_are_those_asked_for(order, frames, window, steps, breadth, data):
    plan = WindowPlan(frames, window, data.draw(st.integers(0, window - 1)))
    begun, asked, most = {}, 0, 0

    def prepare(requests):
        nonlocal most
        assert not begun
        most = max(most, len(requests))
        begun.update({(window.index, step.index): curved(latents, step, window) for latents, step, window in requests})

    def velocity(latents, step, window):
        nonlocal asked
        asked += 1
        assert torch.equal(begun[window.index, step.index], curved(latents, step, window))
        return begun.pop((window.index, step.index))

    shared = run(order, velocity, euler(steps), plan, prepare=prepare, breadth=breadth)
    assert torch.equal(shared, run(order, curved, euler(steps), plan))
    assert asked == len(plan) * steps
    if order == "causal":
        assert most == min(breadth, len(plan))


def test_a_causal_run_continued_in_another_breadth_ends_in_the_same_latents():
    plan, whole = WindowPlan(26, 8, 3), run("causal", curved, unipc(), WindowPlan(26, 8, 3))
    for before, after in ((1, 3), (3, 1)):
        first = denoiser("causal", curved, unipc(), plan, NOISE, breadth=before)
        for _ in first.run():
            again = denoiser("causal", curved, unipc(), plan, NOISE, breadth=after)
            again.load_state_dict({name: value.clone() for name, value in first.state_dict().items()})
            for window, latents in (part for windows in again.run() for part in windows):
                assert torch.equal(latents, whole[:, :, window.start : window.owned_stop])


@pytest.mark.parametrize(
    ("scheduler", "message"),
    [
        (DDIMScheduler(), "flow"),
        (UniPCMultistepScheduler(prediction_type="flow_prediction", thresholding=True), "thresholding"),
        (FlowMatchEulerDiscreteScheduler(stochastic_sampling=True), "noise at every step"),
    ],
)
def test_schedulers_that_windows_cannot_share_are_refused(scheduler, message):
    scheduler.set_timesteps(4)
    with pytest.raises(UserError, match=message):
        denoiser("causal", curved, scheduler, WindowPlan(9, 5, 2), NOISE)


def test_unknown_order_is_refused():
    with pytest.raises(UserError, match="synchronous, diagonal, causal"):
        denoiser("sideways", curved, euler(), WindowPlan(9, 5, 2), NOISE)


def test_the_scheduler_given_is_left_as_it_was():
    scheduler = unipc()
    run("diagonal", curved, scheduler, WindowPlan(20, 8, 3))
    assert scheduler.step_index is None
    assert scheduler.model_outputs == [None] * 2


def test_factory_returns_the_class_of_the_order():
    plan = WindowPlan(9, 5, 2)
    assert isinstance(denoiser("causal", curved, euler(), plan, NOISE), CausalDenoiser)
    assert isinstance(denoiser("diagonal", curved, euler(), plan, NOISE), JointDenoiser)


@pytest.mark.parametrize("order", ORDERS)
def test_only_the_synchronous_order_is_bounded_in_length(order):
    plan = WindowPlan(3750, 51, 30)  # ten minutes
    check_memory(order, WindowPlan(51, 51, 30), frame_bytes=400_000, kept=4)
    if order != "synchronous":
        check_memory(order, plan, frame_bytes=400_000, kept=4)
        return
    with pytest.raises(UserError, match=r"would hold 14\.9 GiB for the 178 windows .* use the diagonal order"):
        check_memory(order, plan, frame_bytes=400_000, kept=4)


@pytest.mark.parametrize("order", ["synchronous", "diagonal"])
@pytest.mark.parametrize(("frames", "window", "overlap"), [(23, 6, 2), (23, 6, 4), (5, 6, 2)])
def test_what_is_prepared_in_a_round_is_what_is_asked_for(order, frames, window, overlap):
    """No velocity of a round waits for another, so all may be computed at once; the numbers stay."""
    plan, ready, sizes = WindowPlan(frames, window, overlap), {}, []

    def prepare(asked):
        assert not ready
        sizes.append(len(asked))
        ready.update({(each.index, step.index): curved(latents, step, each) for latents, step, each in asked})

    def prepared(latents, step, window):
        velocity = ready.pop((window.index, step.index))
        assert torch.equal(velocity, curved(latents, step, window))
        return velocity

    together = run(order, prepared, euler(), plan, prepare=prepare)
    assert torch.equal(together, run(order, curved, euler(), plan))
    assert sum(sizes) == STEPS * len(plan)
    if order == "synchronous":
        assert set(sizes) == {len(plan)}


def test_a_run_begun_alone_goes_on_in_rounds_that_can_be_shared():
    plan = WindowPlan(23, 6, 2)
    whole = run("diagonal", curved, euler(), plan)
    begun = denoiser("diagonal", curved, euler(), plan, NOISE)
    rounds = begun.run()
    parts = [part for _ in range(7) for part in next(rounds)]
    other = denoiser("diagonal", curved, euler(), plan, NOISE, prepare=lambda asked: None)
    other.load_state_dict(begun.state_dict())
    parts += [part for finished in other.run() for part in finished]
    assert torch.equal(torch.cat([latents for _, latents in parts], dim=2), whole)
