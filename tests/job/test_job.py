"""A job's settings: read from anywhere, refused all at once, the same again after a round trip."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import fields
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait import inputs
from flashportrait.errors import UserError
from flashportrait.job import Cancelled, Job, JobError, check
from flashportrait.sampling.denoise import ORDERS
from flashportrait.sampling.speed import SPEEDS

FILES = {"portrait": "face.png", "driving": "drive.mp4", "output": "out.mp4"}
NAMES = st.text("abc._- é", min_size=1).filter(str.strip)
GAINS = st.floats(0, 5)
SCALES = st.floats(0, 1e6)
BOXES = st.tuples(*[st.floats(0, 1000)] * 2, *[st.floats(1, 1000)] * 2).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(("portrait", "driving", "output"), NAMES.map(Path)),
    "model": NAMES,
    "size": st.integers(16, 4096),
    "seed": st.integers(-(2**63), 2**63 - 1),
    **dict.fromkeys(("audio", "compare", "keep_work", "restart", "smooth", "offload", "compile"), st.booleans()),
    "trim": st.sampled_from(["2.5:7", "60f:", "1:30-2:45"]),
    "fps": st.fractions(1, 240),
    **dict.fromkeys(("head", "eyes", "emotion", "mouth"), GAINS),
    "motion": st.sampled_from(["adapted", "absolute", "relative"]),
    "view": st.sampled_from(["whole", "face"]),
    **dict.fromkeys(("face", "portrait_face", "steps", "threads", "frames"), st.integers(1, 10**6)),
    **dict.fromkeys(("face_box", "portrait_box"), BOXES),
    **dict.fromkeys(("prompt", "negative_prompt"), NAMES),
    **dict.fromkeys(("text_scale", "emotion_scale", "temperature"), SCALES),
    "refine": st.floats(0, 1),
    "window": st.integers(100, 200),
    "overlap": st.integers(0, 99),
    "schedule": st.sampled_from(ORDERS),
    "speed": st.sampled_from([*SPEEDS]),
    "device": st.sampled_from(["cpu", "cuda:1"]),
    "dtype": st.sampled_from(["float32", "bfloat16", "float16"]),
    "ingredients": st.booleans(),
    "label": st.text("Made by AI!", min_size=1).filter(str.strip),
    "label_corner": st.sampled_from(["top-left", "top-right", "bottom-left", "bottom-right"]),
    "label_size": st.floats(1, 25),
    "attention": st.sampled_from(["native", "cudnn", "flash", "flash3", "sage"]),
    "weights": st.sampled_from(["bf16", "fp8"]),
    "lora": st.lists(NAMES.map(Path), max_size=3).map(tuple),
    "lora_strength": st.floats(-10, 10),
}
"""Right values of each setting; those that exclude others are left out: see ``LEFT_OUT``."""

LEFT_OUT = {"predictor", "mark", "sign_cert", "sign_key"}

JOBS = st.fixed_dictionaries(
    {name: VALUES[name] for name in FILES}, optional={name: VALUES[name] for name in VALUES.keys() - FILES.keys()}
)


def test_every_field_has_help_and_is_tried_here():
    assert VALUES.keys() | LEFT_OUT == {field.name for field in fields(Job)} == Job.settings().keys()
    assert all(entry.help for entry in Job.settings().values())


@settings(deadline=None)
@given(JOBS)
def test_json_gives_the_same_job_again(values: dict[str, Any]):
    job = Job(**values)
    assert all(getattr(job, name) == value for name, value in values.items())
    assert Job.from_dict(json.loads(json.dumps(job.to_dict()))) == job


@settings(deadline=None)
@given(JOBS)
def test_a_table_of_text_gives_the_same_job(values: dict[str, Any]):
    job = Job(**values)
    plain = job.to_dict()
    if any(";" in name for name in plain["lora"]) or any(name != name.strip() for name in plain["lora"]):
        plain["lora"] = []
    row = {name: "" if value is None else str(value) for name, value in plain.items()}
    row["lora"] = ";".join(plain["lora"])
    for name in ("face_box", "portrait_box"):
        row[name] = "" if plain[name] is None else ",".join(map(str, plain[name]))
    assert Job.from_dict(row) == Job.from_dict(plain)


@settings(deadline=None)
@given(
    st.sampled_from([*VALUES]),
    st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(), st.binary(), st.lists(st.text())),
)
def test_whatever_is_given_is_read_or_refused_by_name(name: str, value: Any):
    problems: dict[str, str] = {}
    try:
        job = Job.from_dict({**FILES, name: value})
    except JobError as error:
        problems = error.problems
    else:
        assert Job.from_dict(job.to_dict()) == job
    assert problems.keys() <= {name}
    assert all(name in line and "\n" not in line for line in problems.values())


def test_all_problems_are_reported_together():
    values = {
        **{"portrait": "a.png", "output": "b.mp4", "textscale": 2, "colour": "red"},
        **{
            "head": 9,
            "steps": "many",
            "face_box": [5, 5, 1, 1],
            "motion": "wild",
            "smooth": "perhaps",
            "trim": "x",
            "seed": "x",
        },
    }
    with pytest.raises(JobError) as refused:
        Job.from_dict(values)
    problems = refused.value.problems
    wrong = {"driving", "textscale", "colour", "head", "steps", "face_box", "motion", "smooth", "trim", "seed"}
    assert problems.keys() == wrong
    assert "did you mean text_scale?" in problems["textscale"]
    assert problems["head"] == "head is 9: give a number from 0 to 5"
    assert problems["seed"] == "seed is 'x': give a whole number of at most 64 bits"
    assert problems["motion"] == "motion is 'wild': choose adapted, absolute or relative"
    assert all(line in str(refused.value) for line in problems.values())
    assert isinstance(refused.value, UserError)


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ({"speed": "fast", "predictor": "newton"}, "speed"),
        ({"window": 3, "overlap": 3}, "overlap"),
        ({"predictor": "magic"}, "predictor"),
        ({"head": float("nan")}, "head"),
        ({"fps": "fast"}, "fps"),
        ({"seed": 2**63}, "seed"),
        ({"portrait": ""}, "portrait"),
        ({"size": True}, "size"),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, Any], name: str):
    with pytest.raises(JobError) as refused:
        Job(**{**FILES, **values})
    assert refused.value.problems.keys() == {name}


def test_empty_text_and_null_mean_the_default():
    plain = Job(**FILES)
    assert Job.from_dict({**FILES, "seed": "", "head": None, "lora": "", "fps": ""}) == plain


def test_rates_are_exact():
    assert Job(**FILES, fps=29.97).fps == Job(**FILES, fps="30000/1001").fps == Fraction(30000, 1001)


def test_limits_are_those_of_what_uses_them():
    read = Job.settings()["size"].read
    assert [read(inputs.MIN_SIZE), read(inputs.MAX_SIZE)] == [inputs.MIN_SIZE, inputs.MAX_SIZE]
    for size in (inputs.MIN_SIZE - 1, inputs.MAX_SIZE + 1):
        with pytest.raises(ValueError, match="from 16 to 4096"):
            read(size)
    assert Job.settings()["schedule"].choices == ORDERS
    assert Job.settings()["speed"].choices == tuple(SPEEDS)


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    job = Job(**FILES, lora=["style.safetensors"], model="model").absolute()
    assert (job.portrait, job.lora, job.model) == (
        tmp_path / "face.png",
        (tmp_path / "style.safetensors",),
        str(tmp_path / "model"),
    )
    assert Job(**FILES).absolute().model == "nano"


def test_check_opens_what_there_is(portrait: Path, template: Path, tmp_path: Path):
    good = {"portrait": portrait, "driving": template, "output": tmp_path / "out.mp4"}
    check(Job(**good))
    for values, reason in (
        ({"portrait": tmp_path / "no.png"}, "no file"),
        ({"driving": portrait.with_suffix(".mkv")}, "no file"),
        ({"output": tmp_path / "out.avi"}, "kind of file"),
        ({"model": "huge"}, "no model 'huge'"),
        ({"lora": tmp_path / "no.safetensors"}, "no LoRA"),
    ):
        with pytest.raises(UserError, match=reason):
            check(Job(**{**good, **values}))


def test_jobs_and_their_errors_pass_between_processes(tmp_path: Path):
    job = Job(**FILES, fps=29.97, lora=["a.safetensors"])
    assert pickle.loads(pickle.dumps(job)) == job
    error = pickle.loads(pickle.dumps(JobError({"head": "head is 9"})))
    assert (error.problems, str(error)) == ({"head": "head is 9"}, "head is 9")
    cancelled = pickle.loads(pickle.dumps(Cancelled(tmp_path)))
    assert (cancelled.work, str(cancelled)) == (tmp_path, str(Cancelled(tmp_path)))


def test_a_job_is_light():
    code = (
        "import sys; from flashportrait import Job, run; Job('a.png', 'b.mp4', 'c.mp4', head='0.5')\n"
        "print(*{'torch', 'av', 'numpy'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
