"""Prediction inside the network, through diffusers' cache interface: ``transformer.enable_cache(config)``.

Each call of the transformer must be wrapped in ``transformer.cache_context(name, step_index=, num_inference_steps=,
sigma=)``, with a name for each window and branch ("w3/text"): histories are kept by name, reset at step 0 and
freed after the last step.

For ``last_block`` and ``blocks`` the only hook is around the transformer's ``run_blocks``, outside the blocks, so
``compile_repeated_blocks(fullgraph=True)`` keeps one graph a block. The hooks for ``modules`` are inside the blocks,
and break graphs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import Any

import torch
from diffusers.hooks.hooks import BaseState, HookRegistry, ModelHook, StateManager
from torch import Tensor, nn

from flashportrait.errors import UserError
from flashportrait.sampling.extrapolation import History
from flashportrait.sampling.prediction import PredictionStats
from flashportrait.sampling.predictor import AdaptiveLatentPrediction
from flashportrait.sampling.stream import Stream, rate_of_change

MODULES = ("attn1", "attn2", "ffn")
"""The layers of a block whose outputs ``modules`` predicts."""
SAMPLED_TOKENS = 64
"""Tokens that s and w are measured on: they are ratios of norms, for which a sample does."""
_HOOK = "adaptive_latent_prediction"


@dataclass(frozen=True)
class AdaptiveLatentPredictionConfig(AdaptiveLatentPrediction):
    """The setting of Adaptive Latent Prediction for ``transformer.enable_cache``."""

    target: str = "last_block"
    """``last_block``, ``blocks`` or ``modules``."""

    def apply(self, transformer: Any) -> None:
        """Registers the hooks; ``enable_cache`` calls it.

        Raises:
            UserError: the target isn't inside the network.
        """
        if self.target == "guided":
            raise UserError("target guided is predicted outside the network; give it to the pipeline as predictor=")
        hook = _StackHook(self)
        HookRegistry.check_if_exists_or_initialize(transformer).register_hook(hook, _HOOK)
        if self.target != "modules":
            return
        for layer, block in enumerate(transformer.blocks):
            for name in MODULES:
                registry = HookRegistry.check_if_exists_or_initialize(getattr(block, name))
                registry.register_hook(_ModuleHook(hook, (name, layer)), _HOOK)

    def remove(self, transformer: Any) -> None:
        """Takes the hooks out again; ``disable_cache`` calls it."""
        HookRegistry.check_if_exists_or_initialize(transformer).remove_hook(_HOOK, recurse=True)


@contextmanager
def network_prediction(transformer: Any, predictor: AdaptiveLatentPrediction | None) -> Iterator[None]:
    """Enables a predictor whose target is inside the network, for the duration; does nothing for others."""
    if predictor is None or predictor.target == "guided":
        yield
        return
    config = AdaptiveLatentPredictionConfig(
        **{entry.name: getattr(predictor, entry.name) for entry in fields(predictor)}
    )
    transformer.enable_cache(config)
    try:
        yield
    finally:
        transformer.disable_cache()


def prediction_stats(transformer: Any) -> PredictionStats:
    """What was computed and predicted, by context, since the hooks were registered or reset."""
    hook = HookRegistry.check_if_exists_or_initialize(transformer).get_hook(_HOOK)
    if hook is None:
        raise UserError("this transformer predicts nothing; call enable_cache(AdaptiveLatentPredictionConfig()) first")
    return hook.stats


class _Context(BaseState):
    """The histories of one window and branch."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.streams: dict[tuple[str, int], Stream] = {}
        """By quantity: ("stack", 0), or (module, layer)."""
        self.samples: dict[int, History] = {}
        """By block: its output on the sampled tokens (target ``blocks``)."""
        self.latent_rates: list[Tensor] = []
        self.input: tuple[float, Tensor] | None = None
        """Where the stack's input was last seen, and the sampled tokens of it."""

    @property
    def memory_bytes(self) -> int:
        samples = sum(value.nbytes for history in self.samples.values() for value in history.values)
        return samples + sum(stream.memory_bytes for stream in self.streams.values())


