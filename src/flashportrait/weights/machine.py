"""What there is to compute with: free memory, and measured speed."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import torch

from flashportrait.errors import UserError
from flashportrait.weights.float8 import multiplies_float8
from flashportrait.weights.kernels import can_compile


@dataclass(frozen=True)
class Machine:
    """What there is to compute with."""

    name: str
    free_vram: int
    """Bytes of accelerator memory; of host memory where there is no accelerator."""
    free_ram: int
    """Bytes of host memory."""
    flops: float
    """Floating-point operations a second in bfloat16 that a pass sustains outside attention."""
    bandwidth: float = 12e9
    """Bytes a second from host to accelerator, and into an accelerator from others: what PCIe gives. NVLink, which
    gives ten times as much between accelerators, isn't counted on."""
    unified: bool = False
    """Whether the two memories are one, so that streaming from one to the other gains nothing."""
    float8: bool = False
    """Whether it multiplies fp8 in hardware."""
    compiler: bool = False
    """Whether there is what compiling blocks for it takes."""
    processes: int = 1
    """That share the passes, each with such memories of its own."""


def detect_machine(device: torch.device | str | None = None) -> Machine:
    """Free memory and measured speed of a device (the best there is by default). Takes a fraction of a second."""
    chosen = torch.device(device) if device is not None else default_device()
    free_ram = _free_ram()
    if chosen.type == "cuda":
        free_vram, name = torch.cuda.mem_get_info(chosen)[0], torch.cuda.get_device_name(chosen)
    else:
        free_vram, name = free_ram, chosen.type
    cuda = chosen.type == "cuda"
    return Machine(
        name,
        free_vram,
        free_ram,
        _measure_flops(chosen),
        unified=not cuda,
        float8=multiplies_float8(chosen),
        compiler=cuda and can_compile(),
    )


def default_device() -> torch.device:
    """The accelerator if there is one, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _free_ram() -> int:
    """Host memory that can be had without swapping; within a container's limit where there is one."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.exists():
        return _free_ram_elsewhere()
    fields = dict(line.split(":") for line in meminfo.read_text().splitlines())
    free = int(fields["MemAvailable"].split()[0]) * 1024
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and (text := limit.read_text().strip()) != "max":
        free = min(free, int(text) - int(used.read_text()))
    return free


def _free_ram_elsewhere() -> int:
    try:
        import psutil
    except ImportError as error:
        raise UserError("free memory can't be read here without psutil: pip install 'flashportrait[gpu]'") from error
    return psutil.virtual_memory().available


MEASURED_SIDE = {"cuda": 8192, "mps": 2048, "cpu": 512}
KERNEL_EFFICIENCY = 0.51
"""Share of a large product's speed that a pass reaches outside attention, uncompiled; on one H100."""


def _measure_flops(device: torch.device) -> float:
    """Sustained speed, from a few square products in bfloat16."""
    side, repeats = MEASURED_SIDE.get(device.type, 2048), 4
    matrix = torch.ones(side, side, dtype=torch.bfloat16, device=device)
    product = matrix @ matrix
    product[0, 0].item()
    started = time.perf_counter()
    for _ in range(repeats):
        product = matrix @ matrix
    product[0, 0].item()  # waits for the device
    return KERNEL_EFFICIENCY * repeats * 2 * side**3 / (time.perf_counter() - started)
