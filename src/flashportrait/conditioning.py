"""The network's conditions besides the noisy latents, and the guided velocity of one window."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.models.portrait_encoder import PortraitEncoder
from flashportrait.models.transformer import FlashPortraitTransformer3DModel
from flashportrait.reference import Reference
from flashportrait.sampling.guidance import Branch, Guidance, guided
from flashportrait.sampling.prediction import PredictionState
from flashportrait.sampling.solver import Step
from flashportrait.sampling.windows import Window, WindowPlan, latent_frame_count, pixel_frame_count

if TYPE_CHECKING:
    from flashportrait.distributed.passes import SharedPasses
    from flashportrait.sampling.sharing import HelpedPasses
    from flashportrait.settings import SamplingSettings


@dataclass(frozen=True)
class Conditions:
    """Conditions of one clip. All but the motion are the same in every window."""

    prompt_embeds: Tensor
    """[b n text_dim]"""
    negative_prompt_embeds: Tensor
    """[b n text_dim]"""
    image_embeds: Tensor
    """[b m image_dim]"""
    reference: Reference
    """Mask and portrait latents of each window."""
    motion: Tensor
    """A row for each pixel frame, [b t d]."""

    @property
    def same_prompts(self) -> bool:
        """Whether the negative prompt is the prompt, so that guidance by text has no effect."""
        prompts = self.prompt_embeds, self.negative_prompt_embeds
        return prompts[0] is prompts[1] or torch.equal(*prompts)

    def to(self, device: torch.device, dtype: torch.dtype) -> Conditions:
        """All conditions on a device, in the network's type, but for motion: small numbers that matter, float32."""
        moved = {name: value.to(device, dtype) for name, value in vars(self).items() if name != "motion"}
        return Conditions(**moved, motion=self.motion.to(device, torch.float32))

    def padded_to(self, plan: WindowPlan) -> Conditions:
        """The same with the last motion row repeated until it fills the plan's latent frames.

        Prompts are padded to one length with zeros, as the network does itself.

        Raises:
            UserError: if the motion doesn't belong to a clip of that length.
        """
        frames = self.motion.shape[1]
        if latent_frame_count(frames) != plan.latent_frames:
            raise UserError(
                f"motion has {frames} frames, which are {latent_frame_count(frames)} latent frames, but there are "
                f"{plan.latent_frames}; give {pixel_frame_count(plan.latent_frames)} rows of motion"
            )
        missing = pixel_frame_count(plan.latent_frames) - frames
        motion = torch.cat([self.motion, self.motion[:, -1:].expand(-1, missing, -1)], dim=1)
        prompt_length = max(self.prompt_embeds.shape[1], self.negative_prompt_embeds.shape[1])
        prompts = {
            name: F.pad(prompt, (0, 0, 0, prompt_length - prompt.shape[1]))
            for name, prompt in vars(self).items()
            if name.endswith("prompt_embeds")
        }
        return replace(self, **prompts, motion=motion)


