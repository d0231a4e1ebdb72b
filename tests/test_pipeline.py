"""The pipeline at toy size, with the real classes."""

from __future__ import annotations

import json
from fractions import Fraction

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UniPCMultistepScheduler
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file

from flashportrait.errors import UserError
from flashportrait.face.motion import BLENDSHAPES, PDFGC, MotionFeatures
from flashportrait.inputs import MotionControls
from flashportrait.loading import load_pipeline
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.sampling.fitted import FittedPrediction
from flashportrait.sampling.predictor import AdaptiveLatentPrediction
from flashportrait.sampling.speed import parse_predictor
from flashportrait.workdir import WorkDirectory
from toys import toy_pipeline

RATE = Fraction(30000, 1001)
DEFAULTS = {"num_inference_steps": 2, "window": 4, "overlap": 2}


@pytest.fixture(scope="module")
def pipeline() -> FlashPortraitPipeline:
    return toy_pipeline(**DEFAULTS)


@pytest.fixture
def portrait() -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 255, (80, 120, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def motion(frames: int) -> MotionFeatures:
    rows = np.random.default_rng(1).random((frames, BLENDSHAPES.width)).astype(np.float32)
    return MotionFeatures(rows, RATE)


@pytest.fixture
def conditions() -> dict[str, torch.Tensor]:
    """What ``sample_latents`` takes, for 9 latent frames in windows of 5."""
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "noise": normal(1, 16, 9, 4, 6),
        "prompt_embeds": normal(1, 4, 16),
        "negative_prompt_embeds": normal(1, 3, 16),
        "image_embeds": normal(1, 5, 16),
        "reference_latents": normal(1, 20, 5, 4, 6),
        "motion": torch.from_numpy(motion(33).values)[None],
    }


@torch.no_grad()
def released_sampling(pipeline, given, steps, text_scale, emotion_scale, window, overlap):
    """The released loop: branches one by one, each window stepped by Euler, stepped latents blended after step 0."""
    latents = given["noise"]
    frames = latents.shape[2]
    starts = list(range(0, max(1, frames - overlap), window - overlap)) if frames > window else [0]
    starts[-1] = max(0, frames - window)
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5)
    scheduler.set_timesteps(steps)
    for step, timestep in enumerate(scheduler.timesteps):
        moved, previous_stop = torch.zeros_like(latents), 0
        for number, start in enumerate(starts):
            stop = min(frames, start + window)
            rows = given["motion"][:, 4 * start : 4 * (stop - 1) + 1]
            encoder = pipeline.portrait_encoder
            tokens = encoder.tokens_per_latent_frame(encoder(rows), rows.shape[1])
            part = latents[:, :, start:stop]

            def forward(text, scale, part=part, tokens=tokens, timestep=timestep):
                return pipeline.transformer(
                    torch.cat([part, given["reference_latents"][:, :, : part.shape[2]]], dim=1),
                    timestep.expand(1),
                    text,
                    given["image_embeds"],
                    tokens,
                    scale,
                )

            full, text = (forward(given["prompt_embeds"], scale) for scale in (1.0, 0.0))
            none = forward(given["negative_prompt_embeds"], 0.0)
            velocity = none + text_scale * (text - none) + emotion_scale * (full - text)
            part = part + (scheduler.sigmas[step + 1] - scheduler.sigmas[step]) * velocity
            if number and step:
                shared = previous_stop - start
                for j in range(shared):
                    weight = j / (shared - 1)
                    part[:, :, j] = weight * part[:, :, j] + (1 - weight) * moved[:, :, start + j]
            moved[:, :, start:stop], previous_stop = part, stop
        latents = moved
    return latents


@pytest.mark.parametrize(("window", "overlap"), [(9, 4), (5, 2), (5, 3), (4, 2)])
@pytest.mark.parametrize(("text_scale", "emotion_scale"), [(1.0, 4.0), (2.5, 3.0)])
@pytest.mark.parametrize("batched", [False, True])
def test_sampling_is_the_released_sampling(pipeline, conditions, window, overlap, text_scale, emotion_scale, batched):
    if window == 9:
        conditions["reference_latents"] = conditions["reference_latents"].repeat(1, 1, 2, 1, 1)
    expected = released_sampling(pipeline, conditions, 4, text_scale, emotion_scale, window, overlap)
    sampling = FlashPortraitPipeline.for_sampling(
        transformer=pipeline.transformer,
        portrait_encoder=pipeline.portrait_encoder,
        scheduler=FlowMatchEulerDiscreteScheduler(shift=5),
    )
    latents = sampling.sample_latents(
        **conditions,
        num_inference_steps=4,
        text_scale=text_scale,
        emotion_scale=emotion_scale,
        window=window,
        overlap=overlap,
        batched=batched,
    )
    assert (latents - expected).norm() / expected.norm() < 1e-5


