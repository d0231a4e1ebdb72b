"""Fitting the speed dial to a model: from a few clips that it runs exactly, predictions at three numbers of calls.

Clips are single windows, of people and drivers given or of drawn people. Every velocity that the network gives is kept
in a folder by what it was asked, so that an interrupted fit goes on where it stopped and nothing is computed twice.
"""

from __future__ import annotations

import hashlib
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from flashportrait.avatars.identity import Identity, sample_identities
from flashportrait.avatars.performance import sample_performance
from flashportrait.avatars.renderer import render
from flashportrait.canvas import Canvas
from flashportrait.conditioning import Conditions, GuidedVelocity
from flashportrait.errors import UserError
from flashportrait.face.blendshapes import FaceLandmarker
from flashportrait.face.motion import MotionFeatures
from flashportrait.inputs import FramedPortrait
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.result import to_pictures
from flashportrait.rig.photo import RIG_PIXELS
from flashportrait.sampling.fitted import ExactRun, FittedPrediction, fit_with_moved_steps, run_exactly
from flashportrait.sampling.guidance import Guidance
from flashportrait.sampling.noise import FrameNoise
from flashportrait.sampling.predictor import AdaptiveLatentPrediction, evenly_spread, relative_error
from flashportrait.sampling.solver import steps_of
from flashportrait.sampling.windows import WindowPlan, latent_frame_count, pixel_frame_count
from flashportrait.settings import SamplingSettings

SPEEDUPS = {"balanced": 3, "fast": 6, "turbo": 10}
"""Steps per computed step at each speed."""
KINDS = ("talking", "large", "calm")
"""Of drawn performances."""


@dataclass(frozen=True)
class FitClip:
    """One window to fit to."""

    conditions: Conditions
    noise: Tensor
    """[1 16 f h w]"""
    key: str
    """Tells it from other clips."""


@dataclass(frozen=True)
class SpeedFit:
    """A prediction for one speed, and its relative errors of the final latents."""

    speed: str
    prediction: FittedPrediction
    own_error: float
    """On the clips that it was fitted to."""
    held_out_error: float
    """On the others."""
    general_error: float
    """Of the general rule with as many calls, on the others."""


def drawn_clips(
    pipeline: FlashPortraitPipeline, count: int, seed: int, latent_frames: int | None = None
) -> Iterator[FitClip]:
    """Windows of drawn people, for models that read open blendshapes; as long as the model's unless given.

    Raises:
        UserError: the model reads motion that isn't known of drawn people.
    """
    if pipeline.config.motion_layout != "blendshapes":
        raise UserError(
            f"this model reads motion of {pipeline.config.motion_layout}, which drawn people don't have: give "
            "portraits and driving videos to fit to, as in `fit-speed FACE.jpg DRIVE.mp4 --model M`"
        )
    frames = pixel_frame_count(latent_frames or pipeline.settings("exact").window)
    for index in range(count):
        generator = torch.Generator().manual_seed(seed + index)
        _, framed = draw_portrait(generator, pipeline.framing.resolution)
        rows = sample_performance(frames, kind=KINDS[index % len(KINDS)], generator=generator).numpy()
        yield _clip(pipeline, framed, rows, seed + index, f"drawn {seed + index}")


