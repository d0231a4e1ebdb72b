"""``flashportrait studio``: animate in the browser."""

from __future__ import annotations

import argparse
from pathlib import Path

from flashportrait.cli.console import Console
from flashportrait.cli.options import add_settings, chosen_settings
from flashportrait.errors import UserError
from flashportrait.job import MODELS

PORT = 7860
FOLDER = Path("~/flashportrait-studio")
OPTIONS = ("device", "threads")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The address, the folder, and the models on offer."""
    address = parser.add_argument_group("address")
    address.add_argument("--port", type=int, default=PORT, metavar="N", help=f"default: {PORT}; 0: any that is free")
    address.add_argument(
        "--host", default="127.0.0.1", metavar="ADDR", help="0.0.0.0: others may come in, with the token; default: none"
    )
    address.add_argument("--share-token", metavar="T", help="what others need to come in; made up unless given")
    address.add_argument("--no-browser", action="store_true", help="print the address, and open nothing")
    history = parser.add_argument_group("history")
    history.add_argument("--folder", type=Path, default=FOLDER, metavar="DIR", help=f"default: {FOLDER}")
    history.add_argument("--keep", type=int, default=100, metavar="N", help="animations to keep; default: 100")
    parser.add_argument(
        "--model", action="append", default=[], metavar="DIR", help="offer this model, too; may be given several times"
    )
    add_settings(parser, only=OPTIONS)


def run(args: argparse.Namespace, console: Console) -> int:
    """Serve the page until it is stopped."""
    from flashportrait.studio.server import check_installed, open_address, serve

    check_installed()
    from flashportrait.studio.studio import Studio, examples_folder

    if args.keep < 1:
        raise UserError(f"--keep is {args.keep}: give a whole number from 1 up")
    for model in args.model:
        if not Path(model).is_dir():
            raise UserError(f"there is no model folder '{model}': give the folder of a saved pipeline")
    options = {name: value for name, value in chosen_settings(args, OPTIONS).items() if value is not None}
    address, sock = open_address(args.host, args.port, args.share_token)
    with sock:
        studio = Studio(
            args.folder.expanduser(),
            keep=args.keep,
            models=(*MODELS, *(str(Path(model).absolute()) for model in args.model)),
            examples=examples_folder(),
            options=options,
        )

        def ready(url: str) -> None:
            console.note(f"the studio is at {url}")
            console.note(f"animations are kept in {studio.history.folder}; Ctrl-C ends it")
            if address.token:
                console.note("who has this address with its token can use it: the connection is not encrypted")

        serve(studio, address, sock, ready, browser=not args.no_browser)
    return 0