class _StackHook(ModelHook):
    """Around ``run_blocks``: predicts the stack's output, or lets the module hooks predict theirs."""

    _is_stateful = True

    def __init__(self, config: AdaptiveLatentPredictionConfig):
        super().__init__()
        self.config = config
        self.stats = PredictionStats()
        self._contexts = StateManager(_Context)  # diffusers sets the context of every StateManager it finds on a hook

    def initialize_hook(self, module: Any) -> Any:
        run_blocks = module.run_blocks

        def run(tokens: Tensor, *conditions: Any) -> Tensor:
            return self._run(module, run_blocks, tokens, conditions)

        module.run_blocks = run
        return module

    def deinitalize_hook(self, module: nn.Module) -> nn.Module:  # diffusers' spelling
        del module.run_blocks
        return module

    def reset_state(self, module: nn.Module) -> nn.Module:
        self._contexts.reset()
        self.stats = PredictionStats()
        return module

    @property
    def context(self) -> _Context:
        """The histories of the window and branch being computed."""
        return self._contexts.get_state()

    @property
    def step(self) -> int:
        """The denoising step being computed."""
        return self._contexts.context.step_index

    @property
    def x(self) -> float:
        """The step's coordinate."""
        return self.config.coordinate_at(self.step, self._contexts.context.sigma)

    @property
    def next_full_step(self) -> int:
        """The step to compute after the one being computed."""
        return self.config.next_full_step(self.step, self._contexts.context.num_inference_steps)

    def stream(self, key: tuple[str, int]) -> Stream:
        """The stream of a quantity, made if new."""
        context = self.context
        if key not in context.streams:
            context.streams[key] = Stream(self.config.method, self.config.order, self.config.alpha)
            context.streams[key].latent_rates = context.latent_rates
        return context.streams[key]

    @torch.compiler.disable
    def _run(
        self, transformer: Any, run_blocks: Callable[..., Tensor], tokens: Tensor, conditions: tuple[Any, ...]
    ) -> Tensor:
        self._check_context()
        name, context = self._contexts.context.name, self.context
        if self.step == 0:
            context.reset()
        self._note_rate(context, tokens)
        inside = self.config.target == "modules"
        first = self.stream((MODULES[0], 0) if inside else ("stack", 0))
        full = first.is_full(self.step)
        if full:
            self.stats.full_steps.setdefault(name, []).append(self.step)
            output = self._compute(transformer, run_blocks, tokens, conditions)
        else:
            self.stats.predicted[name] = self.stats.predicted.get(name, 0) + 1
            output = run_blocks(tokens, *conditions) if inside else first.predict(self.x)
        used = sum(state.memory_bytes for state in self._contexts._state_cache.values())
        self.stats.peak_bytes = max(self.stats.peak_bytes, used)
        if self.step == self._contexts.context.num_inference_steps - 1:
            context.reset()
        return output

    def _compute(
        self, transformer: Any, run_blocks: Callable[..., Tensor], tokens: Tensor, conditions: tuple[Any, ...]
    ) -> Tensor:
        """The stack's true output, taken into the histories, with the layer scales that follow."""
        context = self.context
        if self.config.target == "modules":
            output = run_blocks(tokens, *conditions)
            if self.config.uses_layer_scale:
                for name in MODULES:
                    streams = [stream for (kind, _), stream in context.streams.items() if kind == name]
                    derivatives = [stream.history.derivatives(_sample) for stream in streams]
                    for stream, ratios in zip(streams, layer_ratios(derivatives), strict=True):
                        stream.layer_ratios = ratios
            return output
        if self.config.target == "blocks" and self.config.uses_layer_scale:
            output = tokens
            for layer, block in enumerate(transformer.blocks):
                output = block(output, *conditions)
                history = context.samples.setdefault(layer, History("taylor", self.config.order + 1))
                history.push(self.x, _sample(output).clone())
            derivatives = [history.derivatives() for history in context.samples.values()]
            self.stream(("stack", 0)).layer_ratios = layer_ratios(derivatives)[-1]
        else:
            output = run_blocks(tokens, *conditions)
        self.stream(("stack", 0)).observe(self.step, self.x, output.detach(), self.next_full_step)
        return output

    def _note_rate(self, context: _Context, tokens: Tensor) -> None:
        """The latent's rate of change, by the stack's input, which is a linear image of the latent."""
        if self.config.method != "alp":
            return
        x, now = self.x, _sample(tokens).float().clone()
        if context.input is not None:
            before_x, before = context.input
            context.latent_rates.append(rate_of_change(now - before, abs(x - before_x)))
        context.input = (x, now)

    def _check_context(self) -> None:
        context = self._contexts.context
        needed = {"step_index": context.step_index, "num_inference_steps": context.num_inference_steps}
        if self.config.coordinate != "step":
            needed["sigma"] = context.sigma
        missing = [name for name, value in needed.items() if value is None]
        if missing:
            raise UserError(
                f"the cache context {context.name!r} lacks {', '.join(missing)}; pass them to cache_context"
            )


class _ModuleHook(ModelHook):
    """Around one layer of one block: predicts its output."""

    def __init__(self, stack: _StackHook, key: tuple[str, int]):
        super().__init__()
        self._stack = stack
        self._key = key

    @torch.compiler.disable
    def new_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        stream = self._stack.stream(self._key)
        if not stream.is_full(self._stack.step):
            return stream.predict(self._stack.x)
        output = self.fn_ref.original_forward(*args, **kwargs)
        stream.observe(self._stack.step, self._stack.x, output.detach(), self._stack.next_full_step)
        return output


def layer_ratios(derivatives: list[list[Tensor]]) -> list[list[float]]:
    """r(l, i) = ``|D^i f_l| / |mean over layers of D^i f|``, for w(t, l, i).

    Args:
        derivatives: ``D^1 .. D^n`` of each layer, all of one shape.
    """
    means = [torch.stack(column).mean(dim=0).norm().clamp_min(1e-12) for column in zip(*derivatives, strict=True)]
    return [[float(d.norm() / mean) for d, mean in zip(row, means, strict=True)] for row in derivatives]


def _sample(tokens: Tensor) -> Tensor:
    """Evenly spaced tokens, ``[b n d]`` -> ``[b m d]`` with m about ``SAMPLED_TOKENS`` at most."""
    return tokens[:, :: max(1, tokens.shape[1] // SAMPLED_TOKENS)]
