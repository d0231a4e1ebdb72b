"""``flashportrait evaluate self``: self-reenactment, in which a video's first frame is driven by the rest."""

from __future__ import annotations

import argparse
from pathlib import Path

from flashportrait.cli.console import Console
from flashportrait.cli.evaluating import (
    add_running_options,
    animate,
    conclude,
    distinct_names,
    reads_blendshapes,
    settings_of,
    videos_among,
)
from flashportrait.evaluation.protocols import Entry, from_first_frame, save_first_frame, write_manifest


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Videos, where results go, and the settings of the jobs."""
    parser.epilog = (
        "The first frame is the portrait, the video drives it, and the video is the truth. Interrupted, it goes on "
        "where it stopped. The driver's motion is taken as it is (--motion absolute) unless told otherwise."
    )
    parser.add_argument(
        "videos", nargs="+", type=Path, metavar="VIDEO", help="videos, folders of them, or manifests, for their truth"
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of portraits and results")
    add_running_options(parser)


def run(args: argparse.Namespace, console: Console) -> int:
    """Make portraits and motion, animate, and write the manifest."""
    from flashportrait.inputs import FaceChoice, load_motion

    settings, videos = settings_of(args), videos_among(args.videos)
    for name in ("portraits", "motion", "results"):
        (args.out / name).mkdir(parents=True, exist_ok=True)
    templates = reads_blendshapes(settings.get("model", "nano"))
    entries, drivings = [], []
    with console.bar(len(videos), "first frames and motion", unit="videos") as bar:
        for video, name in zip(videos, distinct_names(videos), strict=True):
            portrait = args.out / "portraits" / f"{name}.png"
            save_first_frame(video, portrait)
            driving = video
            if templates:
                driving = args.out / "motion" / f"{name}.safetensors"
                if not driving.is_file():
                    motion = load_motion(video, "blendshapes", FaceChoice(settings.get("face")), progress=False)
                    from_first_frame(motion).save(driving)
            drivings.append(driving)
            entries.append(Entry(portrait, video, args.out / "results" / f"{name}.mp4", video))
            bar.update()
    manifest = args.out / "manifest.csv"
    write_manifest(manifest, entries)
    code = animate(entries, drivings, args, console)
    return conclude(manifest, entries, code, console)
