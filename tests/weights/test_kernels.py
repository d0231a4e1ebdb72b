"""Kernels and compilation chosen from outside: named, refused in one line, and never compiled twice for one run."""

from __future__ import annotations

import pytest
import torch

from flashportrait.errors import UserError
from flashportrait.models.transformer import with_mask
from flashportrait.weights import kernels
from flashportrait.weights.kernels import ATTENTION, attention_of, compile_blocks, set_attention
from toys import toy_pipeline, toy_transformer

CPU = torch.device("cpu")


def test_the_kernel_is_chosen_and_named():
    transformer = toy_transformer()
    assert set_attention(transformer, None, CPU) == "native" == attention_of(transformer)
    transformer.set_attention_backend("_native_math")
    assert attention_of(transformer) == "_native_math"
    assert set_attention(transformer, "native", CPU) == attention_of(transformer) == "native"


@pytest.mark.parametrize("name", sorted(ATTENTION.keys() - {"native"}))
def test_a_kernel_that_can_not_run_is_refused_and_nothing_changes(name: str):
    transformer = toy_transformer()
    with pytest.raises(UserError, match=f"attention by {name} can't be used here"):
        set_attention(transformer, name, CPU)
    assert attention_of(transformer) == "native"


def test_blocks_are_compiled_once_for_all_steps_windows_and_branches():
    """Graphs are captured as they would be for a GPU; only turning them into code is left out."""
    pipeline = toy_pipeline(emotion_scale=2.0)
    config, generator = pipeline.transformer.config, torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    prompts = noise(2, 1, 3, config.text_dim)
    given = dict(
        prompt_embeds=prompts[0],
        negative_prompt_embeds=prompts[1],
        image_embeds=noise(1, 4, config.image_dim),
        reference_latents=with_mask(noise(1, 16, 3, 4, 4)),
        motion=noise(1, 29, 57),
        emotion_scale=2.0,
        text_scale=1.5,  # three branches
        window=3,
        overlap=1,
        num_inference_steps=3,
    )
    latents = noise(1, 16, 8, 4, 4)
    expected = pipeline.sample_latents(latents, **given)
    torch.compiler.reset()
    compile_blocks(pipeline.transformer, backend="eager")
    once = pipeline.sample_latents(latents[:, :, :3], **{**given, "motion": given["motion"][:, :9]})
    assert once.isfinite().all()
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(pipeline.sample_latents(latents, **given), expected)


def test_with_several_processes_no_kernel_is_tried_that_can_not_split_a_pass(monkeypatch: pytest.MonkeyPatch):
    tried: list[str] = []

    def try_(kernel: str, device: torch.device) -> None:
        tried.append(kernel)
        raise RuntimeError("not here")

    monkeypatch.setattr(kernels, "_try", try_)
    transformer, cuda = toy_transformer(), torch.device("cuda")
    monkeypatch.setattr(type(transformer), "set_attention_backend", lambda self, backend: None)
    for splittable, expected in ((False, ["flash3", "flash"]), (True, ["flash"])):
        assert set_attention(transformer, None, cuda, splittable=splittable) == "native"
        assert tried == expected
        tried.clear()
