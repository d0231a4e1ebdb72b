"""Jobs as data, in each of the ways there are to write them."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import fsspec
import pytest

from flashportrait.batch import BatchError, Row, Task, check_jobs, pair_jobs, read_jobs
from flashportrait.errors import UserError


@pytest.fixture
def folder(portrait: Path, template: Path) -> Path:
    """Holds portrait.png and motion.safetensors."""
    assert portrait.parent == template.parent
    (portrait.parent / "out").mkdir()
    return portrait.parent


FORMS = {
    "jobs.csv": (
        "portrait,driving,output,trim,head,audio,seed\n"
        'portrait.png,motion.safetensors,out/a.mp4,2f:7f,0.5,no,"3"\n'
        "\n"
        "portrait.png , motion.safetensors,out/b.mp4,,,,\n"
    ),
    "jobs.jsonl": (
        '{"portrait": "portrait.png", "driving": "motion.safetensors", "output": "out/a.mp4", "trim": "2f:7f",'
        ' "head": 0.5, "audio": false, "seed": 3}\n\n'
        '{"portrait": "portrait.png", "driving": "motion.safetensors", "output": "out/b.mp4", "trim": null}\n'
    ),
    "jobs.yaml": (
        "- {portrait: portrait.png, driving: motion.safetensors, output: out/a.mp4,\n"
        "   trim: '2f:7f', head: 0.5, audio: no, seed: 3}\n"
        "- portrait: portrait.png\n  driving: motion.safetensors\n  output: out/b.mp4\n  trim: null\n"
    ),
    "jobs.json": (
        '[{"portrait": "portrait.png", "driving": "motion.safetensors", "output": "out/a.mp4", "trim": "2f:7f",'
        ' "head": 0.5, "audio": false, "seed": 3},'
        '{"portrait": "portrait.png", "driving": "motion.safetensors", "output": "out/b.mp4"}]'
    ),
}
PLACES = {
    "jobs.csv": ["jobs.csv:2", "jobs.csv:4"],
    "jobs.jsonl": ["jobs.jsonl:1", "jobs.jsonl:3"],
    "jobs.yaml": ["jobs.yaml:1", "jobs.yaml:3"],
    "jobs.json": ["jobs.json: job 1", "jobs.json: job 2"],
}


def tasks_of(folder: Path, name: str, text: str, **common: object) -> list[Task]:
    file = folder / name
    file.write_text(text)
    return check_jobs(read_jobs(file), common, folder)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_gives_the_same_jobs_with_paths_from_the_file_on(
    folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir("/")
    first, second = tasks_of(folder, name, FORMS[name])
    assert [first.source, second.source] == PLACES[name]
    assert first.job.portrait == second.job.portrait == folder / "portrait.png"
    assert [first.job.output, second.job.output] == [folder / "out/a.mp4", folder / "out/b.mp4"]
    assert (first.job.trim, first.job.head, first.job.audio, first.job.seed) == ("2f:7f", 0.5, False, 3)
    assert (second.job.trim, second.job.head, second.job.audio, second.job.seed) == (None, 1.0, True, 0)
    assert (first.frames, second.frames) == (5, 11)


def test_a_trim_in_yaml_is_no_sexagesimal_number(folder: Path):
    text = "- {portrait: portrait.png, driving: motion.safetensors, output: a.mp4, trim: 0:1}"
    assert tasks_of(folder, "jobs.yaml", text)[0].job.trim == "0:1"


def test_settings_of_all_count_where_a_job_says_nothing(folder: Path):
    text = "output,head\na.mp4,2\nb.mp4,\n"
    common = {"portrait": str(folder / "portrait.png"), "driving": str(folder / "motion.safetensors"), "head": 0.25}
    assert [task.job.head for task in tasks_of(folder, "jobs.csv", text, **common)] == [2, 0.25]


def test_all_mistakes_are_in_one_list_with_their_lines(folder: Path):
    (folder / "text.mp4").write_text("no video")
    text = (
        "portrait,driving,output,head,size\n"
        "portrait.png,motion.safetensors,out/a.mp4,9,3\n"
        "portrait.png,motion.safetensors,out/b.mp4,1,\n"
        "portrait.png,motion.safetensors,out/../out/b.mp4,1,\n"
        "nobody.png,motion.safetensors,out/c.mp4,1,\n"
        "portrait.png,text.mp4,out/d.mp4,1,\n"
        "portrait.png,motion.safetensors,nowhere/e.mp4,1,\n"
        "portrait.png,motion.safetensors,out/f.txt,1,\n"
        ",motion.safetensors,out/g.mp4,1,\n"
        "portrait.png,motion.safetensors,out/h.mp4,1,,0.5\n"
    )
    with pytest.raises(BatchError) as error:
        tasks_of(folder, "jobs.csv", text)
    problems = error.value.problems
    assert [problem.split(": ")[0] for problem in problems] == [f"jobs.csv:{n}" for n in (2, 2, 4, 5, 6, 7, 8, 9, 10)]
    said = (
        ("head is '9'", "size is '3'", "written by jobs.csv:3 already", "nobody.png", "text.mp4", "nowhere"),
        ("f.txt", "portrait is missing", "6 values, but 5 columns"),
    )
    for problem, words in zip(problems, chain(*said), strict=True):
        assert words in problem


def test_the_same_mistake_in_every_row_is_said_once(folder: Path):
    text = "portrait,driving,output,hed\n" + "".join(
        f"portrait.png,motion.safetensors,{index}.mp4,1\n" for index in range(200)
    )
    with pytest.raises(BatchError) as error:
        tasks_of(folder, "jobs.csv", text)
    assert error.value.problems == ["jobs.csv:2 and 199 more: hed is no setting of a job (did you mean head?)"]


@pytest.mark.parametrize(
    ("name", "text", "line"),
    [
        ("jobs.txt", "a", "no kind of jobs file"),
        ("jobs.csv", "", "holds no jobs"),
        ("jobs.csv", "portrait,driving\n", "holds no jobs"),
        ("jobs.csv", "head,head\n1,2\n", "jobs.csv:1: two columns are named 'head'"),
        ("jobs.csv", 'head\n"1\n', "jobs.csv:2: no CSV"),
        ("jobs.json", "[1", "jobs.json: no JSON"),
        ("jobs.json", "{}", "holds no list"),
        ("jobs.yaml", "- a: [1", "jobs.yaml:1: no YAML"),
        ("jobs.yaml", "a: b", "holds no list"),
    ],
)
def test_files_that_are_none_are_refused(tmp_path: Path, name: str, text: str, line: str):
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as error:
        read_jobs(tmp_path / name)
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_rows_that_are_none_are_mistakes_of_their_line(tmp_path: Path):
    (tmp_path / "jobs.jsonl").write_text('{"portrait": 1}\n{"a"\n[1]\n')
    assert [(row.source, row.problem is None) for row in read_jobs(tmp_path / "jobs.jsonl")] == [
        ("jobs.jsonl:1", True), ("jobs.jsonl:2", False), ("jobs.jsonl:3", False),
    ]  # fmt: skip


def test_patterns_match_in_storage_too() -> None:
    system = fsspec.filesystem("memory")
    for name in ("b.jpg", "a.jpg", "words.txt"):
        system.pipe_file(f"/patterns/{name}", b"x")
    rows = pair_jobs(["memory://patterns/*.jpg"], ["https://x.org/clip.mp4"], "memory://made")
    assert [row.values["portrait"] for row in rows] == ["memory:///patterns/a.jpg", "memory:///patterns/b.jpg"]
    assert [row.values["output"] for row in rows] == ["memory://made/a.mp4", "memory://made/b.mp4"]
    with pytest.raises(UserError, match=r"no file matches --portraits 'memory://patterns/\*\.png'"):
        pair_jobs(["memory://patterns/*.png"], ["c.mp4"], "out")


@pytest.mark.parametrize(
    ("faces", "clips", "names"),
    [
        (["f/*.jpg"], ["c/1.mp4"], ["out/a.mp4", "out/b.mp4"]),
        (["f/a.jpg"], ["c/*.mp4"], ["out/1.mp4", "out/2.mp4"]),
        (["f/a.jpg"], ["c/1.mp4"], ["out/a.mp4"]),
        (["f/a.jpg", "f/*.jpg"], ["c/*.mp4"], ["out/a-1.mp4", "out/a-2.mp4", "out/b-1.mp4", "out/b-2.mp4"]),
        (["f/a.jpg", "s3://x/y.jpg"], ["c/1.mp4"], ["out/a.mp4", "out/y.mp4"]),
    ],
)
def test_pairs_are_named_after_what_there_are_several_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, faces: list[str], clips: list[str], names: list[str]
):
    monkeypatch.chdir(tmp_path)
    for file in ("f/b.jpg", "f/a.jpg", "c/1.mp4", "c/2.mp4"):
        Path(file).parent.mkdir(exist_ok=True)
        Path(file).touch()
    rows: list[Row] = pair_jobs(faces, clips, "out/")
    assert [row.values["output"] for row in rows] == names
    with pytest.raises(UserError, match=r"no file matches --portraits 'f/\*\.png'"):
        pair_jobs(["f/*.png"], clips, "out")
