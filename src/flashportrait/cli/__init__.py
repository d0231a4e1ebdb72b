"""The command line: parse, call, report. One module a command, imported only when it is called."""

from __future__ import annotations

import argparse
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from flashportrait.cli.console import Console
from flashportrait.cli.options import add_console_options
from flashportrait.errors import UserError

COMMANDS = {
    "animate": "animate a portrait from a driving video or a motion template",
    "resume": "go on with an animation that was interrupted",
    "studio": "animate in the browser",
    "batch": "run many jobs from a table, or every portrait with every driver",
    "serve": "take jobs over HTTP, with a queue, keys and limits",
    "extract": "write the motion of a video to a template that animate takes in its place",
    "faces": "draw a numbered sheet of the faces in a picture or video, for --face N",
    "verify": "show what a file says of its origin, and whether that was changed",
    "doctor": "show what is installed, which devices there are, and what would be used",
    "models": "list every weight: role, licence, hash, size, where it is",
    "download": "fetch a model or a weight, resumed and verified",
    "train": "train the embedded model from nothing",
    "bench": "measure what this machine does with a model, stage by stage",
    "fit-speed": "fit the speed dial to a model, from clips that it runs exactly",
    "evaluate": "score results of any method, from a table or a folder",
    "evaluate hard": "build a set of hard performances whose right answer is known",
    "evaluate self": "give videos back from their first frames: self-reenactment",
    "evaluate cross": "carry performances to other people's portraits: cross-reenactment",
    "evaluate long": "animate for minutes, to see what drifts",
    "evaluate paper": "make the paper's ablation tables anew on the embedded model",
}
"""Of two words, where the first has more to choose from; a file named as the second is given as ``./hard``."""

EXIT_INTERNAL, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_PIPE, EXIT_TERMINATED = 1, 2, 130, 141, 143


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM); unwinds like Ctrl-C, so that nothing half-written stays."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    0 success, 1 an internal error or a failed check, 2 something the user can mend, 3 a video that is whole but lacks
    sound, which failed, 130 Ctrl-C, 141 a closed pipe, 143 SIGTERM.
    Usage errors and ``--help`` leave through argparse's ``SystemExit``, with 2 and 0.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    joined = _join_words(argv)
    command = next((word for word in joined if not word.startswith("-")), None)
    parser = build_parser(command)
    args = parser.parse_args(joined)
    args.argv = argv
    if args.command is None:
        parser.print_help()
        return EXIT_USAGE
    console = Console(quiet=args.quiet, as_json=args.json is True, debug=args.debug)
    try:
        with _terminable(), console.listening():
            code = args.run(args, console) or 0
            sys.stdout.flush()
            return code
    except UserError as error:
        return _fail(console, str(error), EXIT_USAGE)
    except Terminated:
        return _fail(console, "ended by SIGTERM", EXIT_TERMINATED)
    except BrokenPipeError:  # who read our lines has enough of them, as `head` has
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
        return EXIT_PIPE
    except KeyboardInterrupt:
        return _fail(console, "interrupted", EXIT_INTERRUPTED)
    except Exception as error:  # noqa: BLE001 - the outermost frame: everything else becomes one line
        line = " ".join(str(error).split())
        return _fail(console, f"internal error: {type(error).__name__}: {line}; run with --debug", EXIT_INTERNAL)


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """The parser of all commands; only `command`'s own options are filled in, since its module alone is imported."""
    parser = argparse.ArgumentParser(prog="flashportrait", description="Animate one portrait from one driving video.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in COMMANDS.items():
        subparser = commands.add_parser(name, help=summary, description=f"{summary[0].upper()}{summary[1:]}.")
        if name == command:
            module = importlib.import_module(f"flashportrait.cli.{name.replace('-', '_').replace(' ', '_')}")
            module.add_arguments(subparser)
            add_console_options(subparser)
            subparser.set_defaults(run=module.run)
    return parser


def _join_words(argv: Sequence[str]) -> list[str]:
    """The arguments with a command of two words as one of them."""
    if len(argv) > 1 and f"{argv[0]} {argv[1]}" in COMMANDS:
        return [f"{argv[0]} {argv[1]}", *argv[2:]]
    return list(argv)


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from flashportrait.marking.provenance import software

        print(software())
        parser.exit()


@contextmanager
def _terminable() -> Iterator[None]:
    """Turn SIGTERM into an exception, so that temporary files are removed on the way out."""

    def terminate(signum: int, frame: FrameType | None) -> None:
        raise Terminated

    try:
        previous = signal.signal(signal.SIGTERM, terminate)
    except ValueError:  # not in the main thread, as when embedded: signals are the host's
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


def _fail(console: Console, message: str, code: int) -> int:
    if console.debug:
        traceback.print_exc()
    console.error(message)
    return code
