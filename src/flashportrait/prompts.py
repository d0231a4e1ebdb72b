"""Words to text embeddings, where the model has a text encoder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from flashportrait.errors import UserError


@torch.no_grad()
def encode_prompt(prompt: str, tokenizer: Any, text_encoder: Any, *, length: int, width: int) -> Tensor:
    """Text embeddings [1 length width], zeros after the last word; all zeros without a text encoder.

    Raises:
        UserError: words for a model without a text encoder.
    """
    if text_encoder is None or tokenizer is None:
        refuse_words(prompt)
        return torch.zeros(1, length, width)
    tokens = tokenizer(
        [" ".join(prompt.split())],
        padding="max_length",
        max_length=length,
        truncation=True,
        return_attention_mask=True,
        return_tensors="pt",
    )
    device = text_encoder.device
    mask = tokens.attention_mask.to(device)
    hidden = text_encoder(tokens.input_ids.to(device), mask).last_hidden_state
    return hidden * mask[..., None].to(hidden.dtype)


def refuse_words(*prompts: str | None) -> None:
    """Refuse words for a model without a text encoder.

    Raises:
        UserError: there are some.
    """
    for prompt in filter(None, prompts):
        raise UserError(f"the prompt is {prompt!r}, but this model has no text encoder; leave the prompt empty")
