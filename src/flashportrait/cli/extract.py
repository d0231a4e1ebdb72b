"""``flashportrait extract``: a driving video to a motion template, free of pixels and of the driver's identity."""

from __future__ import annotations

import argparse
from pathlib import Path

from flashportrait.cli.console import Console
from flashportrait.cli.options import add_settings, chosen_settings

SETTINGS = ("trim", "fps", "frames", "face", "face_box")
"""Those of a job that choose the motion."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The clip, the face, the template."""
    parser.add_argument("driving", type=Path, metavar="DRIVING", help="a video, or a folder of frames")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="OUT", help="the template: .safetensors")
    add_settings(parser, only=SETTINGS)


def run(args: argparse.Namespace, console: Console) -> int:
    """Track one face and write a row per frame."""
    from flashportrait.media.clip import open_clip
    from flashportrait.media.place import check_place

    check_place(args.output, [".safetensors"], [args.driving])
    chosen = chosen_settings(args, SETTINGS)
    reader = open_clip(args.driving, chosen["trim"], chosen["fps"], chosen["frames"])
    if reader.info.variable_rate:
        rate = reader.info.rate
        console.warn(f"the rate of '{args.driving}' varies, and a template's can't: resampled to its mean, {rate}")
        reader = open_clip(args.driving, chosen["trim"], rate)
    for warning in reader.warnings:
        console.warn(warning)
    for note in reader.notes:
        console.note(note)

    from flashportrait.face.blendshapes import FaceLandmarker
    from flashportrait.face.tracker import FaceTracker, extract_motion
    from flashportrait.media.reader import read_ahead

    tracker = FaceTracker(FaceLandmarker(), chosen["face"], chosen["face_box"])
    with console.bar(reader.info.frames, "motion") as bar:
        motion = extract_motion(read_ahead(reader), reader.info.rate, tracker, bar.update)
    motion.save(args.output)
    for warning in reader.warnings:
        console.warn(warning)
    summary = {
        "output": str(args.output),
        "layout": motion.layout.name,
        "frames": len(motion),
        "rate": str(motion.rate),
        "missing_faces": list(motion.missing),
    }
    missed = len(motion.missing)
    console.result(summary, f"{args.output}: {len(motion)} rows at {motion.rate} a second, faces missed {missed}")
    return 0
