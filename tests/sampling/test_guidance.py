"""Three-branch guidance against its equation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flashportrait.sampling.guidance import Guidance, guided

VELOCITIES = {name: torch.randn(2, 3, generator=torch.Generator().manual_seed(i)) for i, name in enumerate("ftn")}
FULL, TEXT, NONE = VELOCITIES.values()
OUTPUTS = {"full": FULL, "text": TEXT, "none": NONE}
SCALES = st.floats(0, 8)


@given(SCALES, SCALES)
def test_combination_is_the_equation(text_scale, emotion_scale):
    guidance = Guidance(text_scale, emotion_scale)
    expected = NONE + text_scale * (TEXT - NONE) + emotion_scale * (FULL - TEXT)
    combined = guidance.combine({branch: OUTPUTS[branch] for branch in guidance.weights()})
    torch.testing.assert_close(combined, expected, atol=1e-4, rtol=1e-4)


@given(SCALES, SCALES, st.booleans())
def test_weights_sum_to_one(text_scale, emotion_scale, same_prompts):
    assert sum(Guidance(text_scale, emotion_scale, same_prompts).weights().values()) == pytest.approx(1)


@pytest.mark.parametrize(
    ("guidance", "branches"),
    [
        (Guidance(1, 1), ["full"]),
        (Guidance(1, 4), ["full", "text"]),
        (Guidance(1, 0), ["text"]),
        (Guidance(3, 3), ["full", "none"]),
        (Guidance(2, 4), ["full", "text", "none"]),
        (Guidance(2, 4, same_prompts=True), ["full", "text"]),
        (Guidance(2, 1, same_prompts=True), ["full"]),
    ],
)
def test_branches_without_weight_do_not_run(guidance, branches):
    assert list(guidance.weights()) == branches


def test_equal_prompts_give_what_running_both_would():
    with_both = Guidance(3, 4).combine({"full": FULL, "text": TEXT, "none": TEXT})
    with_one = Guidance(3, 4, same_prompts=True).combine({"full": FULL, "text": TEXT})
    torch.testing.assert_close(with_both, with_one)


@pytest.mark.parametrize("batched", [True, False])
def test_branches_run_together_or_one_by_one(batched):
    calls = []

    def predict(branches):
        calls.append(branches)
        return {branch: OUTPUTS[branch] for branch in branches}

    velocity = guided(Guidance(2, 4), predict, batched=batched)
    torch.testing.assert_close(velocity, NONE + 2 * (TEXT - NONE) + 4 * (FULL - TEXT))
    assert calls == ([("full", "text", "none")] if batched else [("full",), ("text",), ("none",)])


def test_half_precision_outputs_are_combined_in_float32():
    guidance = Guidance(1, 4)
    combined = guidance.combine({"full": FULL.bfloat16(), "text": TEXT.bfloat16()})
    assert combined.dtype == torch.float32