def test_orders_agree_on_the_real_network(pipeline, conditions):
    sample = {
        order: pipeline.sample_latents(
            **conditions, num_inference_steps=3, window=4, overlap=2, schedule=order, predictor=None
        )
        for order in ("synchronous", "diagonal", "causal")
    }
    assert torch.equal(sample["synchronous"], sample["diagonal"])
    assert not torch.equal(sample["synchronous"], sample["causal"])


def test_prediction_is_the_same_in_either_joint_order_and_leaves_no_trace(pipeline, conditions):
    predictor = AdaptiveLatentPrediction(interval=3, order=1)
    given = {**conditions, "num_inference_steps": 7, "window": 4, "overlap": 2}
    exact = pipeline.sample_latents(**given)
    predicted = [
        pipeline.sample_latents(**given, predictor=predictor, schedule=order) for order in ("synchronous", "diagonal")
    ]
    assert torch.equal(*predicted)
    assert not torch.equal(predicted[0], exact)
    assert torch.equal(pipeline.sample_latents(**given), exact)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(1, 60), st.integers(1, 6), st.sampled_from(["synchronous", "diagonal", "causal"]), st.data())
def test_there_are_as_many_frames_as_the_driver_has(pipeline, portrait, frames, window, schedule, data):
    video = pipeline(
        portrait,
        motion(frames),
        window=window,
        overlap=data.draw(st.integers(0, window - 1)),
        schedule=schedule,
        num_inference_steps=1,
        emotion_scale=1,
    )
    assert video.frames.shape == (frames, 32, 32, 3)
    assert video.frames.dtype == np.uint8
    assert len(video) == video.report.frames == frames
    assert video.rate == RATE


@pytest.mark.parametrize("schedule", ["synchronous", "diagonal", "causal"])
def test_a_stream_gives_the_frames_of_a_whole_run(pipeline, portrait, schedule):
    whole = pipeline(portrait, motion(38), schedule=schedule).frames
    stream = pipeline(portrait, motion(38), schedule=schedule, stream=True)
    assert stream.report.frames == 0
    assert np.array_equal(np.stack(list(stream)), whole)


def test_causal_frames_come_before_later_windows_are_begun(pipeline, portrait):
    seen = []
    video = pipeline(
        portrait,
        motion(61),
        schedule="causal",
        stream=True,
        callback_on_step_end=lambda pipe, step, timestep, values: seen.append(step),
    )
    next(iter(video))
    assert seen == [0, 1]


def test_consumers_keep_their_own_gradient_mode(pipeline, portrait):
    for _ in pipeline(portrait, motion(9), stream=True):
        assert torch.is_grad_enabled()


def test_frames_of_a_long_clip_start_like_those_of_its_beginning(pipeline, portrait):
    """Causal order and noise by frame: what comes later can't change what came before."""
    rows = motion(61)
    long = pipeline(portrait, rows, schedule="causal").frames
    short = pipeline(portrait, rows.trimmed(0, 45), schedule="causal").frames
    assert np.array_equal(long[:5], short[:5])


def test_the_report_counts_what_was_done(pipeline, portrait):
    video = pipeline(portrait, motion(38), num_inference_steps=12, speed="fast")
    report = video.report
    assert report.windows == 5
    assert report.steps_computed + report.steps_predicted == 5 * 12
    assert report.steps_predicted > report.steps_computed > 0
    assert report.network_calls == 2 * report.steps_computed
    assert {"portrait", "motion", "conditions", "denoise", "decode"} <= report.seconds.keys()
    assert report.seconds_to_first_frame > 0
    assert report.peak_memory_bytes > 0
    json.dumps(report.to_dict())


