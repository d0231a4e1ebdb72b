"""``flashportrait serve``: the HTTP service."""

from __future__ import annotations

import argparse
from pathlib import Path

from flashportrait.cli.console import Console
from flashportrait.errors import UserError
from flashportrait.listening import is_loopback


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to listen, who may come, what they may do."""
    parser.epilog = "docs/service.md has examples for curl and Python, and what is done against strangers' files."
    parser.add_argument("--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1, this machine alone")
    parser.add_argument("--port", type=int, default=8000, metavar="N", help="default: 8000; 0 takes any that is free")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("flashportrait-service"),
        metavar="DIR",
        help="folder of jobs and results; default: flashportrait-service",
    )
    parser.add_argument(
        "-j",
        "--workers",
        type=int,
        metavar="N",
        help="jobs at a time; default: 1, with --ray one for each GPU, or for each node where there are none",
    )
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="run the jobs on this Ray cluster, whose nodes share the data folder; local: start Ray on this machine",
    )
    parser.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="a model that clients may choose, the first by default; repeatable; default: nano",
    )
    parser.add_argument("--templates", type=Path, metavar="DIR", help="drivers that clients may choose by name")
    keys = parser.add_argument_group("clients")
    keys.add_argument(
        "--key-file", type=Path, metavar="FILE", help="hashes of the API keys; needed beyond this machine"
    )
    keys.add_argument("--new-key", metavar="NAME", help="make a key, add it to the file, print it once, and end")
    keys.add_argument(
        "--waiting",
        type=int,
        default=20,
        metavar="N",
        help="jobs that a new key may have waiting or running; default: 20",
    )
    keys.add_argument(
        "--daily", type=int, default=1000, metavar="N", help="jobs that a new key may post in 24 hours; default: 1000"
    )
    keys.add_argument("--open", action="store_true", help="ask for no keys beyond this machine, either")
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-mib", type=float, default=512, metavar="N", help="of an uploaded file; default: 512")
    limits.add_argument("--max-seconds", type=float, default=600, metavar="N", help="of a driver; default: 600")
    limits.add_argument("--max-frames", type=int, default=36_000, metavar="N", help="of a driver; default: 36000")
    limits.add_argument(
        "--max-waiting", type=int, default=1000, metavar="N", help="jobs, of all clients; default: 1000"
    )
    limits.add_argument("--keep-hours", type=float, default=24, metavar="N", help="results; default: 24")
    limits.add_argument("--fetch", action="store_true", help="fetch files from https addresses that clients give")
    limits.add_argument("--unmarked", action="store_true", help="let clients switch the marks of synthetic media off")


def run(args: argparse.Namespace, console: Console) -> int:
    """Serve until the process is asked to end."""
    if args.new_key is not None:
        return _new_key(args, console)
    if not is_loopback(args.host) and args.key_file is None and not args.open:
        raise UserError(
            f"--host {args.host} is open to others and there are no keys: make one with --new-key NAME --key-file F, "
            "or say --open"
        )
    try:
        from flashportrait.service.serving import serve
    except ImportError as error:
        raise UserError(f"the service needs {error.name}: pip install 'flashportrait[serve]'") from error
    from flashportrait.intake import Limits
    from flashportrait.service.keys import Keys
    from flashportrait.service.settings import ServiceSettings

    settings = ServiceSettings(
        data=args.data.absolute(),
        workers=args.workers,
        ray=args.ray,
        models=tuple(args.model or ["nano"]),
        templates=args.templates,
        limits=Limits(bytes=int(args.max_mib * (1 << 20)), seconds=args.max_seconds, frames=args.max_frames),
        waiting=args.max_waiting,
        keep_seconds=args.keep_hours * 3600,
        fetch=args.fetch,
        unmarked=args.unmarked,
    )
    serve(settings, Keys(args.key_file), args.host, args.port, tell=console.note)
    return 0


def _new_key(args: argparse.Namespace, console: Console) -> int:
    from flashportrait.service.keys import add_key

    if args.key_file is None:
        raise UserError("--new-key needs --key-file FILE, to which the key's hash is added")
    key = add_key(args.key_file, args.new_key, waiting=args.waiting, daily=args.daily)
    console.result({"name": args.new_key, "key": key, "file": args.key_file}, f"{key}\nkeep it: it is not shown again")
    return 0
