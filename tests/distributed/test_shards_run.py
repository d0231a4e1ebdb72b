"""A model in the released layout whose weights are shared out among processes: the latents of one process."""

from __future__ import annotations

import signal
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file
from test_sequence import start

from flashportrait.cli import main
from flashportrait.face.motion import PDFGC, MotionFeatures
from make_toy_14b import make

pytest.importorskip("onnx")

SHARED = """
import os, signal, sys
from flashportrait import workdir
from flashportrait.cli import main
from flashportrait.distributed.passes import SharedPasses
from flashportrait.job import memory

memory.OFFLOAD[False] = ("shard",)  # a toy fits into any memory
workdir.STATE_INTERVAL_SECONDS = 0.0
rounds, compute = 0, SharedPasses.__call__

def counted(self, passes):
    global rounds
    rounds += 1
    if rounds == {last}:
        os.kill(os.getpid(), signal.SIGKILL)
    return compute(self, passes)

SharedPasses.__call__ = counted
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def options(portrait: Path, tmp_path: Path) -> list[str]:
    """Of three windows of three latent frames, four steps each."""
    model = make(tmp_path / "toy", wan="diffusers")
    rows = np.random.default_rng(0).normal(size=(18, PDFGC.width)).astype(np.float32)
    driver = tmp_path / "driver.safetensors"
    MotionFeatures(rows, Fraction(25), PDFGC).save(driver)
    small = ("--size", "64", "--window", "3", "--overlap", "1", "--steps", "4", "--threads", "1")
    place = ("--model", str(model), "--device", "cpu", "--dtype", "float32", "--no-offload", "--keep-work")
    return ["animate", str(portrait), str(driver), *small, *place, "-o"]


def check_same(out: Path, other: Path) -> None:
    """Latents of all windows, from the work folders that were kept beside results."""
    one, same = (
        {file.name: load_file(file)["latents"].numpy() for file in Path(f"{each}.work").glob("window-*")}
        for each in (out, other)
    )
    assert one.keys() == same.keys()
    assert len(one) == 3
    for name in one:
        np.testing.assert_allclose(one[name], same[name], rtol=1e-4, atol=1e-5)


def test_the_latents_are_those_of_one_process(options: list[str], tmp_path: Path):
    alone, together = tmp_path / "alone.mp4", tmp_path / "together.mp4"
    assert main([*options, str(alone)]) == 0
    leader, other = start(SHARED.format(last=None), 2, *options, str(together))
    said = leader.communicate(timeout=180)[1]
    assert (leader.returncode, other.wait(30)) == (0, 0), said + other.stderr.read()
    assert "transformer in bf16 shared out among 2 processes" in said
    check_same(alone, together)


def test_a_run_that_died_goes_on_in_one_process(options: list[str], tmp_path: Path):
    alone, out = tmp_path / "alone.mp4", tmp_path / "out.mp4"
    assert main([*options, str(alone)]) == 0
    leader, other = start(SHARED.format(last=5), 2, *options, str(out))
    leader.communicate(timeout=180)
    other.communicate(timeout=60)
    assert leader.returncode == -signal.SIGKILL
    assert other.returncode == 1
    assert not out.exists()
    assert main(["resume", f"{out}.work", "--keep-work"]) == 0
    check_same(alone, out)