def share_out(passes: SharedPasses, settings: SamplingSettings, plan: WindowPlan, branches: int) -> None:
    """Settle how processes share the passes of a run, by how many of them there are at once.

    Raises:
        UserError: a predictor whose memory is inside the network, of which each process would have a part.
    """
    if settings.predictor is not None and settings.predictor.target != "guided":
        raise UserError(
            f"a predictor of target {settings.predictor.target} works in one process: use target guided, or one process"
        )
    windows = {"synchronous": len(plan), "diagonal": (len(plan) + 1) // 2, "causal": 1}[settings.schedule]
    passes.arrange(branches * windows)


class GuidedVelocity:
    """The velocity that the sampler asks for: the network under guidance, or its prediction.

    Expression tokens are computed anew for each window from its own driving frames, and kept until the window is done.
    Where ``passes`` are shared with other processes, branches are never batched.
    """

    def __init__(
        self,
        transformer: FlashPortraitTransformer3DModel,
        portrait_encoder: PortraitEncoder,
        conditions: Conditions,
        guidance: Guidance,
        *,
        steps: int,
        prediction: PredictionState | None = None,
        batched: bool = True,
        passes: SharedPasses | HelpedPasses | None = None,
    ) -> None:
        self._transformer, self._portrait_encoder = transformer, portrait_encoder
        self._conditions, self._guidance = conditions, guidance
        self._steps, self._prediction, self._batched = steps, prediction, batched
        self._passes = passes
        self._expression_tokens: dict[int, Tensor] = {}
        self._ready: dict[int, Tensor] = {}
        self.calls = 0
        """Forward passes of the network so far, a batch of branches being one."""
        self.computed = False
        """Whether the last velocity was computed, rather than predicted."""

    def __call__(self, latents: Tensor, step: Step, window: Window) -> Tensor:
        """Velocity of a window's latents [b 16 f h w] at a step, same shape, float32."""

        def compute() -> Tensor:
            if self._passes is not None:
                if window.index not in self._ready:
                    self._share([(latents, step, window)])
                self.calls += len(self._guidance.weights())
                return self._ready.pop(window.index)
            return guided(
                self._guidance,
                lambda branches: self._forward(latents, step, window, branches),
                batched=self._batched,
            )

        prediction, calls_before = self._prediction, self.calls
        velocity = compute() if prediction is None else prediction.step(window.index, step.index, compute)
        self.computed = self.calls > calls_before
        if step.index == self._steps - 1:
            self._expression_tokens.pop(window.index, None)
            if prediction is not None:
                prediction.finish(window.index)
        return velocity

    def prepare(self, asked: Sequence[tuple[Tensor, Step, Window]]) -> None:
        """Have what will be asked for, window by window, computed at once where several processes share the work.

        Args:
            asked: latents [b 16 f h w], step and window of each velocity, none of which depends on another.
        """
        prediction = self._prediction
        self._share(
            [
                (latents, step, window)
                for latents, step, window in asked
                if prediction is None or prediction.is_full(window.index, step.index)
            ]
        )

    def _share(self, asked: Sequence[tuple[Tensor, Step, Window]]) -> None:
        assert self._passes is not None
        branches = tuple(self._guidance.weights())
        passes = [self._arguments(*each, (branch,)) for each in asked for branch in branches]
        velocities = iter(self._passes(passes))
        for _, _, window in asked:
            self._ready[window.index] = self._guidance.combine({branch: next(velocities) for branch in branches})

    def _forward(
        self, latents: Tensor, step: Step, window: Window, branches: tuple[Branch, ...]
    ) -> Mapping[Branch, Tensor]:
        self.calls += 1
        with self._transformer.cache_context(
            f"w{window.index}/{'+'.join(branches)}",
            step_index=step.index,
            num_inference_steps=self._steps,
            sigma=step.sigma,
        ):
            velocities = self._transformer(**self._arguments(latents, step, window, branches))
        return dict(zip(branches, velocities.chunk(len(branches)), strict=True))

    def _arguments(self, latents: Tensor, step: Step, window: Window, branches: tuple[Branch, ...]) -> dict[str, Any]:
        """Of the call of the network for some branches as one batch."""
        given, copies = self._conditions, len(branches)
        reference = given.reference(window)
        hidden_states = torch.cat([latents.to(reference), reference], dim=1)
        texts = [given.negative_prompt_embeds if branch == "none" else given.prompt_embeds for branch in branches]
        expressive = [float(branch == "full") for branch in branches]
        tokens = self._tokens(window) if any(expressive) else None
        batch = latents.shape[0]
        return {
            "hidden_states": hidden_states.repeat(copies, 1, 1, 1, 1),
            "timestep": step.timestep.to(latents.device).expand(copies * batch),
            "encoder_hidden_states": torch.cat(texts),
            "encoder_hidden_states_image": given.image_embeds.repeat(copies, 1, 1),
            "expression_tokens": None if tokens is None else tokens.repeat(copies, 1, 1, 1),
            # Where no branch is expressive there are no tokens to scale.
            "expression_scale": 1.0
            if all(expressive) or tokens is None
            else torch.tensor(expressive, device=latents.device).repeat_interleave(batch),
        }

    def _tokens(self, window: Window) -> Tensor:
        """Expression tokens of a window, [b f k width]."""
        if window.index not in self._expression_tokens:
            frames = window.pixel_frames
            motion = self._conditions.motion[:, frames.start : frames.stop]
            encoder = self._portrait_encoder
            tokens = encoder(motion.to(next(encoder.parameters(), motion).dtype))
            tokens = encoder.tokens_per_latent_frame(tokens, len(frames))
            self._expression_tokens[window.index] = tokens.to(self._conditions.image_embeds.dtype)
        return self._expression_tokens[window.index]