@pytest.mark.parametrize("predictor", ["none", "newton:speedup=3,order=1", "alp:interval=2,tolerance=0.05", "fitted"])
def test_what_is_told_on_the_way_is_what_the_report_counts(pipeline, portrait, predictor):
    if predictor == "fitted":
        pipeline.scheduler.set_timesteps(6)
        weights = ((1.0,), (1.0, 0.0))
        chosen = FittedPrediction(tuple(pipeline.scheduler.sigmas.tolist()), (0, 3), weights)
    else:
        chosen = parse_predictor(predictor)
    told: list[tuple[str, int, int | None]] = []
    video = pipeline(
        portrait,
        motion(38),
        num_inference_steps=6,
        predictor=chosen,
        progress=lambda stage, done, total: told.append((stage, done, total)),
    )
    steps = [(done, total) for stage, done, total in told if stage == "denoise"]
    assert steps == [(done, 5 * 6) for done in range(5 * 6 + 1)]
    passes = [(done, total) for stage, done, total in told if stage == "passes"]
    assert passes[-1][0] == video.report.steps_computed
    assert {total for _, total in passes} == {None if "tolerance" in predictor else video.report.steps_computed}


def test_missing_faces_are_reported(pipeline, portrait):
    rows = motion(9)
    video = pipeline(portrait, MotionFeatures(rows.values, RATE, missing=(2, 5)), num_inference_steps=1)
    assert video.report.missing_faces == [2, 5]


def test_the_callback_may_change_latents(pipeline, portrait):
    zeroed = pipeline(
        portrait,
        motion(9),
        callback_on_step_end=lambda pipe, step, timestep, values: {"latents": torch.zeros_like(values["latents"])},
    ).frames
    other = pipeline(
        portrait,
        motion(9),
        seed=1,
        callback_on_step_end=lambda pipe, step, timestep, values: {"latents": torch.zeros_like(values["latents"])},
    ).frames
    assert np.array_equal(zeroed, other)


def test_noise_comes_from_the_seed_a_generator_or_the_caller(pipeline, portrait):
    def first_frame(**noise) -> np.ndarray:
        return pipeline(portrait, motion(5), num_inference_steps=1, **noise).frames[0]

    assert np.array_equal(first_frame(seed=3), first_frame(seed=3))
    assert not np.array_equal(first_frame(seed=3), first_frame(seed=4))
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    assert np.array_equal(*(first_frame(generator=generator) for generator in generators))
    assert not np.array_equal(
        first_frame(generator=generators[0]), first_frame(generator=torch.Generator().manual_seed(5))
    )
    latents = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(6))
    assert np.array_equal(first_frame(latents=latents, seed=1), first_frame(latents=latents, seed=2))
    assert np.array_equal(first_frame(latents=latents), first_frame(latents=latents, temperature=0))
    assert np.array_equal(first_frame(seed=3, temperature=0), first_frame(seed=4, temperature=0))
    assert not np.array_equal(first_frame(seed=3, temperature=0.5), first_frame(seed=3))
    with pytest.raises(UserError, match="needs"):
        first_frame(latents=latents[:, :, :1])


def test_gains_of_zero_are_a_still_driver(pipeline, portrait):
    still = MotionControls(head=0, eyes=0, emotion=0, mouth=0, smooth=0)
    rows = motion(9)
    expected = rows.with_gains(0, 0, 0, 0)
    noise = {"latents": torch.randn(1, 16, 3, 4, 4, generator=torch.Generator().manual_seed(6))}
    assert np.array_equal(
        pipeline(portrait, rows, controls=still, **noise).frames,
        pipeline(portrait, expected, controls=MotionControls(smooth=0), **noise).frames,
    )


@pytest.mark.parametrize("schedule", ["synchronous", "diagonal"])
def test_multistep_solvers_give_one_result_over_windows(pipeline, conditions, schedule):
    sampling = FlashPortraitPipeline.for_sampling(
        transformer=pipeline.transformer,
        portrait_encoder=pipeline.portrait_encoder,
        scheduler=UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5),
    )
    latents = sampling.sample_latents(
        **conditions, num_inference_steps=4, window=4, overlap=2, emotion_scale=1, schedule=schedule
    )
    many_steps = pipeline.sample_latents(
        **conditions, num_inference_steps=40, window=4, overlap=2, emotion_scale=1, schedule=schedule
    )
    four_steps = pipeline.sample_latents(
        **conditions, num_inference_steps=4, window=4, overlap=2, emotion_scale=1, schedule=schedule
    )
    assert (latents - many_steps).norm() < (four_steps - many_steps).norm()


