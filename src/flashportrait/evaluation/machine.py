"""What a machine does with a model, stage by stage: a few passes of each, on random pictures and words."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from flashportrait.conditioning import Conditions, GuidedVelocity
from flashportrait.evaluation.fitting import drawn_clips
from flashportrait.face.motion import LAYOUTS
from flashportrait.models.clip_vision import clip_tokens
from flashportrait.models.image_encoder import PortraitImageEncoder
from flashportrait.models.streaming_vae import encode_portrait, streaming_decoder
from flashportrait.models.transformer import with_mask
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.reference import PortraitFirst
from flashportrait.sampling.extrapolation import History
from flashportrait.sampling.guidance import Guidance
from flashportrait.sampling.solver import steps_of
from flashportrait.sampling.speed import SPEEDS
from flashportrait.sampling.windows import WindowPlan, latent_frame_count, pixel_frame_count
from flashportrait.settings import SamplingSettings


@dataclass(frozen=True)
class Stage:
    """One stage, measured."""

    name: str
    seconds: float
    """Median of one unit."""
    unit: str
    """What that is."""
    note: str = ""

    @property
    def row(self) -> tuple[str, str, str, str]:
        """For a table."""
        return self.name, f"{self.seconds:.4g}", self.unit, self.note


@torch.no_grad()
def measure(
    pipeline: FlashPortraitPipeline, height: int, width: int, latent_frames: int, repeats: int = 3
) -> Iterator[Stage]:
    """Measure each stage as soon as the one before it is done.

    Args:
        pipeline: loaded where it will run.
        height, width: of the pictures in pixels, multiples of 16; models that see faces have their own.
        latent_frames: of a window.
        repeats: times that each is measured, after one that doesn't count.
    """
    device, dtype = pipeline._execution_device, pipeline.transformer.dtype
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    frames = pixel_frame_count(latent_frames)
    if pipeline.config.motion_layout == "blendshapes" and pipeline.framing.mode == "face":
        conditions = next(iter(drawn_clips(pipeline, 1, 0, latent_frames))).conditions
    else:
        portrait = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(0)).to(device)
        seconds = timed(lambda: encode_portrait(pipeline.vae, portrait, latent_frames), device, repeats)
        yield Stage("portrait encoding", seconds, f"clip of {frames} frames")
        conditions = _conditions(pipeline, portrait, latent_frames)
    conditions, settings = conditions.to(device, dtype), pipeline.settings("exact")
    guidance = Guidance(settings.text_scale, settings.emotion_scale)
    window = WindowPlan(latent_frames, latent_frames, 0)[0]
    grid, channels = conditions.reference.grid, pipeline.transformer.config.out_channels
    noise = torch.randn(1, channels, latent_frames, *grid, device=device)
    pipeline.scheduler.set_timesteps(max(settings.num_inference_steps, 2), device=device)
    step, branches = steps_of(pipeline.scheduler)[0], len(guidance.weights())
    velocity = GuidedVelocity(
        pipeline.transformer, pipeline.portrait_encoder, conditions, guidance, steps=2, batched=False
    )
    each = timed(lambda: velocity(noise, step, window), device, repeats) / branches
    tokens = latent_frames * grid[0] * grid[1] // 4
    kind = str(dtype).removeprefix("torch.")
    yield Stage("pass of the network", each, "pass", f"{tokens} tokens, {branches} passes a step, {kind}")

    history = History("newton", 2)
    history.push(0.0, noise)
    history.push(1.0, noise)
    yield Stage("prediction", timed(lambda: history.predict(1.5), device, repeats), "step of a window")

    decoder, latents = streaming_decoder(pipeline.vae), noise[:, :, :1]
    reference = conditions.reference
    reference.decode(0, latents, decoder)  # the first latent frame holds one picture, others four
    seconds = timed(lambda: reference.decode(1, latents, decoder), device, repeats)
    yield Stage("decoding", seconds / 4, "frame")
    if device.type == "cuda":
        yield Stage("peak device memory", torch.cuda.max_memory_allocated(device) / 1e9, "GB")


def _conditions(pipeline: FlashPortraitPipeline, portrait: torch.Tensor, latent_frames: int) -> Conditions:
    """Random ones, of the right shapes: what they hold doesn't change what passes cost."""
    config, generator = pipeline.transformer.config, torch.Generator().manual_seed(1)
    text = torch.randn(2, 1, config.text_len, config.text_dim, generator=generator)
    if isinstance(pipeline.image_encoder, PortraitImageEncoder):
        image = pipeline.image_encoder(portrait.to(pipeline.image_encoder.dtype))
    else:
        image = clip_tokens(pipeline.image_encoder, portrait)
    rows = torch.zeros(1, pixel_frame_count(latent_frames), LAYOUTS[pipeline.config.motion_layout].width)
    reference = PortraitFirst(with_mask(encode_portrait(pipeline.vae, portrait, latent_frames)))
    return Conditions(text[0], text[1], image, reference, rows)


def timed(work: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of ``work``, over ``repeats`` runs after one that doesn't count."""
    seconds = []
    for _ in range(repeats + 1):
        _wait(device)
        started = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def whole_run(stages: Sequence[Stage], frames: int, settings: SamplingSettings) -> dict[str, float]:
    """Seconds of a clip at each speed, summed from measured stages: passes of all windows, and decoding."""
    plan = WindowPlan(latent_frame_count(frames), settings.window, settings.overlap)
    cost, steps = {stage.name: stage.seconds for stage in stages}, settings.num_inference_steps
    branches = len(Guidance(settings.text_scale, settings.emotion_scale).weights())
    fixed = cost.get("portrait encoding", 0.0) + frames * cost["decoding"]
    seconds = {}
    for speed, predictor in SPEEDS.items():
        computed = steps if predictor is None else round(steps / predictor.speedup)
        if computed >= 2 or predictor is None:
            network = len(plan) * computed * branches * cost["pass of the network"]
            seconds[speed] = fixed + network + len(plan) * (steps - computed) * cost["prediction"]
    return seconds
