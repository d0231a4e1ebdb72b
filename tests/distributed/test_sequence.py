"""One pass split over real processes, and passes shared out: the same numbers as in one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers.models.attention_dispatch import AttentionBackendName

from flashportrait.distributed.launch import _free_port
from flashportrait.distributed.passes import _describe, check_alike
from flashportrait.distributed.sequence import check_kernel, choose_split
from flashportrait.errors import UserError
from flashportrait.models.expression_block import match_statistics
from toys import toy_transformer

SOURCES = [str(Path(__file__).resolve().parents[2] / name) for name in ("src", "tests")]
NETWORK = {"num_attention_heads": 4, "image_dim": 8, "added_kv_proj_dim": 64}

WORKER = """
import sys, torch
from pathlib import Path
from flashportrait.distributed.passes import SharedPasses, follow
from flashportrait.distributed.ranks import joined
from toys import toy_transformer

folder, network = Path(sys.argv[1]), {network}
with joined() as ranks:
    transformer = toy_transformer(**network)
    if not ranks.leads:
        follow(ranks, lambda message: (transformer, "cpu", {{}}))
    else:
        ranks.tell({{"kind": "load"}})
        ranks.gather({{}})
        passes = SharedPasses(ranks, transformer, "cpu")
        asked = torch.load(folder / "asked.pt")
        outputs = {{}}
        for at_once in (1, 2, ranks.size, 1):
            passes.arrange(at_once)
            outputs[(at_once, passes.describe())] = passes(asked)
        passes.arrange(1)  # is told to part while passes are split
        torch.save(outputs, folder / "outputs.pt")
threads = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in threads if "gloo" in name], threads
"""


def passes(count: int, grid: tuple[int, int, int], scales: tuple[float, ...] = (1.0, 0.0)) -> list[dict]:
    """Arguments of calls: branches of windows of latents [f h w]."""
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return [
        {
            "hidden_states": noise(1, 36, *grid),
            "timestep": torch.tensor([900.0 - 7 * index]),
            "encoder_hidden_states": noise(1, 3, 8),
            "encoder_hidden_states_image": noise(1, 5, 8),
            "expression_tokens": 3 * noise(1, grid[0], 7, 8) + 1,
            "expression_scale": scales[index % len(scales)],
        }
        for index in range(count)
    ]


def start(script: str, processes: int, *arguments: str) -> list[subprocess.Popen]:
    port = str(_free_port())
    return [
        subprocess.Popen(
            [sys.executable, "-c", script, *arguments],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join(SOURCES),
                "OMP_NUM_THREADS": "1",
                "RANK": str(rank),
                "WORLD_SIZE": str(processes),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": port,
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(processes)
    ]


@pytest.fixture
def single_thread() -> Iterator[None]:
    """As the processes have: sums over several threads differ in the last bits."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


# 45 tokens in 2 uneven parts, whose seam lies inside a latent frame; 15 in 4, all of one frame.
@pytest.mark.parametrize(("processes", "grid"), [(2, (3, 10, 6)), (4, (1, 6, 10))])
@pytest.mark.usefixtures("single_thread")
@torch.no_grad()
def test_shared_and_split_passes_are_those_of_one_process(tmp_path: Path, processes: int, grid: tuple[int, int, int]):
    asked = passes(3, grid)
    torch.save(asked, tmp_path / "asked.pt")
    running = start(WORKER.format(network=NETWORK), processes, str(tmp_path))
    for process in running:
        error = process.communicate(timeout=120)[1]
        assert process.returncode == 0, error
    outputs = torch.load(tmp_path / "outputs.pt")
    transformer = toy_transformer(**NETWORK)
    expected = [transformer(**arguments) for arguments in asked]
    assert {description for _, description in outputs} == {
        f"{processes} processes, {processes} together on each pass",
        f"{processes} processes" + (", 2 together on each pass" if processes == 4 else ""),
        f"{processes} processes",
    }
    for (_, description), made in outputs.items():
        for one, other in zip(made, expected, strict=True):
            tolerance = {"rtol": 1e-4, "atol": 1e-5} if "together" in description else {"rtol": 0, "atol": 0}
            torch.testing.assert_close(one, other, **tolerance)