class Killed(Exception):
    """Stands for the process being killed."""


@pytest.mark.parametrize("schedule", ["synchronous", "diagonal", "causal"])
@pytest.mark.parametrize("speed", ["exact", "fast"])
def test_a_run_killed_and_continued_gives_the_same_frames(pipeline, portrait, tmp_path, schedule, speed):
    given = {"schedule": schedule, "speed": speed, "num_inference_steps": 12, "progress": False}
    whole = pipeline(portrait, motion(38), **given).frames
    work = WorkDirectory.create(tmp_path / "work", {}, {})
    calls = 0

    def kill(pipe, step, timestep, values):
        nonlocal calls
        calls += 1
        if calls in (17, 40):
            raise Killed

    for _ in range(2):
        work.state_interval_seconds = 0
        with pytest.raises(Killed):
            pipeline(portrait, motion(38), work=work, callback_on_step_end=kill, **given)
        work = WorkDirectory.open(tmp_path / "work")
    video = pipeline(portrait, "the driving clip is not looked at again", work=work, **given)
    assert np.array_equal(video.frames, whole)
    assert video.report.steps_computed + video.report.steps_predicted < 5 * 12


def test_a_run_is_not_continued_with_other_settings(pipeline, portrait, tmp_path):
    work = WorkDirectory.create(tmp_path / "work", {}, {})
    pipeline(portrait, motion(9), work=work)
    with pytest.raises(UserError, match="seed was 0 and is 1"):
        pipeline(portrait, motion(9), work=work, seed=1)
    with pytest.raises(UserError, match="portrait was"):
        pipeline(portrait.rotate(90), motion(9), work=work)
    with pytest.raises(UserError, match="predictor was None"):
        pipeline(portrait, motion(9), work=work, predictor=AdaptiveLatentPrediction())


def test_saved_and_loaded_it_gives_the_same_frames(pipeline, portrait, tmp_path):
    pipeline.save_pretrained(tmp_path)
    loaded = load_pipeline(tmp_path, device="cpu", dtype=torch.float32)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.settings() == pipeline.settings()
    assert loaded.framing == pipeline.framing
    assert np.array_equal(loaded(portrait, motion(12)).frames, pipeline(portrait, motion(12)).frames)


def test_loading_is_strict(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    name = "blocks.0.attn1.norm_k.weight"
    save_file({key: weight for key, weight in weights.items() if key != name}, file)
    with pytest.raises(UserError, match=name):
        load_pipeline(tmp_path)
    save_file({**weights, "left.over": torch.zeros(1)}, file)
    with pytest.raises(UserError, match=r"left\.over"):
        load_pipeline(tmp_path)


def test_a_folder_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="not a model"):
        load_pipeline(tmp_path)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"windows": 3}, "unknown setting"),
        ({"window": 3, "overlap": 3}, "overlap"),
        ({"schedule": "sideways"}, "schedule"),
        ({"num_inference_steps": 0}, "steps"),
        ({"emotion_scale": -1}, "emotion_scale"),
        ({"speed": "ludicrous"}, "speed"),
        ({"speed": "fast", "predictor": AdaptiveLatentPrediction()}, "give one of them"),
        ({"prompt": "a man talking"}, "no text encoder"),
        ({"controls": MotionControls(motion="relative")}, "relative motion"),
        ({"size": 7}, "size"),
        ({"callback_on_step_end_tensor_inputs": ["latents", "noise"]}, "asks for noise"),
    ],
)
def test_settings_that_cannot_be_honoured_are_refused(pipeline, portrait, setting, message):
    with pytest.raises(UserError, match=message):
        pipeline(portrait, motion(9), **setting)


def test_motion_of_another_extractor_is_refused(pipeline, portrait):
    rows = np.zeros((5, PDFGC.width), dtype=np.float32)
    with pytest.raises(UserError, match="pdfgc"):
        pipeline(portrait, MotionFeatures(rows, RATE, PDFGC))


def test_motion_of_another_length_than_the_noise_is_refused(pipeline, conditions):
    conditions["motion"] = conditions["motion"][:, :20]
    with pytest.raises(UserError, match="33 rows"):
        pipeline.sample_latents(**conditions, window=5, overlap=2)
