"""The policy: which steps are computed, what is predicted, per window, with resume."""

from __future__ import annotations

import dataclasses
import itertools
import json

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from flashportrait.errors import UserError
from flashportrait.sampling.predictor import AdaptiveLatentPrediction, evenly_spread, next_gap, relative_error
from flashportrait.sampling.speed import SPEEDS, parse_predictor, preset


def flow_sigmas(steps: int) -> list[float]:
    """The sampler's own schedule: shift 5, unevenly spaced."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    scheduler.set_timesteps(steps)
    return scheduler.sigmas.double().tolist()


class GaussianFlow:
    """The exact velocity field of data N(mean, deviation^2): curved, with a known answer."""

    def __init__(self, mean: float = 1.0, deviation: float = 0.3, size: int = 64):
        generator = torch.Generator().manual_seed(0)
        self.mean = mean * torch.randn(size, generator=generator, dtype=torch.float64)
        self.variance = deviation**2
        self.noise = torch.randn(size, generator=generator, dtype=torch.float64)

    def __call__(self, latents: torch.Tensor, sigma: float) -> torch.Tensor:
        kept = 1.0 - sigma
        spread = kept**2 * self.variance + sigma**2
        clean = self.mean + kept * self.variance / spread * (latents - kept * self.mean)
        return (latents - clean) / sigma


def run(predictor, flow, sigmas, windows=(0,), order="steps"):
    """Euler on every window; ``order`` is which loop is outside. Returns the latents of each window and the state."""
    state = predictor.start(sigmas)
    latents = {window: flow.noise + 0.1 * window for window in windows}
    visits = [(w, s) for s in range(len(sigmas) - 1) for w in windows]
    if order == "windows":
        visits.sort()
    for window, step in visits:
        velocity = state.step(window, step, lambda w=window, s=step: flow(latents[w], sigmas[s]))
        latents[window] = latents[window] + (sigmas[step + 1] - sigmas[step]) * velocity
    return latents, state


def exact(flow, sigmas, window=0):
    latents = flow.noise + 0.1 * window
    for begin, end in itertools.pairwise(sigmas):
        latents = latents + (end - begin) * flow(latents, begin)
    return latents


def test_the_paper_s_setting_is_the_default():
    config = AdaptiveLatentPrediction()
    assert (config.interval, config.order, config.alpha) == (5, 3, 1.5)
    assert (config.method, config.target, config.coordinate) == ("alp", "guided", "step")


@pytest.mark.parametrize("method", ["alp", "taylor", "newton", "hermite"])
@pytest.mark.parametrize("coordinate", ["step", "sigma", "log_snr"])
def test_a_constant_velocity_is_predicted_exactly(method, coordinate):
    """A constant-velocity flow needs one call; every rule must hit its end point to the bit of rounding."""
    sigmas, velocity = flow_sigmas(30), torch.randn(8, dtype=torch.float64)
    state = AdaptiveLatentPrediction(method=method, coordinate=coordinate).start(sigmas)
    latents = torch.zeros(8, dtype=torch.float64)
    for step in range(30):
        latents = latents + (sigmas[step + 1] - sigmas[step]) * state.step(0, step, lambda: velocity)
    assert torch.allclose(latents, -velocity, atol=1e-12)
    assert state.stats.full_steps == {0: [0, 5, 10, 15, 20, 25]}
    assert state.stats.predicted == {0: 24}


@pytest.mark.parametrize("corrected", [False, True])
def test_a_velocity_that_is_a_parabola_in_sigma_is_predicted_exactly_at_uneven_spacing(corrected):
    sigmas = flow_sigmas(30)
    parabola = [torch.tensor([2.0 - 3.0 * s + 5.0 * s * s], dtype=torch.float64) for s in sigmas]
    config = AdaptiveLatentPrediction(
        interval=4, order=2, method="newton", coordinate="sigma", warmup=3, corrected=corrected
    )
    state = config.start(sigmas)
    for step in range(30):
        assert torch.allclose(state.step(0, step, lambda s=step: parabola[s]), parabola[step], atol=1e-9)
    assert state.stats.full_steps == {0: [0, 1, 2, 6, 10, 14, 18, 22, 26]}


def test_the_corrector_makes_good_a_gap_predicted_without_any_slope():
    """Velocity linear in sigma, order 0: after the second computed step the latents are where they should be."""
    sigmas = flow_sigmas(12)
    config = AdaptiveLatentPrediction(order=0, method="newton", coordinate="sigma", full_steps=(0, 5), corrected=True)
    state = config.start(sigmas)
    moved = true = 0.0
    for step in range(6):
        velocity = torch.tensor(1.0 - sigmas[step], dtype=torch.float64)
        moved = moved + (sigmas[step + 1] - sigmas[step]) * state.step(0, step, lambda v=velocity: v)
        true = true + (sigmas[step + 1] - sigmas[step]) * velocity
    assert torch.allclose(moved, true, atol=1e-12)


def test_prediction_beats_fewer_steps_and_the_corrector_beats_prediction():
    """At 7 calls of 30 on a curved flow with a known answer: the order that docs/predictor.md reports."""
    flow, sigmas = GaussianFlow(), flow_sigmas(30)
    reference = exact(flow, sigmas)
    config = AdaptiveLatentPrediction(method="newton", order=1, speedup=30 / 7)
    plain, state = run(config, flow, sigmas)
    corrected, _ = run(dataclasses.replace(config, corrected=True), flow, sigmas)
    errors = [relative_error(x, reference) for x in (exact(flow, flow_sigmas(7)), plain[0], corrected[0])]
    assert state.stats.computed == {0: 7}
    assert errors[2] < errors[1] < errors[0]


def test_windows_keep_apart_whatever_the_order_of_visits():
    flow, sigmas = GaussianFlow(), flow_sigmas(20)
    config = AdaptiveLatentPrediction(interval=4)
    alone = {window: run(config, flow, sigmas, (window,))[0][window] for window in (0, 1, 2)}
    for order in ("steps", "windows"):
        together, _ = run(config, flow, sigmas, (0, 1, 2), order)
        assert all(torch.equal(together[window], alone[window]) for window in alone)


def test_a_new_start_remembers_nothing():
    flow, sigmas = GaussianFlow(), flow_sigmas(20)
    config = AdaptiveLatentPrediction(interval=4)
    assert torch.equal(run(config, flow, sigmas)[0][0], run(config, flow, sigmas)[0][0])


def test_interval_one_computes_every_step_and_changes_nothing():
    flow, sigmas = GaussianFlow(), flow_sigmas(10)
    latents, state = run(AdaptiveLatentPrediction(interval=1, corrected=True), flow, sigmas)
    assert torch.equal(latents[0], exact(flow, sigmas))
    assert state.stats.predicted == {}


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(1, 60), interval=st.integers(1, 9), warmup=st.integers(1, 70), cooldown=st.integers(0, 70))
def test_the_fixed_policy_honours_warm_up_cool_down_and_interval(steps, interval, warmup, cooldown):
    config = AdaptiveLatentPrediction(interval=interval, warmup=warmup, cooldown=cooldown)
    state = config.start([1 - step / steps for step in range(steps + 1)])
    for step in range(steps):
        state.step(0, step, lambda: torch.ones(1))
    full = state.stats.full_steps[0]
    assert full[: min(warmup, steps)] == list(range(min(warmup, steps)))
    assert set(range(max(0, steps - cooldown), steps)) <= set(full)
    assert max(b - a for a, b in zip(full, [*full[1:], steps], strict=True)) <= interval


@settings(max_examples=60, deadline=None)
@given(steps=st.integers(2, 60), data=st.data())
def test_evenly_spread_gives_the_number_of_calls_asked_for(steps, data):
    calls = data.draw(st.integers(1, steps))
    full = evenly_spread(calls, steps)
    assert len(full) == calls
    assert full[0] == 0
    assert list(full) == sorted(set(full))
    assert full[-1] < steps


def test_a_tighter_tolerance_costs_calls_and_buys_accuracy():
    flow, sigmas = GaussianFlow(), flow_sigmas(40)
    reference = exact(flow, sigmas)
    calls, errors = [], []
    for tolerance in (0.3, 0.03, 0.003):
        config = AdaptiveLatentPrediction(
            method="newton", order=1, coordinate="sigma", interval=2, warmup=2, tolerance=tolerance
        )
        latents, state = run(config, flow, sigmas)
        calls.append(state.stats.computed[0])
        errors.append(relative_error(latents[0], reference))
    assert calls == sorted(set(calls))
    assert errors[0] > errors[1] > errors[2]


def test_next_gap_follows_the_error_within_its_bounds():
    assert next_gap(0.1, error=0.05, tolerance=0.05, points=2) == pytest.approx(0.09)
    assert next_gap(0.1, error=0.2, tolerance=0.05, points=2) == pytest.approx(0.045)
    assert next_gap(0.1, error=0.2, tolerance=0.05, points=1) == pytest.approx(0.025)
    assert next_gap(0.1, error=0.0, tolerance=0.05, points=2) == pytest.approx(0.4)
    assert next_gap(0.1, error=1e9, tolerance=0.05, points=2) == pytest.approx(0.025)


@pytest.mark.parametrize("tolerance", [None, 0.05])
@pytest.mark.parametrize("interrupted", [1, 7, 13])
def test_resume_gives_the_same_latents(tolerance, interrupted):
    flow, sigmas = GaussianFlow(), flow_sigmas(20)
    config = AdaptiveLatentPrediction(interval=4, corrected=True, tolerance=tolerance)
    expected, expected_state = run(config, flow, sigmas)
    state, latents = config.start(sigmas), flow.noise
    for step in range(20):
        if step == interrupted:
            saved = state.state_dict()
            json.dumps(saved["plain"])
            assert all(isinstance(value, torch.Tensor) for value in saved["tensors"].values())
            state = config.start(sigmas)
            state.load_state_dict(saved)
        velocity = state.step(0, step, lambda s=step, x=latents: flow(x, sigmas[s]))
        latents = latents + (sigmas[step + 1] - sigmas[step]) * velocity
    assert torch.equal(latents, expected[0])
    assert state.stats == expected_state.stats


def test_resume_refuses_another_run_s_state():
    saved = AdaptiveLatentPrediction().start(flow_sigmas(20)).state_dict()
    with pytest.raises(UserError, match="another predictor or schedule"):
        AdaptiveLatentPrediction().start(flow_sigmas(10)).load_state_dict(saved)
    with pytest.raises(UserError, match="another predictor or schedule"):
        AdaptiveLatentPrediction(order=1).start(flow_sigmas(20)).load_state_dict(saved)


def test_memory_is_order_plus_one_velocities_a_window_and_is_freed():
    state = AdaptiveLatentPrediction(interval=1, order=3).start(flow_sigmas(10))
    for step in range(10):
        state.step(0, step, lambda: torch.ones(1000, dtype=torch.float32))
    assert state.memory_bytes == state.stats.peak_bytes == 4 * 4000
    state.finish(0)
    assert state.memory_bytes == 0
    assert state.stats.computed == {0: 10}


def test_memory_at_201_frames_of_480x832_stays_below_a_gibibyte():
    """The widest default: order 3 and the corrector, float32, on 16 x 51 x 60 x 104 latents."""
    tensors = AdaptiveLatentPrediction().order + 1 + 1
    assert tensors * 16 * 51 * 60 * 104 * 4 < 2**30 / 10


@pytest.mark.parametrize(
    "scheduler",
    [
        FlowMatchEulerDiscreteScheduler(shift=5.0),
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0),
    ],
    ids=["euler", "unipc"],
)
def test_prediction_stands_in_front_of_any_scheduler(scheduler):
    flow = GaussianFlow()

    def sample(config):
        scheduler.set_timesteps(20)
        state = config.start(scheduler.sigmas.tolist())
        latents = flow.noise.float().view(1, 1, 8, 8)
        for step, timestep in enumerate(scheduler.timesteps):
            sigma = min(float(scheduler.sigmas[step]), 0.999)
            velocity = state.step(
                0, step, lambda x=latents, s=sigma: flow(x.double().flatten(), s).float().view(1, 1, 8, 8)
            )
            latents = scheduler.step(velocity, timestep, latents, return_dict=False)[0]
        return latents

    all_steps = sample(AdaptiveLatentPrediction(interval=1))
    half = sample(AdaptiveLatentPrediction(method="newton", order=1, coordinate="sigma", interval=2, cooldown=2))
    assert relative_error(half, all_steps) < 0.05


def test_targets_inside_the_network_always_compute_here():
    state = AdaptiveLatentPrediction(target="last_block").start(flow_sigmas(10))
    for step in range(10):
        state.step(0, step, lambda: torch.ones(1))
    assert state.stats.computed == {0: 10}
    assert state.memory_bytes == 0


@pytest.mark.parametrize("speed", [*SPEEDS])
def test_presets(speed):
    predictor = preset(speed)
    calls = {"exact": 30, "balanced": 10, "fast": 5, "turbo": 3}[speed]
    if predictor is None:
        assert calls == 30
        return
    state = predictor.start(flow_sigmas(30))
    for step in range(30):
        state.step(0, step, lambda: torch.ones(1))
    assert state.stats.computed == {0: calls}


def test_parse():
    assert parse_predictor("none") is None
    assert parse_predictor("alp") == AdaptiveLatentPrediction()
    assert parse_predictor("alp:interval=5,order=3,alpha=1.5,target=guided") == AdaptiveLatentPrediction()
    assert parse_predictor("newton:full_steps=0+4+9,corrected=true,layer_scale=false") == AdaptiveLatentPrediction(
        method="newton", full_steps=(0, 4, 9), corrected=True, layer_scale=False
    )
    assert parse_predictor("taylor:tolerance=0.05").tolerance == 0.05


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("magic", "method is 'magic'; choose one of taylor, newton"),
        ("alp:pace=3", "'pace=3' is not understood"),
        ("alp:order", "'order' is not understood"),
        ("alp:order=many", "order=many does not read as int"),
        ("alp:corrected=perhaps", "corrected=perhaps does not read as bool"),
        ("alp:interval=0", "interval is 0; it must be at least 1"),
        ("alp:target=everything", "target is 'everything'"),
        ("alp:tolerance=-1", "tolerance is -1"),
        ("alp:tolerance=0.1,target=modules", "needs target guided"),
        ("alp:tolerance=0.1,interval=12", "max_interval 10 is below interval 12"),
        ("alp:full_steps=1+2", "must ascend from 0"),
        ("alp:speedup=6,tolerance=0.1", "speedup and tolerance each choose"),
        ("alp:speedup=0.5", "speedup is 0.5"),
        ("alp:corrected=true,target=blocks", "needs target guided"),
    ],
)
def test_what_the_user_gets_wrong_is_said_in_one_line(text, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(")) as error:
        parse_predictor(text)
    assert "\n" not in str(error.value)


def test_start_refuses_what_it_can_t_honour():
    with pytest.raises(UserError, match="first-order solver"):
        AdaptiveLatentPrediction(corrected=True).start(flow_sigmas(10), first_order=False)
    with pytest.raises(UserError, match="4 steps are too few"):
        preset("fast").start(flow_sigmas(4))
    with pytest.raises(UserError, match="speed is 'ludicrous'"):
        preset("ludicrous")


class Waits(TorchDispatchMode):
    """Counts how often a tensor's value is asked for, which on a GPU waits for all that was begun."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten._local_scalar_dense.default
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["alp", "newton"])
def test_the_loop_never_waits_for_a_value(method):
    state = AdaptiveLatentPrediction(method=method, corrected=method == "newton").start(flow_sigmas(30))
    velocity = torch.randn(2, 8)
    with Waits() as waits:
        for step in range(30):
            state.step(0, step, lambda: velocity)
        assert waits.count == 0
        assert float(velocity.sum()) == velocity.sum(), "what is counted"
        assert waits.count > 0