@torch.no_grad()
def test_compiled_blocks_can_be_split(tmp_path: Path):
    """Compiled before it is known whether passes will be split."""
    asked = passes(2, (3, 10, 6))
    torch.save(asked, tmp_path / "asked.pt")
    made = "transformer = toy_transformer(**network)"
    compiled = "__import__('flashportrait.weights.kernels').weights.kernels.compile_blocks"
    script = WORKER.format(network=NETWORK)
    assert made in script
    script = script.replace(made, f"{made}; {compiled}(transformer, 'aot_eager', splittable=True)")
    for process in start(script, 2, str(tmp_path)):
        error = process.communicate(timeout=300)[1]
        assert process.returncode == 0, error
    outputs = torch.load(tmp_path / "outputs.pt")
    transformer = toy_transformer(**NETWORK)
    assert any("2 together" in description for _, description in outputs)
    for made in outputs.values():
        for one, arguments in zip(made, asked, strict=True):
            torch.testing.assert_close(one, transformer(**arguments), rtol=1e-4, atol=1e-5)


def test_without_common_statistics_the_numbers_would_differ():
    """What the reduction over processes is for: halves of the tokens have other means than the whole."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, 40, 8, generator=generator) + torch.linspace(0, 4, 40)[None, :, None]
    e = 2 * torch.randn(1, 40, 8, generator=generator)
    whole = match_statistics(e, x)
    halves = torch.cat([match_statistics(*parts) for parts in zip(e.chunk(2, 1), x.chunk(2, 1), strict=True)], dim=1)
    assert (whole - halves).abs().mean() > 0.2


@pytest.mark.parametrize(
    ("processes", "at_once", "heads", "split"),
    [
        (8, 8, 40, 1),
        (8, 20, 40, 1),
        (8, 2, 40, 4),
        (8, 3, 40, 4),
        (8, 1, 40, 8),
        (3, 1, 40, 1),
        (4, 1, 2, 2),
        (5, 1, 40, 5),
    ],
)
def test_few_passes_are_split(processes: int, at_once: int, heads: int, split: int):
    assert choose_split(processes, at_once, heads) == split


def test_a_dead_process_is_noticed_at_once(tmp_path: Path):
    script = WORKER.format(network=NETWORK).replace(
        'follow(ranks, lambda message: (transformer, "cpu", {}))',
        "ranks.hear(); ranks.gather({}); Path(folder, 'ready').touch(); __import__('time').sleep(600)",
    )
    torch.save(passes(2, (1, 4, 6)), tmp_path / "asked.pt")
    leader, other = start(script, 2, str(tmp_path))
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    other.send_signal(signal.SIGKILL)
    other.communicate()
    error = leader.communicate(timeout=30)[1]
    assert leader.returncode != 0
    assert "another process of this job is gone" in error


def test_a_process_that_differs_is_named():
    alike = {"torch": "2.6", "weights": "abc"}
    check_alike([alike, dict(alike)])
    with pytest.raises(UserError, match=r"process 2 has torch 2\.5, process 0 2\.6"):
        check_alike([alike, alike, {**alike, "torch": "2.5"}])


def test_messages_are_plain():
    """What is told of a pass is small: tensors go on their own."""
    described = _describe(passes(1, (1, 4, 6))[0])
    assert described["expression_scale"] == 1.0
    assert described["hidden_states"] == {"tensor": ((1, 36, 1, 4, 6), torch.float32)}
    assert len(json.dumps(described, default=str)) < 1000


@pytest.mark.parametrize("kernel", ["_flash_3", "float8"])
def test_a_kernel_that_would_attend_to_a_part_alone_is_refused(kernel: str):
    """diffusers' FlashAttention 3 takes a configuration of parallelism, and ignores it."""
    transformer = toy_transformer()
    for block in transformer.blocks:
        if kernel == "float8":
            block.attn1.processor.float8 = True
        else:
            block.attn1.processor._attention_backend = AttentionBackendName(kernel)
    with pytest.raises(UserError, match="can't share a pass among processes"):
        check_kernel(transformer)
    check_kernel(toy_transformer())
