"""The work directory of an animation: made before it starts, kept when it is interrupted, removed when it is done."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flashportrait.cli.console import Console
from flashportrait.errors import UserError

if TYPE_CHECKING:
    from flashportrait.workdir import WorkDirectory

PATHS = ("portrait", "driving", "output")
"""Arguments of `animate` that are files; kept absolute, since resume may be called from elsewhere."""

NOT_KEPT = ("run", "command", "quiet", "json", "debug", "keep_work", "restart")
"""Arguments that don't decide the result, and those that resume has itself."""


def start_work(args: argparse.Namespace) -> WorkDirectory:
    """The work directory of a new animation.

    Raises:
        UserError: an unfinished one's progress is there.
    """
    from flashportrait.workdir import WorkDirectory

    path = WorkDirectory.beside(args.output)
    if _has_windows(path) and not args.restart:
        raise UserError(
            f"'{path}' holds an unfinished run to this output: go on with `{resume_command(path)}`, "
            "or drop its progress with --restart"
        )
    inputs = {"portrait": args.portrait, "driving": args.driving}
    return WorkDirectory.create(path, _to_json(args), inputs)


def stored_arguments(work: WorkDirectory, **own: Any) -> argparse.Namespace:
    """The arguments with which `start_work` was called; `own` are those of the command that goes on."""
    stored = work.command
    return argparse.Namespace(**{**stored, **{name: Path(stored[name]) for name in PATHS}, **own})


def resume_command(path: Path) -> str:
    """What to type to go on with the run in `path`."""
    return f"flashportrait resume {shlex.quote(str(path))}"


@contextmanager
def kept_if_unfinished(work: WorkDirectory, console: Console, *, keep: bool) -> Iterator[WorkDirectory]:
    """Remove `work` when the block ends well; when it doesn't, keep what progress there is and say how to go on.

    After an error that the user has to mend, only finished windows count as progress: other settings may be next.
    """
    try:
        yield work
    except BaseException as error:
        motion_counts = not isinstance(error, UserError)
        if _has_windows(work.path) or (motion_counts and work.motion() is not None):
            console.note(f"progress is kept; to go on: {resume_command(work.path)}")
        else:
            work.remove()
        raise
    if not keep:
        work.remove()


def _has_windows(path: Path) -> bool:
    return any(path.glob("window-*.safetensors")) or any(path.glob("state-*.safetensors"))


def _to_json(args: argparse.Namespace) -> dict[str, Any]:
    """All arguments that decide the result, fit for JSON."""
    kept = {name: _plain(value) for name, value in vars(args).items() if name not in NOT_KEPT}
    if Path(args.model).is_dir():
        kept["model"] = str(Path(args.model).absolute())
    return kept


def _plain(value: Any) -> Any:
    """Paths as absolute text, also inside lists."""
    if isinstance(value, Path):
        return str(value.absolute())
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value
