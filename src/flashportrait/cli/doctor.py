"""``flashportrait doctor``: what is installed, which devices there are, and what would be used."""

from __future__ import annotations

import argparse
import os
import platform
from importlib import metadata
from typing import Any

from flashportrait.cli.console import Console
from flashportrait.cli.options import table
from flashportrait.errors import UserError

REQUIRED = (
    "torch",
    "diffusers",
    "transformers",
    "numpy",
    "av",
    "pillow",
    "safetensors",
    "einops",
    "ai-edge-litert",
    "tqdm",
    "huggingface-hub",
    "accelerate",
)
OPTIONAL = {"peft": "gpu", "onnxruntime": "pdfgc"}
"""Distribution -> the extra that installs it."""

NEEDED_WEIGHTS = ("nano", "face_landmarker")
"""What `animate` needs with its default model."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """No options of its own."""


def run(args: argparse.Namespace, console: Console) -> int:
    """Print the findings; 0 if `animate` can work with its default model, else 1."""
    weights, problems = _weights()
    summary = {
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": {name: _version(name) for name in (*REQUIRED, *OPTIONAL)},
        "devices": _devices(),
        "weights": weights,
        "ffmpeg": _ffmpeg(),
    }
    problems = [*_problems(summary), *problems]
    console.result({**summary, "problems": problems, "ready": not problems}, _describe(summary, problems))
    return 1 if problems else 0


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> dict[str, Any]:
    """CPU and accelerators, with what would be used by default."""
    found: dict[str, Any] = {"cpu_cores": os.cpu_count(), "memory_bytes": _memory_bytes(), "cuda": [], "mps": False}
    found["used"] = None
    if _version("torch") is None:
        return found
    import torch

    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        found["cuda"].append({"name": properties.name, "memory_bytes": properties.total_memory})
    found["mps"] = torch.backends.mps.is_available()
    found["used"] = "cuda" if found["cuda"] else "mps" if found["mps"] else "cpu"
    found["threads"] = torch.get_num_threads()
    return found


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _weights() -> tuple[dict[str, str | None], list[str]]:
    """Where the needed weights are, and what is wrong with those that are absent and that the first run can't fetch."""
    from flashportrait.weights.hub import WEIGHTS, locate_weight

    found: dict[str, str | None] = dict.fromkeys(NEEDED_WEIGHTS)
    problems = []
    for name in NEEDED_WEIGHTS:
        try:
            path = locate_weight(name)
        except UserError as error:  # the environment names a path that isn't there
            problems.append(str(error))
            continue
        if path is not None:
            found[name] = str(path)
        elif not WEIGHTS[name].is_fetched:
            problems.append(f"the weight {name} is absent: see `flashportrait models`")
    return found, problems


def _ffmpeg() -> dict[str, Any]:
    """FFmpeg's library versions and the encoders that results need."""
    if _version("av") is None:
        return {}
    import av

    libraries = {name: ".".join(map(str, version)) for name, version in av.library_versions.items()}
    encoders = {name: name in av.codecs_available for name in ("libx264", "aac", "libvpx-vp9", "libopus")}
    return {"libraries": libraries, "encoders": encoders}


def _problems(summary: dict[str, Any]) -> list[str]:
    problems = [f"{name} is not installed: pip install {name}" for name in REQUIRED if not summary["versions"][name]]
    if summary["ffmpeg"] and not summary["ffmpeg"]["encoders"]["libx264"]:
        problems.append("this build of PyAV has no H.264 encoder: install the wheel from the package index")
    return problems


def _describe(summary: dict[str, Any], problems: list[str]) -> str:
    devices = summary["devices"]
    memory = devices["memory_bytes"]
    rows = [
        ("python", summary["python"]),
        ("system", summary["system"]),
        ("cpu", f"{devices['cpu_cores']} cores" + (f", {memory / 2**30:.1f} GiB" if memory else "")),
        *[("gpu", f"{gpu['name']}, {gpu['memory_bytes'] / 2**30:.1f} GiB") for gpu in devices["cuda"]],
        *([("gpu", "Apple Metal (mps)")] if devices["mps"] else []),
        ("would be used", devices["used"] or "nothing: torch is missing"),
        *[(name, version or _absent(name)) for name, version in summary["versions"].items()],
        *[(name, "there" if present else "missing") for name, present in summary["ffmpeg"].get("encoders", {}).items()],
        *[(name, path or "absent") for name, path in summary["weights"].items()],
    ]
    verdict = "\n".join(f"problem: {problem}" for problem in problems) or "ready: `flashportrait animate` can work"
    absent = [name for name, path in summary["weights"].items() if path is None]
    if absent and not problems:
        verdict += f"\nthe first run fetches {absent[0]}; to do so now: flashportrait download {absent[0]}"
    return f"{table(rows, ('what', 'found'))}\n\n{verdict}"


def _absent(distribution: str) -> str:
    extra = OPTIONAL.get(distribution)
    return "missing" if extra is None else f"not installed (optional: pip install 'flashportrait[{extra}]')"
