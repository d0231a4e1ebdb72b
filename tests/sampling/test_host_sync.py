"""The loop over steps asks no tensor for its value: on a GPU that would wait for everything queued before it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch.utils._python_dispatch import TorchDispatchMode

from flashportrait.conditioning import Conditions, GuidedVelocity
from flashportrait.models.transformer import with_mask
from flashportrait.reference import PortraitFirst
from flashportrait.sampling.denoise import denoiser
from flashportrait.sampling.guidance import Guidance
from flashportrait.sampling.predictor import AdaptiveLatentPrediction
from flashportrait.sampling.solver import steps_of
from flashportrait.sampling.speed import SPEEDS
from flashportrait.sampling.windows import WindowPlan
from toys import toy_pipeline

STEPS, FRAMES = 30, 8
WAITING = {
    torch.ops.aten._local_scalar_dense.default,  # item, tolist, float, if
    torch.ops.aten.equal.default,
    torch.ops.aten.is_nonzero.default,
    torch.ops.aten.nonzero.default,
}
"""Operations whose result the host has to have."""


class Waited(Exception):
    """A tensor's value was asked for."""


class NoWaiting(TorchDispatchMode):
    """Refuses operations that would make the host wait."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function in WAITING:
            raise Waited(str(function))
        return function(*args, **(kwargs or {}))


def sample(predictor: AdaptiveLatentPrediction | None, order: Any) -> None:
    """All windows; raises ``Waited`` where the host would wait."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    scheduler.set_timesteps(STEPS)
    sigmas = scheduler.sigmas.tolist()
    plan, steps = WindowPlan(FRAMES, 3, 1), steps_of(scheduler)
    pipeline = toy_pipeline()
    config = pipeline.transformer.config
    conditions = Conditions(
        torch.randn(1, 3, config.text_dim),
        torch.randn(1, 3, config.text_dim),
        torch.randn(1, 4, config.image_dim),
        PortraitFirst(with_mask(torch.randn(1, 16, 3, 4, 4))),
        torch.randn(1, 4 * FRAMES - 3, 57),
    )
    velocity = GuidedVelocity(
        pipeline.transformer,
        pipeline.portrait_encoder,
        conditions,
        Guidance(1.0, 4.0),
        steps=STEPS,
        prediction=None if predictor is None else predictor.start(sigmas),
    )
    noise = torch.randn(1, 16, FRAMES, 4, 4)
    run = denoiser(order, velocity, scheduler, plan, lambda start, stop: noise[:, :, start:stop])
    with torch.no_grad(), NoWaiting():
        done = [window for finished in run.run() for window, _ in finished]
    assert len(steps) == STEPS
    assert len(done) == len(plan)


@pytest.mark.parametrize("order", ["synchronous", "diagonal", "causal"])
@pytest.mark.parametrize("speed", ["exact", "fast"])
def test_no_step_waits_for_the_device(speed: str, order: str):
    sample(SPEEDS[speed], order)


def test_the_papers_gains_stay_on_the_device():
    sample(AdaptiveLatentPrediction(method="alp", order=2, interval=3), "diagonal")


def test_what_has_to_measure_its_error_waits():
    """And shows that waiting would be seen."""
    with pytest.raises(Waited):
        sample(AdaptiveLatentPrediction(method="newton", order=1, tolerance=0.1), "diagonal")
