"""The flow: one portrait and one driving clip -> the portrait, moving like the driver, for as long as the driver does.

portrait  -> image tokens                                                       (the same in every window)
          -> reference latents                             (of the portrait, or of it turned as the driver's head)
driving   -> one motion row per frame -> expression tokens per latent frame     (window by window)
noise     -> per window and step: guided velocity, computed or predicted -> blended in the overlaps -> one step
latents   -> frames, as they become final
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor

from flashportrait.canvas import View
from flashportrait.conditioning import Conditions, GuidedVelocity, share_out
from flashportrait.drawing import draw_frames, drawn_clip
from flashportrait.errors import UserError
from flashportrait.face.motion import MotionFeatures
from flashportrait.inputs import (
    DrivingSource,
    FaceChoice,
    FramedPortrait,
    Framing,
    MotionControls,
    ProgressHook,
    load_motion,
)
from flashportrait.models.clip_vision import clip_tokens
from flashportrait.models.image_encoder import PortraitImageEncoder
from flashportrait.models.streaming_vae import encode_portrait, streaming_decoder
from flashportrait.models.transformer import with_mask
from flashportrait.preparing import prepare
from flashportrait.prompts import encode_prompt, refuse_words
from flashportrait.reference import PortraitDrawn, PortraitFirst, Reference
from flashportrait.result import PortraitVideo, RunReport
from flashportrait.sampling.counting import StepCount
from flashportrait.sampling.denoise import check_memory, denoiser
from flashportrait.sampling.fitted import FittedPrediction
from flashportrait.sampling.guidance import Guidance
from flashportrait.sampling.hooks import network_prediction
from flashportrait.sampling.noise import GivenNoise, Noise, choose_noise
from flashportrait.sampling.predictor import AdaptiveLatentPrediction
from flashportrait.sampling.sharing import Evaluate, HelpedPasses
from flashportrait.sampling.solver import Step, steps_of
from flashportrait.sampling.speed import planned_steps
from flashportrait.sampling.windows import Window, WindowPlan, latent_frame_count
from flashportrait.settings import SamplingSettings
from flashportrait.weights.folder import check_components
from flashportrait.weights.kernels import attention_of
from flashportrait.workdir import WorkDirectory, describe_model, describe_run

if TYPE_CHECKING:
    from flashportrait.distributed.passes import SharedPasses

StepCallback = Callable[["FlashPortraitPipeline", int, Tensor, dict[str, Any]], dict[str, Any] | None]
"""``callback(pipeline, step_index, timestep, {"latents": ...})``, after each step of each window; may return other
latents. The latents are those of the frames which the step moved, [b c f h w]."""


class FlashPortraitPipeline(DiffusionPipeline):
    """Animates a portrait. A diffusers pipeline: loading, saving, offloading and callbacks work as there.

    Args:
        transformer: the velocity network.
        portrait_encoder: motion rows to expression tokens.
        scheduler: any deterministic flow scheduler of diffusers.
        vae: video autoencoder, ``AutoencoderKLWan`` or ``TinyVideoAutoencoder``.
        image_encoder: ``PortraitImageEncoder``, or CLIP with its ``image_processor``.
        text_encoder, tokenizer: UMT5; without them the prompt is empty.
        motion_layout: the motion rows that ``portrait_encoder`` takes, by name (``face.motion.LAYOUTS``).
        defaults: values of ``SamplingSettings`` that suit this model.
        framing: how portraits are cut to the model's view, values of ``flashportrait.inputs.Framing``.
        reference: what shows the network the portrait: ``first``, the paper's; ``animated``, drawn on a face mesh with
            the driver's pose and expression; or ``turned``, with its pose alone (``reference``).
        negative_prompt: what guidance by text leads away from, unless a call says otherwise.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->portrait_encoder->transformer->vae"
    _optional_components = ["vae", "image_encoder", "image_processor", "text_encoder", "tokenizer"]  # noqa: RUF012
    _callback_tensor_inputs = ["latents"]  # noqa: RUF012
    passes: SharedPasses | None = None
    """Shares the network's passes with other processes."""
    weights_folder: Path | None = None
    """Where the motion extractor's files lie, for a model that was loaded from a folder in the released layout."""

    def __init__(
        self,
        transformer: Any,
        portrait_encoder: Any,
        scheduler: Any,
        vae: Any = None,
        image_encoder: Any = None,
        image_processor: Any = None,
        text_encoder: Any = None,
        tokenizer: Any = None,
        motion_layout: str = "blendshapes",
        defaults: dict[str, Any] | None = None,
        framing: dict[str, Any] | None = None,
        reference: str = "first",
        negative_prompt: str = "",
    ) -> None:
        super().__init__()
        self.register_modules(
            transformer=transformer,
            portrait_encoder=portrait_encoder,
            scheduler=scheduler,
            vae=vae,
            image_encoder=image_encoder,
            image_processor=image_processor,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )
        self.register_to_config(
            motion_layout=motion_layout,
            defaults=defaults or {},
            framing=framing or {},
            reference=reference,
            negative_prompt=negative_prompt,
        )

    @classmethod
    def for_sampling(cls, *, transformer: Any, portrait_encoder: Any, scheduler: Any) -> FlashPortraitPipeline:
        """A pipeline with only the parts that ``sample_latents`` needs."""
        return cls(transformer=transformer, portrait_encoder=portrait_encoder, scheduler=scheduler)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> FlashPortraitPipeline:
        """As in diffusers, but strict: a weight that is missing, or left over, is an error that names it.

        Raises:
            UserError: that, or a file that can't be read.
        """
        try:
            pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except UserError:
            raise
        except Exception as error:  # libraries raise all kinds at a damaged file
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"the model in '{pretrained_model_name_or_path}' can't be loaded ({reason}): is it complete?"
            ) from error
        loaded = {name: part for name, part in pipeline.components.items() if name not in kwargs}
        check_components(loaded, Path(pretrained_model_name_or_path))
        return pipeline

    @torch.no_grad()
    def __call__(
        self,
        portrait: str | Path | Image.Image | FramedPortrait,
        driving: DrivingSource,
        *,
        prompt: str = "",
        negative_prompt: str | None = None,
        size: int | None = None,
        view: View = "whole",
        seed: int = 0,
        generator: torch.Generator | None = None,
        latents: Tensor | None = None,
        speed: str | None = None,
        controls: MotionControls | None = None,
        face: FaceChoice | None = None,
        stream: bool = False,
        progress: bool | ProgressHook = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        work: WorkDirectory | None = None,
        helpers: Sequence[Evaluate] = (),
        **sampling: Any,
    ) -> PortraitVideo:
        """Animate ``portrait`` with the motion of ``driving``.

        Args:
            portrait: a picture, its path, or one already cut to the model's view.
            driving: a video's path, a motion template's path, ``MotionFeatures``, or frames (uint8 RGB [h w 3]).
            prompt, negative_prompt: in words; need a text encoder. The negative one is the model's own unless given.
            size: pixels of the result's longer side; unless given the portrait's own, within limits (``canvas``),
                or the model's.
            view: ``whole``, the picture as it was given, or ``face``, a square around the face.
            seed: of the noise. The noise of a latent frame depends on the seed and its index alone.
            generator: draws the seed, in the place of ``seed``.
            latents: the noise itself, [1 16 f h w], whatever the temperature.
            speed: ``exact``, ``balanced``, ``fast`` or ``turbo``: chooses the predictor, in its place.
            controls: whose resting face counts, gains, smoothing; see ``MotionControls``.
            face: which face to animate and which to follow, where there are several.
            stream: return at once and make frames as they are asked for, rather than all of them now.
            progress: show progress bars; or a function ``(stage, done, total)`` that is told of frames whose motion is
                read, of steps, of ``passes`` (those steps at which the network ran, of those at which it will; None
                where a tolerance chooses), and of the stages between; what it raises ends the run.
            callback_on_step_end: sees, and may change, the latents after each step of each window.
            callback_on_step_end_tensor_inputs: what it is given; there are only ``latents``.
            work: where progress is kept, so that the same call with the same folder goes on where it stopped.
            helpers: evaluate the same network elsewhere, windows being shared out to them; the frames are the same, if
                they compute alike. Left idle by a predictor whose memory is inside the network.
            **sampling: fields of ``SamplingSettings``; the model's own defaults unless given.

        Returns:
            Exactly as many frames as ``driving`` has, at its rate, with a report.

        Raises:
            UserError: an input or a setting that can't be honoured, with what to do.
        """
        settings = self.settings(speed, **sampling)
        if unknown := sorted({*callback_on_step_end_tensor_inputs} - {*self._callback_tensor_inputs}):
            raise UserError(f"the callback asks for {', '.join(unknown)}; it can be given latents only")
        negative_prompt = self.config.negative_prompt if negative_prompt is None else negative_prompt
        if self.text_encoder is None:
            refuse_words(prompt, negative_prompt)
        prepared = prepare(
            portrait,
            lambda choice: self.read_motion(driving, choice, progress),
            self.framing,
            size=size,
            view=view,
            controls=controls,
            face=face,
            progress=progress,
            work=work,
        )
        framed, motion, report = prepared.framed, prepared.motion, prepared.report
        clip = drawn_clip(self.config.reference, framed, motion.values)
        if clip is not None and settings.refine == 0:
            frames = draw_frames(clip, prepared, self.config.reference, work)
        else:
            plan = WindowPlan(latent_frame_count(len(motion)), settings.window, settings.overlap)
            report.windows, report.attention = len(plan), attention_of(self.transformer)
            report.seams = [tuple(seam for seam in window.seams if seam < len(motion)) for window in plan]
            with report.stage("conditions", progress if callable(progress) else None):
                texts = {"prompt": prompt, "negative_prompt": negative_prompt}
                # At a text scale of 1 the negative prompt has no weight: a text encoder that is streamed takes seconds.
                used = texts if settings.text_scale != 1 else {"prompt": prompt, "negative_prompt": prompt}
                conditions = self.encode_conditions(framed, motion.values, len(plan[0]), **used, refine=settings.refine)
            noise_shape = (self.transformer.config.out_channels, plan.latent_frames, *conditions.reference.grid)
            noise = choose_noise(noise_shape, seed, generator, latents, settings.temperature)
            if work is not None:
                work.bind({**texts, **describe_model(self), **describe_run(settings, noise, framed, motion)})
            parts = self._denoise(
                noise, conditions, plan, settings, report, progress, callback_on_step_end, work, helpers
            )
            frames = self._decode(report.timed("denoise", parts), conditions.reference, len(motion), report)
        name = self.config.get("_name_or_path")
        return prepared.video(frames, Path(name).name if name else None, stream=stream)

    @torch.no_grad()
    def sample_latents(
        self,
        noise: Tensor,
        prompt_embeds: Tensor,
        negative_prompt_embeds: Tensor,
        image_embeds: Tensor,
        reference_latents: Tensor | Reference,
        motion: Tensor,
        num_inference_steps: int = 30,
        text_scale: float = 1.0,
        emotion_scale: float = 4.0,
        window: int = 51,
        overlap: int = 30,
        predictor: AdaptiveLatentPrediction | FittedPrediction | None = None,
        **sampling: Any,
    ) -> Tensor:
        """Latents of a clip from noise and conditions: sampling alone, number for number the released model's.

        Args:
            noise: [b 16 f h w], whatever the temperature.
            prompt_embeds, negative_prompt_embeds: [b n text_dim].
            image_embeds: [b m image_dim].
            reference_latents: mask and portrait latents of one window, the same in every window, [b 20 window h w]; or
                what gives them for each window (``reference``).
            motion: [b t d], a row for each pixel frame: t = 4 (f - 1) + 1, or up to three fewer (the last one stays).
            num_inference_steps, text_scale, emotion_scale, window, overlap, predictor: see ``SamplingSettings``,
                whose other fields may be given too.

        Returns:
            Latents [b 16 f h w], float32.

        Raises:
            UserError: shapes that don't belong together, or a scheduler or a setting that can't be honoured.
        """
        settings = SamplingSettings(
            num_inference_steps=num_inference_steps,
            text_scale=text_scale,
            emotion_scale=emotion_scale,
            window=window,
            overlap=overlap,
            predictor=predictor,
            **sampling,
        )
        reference = PortraitFirst(reference_latents) if isinstance(reference_latents, Tensor) else reference_latents
        conditions = Conditions(prompt_embeds, negative_prompt_embeds, image_embeds, reference, motion)
        plan = WindowPlan(noise.shape[2], window, overlap)
        parts = self._denoise(GivenNoise(noise), conditions, plan, settings, RunReport(), progress=False)
        return torch.cat([latents for _, latents in parts], dim=2)

    def settings(self, speed: str | None = None, **given: Any) -> SamplingSettings:
        """The model's own sampling settings, with the given ones in their place.

        Raises:
            UserError: an unknown setting, or both a speed and a predictor.
        """
        return SamplingSettings.resolve(self.config.defaults, speed, given)

    def read_motion(
        self, driving: DrivingSource, face: FaceChoice | None = None, progress: bool | ProgressHook = True
    ) -> MotionFeatures:
        """Motion rows of a driving clip, one per frame, as this model's extractor gives them (``load_motion``)."""
        return load_motion(
            driving,
            self.motion_layout,
            face or FaceChoice(),
            progress=progress,
            weights=self.weights_folder,
            device=self._execution_device,
        )

    @property
    def motion_layout(self) -> str:
        """The motion rows that this model takes, by name (``face.motion.LAYOUTS``)."""
        return self.config.motion_layout

    @property
    def framing(self) -> Framing:
        """How this model takes portraits."""
        return Framing(**self.config.framing)

    @torch.no_grad()
    def encode_conditions(
        self,
        framed: FramedPortrait,
        motion: np.ndarray,
        window: int,
        prompt: str = "",
        negative_prompt: str = "",
        refine: float = 1.0,
    ) -> Conditions:
        """All that the network is told, from a portrait, motion rows [t d] and a window's number of latent frames.

        ``refine``: see ``SamplingSettings``.
        """
        device, config = self._execution_device, self.transformer.config
        portrait = framed.pixels.to(device)
        sizes = {"length": config.text_len, "width": config.text_dim}
        embeds = {
            words: encode_prompt(words, self.tokenizer, self.text_encoder, **sizes)
            for words in {prompt, negative_prompt}
        }
        if isinstance(self.image_encoder, PortraitImageEncoder):
            image_embeds = self.image_encoder(portrait.to(self.image_encoder.dtype))
        else:
            image_embeds = clip_tokens(self.image_encoder, portrait)
        reference: Reference
        clip = drawn_clip(self.config.reference, framed, motion)
        if clip is None:
            rows = torch.from_numpy(motion)
            reference = PortraitFirst(with_mask(encode_portrait(self.vae, portrait, window)))
        else:  # the network is told what is drawn, not what lies beyond the mesh's reach
            rows = clip.motion
            reference = PortraitDrawn(clip, framed.pixels, self.vae, refine)
        return Conditions(embeds[prompt], embeds[negative_prompt], image_embeds, reference, rows[None]).to(
            device, self.transformer.dtype
        )

    @torch.no_grad()
    def _denoise(
        self,
        noise: Noise,
        conditions: Conditions,
        plan: WindowPlan,
        settings: SamplingSettings,
        report: RunReport,
        progress: bool | ProgressHook = True,
        callback: StepCallback | None = None,
        work: WorkDirectory | None = None,
        helpers: Sequence[Evaluate] = (),
    ) -> Iterator[tuple[Window, Tensor]]:
        """Yield windows with their final latent frames, in order."""
        device = self._execution_device
        frame_bytes = 4 * self.transformer.config.out_channels * math.prod(conditions.reference.grid)
        check_memory(settings.schedule, plan, frame_bytes, settings.predictor.kept if settings.predictor else 0)
        conditions = conditions.padded_to(plan).to(device, self.transformer.dtype)
        steps = self._set_steps(settings, device)
        prediction = None
        if settings.predictor is not None:
            sigmas = [*(step.sigma for step in steps), steps[-1].next_sigma]
            first_order = isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler)
            prediction = settings.predictor.start(sigmas, first_order=first_order, device=device)
        guidance = Guidance(settings.text_scale, settings.emotion_scale, conditions.same_prompts)
        if self.passes is not None:
            share_out(self.passes, settings, plan, len(guidance.weights()))
            report.processes = self.passes.describe()
        remembers = settings.predictor is not None and settings.predictor.target != "guided"
        helped = None
        if helpers and not remembers and self.passes is None:
            helped = HelpedPasses(self._evaluate, helpers, device)
        velocity = GuidedVelocity(
            self.transformer,
            self.portrait_encoder,
            conditions,
            guidance,
            steps=len(steps),
            prediction=prediction,
            batched=settings.batched,
            passes=helped or self.passes,
        )
        counter = None
        if callable(progress):
            counter = StepCount(progress, len(plan), len(steps), planned_steps(settings.predictor, len(steps)))
        bars = self.progress_bar(total=len(plan) * len(steps)) if progress is True else nullcontext()
        with network_prediction(self.transformer, settings.predictor), bars as bar:

            def on_step(window: Window, step: Step, latents: Tensor) -> Tensor:
                report.note_step(velocity.calls, predicted=not velocity.computed)
                if bar is not None:
                    bar.update()
                if counter is not None:
                    counter.step(computed=velocity.computed)
                changed = callback(self, step.index, step.timestep, {"latents": latents}) if callback else None
                return (changed or {}).get("latents", latents)

            def begin() -> None:
                if counter is not None:
                    counter.begin(run.steps_taken())

            def start(first: int, stop: int) -> Tensor:
                return noise(first, stop).to(device, torch.float32)

            run = denoiser(
                settings.schedule,
                velocity,
                self.scheduler,
                plan,
                start,
                on_step=on_step,
                prepare=velocity.prepare if (helped or self.passes) is not None else None,
                breadth=1 if helped is None else 1 + len(helpers),
            )
            try:
                if work is not None:
                    yield from work.run(run, plan, prediction, begin)
                else:
                    begin()
                    yield from chain.from_iterable(run.run())
            finally:
                if helped is not None:
                    helped.close()
                    report.helped_calls = helped.helped
                self.maybe_free_model_hooks()

    @torch.no_grad()
    def _evaluate(self, inputs: Mapping[str, Any]) -> Tensor:
        """The network's output for inputs that may come from another device."""
        device = self._execution_device
        moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in inputs.items()}
        return self.transformer(**moved)

    def _set_steps(self, settings: SamplingSettings, device: torch.device) -> list[Step]:
        if settings.sigmas is not None:
            self.scheduler.set_timesteps(sigmas=list(settings.sigmas), device=device)
        else:
            self.scheduler.set_timesteps(settings.num_inference_steps, device=device)
        return steps_of(self.scheduler)

    @torch.no_grad()
    def _decode(
        self,
        parts: Iterator[tuple[Window, Tensor]],
        reference: Reference,
        frames: int,
        report: RunReport,
    ) -> Iterator[np.ndarray]:
        """Decode one latent frame at a time; what fills the last one up to four pixel frames is left out."""
        decoder, indices = streaming_decoder(self.vae), count()
        for _, latents in parts:
            for latent in latents.split(1, dim=2):
                with report.stage("decode"):
                    pictures = reference.decode(next(indices), latent.to(self._execution_device), decoder)
                report.note_memory()
                for picture in pictures[: frames - report.frames]:
                    report.note_frame()
                    yield picture
