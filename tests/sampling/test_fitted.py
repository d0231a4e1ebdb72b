"""Fitted prediction: exact where an exact combination exists, better than extrapolation where none does."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from flashportrait.errors import UserError
from flashportrait.sampling.fitted import fit, fit_with_moved_steps, run_exactly
from flashportrait.sampling.predictor import AdaptiveLatentPrediction, evenly_spread, relative_error
from flashportrait.sampling.speed import preset

STEPS, SIZE = 20, 256


def flow_sigmas(steps: int = STEPS) -> list[float]:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    scheduler.set_timesteps(steps)
    return scheduler.sigmas.double().tolist()


class Flow:
    """The exact velocity field of one clip's data: a Gaussian around the clip's own mean, of uneven spread."""

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)
        self.mean, self.noise = torch.randn(2, SIZE, generator=generator, dtype=torch.float64)
        self.variance = torch.logspace(-2, 0, SIZE, dtype=torch.float64)

    def __call__(self, latents: torch.Tensor, step: int) -> torch.Tensor:
        sigma = flow_sigmas()[step]
        kept = 1.0 - sigma
        gain = kept * self.variance / (kept**2 * self.variance + sigma**2)
        return (latents - self.mean - gain * (latents - kept * self.mean)) / sigma


@pytest.fixture(scope="module")
def runs():
    return [run_exactly(flow, flow.noise, flow_sigmas()) for flow in map(Flow, range(6))]


def sample(predictor, flow: Flow):
    sigmas = flow_sigmas()
    state, latents = predictor.start(sigmas), flow.noise
    for step in range(STEPS):
        velocity = state.step(0, step, lambda x=latents, s=step: flow(x, s))
        latents = latents + (sigmas[step + 1] - sigmas[step]) * velocity
    return latents, state


def test_a_constant_velocity_needs_one_call_of_weight_one():
    velocity, sigmas = torch.randn(SIZE, dtype=torch.float64), flow_sigmas()
    run = run_exactly(lambda *_: velocity, torch.zeros(SIZE, dtype=torch.float64), sigmas)
    fitted = fit([run], sigmas, (0,))
    assert fitted.weights[0] == pytest.approx((1.0,))


def test_a_velocity_linear_in_sigma_is_continued_exactly():
    """Two calls determine a straight line; the second gap is crossed at the line's mean velocity over it."""
    sigmas = flow_sigmas()
    generator = torch.Generator().manual_seed(0)
    level, slope = torch.randn(2, 4096, generator=generator, dtype=torch.float64)

    def velocity(_, step):
        return level + sigmas[step] * slope

    run = run_exactly(velocity, torch.zeros(4096, dtype=torch.float64), sigmas)
    fitted = fit([run], sigmas, (0, 12))
    dsigma = [b - a for a, b in itertools.pairwise(sigmas)]
    mean = sum(d * s for d, s in zip(dsigma[12:], sigmas[12:-1], strict=True)) / sum(dsigma[12:])
    state, latents = fitted.start(sigmas), torch.zeros(4096, dtype=torch.float64)
    for step in range(STEPS):
        latents = latents + dsigma[step] * state.step(0, step, lambda s=step: velocity(None, s))
    # The first gap can only be crossed at a multiple of its first velocity; the second makes up for the rest.
    assert relative_error(latents, run.latents[-1]) < 1e-3
    assert fitted.weights[1][0] > 1 > 0 > fitted.weights[1][1]
    assert mean < sigmas[12]


@pytest.mark.parametrize("calls", [3, 5, 7])
def test_it_beats_extrapolation_on_clips_it_has_not_seen(runs, calls):
    full_steps = evenly_spread(calls, STEPS)
    fitted = fit(runs, flow_sigmas(), full_steps)
    plain = AdaptiveLatentPrediction(method="newton", order=1, full_steps=full_steps)
    for rival in (plain, dataclasses.replace(plain, corrected=True), dataclasses.replace(plain, order=0)):
        errors = {fitted: [], rival: []}
        for seed in range(100, 106):
            flow = Flow(seed)
            reference = run_exactly(flow, flow.noise, flow_sigmas()).latents[-1]
            for predictor, own in errors.items():
                latents, state = sample(predictor, flow)
                own.append(relative_error(latents, reference))
                assert state.stats.computed == {0: calls}
        assert sum(errors[fitted]) < sum(errors[rival])


def test_moving_the_computed_steps_helps(runs):
    even = evenly_spread(4, STEPS)
    moved = fit_with_moved_steps(runs, flow_sigmas(), even)
    assert len(moved.full_steps) == 4
    errors = [
        sum(relative_error(sample(fitted, run.velocity)[0], run.latents[-1]) ** 2 for run in runs)
        for fitted in (fit(runs, flow_sigmas(), even), moved)
    ]
    assert errors[1] < errors[0]


def test_computing_every_step_gives_the_exact_result(runs):
    fitted = fit(runs, flow_sigmas(), range(STEPS))
    latents, _ = sample(fitted, runs[0].velocity)
    assert relative_error(latents, runs[0].latents[-1]) < 1e-3


def test_it_survives_json_and_resume(runs):
    fitted = fit(runs, flow_sigmas(), evenly_spread(5, STEPS))
    again = preset("fast", json.loads(json.dumps({"fast": dataclasses.asdict(fitted)})))
    assert again == fitted
    expected, expected_state = sample(fitted, runs[0].velocity)
    sigmas, latents, state = flow_sigmas(), runs[0].latents[0], fitted.start(flow_sigmas())
    for step in range(STEPS):
        if step == 9:
            saved = state.state_dict()
            saved["plain"] = json.loads(json.dumps(saved["plain"]))
            state = fitted.start(sigmas)
            state.load_state_dict(saved)
        velocity = state.step(0, step, lambda x=latents, s=step: runs[0].velocity(x, s))
        latents = latents + (sigmas[step + 1] - sigmas[step]) * velocity
    assert torch.equal(latents, expected)
    assert state.stats == expected_state.stats


def test_what_does_not_fit_is_said(runs):
    fitted = fit(runs, flow_sigmas(), (0, 10))
    with pytest.raises(UserError, match="fitted on a schedule of 20 steps, not on this one of 10"):
        fitted.start(flow_sigmas(10))
    with pytest.raises(UserError, match="first-order solver"):
        fitted.start(flow_sigmas(), first_order=False)
    with pytest.raises(UserError, match="must ascend from 0 within 20 steps"):
        dataclasses.replace(fitted, full_steps=(0, 20))
    with pytest.raises(UserError, match="weights have rows of"):
        dataclasses.replace(fitted, full_steps=(0, 5, 10))
