"""The result that the mesh alone draws, with the network at hand and without it."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from flashportrait.drawing import MeshPipeline
from flashportrait.errors import UserError
from flashportrait.face.motion import MotionFeatures
from flashportrait.job import Job, ModelCache
from flashportrait.loading import load_pipeline
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.weights.folder import model_folder, read_index

PORTRAIT = Path(__file__).parents[1] / "examples" / "drawn_1.png"


@pytest.fixture(scope="module")
def alone() -> MeshPipeline:
    return MeshPipeline(read_index(model_folder("nano")), "nano")


@pytest.fixture(scope="module")
def motion() -> MotionFeatures:
    """A head that turns, and a mouth that opens and shuts."""
    rows = np.zeros((5, 57), np.float32)
    rows[:, 0] = np.linspace(0, 0.3, 5)
    rows[:, 30] = [0, 0.4, 0.8, 0.4, 0]
    return MotionFeatures(rows, Fraction(25))


@pytest.mark.parametrize("view", ["whole", "face"])
def test_frames_are_those_of_the_whole_pipeline(alone: MeshPipeline, motion: MotionFeatures, view: str):
    told: list[tuple[str, int, int | None]] = []
    drawn = alone(PORTRAIT, motion, view=view, size=128, progress=lambda *news: told.append(news))
    whole = load_pipeline("nano", "cpu")(PORTRAIT, motion, view=view, size=128, refine=0, progress=False)
    assert np.array_equal(drawn.frames, whole.frames)
    assert (drawn.model, drawn.rate, drawn.face_area) == (whole.model, whole.rate, whole.face_area)
    assert drawn.report.windows == whole.report.windows == 1
    assert ("portrait", 1, 1) in told


def test_settings_are_checked_though_no_network_is_there(alone: MeshPipeline, motion: MotionFeatures):
    with pytest.raises(UserError, match="unknown setting sharpness"):
        alone(PORTRAIT, motion, sharpness=2)
    with pytest.raises(UserError, match="give one of them"):
        alone.settings("fast", predictor=load_pipeline("nano", "cpu").settings("turbo").predictor)
    with pytest.raises(UserError, match=r"refine is 0\.5, which needs the network"):
        alone(PORTRAIT, motion, refine=0.5)
    with pytest.raises(UserError, match="has no text encoder"):
        alone(PORTRAIT, motion, prompt="a smile")
    with pytest.raises(UserError, match="has no text encoder"):
        load_pipeline("nano", "cpu")(PORTRAIT, motion, prompt="a smile", refine=0)


def test_the_network_is_loaded_only_where_it_is_asked_for(tmp_path: Path):
    job = Job(PORTRAIT, tmp_path / "motion.safetensors", tmp_path / "out.mp4", device="cpu")
    with ModelCache() as models:
        for plain in (job, replace(job, refine=0.0), replace(job, speed="turbo", seed=3)):
            with models.using(plain) as pipeline:
                assert isinstance(pipeline, MeshPipeline)
        for asking in (replace(job, refine=0.5), replace(job, attention="native")):
            with models.using(asking) as pipeline:
                assert isinstance(pipeline, FlashPortraitPipeline)
        with (
            pytest.raises(UserError, match="the device 'nowhere' can't be used"),
            models.using(replace(job, device="nowhere")),
        ):
            pass


def test_an_index_that_is_damaged_is_named(tmp_path: Path):
    job = Job(PORTRAIT, tmp_path / "motion.safetensors", tmp_path / "out.mp4", model=str(tmp_path))
    for content in ("{", "[]"):
        (tmp_path / "model_index.json").write_text(content)
        with ModelCache() as models, pytest.raises(UserError, match=r"model_index\.json"), models.using(job):
            pass


def test_a_run_that_is_all_drawn_imports_no_library_of_networks(motion: MotionFeatures, tmp_path: Path):
    motion.save(tmp_path / "motion.safetensors")
    code = """
import json, sys
from flashportrait.job import Job, run
run(Job(sys.argv[1], sys.argv[2], sys.argv[3], size=64, threads=1))
print(json.dumps(sorted({"diffusers", "transformers", "torch"} & sys.modules.keys())))
"""
    arguments = [str(PORTRAIT), str(tmp_path / "motion.safetensors"), str(tmp_path / "out.mp4")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == ["torch"]
    assert (tmp_path / "out.mp4").is_file()
