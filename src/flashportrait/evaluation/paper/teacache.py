"""TeaCache (arXiv 2411.19108) around ``run_blocks``, as a baseline.

The stack's residual (output minus input) is used again while the accumulated relative change of the timestep's
modulation stays below a threshold. The source rescales that change by a polynomial fitted for each model; there is none
for ours, so the change counts as it is, and the threshold alone sets the speed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from diffusers.hooks.hooks import BaseState, HookRegistry, ModelHook, StateManager
from torch import Tensor, nn

_HOOK = "teacache"


@dataclass(frozen=True)
class TeaCacheConfig:
    """For ``transformer.enable_cache``."""

    threshold: float = field(default=0.1)
    """Accumulated relative change of the modulation at which the stack runs again."""

    def apply(self, transformer: nn.Module) -> None:
        HookRegistry.check_if_exists_or_initialize(transformer).register_hook(_TeaCacheHook(self.threshold), _HOOK)

    def remove(self, transformer: nn.Module) -> None:
        HookRegistry.check_if_exists_or_initialize(transformer).remove_hook(_HOOK)


class _State(BaseState):
    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.modulation: Tensor | None = None
        self.residual: Tensor | None = None
        self.change = 0.0


class _TeaCacheHook(ModelHook):
    _is_stateful = True

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self._threshold = threshold
        self._states = StateManager(_State)

    def initialize_hook(self, module: Any) -> Any:
        run_blocks = module.run_blocks

        def run(tokens: Tensor, context: Tensor, modulation: Tensor, *rest: Any) -> Tensor:
            state: _State = self._states.get_state()
            if state.modulation is not None:
                state.change += float((modulation - state.modulation).abs().mean() / state.modulation.abs().mean())
            state.modulation = modulation
            last = self._states.context.step_index == self._states.context.num_inference_steps - 1
            if state.residual is None or last or state.change >= self._threshold:
                output = run_blocks(tokens, context, modulation, *rest)
                state.change, state.residual = 0.0, output - tokens
                return output
            return tokens + state.residual

        module.run_blocks = run
        return module

    def deinitalize_hook(self, module: Any) -> Any:  # diffusers' spelling
        del module.run_blocks
        return module

    def reset_state(self, module: nn.Module) -> nn.Module:
        self._states.reset()
        return module
