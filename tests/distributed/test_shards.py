"""Weights shared out among real processes: each keeps its part, and passes are those of one process."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from test_sequence import NETWORK, passes, start

from flashportrait.models.transformer import FlashPortraitTransformer3DModel
from flashportrait.weights.lora import Delta, Lora
from flashportrait.workdir import model_digest
from toys import toy_transformer

WORKER = """
import sys, torch
from pathlib import Path
from flashportrait.distributed.passes import SharedPasses, follow
from flashportrait.distributed.ranks import joined
from flashportrait.weights.kernels import compile_blocks
from flashportrait.weights.shards import shard
from flashportrait.workdir import model_digest
sys.path.insert(0, {here!r})
from test_shards import LORA, kept, network

def load(message):
    transformer = network({dtype})
    shard(transformer, torch.device("cpu"), LORA)
    if {compiled}:
        compile_blocks(transformer, "aot_eager", splittable=True)
    return transformer, "cpu", {{"weights": model_digest({{"transformer": transformer}}), "kept": kept(transformer)}}

def run(ranks, folder):
    if not ranks.leads:
        follow(ranks, load)
        return
    ranks.tell({{"kind": "load"}})
    transformer, _, identity = load({{}})
    identities = ranks.gather(identity)
    passes = SharedPasses(ranks, transformer, "cpu")
    asked = torch.load(folder / "asked.pt")
    outputs = []
    for at_once in (1, ranks.size):
        passes.arrange(at_once)
        outputs.append(passes(asked))
    torch.save((identities, passes.describe(), outputs), folder / "outputs.pt")

with joined() as ranks:
    run(ranks, Path(sys.argv[1]))
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if "gloo" in name], threads
"""
LORA = Lora(
    "toy",
    {
        "blocks.1.ffn.net.0.proj.weight": (Delta(torch.ones(32, 1), torch.linspace(0, 0.1, 64)[None]),),
        "blocks.2.norm2.bias": (Delta(torch.linspace(0, 0.5, 64)),),
        "proj_out.bias": (Delta(torch.linspace(0, 1, 64)),),
    },
)


def network(dtype: torch.dtype) -> FlashPortraitTransformer3DModel:
    """The toy in a type, but for what stays float32, as when it is loaded."""
    transformer = toy_transformer(**NETWORK)
    for name, parameter in transformer.named_parameters():
        if set(name.split(".")).isdisjoint(transformer._keep_in_fp32_modules):
            parameter.data = parameter.data.to(dtype)
    return transformer


def kept(transformer: FlashPortraitTransformer3DModel) -> int:
    """Bytes of the blocks' weights in this process."""
    parameters = (getattr(each, "_local_tensor", each) for each in transformer.blocks.parameters())
    return sum(each.numel() * each.itemsize for each in parameters)


def in_type(arguments: dict, dtype: torch.dtype) -> dict:
    return {
        name: value.to(dtype) if isinstance(value, torch.Tensor) and name != "timestep" else value
        for name, value in arguments.items()
    }


@pytest.mark.parametrize(
    ("processes", "dtype", "tolerance", "compiled"),
    [(2, torch.float32, 1e-5, True), (2, torch.bfloat16, 0.05, False), (4, torch.float32, 1e-5, False)],
)
@torch.no_grad()
def test_passes_are_those_of_one_process(
    tmp_path: Path, processes: int, dtype: torch.dtype, tolerance: float, compiled: bool
):
    asked = [in_type(each, dtype) for each in passes(3, (3, 10, 6))]
    torch.save(asked, tmp_path / "asked.pt")
    script = WORKER.format(here=str(Path(__file__).parent), dtype=dtype, compiled=compiled)
    for process in start(script, processes, str(tmp_path)):
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 0, error
    identities, described, outputs = torch.load(tmp_path / "outputs.pt")
    alone = network(dtype)
    LORA.merge(alone)
    assert {each["weights"] for each in identities} == {model_digest({"transformer": alone})}
    assert described == f"{processes} processes, {processes} together on each pass, weights shared out"
    expected = [alone(**arguments) for arguments in asked]
    for made in outputs:
        for one, other in zip(made, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=tolerance)
    shares = [each["kept"] / kept(alone) for each in identities]
    assert sum(shares) == pytest.approx(1, abs=0.1), "norms and tables, which stay float32, are small"
    assert max(shares) < 1.1 / processes


def test_a_process_that_dies_in_a_pass_is_noticed_at_once(tmp_path: Path):
    asked = passes(2, (1, 4, 6))
    torch.save(asked, tmp_path / "asked.pt")
    dying = """
    if torch.distributed.get_rank() == 1:
        transformer.blocks[1].register_forward_pre_hook(lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    return transformer, """
    script = WORKER.format(here=str(Path(__file__).parent), dtype=torch.float32, compiled=False)
    script = "import os, signal\n" + script.replace("    return transformer, ", dying.lstrip("\n"), 1)
    leader, other = start(script, 2, str(tmp_path))
    error = leader.communicate(timeout=60)[1]
    assert other.wait() == -signal.SIGKILL
    assert leader.returncode not in (0, -signal.SIGABRT)
    assert "another process of this job is gone" in error, error
