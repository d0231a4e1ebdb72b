"""``flashportrait evaluate long``: a long clip, in which nothing may drift."""

from __future__ import annotations

import argparse
from pathlib import Path

from flashportrait.cli.console import Console
from flashportrait.cli.evaluating import add_running_options, animate, conclude
from flashportrait.errors import UserError
from flashportrait.evaluation.protocols import Entry, there_and_back, write_manifest

MOST_MINUTES = 24 * 60


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Portrait, driver, how long, and the settings of the job."""
    parser.epilog = (
        "The driver runs forwards and backwards in turn, so that it has no trend of its own: what changes over the "
        "minutes is the method's. Interrupted, it goes on where it stopped."
    )
    parser.add_argument("portrait", type=Path, metavar="PORTRAIT", help="a picture")
    parser.add_argument("driving", type=Path, metavar="DRIVING", help="a video, of some seconds or more")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of driver, result and manifest")
    parser.add_argument("--minutes", type=float, default=10.0, metavar="N", help="length of the clip; default: 10")
    add_running_options(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Make the driver long, animate, and write the manifest."""
    from flashportrait.media.reader import VideoReader
    from flashportrait.media.writer import VideoWriter

    if not 0 < args.minutes <= MOST_MINUTES:
        raise UserError(f"--minutes is {args.minutes:g}: give a number above 0, at most {MOST_MINUTES}")
    for file in (args.portrait, args.driving):
        if not file.is_file():
            raise UserError(f"there is no file '{file}'")
    rate = VideoReader(args.driving).info.rate
    frames = max(2, round(args.minutes * 60 * rate))
    args.out.mkdir(parents=True, exist_ok=True)
    driving = args.out / f"{args.driving.stem}-{frames}.mp4"
    if not driving.is_file():
        # Filmed people stay filmed people: nothing in the driver was made, but for the order of its frames.
        with VideoWriter(driving, rate, mark=False) as writer, console.bar(frames, "driver") as bar:
            for frame in there_and_back(args.driving, frames):
                writer.write(frame)
                bar.update()
    entry = Entry(args.portrait, driving, args.out / f"{args.portrait.stem}-{driving.stem}.mp4")
    manifest = args.out / "manifest.csv"
    write_manifest(manifest, [entry])
    code = animate([entry], [driving], args, console)
    return conclude(manifest, [entry], code, console)
