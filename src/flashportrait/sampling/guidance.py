"""Three-branch guidance: how strongly to follow the text and the expression.

``v = v_none + s_text (v_text - v_none) + s_emotion (v_full - v_text)``

``full`` sees the prompt and the expression, ``text`` the prompt alone, ``none`` the negative prompt alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Branch = Literal["full", "text", "none"]


@dataclass(frozen=True)
class Guidance:
    """The two scales, and what follows from them: which branches must run, and with what weights."""

    text_scale: float = 1.0
    """1 follows the prompt as it stands; above 1 also pushes away from the negative prompt."""
    emotion_scale: float = 1.0
    """0 ignores the driving expression, 1 follows it as it stands, above 1 exaggerates it."""
    same_prompts: bool = False
    """The negative prompt equals the prompt: ``none`` and ``text`` are then one branch."""

    def weights(self) -> dict[Branch, float]:
        """Weight of each branch that has one, in the order full, text, none; they sum to 1.

        Collecting terms of the equation: ``full`` s_emotion, ``text`` s_text - s_emotion, ``none`` 1 - s_text. A branch
        of weight zero need not run: at text scale 1 there are two branches, at both scales 1 only ``full``.
        """
        text_scale = 1.0 if self.same_prompts else self.text_scale
        weights: dict[Branch, float] = {
            "full": self.emotion_scale,
            "text": text_scale - self.emotion_scale,
            "none": 1.0 - text_scale,
        }
        return {branch: weight for branch, weight in weights.items() if weight != 0.0}

    def combine(self, velocities: Mapping[Branch, Tensor]) -> Tensor:
        """The guided velocity from the velocities of exactly the branches in ``weights``, all of one shape.

        Combined in float32: the weights cancel (4 - 3, say), which amplifies the rounding of 16-bit outputs.
        """
        weights = self.weights()
        assert velocities.keys() == weights.keys(), f"branches {set(velocities)} given, {set(weights)} needed"
        if weights == {"full": 1.0}:
            return velocities["full"].float()
        first, *others = (weight * velocities[branch].float() for branch, weight in weights.items())
        return sum(others, start=first)


def guided(
    guidance: Guidance, predict: Callable[[tuple[Branch, ...]], Mapping[Branch, Tensor]], *, batched: bool
) -> Tensor:
    """The guided velocity, running the needed branches together (``batched``: faster) or one by one (less memory)."""
    branches = tuple(guidance.weights())
    if batched:
        return guidance.combine(predict(branches))
    velocities: dict[Branch, Tensor] = {}
    for branch in branches:
        velocities.update(predict((branch,)))
    return guidance.combine(velocities)
