"""The default precision, chosen before a pipeline is loaded."""

from __future__ import annotations

import pytest
import torch

from flashportrait.loading import default_dtype


@pytest.mark.parametrize(
    ("device", "capabilities", "expected"),
    [
        ("cpu", {"amx_bf16": True}, torch.bfloat16),
        ("cpu", {"amx_bf16": False, "avx512_bf16": True}, torch.bfloat16),
        ("cpu", {"amx_bf16": False, "avx512_bf16": False}, torch.float32),
        ("cpu", {}, torch.float32),
        ("cuda", {"amx_bf16": True}, torch.float32),
    ],
)
def test_the_default_type_is_the_fast_one_that_was_measured(
    monkeypatch: pytest.MonkeyPatch, device: str, capabilities: dict[str, bool], expected: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert default_dtype(torch.device(device)) == expected


def test_a_torch_that_cannot_tell_gets_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert default_dtype(torch.device("cpu")) == torch.float32