def filmed_clips(
    pipeline: FlashPortraitPipeline, pairs: Sequence[tuple[FramedPortrait, MotionFeatures]], count: int, seed: int
) -> Iterator[FitClip]:
    """Windows of given portraits and motion, pair by pair, none overlapping another of its pair.

    Raises:
        UserError: there are fewer windows than ``count``.
    """
    length = pixel_frame_count(pipeline.settings("exact").window)
    rounds = max((len(motion) // length for _, motion in pairs), default=0)
    places = [(pair, start) for start in range(rounds) for pair in pairs if (start + 1) * length <= len(pair[1])]
    if len(places) < count:
        raise UserError(
            f"these driving videos hold {len(places)} windows of {length} frames, {count} are needed: give longer or "
            "more videos, or fewer --clips (at least 2)"
        )
    for index, ((framed, motion), start) in enumerate(places[:count]):
        rows = motion.values[start * length : (start + 1) * length]
        digest = hashlib.sha256(rows.tobytes() + framed.pixels.numpy().tobytes()).hexdigest()[:12]
        yield _clip(pipeline, framed, rows, seed + index, f"{digest} {seed + index}")


def draw_portrait(generator: torch.Generator, size: int) -> tuple[Identity, FramedPortrait]:
    """Somebody in whose portrait of ``size`` pixels the landmarker finds a face, calm and near the picture's middle."""
    landmarker = FaceLandmarker()
    while True:
        identity = sample_identities(1, generator)
        row = sample_performance(1, kind="calm", generator=generator)
        row[:, :3] *= 0.5
        row[:, 3:6] = 0  # the portrait's head is where the crop puts it
        large = render(identity, row, size=RIG_PIXELS * size).frames
        faces = landmarker.detect(to_pictures(large)[0])
        if faces:
            landmarks = torch.from_numpy(faces[0].landmarks)
            pixels = F.avg_pool2d(large, RIG_PIXELS)
            canvas = Canvas(large[0], landmarks, (size, size), (0, 0, size, size))
            return identity, FramedPortrait(pixels, row[0].numpy(), canvas)


def _clip(pipeline: FlashPortraitPipeline, framed: FramedPortrait, rows: Any, seed: int, key: str) -> FitClip:
    latent_frames = latent_frame_count(len(rows))
    conditions = pipeline.encode_conditions(framed, rows, latent_frames, "", pipeline.config.negative_prompt)
    grid, temperature = conditions.reference.grid, pipeline.settings().temperature
    noise = FrameNoise(seed, pipeline.transformer.config.out_channels, *grid, temperature)
    return FitClip(conditions, noise(0, latent_frames), key)


class KeptVelocity:
    """A clip's exact velocity, each asked of the network once in the life of a folder; without one, each time."""

    def __init__(self, pipeline: FlashPortraitPipeline, clip: FitClip, folder: Path | None = None) -> None:
        settings = pipeline.settings("exact")
        plan = WindowPlan(clip.noise.shape[2], settings.window, settings.overlap)
        conditions = clip.conditions.padded_to(plan).to(pipeline._execution_device, pipeline.transformer.dtype)
        self._steps, self._window, self._key, self._folder = steps_of(pipeline.scheduler), plan[0], clip.key, folder
        self._network = GuidedVelocity(
            pipeline.transformer,
            pipeline.portrait_encoder,
            conditions,
            Guidance(settings.text_scale, settings.emotion_scale, conditions.same_prompts),
            steps=len(self._steps) + 1,  # its tokens are kept after the last step: the clip will be run again
            batched=settings.batched,
        )
        self.computed = 0
        """Velocities that the network was asked for."""

    @torch.no_grad()
    def __call__(self, latents: Tensor, step: int) -> Tensor:
        """Velocity of latents [1 16 f h w] at a step."""
        file = None if self._folder is None else self._folder / f"velocity-{self._asked(latents, step)}.safetensors"
        if file is not None and file.is_file():
            try:
                return load_file(file)["velocity"].to(latents.device)
            except SafetensorError:
                file.unlink()
        velocity = self._network(latents, self._steps[step], self._window)
        self.computed += 1
        if file is not None:
            part = file.with_suffix(".part")
            save_file({"velocity": velocity.cpu().contiguous()}, part)
            part.replace(file)
        return velocity

    def _asked(self, latents: Tensor, step: int) -> str:
        digest = hashlib.sha256(f"{self._key} {step}".encode())
        digest.update(latents.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:32]


@dataclass(frozen=True)
class Cost:
    """Of a fit, at the most: what is kept from before costs nothing."""

    calls: int
    """Of the network under guidance."""
    passes: int
    """Of the network."""
    seconds_a_call: float

    @property
    def seconds(self) -> float:
        """In all."""
        return self.calls * self.seconds_a_call


class SpeedFitter:
    """One fit.

    Args:
        pipeline: the model.
        clips: windows to fit to and, after ``held_out`` from the end, to check with.
        held_out: how many of the clips are for checking.
        sweeps: passes in search of better computed steps (``fit_with_moved_steps``).
        folder: where velocities are kept.

    Raises:
        UserError: a schedule too short for prediction, or too few clips.
    """

    def __init__(
        self, pipeline: FlashPortraitPipeline, clips: Sequence[FitClip], held_out: int, sweeps: int, folder: Path
    ) -> None:
        settings = pipeline.settings("exact")
        self._steps = check_fittable(settings)
        if not 0 < held_out < len(clips):
            raise UserError(
                f"{len(clips)} clips found, {held_out} of them to check with; at least one of each is needed"
            )
        pipeline.scheduler.set_timesteps(self._steps)
        self._sigmas = [float(sigma) for sigma in pipeline.scheduler.sigmas]
        self._device, self._sweeps, self._held_out = pipeline._execution_device, sweeps, held_out
        folder.mkdir(parents=True, exist_ok=True)
        self._velocities = [KeptVelocity(pipeline, clip, folder) for clip in clips]
        self._noises = [clip.noise.to(self._device) for clip in clips]
        self._branches = len(Guidance(settings.text_scale, settings.emotion_scale).weights())

    def cost(self) -> Cost:
        """Measured on one call, which is kept as well."""
        fitted, held = len(self._velocities) - self._held_out, self._held_out
        calls = len(self._velocities) * self._steps
        for speedup in SPEEDUPS.values():
            each = round(self._steps / speedup)
            calls += fitted * each * (1 + 4 * each * self._sweeps) + 2 * held * each
        seconds = []
        for step in (0, 1):  # the first call warms up; if both are kept, neither tells
            started, before = time.perf_counter(), self.computed
            velocity = self._velocities[0](self._noises[0], step)
            float(velocity.sum())  # waits for the device
            if self.computed > before:
                seconds.append(time.perf_counter() - started)
        return Cost(calls, calls * self._branches, seconds[-1] if seconds else 0.0)

    @property
    def computed(self) -> int:
        """Calls of the network so far."""
        return sum(velocity.computed for velocity in self._velocities)

    @torch.no_grad()
    def run(self, on_clip: Callable[[int, int], object] = lambda done, total: None) -> Iterator[SpeedFit]:
        """Run the clips exactly, then fit and check speed by speed; ``on_clip(done, total)`` after each clip."""
        runs: list[ExactRun] = []
        for velocity, noise in zip(self._velocities, self._noises, strict=True):
            runs.append(run_exactly(velocity, noise, self._sigmas))
            on_clip(len(runs), len(self._velocities))
        known, held_out = runs[: -self._held_out], runs[-self._held_out :]
        for speed, speedup in SPEEDUPS.items():
            start = evenly_spread(round(self._steps / speedup), self._steps)
            fitted = fit_with_moved_steps(known, self._sigmas, start, sweeps=self._sweeps)
            general = AdaptiveLatentPrediction(
                method="newton", order=1, corrected=True, speedup=self._steps / len(start)
            )
            yield SpeedFit(
                speed,
                fitted,
                self._error(fitted, known),
                self._error(fitted, held_out),
                self._error(general, held_out),
            )

    def _error(self, predictor: FittedPrediction | AdaptiveLatentPrediction, runs: list[ExactRun]) -> float:
        """Mean relative error of the final latents."""
        errors = []
        for run in runs:
            state, latents = predictor.start(self._sigmas, device=self._device), run.latents[0]
            for step in range(self._steps):
                velocity = state.step(0, step, lambda x=latents, s=step, run=run: run.velocity(x, s))
                latents = latents + (self._sigmas[step + 1] - self._sigmas[step]) * velocity
            errors.append(relative_error(latents, run.latents[-1]))
        return statistics.mean(errors)


def check_fittable(settings: SamplingSettings) -> int:
    """Steps of a schedule to fit to. Raises UserError where there is nothing to predict."""
    if settings.sigmas is not None or settings.num_inference_steps < 2 * max(SPEEDUPS.values()):
        steps = len(settings.sigmas) if settings.sigmas is not None else settings.num_inference_steps
        raise UserError(
            f"this model samples in {steps} steps, all of which it needs; a dial is for schedules of "
            f"{2 * max(SPEEDUPS.values())} steps and more"
        )
    return settings.num_inference_steps


def as_speeds(fits: Sequence[SpeedFit]) -> dict[str, dict[str, Any]]:
    """What is stored, and what ``sampling.speed.preset`` takes: fields of ``FittedPrediction`` by speed."""
    return {fit.speed: asdict(fit.prediction) for fit in fits}
