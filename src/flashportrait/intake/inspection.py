"""What is in an uploaded file, found in a process of its own that may do little else."""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from typing import Any

from flashportrait.confinement import Confinement, confine
from flashportrait.errors import UserError
from flashportrait.intake.limits import Kind, Limits, Media

MIB = 1 << 20
MOST_BYTES = 64 * MIB
"""Of what a process may tell."""


@dataclass(frozen=True)
class Face:
    """One face, as ``--face`` numbers them."""

    number: int
    """From 1, left to right."""
    box: tuple[int, int, int, int]
    """x0, y0, x1, y1 in pixels of the file."""


@dataclass(frozen=True)
class Inspection:
    """What is in a file."""

    kind: Kind
    """What it was given as."""
    media: Media
    width: int
    """Pixels as displayed; 0 of a template, as is the height."""
    height: int
    frames: int
    rate: float
    """Frames per second; 0 of a picture."""
    seconds: float
    has_sound: bool
    faces: tuple[Face, ...]
    """Of the first frame that shows any."""
    face_frame: int
    """Number of that frame, from 0."""
    preview: bytes
    """That frame as a PNG, at most ``PREVIEW_SIDE`` pixels a side; empty of a template."""
    warnings: tuple[str, ...]


def inspect(
    path: str | Path, kind: Kind, limits: Limits | None = None, *, faces: bool = True, name: str | None = None
) -> Inspection:
    """Look at a portrait or a driver.

    The file is decoded in a process that may read it and the program's own files only, write nothing, reach no
    network, and that holds at most ``limits.memory`` and runs at most ``limits.time``, as far as the system offers that
    (:mod:`flashportrait.confinement`).

    Args:
        path: the file; by what it holds, not by its name.
        kind: what it is meant to be.
        limits: what it may be.
        faces: look for faces as well; a picture without any is refused then.
        name: what to call the file in messages; its own name unless given.

    Raises:
        UserError: it is something else, too large, too long, damaged, without a face, or takes too much to decode.
    """
    from flashportrait.weights.hub import find_weight

    path, limits = Path(path).absolute(), limits or Limits()
    name = name or path.name
    if not path.is_file():
        raise UserError(f"there is no file '{name}'")
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"'{name}' is empty: give a whole file")
    if size > limits.bytes:
        raise UserError(
            f"'{name}' has {size / MIB:.1f} MiB: at most {limits.bytes / MIB:g} are taken, so shorten or compress it"
        )
    landmarker = find_weight("face_landmarker") if faces else None
    found = _look_confined(path, kind, limits, landmarker)
    if found is None:
        raise UserError(
            f"'{name}' takes more than {limits.time:g} s or {limits.memory / MIB:g} MiB of memory to look at, or "
            "breaks the decoder: give a simpler file"
        )
    if "error" in found:
        raise UserError(found["error"].replace(str(path), name))
    return Inspection(
        faces=tuple(Face(number, tuple(box)) for number, box in found.pop("faces")),
        preview=bytes.fromhex(found.pop("preview")),
        warnings=tuple(warning.replace(str(path), name) for warning in found.pop("warnings")),
        **found,
    )


def _look_confined(path: Path, kind: Kind, limits: Limits, landmarker: Path | None) -> dict[str, Any] | None:
    """What ``looking.look`` found in a process of its own; None if that came to no end."""
    context: Any = _context()
    ours, theirs = context.Pipe(duplex=False)
    readable = (path,) if landmarker is None else (path, landmarker)
    confinement = Confinement(limits.memory, max(1, round(limits.time)), readable=readable)
    arguments = theirs, confinement, path, kind, limits, landmarker
    process = context.Process(target=_report, args=arguments, name="flashportrait-intake", daemon=True)
    process.start()
    theirs.close()
    try:
        return _received(ours) if ours.poll(limits.time) else None
    finally:
        ours.close()
        process.kill()
        process.join()


def _received(pipe: connection.Connection) -> dict[str, Any] | None:
    """What the process found out; None if it died first.

    It comes as JSON: a pickle from a process that a stranger's file may have taken over would be the stranger's code.
    """
    try:
        return json.loads(pipe.recv_bytes(MOST_BYTES))
    except (EOFError, OSError, ValueError):
        return None


def _context() -> Any:
    """Where the system can, processes are forked from one that has loaded the decoders, which saves half a second."""
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["flashportrait.intake.looking"])
    return context


def _report(pipe: connection.Connection, confinement: Confinement, *file: Any) -> None:
    """A process's whole life: look, tell, end."""
    from flashportrait.intake.looking import look

    confine(confinement)
    try:
        found = look(*file)
    except UserError as error:
        found = {"error": str(error)}
    except MemoryError:
        os._exit(1)
    pipe.send_bytes(json.dumps(found).encode())
    pipe.close()
    os._exit(0)  # nothing that a stranger's file left in this process is to run at its end
