"""Which models are on this machine whole: found out beside the server, since that takes a heavy library."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from html import escape
from multiprocessing import get_context

from flashportrait.errors import UserError
from flashportrait.job import Job
from flashportrait.job.opening import check_model

FILES = {"portrait": "portrait.png", "driving": "driver.mp4", "output": "result.mp4"}
"""Of a job that is only asked whether its model is there."""


def missing(names: Sequence[str]) -> dict[str, str]:
    """Of these models those that can't be used, with the line that says what to do; in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_missing, tuple(names)).result()


def _missing(names: tuple[str, ...]) -> dict[str, str]:
    lines = {}
    for name in names:
        try:
            check_model(Job.from_dict({**FILES, "model": name}))
        except UserError as error:
            lines[name] = str(error)
    return lines


def missing_html(lines: dict[str, str]) -> str:
    """What is missing, folded away."""
    if not lines:
        return ""
    items = "".join(f"<li><b>{escape(name)}</b>: {escape(line, quote=False)}</li>" for name, line in lines.items())
    verb = "is" if len(lines) == 1 else "are"
    return (
        f'<details class="facts"><summary>{escape(" and ".join(lines))} {verb} not on this machine</summary>'
        f"<ul>{items}</ul></details>"
    )
