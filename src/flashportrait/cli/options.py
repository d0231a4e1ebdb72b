"""Options that several commands share."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashportrait.errors import UserError

MODELS = ("nano", "14b", "14b-fast")
"""Models known by name."""

Box = tuple[float, float, float, float]


def add_console_options(parser: argparse.ArgumentParser) -> None:
    """What every command takes."""
    group = parser.add_argument_group("messages")
    group.add_argument("--quiet", "-q", action="store_true", help="silence all but errors")
    group.add_argument("--json", action="store_true", help="print one JSON object on stdout at the end")
    group.add_argument("--debug", action="store_true", help="show tracebacks and the libraries' messages")


def add_lora_options(parser: argparse.ArgumentParser) -> None:
    """What is merged into the model."""
    group = parser.add_argument_group("LoRA")
    group.add_argument(
        "--lora",
        action="append",
        type=lambda path: str(Path(path).absolute()),
        default=[],
        metavar="FILE",
        help="merge this LoRA into the model; may be given several times",
    )
    group.add_argument("--lora-strength", type=float, default=1.0, metavar="S", help="of those LoRAs; default: 1")


def add_clip_options(parser: argparse.ArgumentParser) -> None:
    """Which part of the driving video, at which rate."""
    group = parser.add_argument_group("driving video")
    group.add_argument(
        "--trim",
        metavar="START:END",
        help="use only this part: seconds (2.5:7), frames (60f:180f) or clock times (1:30-2:45)",
    )
    group.add_argument(
        "--fps", metavar="RATE", help="resample to this rate (25, 29.97, 30000/1001); default: as filmed"
    )


def add_face_options(parser: argparse.ArgumentParser) -> None:
    """Which face of the driving video."""
    group = parser.add_argument_group("which face")
    group.add_argument(
        "--face", type=positive, metavar="N", help="face number N of the video (see: flashportrait faces)"
    )
    group.add_argument(
        "--face-box", type=box, metavar="X0,Y0,X1,Y1", help="the face inside this box of the first frame"
    )


def add_device_options(parser: argparse.ArgumentParser) -> None:
    """Where and how precisely to compute."""
    group = parser.add_argument_group("device")
    group.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps; default: the best there is")
    group.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        help="default: float32, or bfloat16 on CPUs with matrix units for it; the 14B: bfloat16",
    )
    group.add_argument("--threads", type=positive, metavar="N", help="CPU threads; default: all cores")


def positive(text: str) -> int:
    """A whole number from 1 up."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def count(text: str) -> int:
    """A whole number from 0 up."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def gain(text: str) -> float:
    """A number from 0 up to 5."""
    number = float(text)
    if not 0 <= number <= 5:
        raise argparse.ArgumentTypeError(f"{text} is outside 0 to 5")
    return number


def box(text: str) -> Box:
    """Four numbers: left, top, right, bottom, in pixels."""
    try:
        x0, y0, x1, y1 = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not X0,Y0,X1,Y1 in pixels") from None
    if not (0 <= x0 < x1 and 0 <= y0 < y1):
        raise argparse.ArgumentTypeError(f"'{text}' is empty: needs X0 < X1 and Y0 < Y1, from 0")
    return x0, y0, x1, y1


def existing_model(name: str) -> None:
    """Refuse a model that is neither a known name nor a folder.

    Raises:
        UserError: what there is instead.
    """
    if name not in MODELS and not Path(name).is_dir():
        raise UserError(f"there is no model '{name}': give {', '.join(MODELS)} or the folder of a saved pipeline")


def apply_threads(threads: int | None) -> None:
    """Bound the CPU threads of the numeric libraries."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def torch_device(name: str | None) -> Any:
    """The named device; None (choose the best) stays None.

    Raises:
        UserError: no such device here.
    """
    if name is None:
        return None
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the device '{name}' can't be used ({reason}): see `flashportrait doctor`") from error
    return device


def torch_dtype(name: str | None) -> Any:
    """The named type; None (what the weights are stored as) stays None."""
    import torch

    return None if name is None else getattr(torch, name)


def table(rows: Sequence[Sequence[Any]], headings: Sequence[str]) -> str:
    """Rows of text in aligned columns under their headings."""
    cells = [list(headings), *([str(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in cells)
    return "\n".join(lines)
