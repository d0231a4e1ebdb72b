"""Make the files of examples/ anew: driving clips performed by a photograph and by drawn people, and portraits.

    python scripts/make_examples.py --portraits FOLDER

FOLDER holds portrait_NN.jpg and their LICENSE (pictures of people who don't exist). Without it the portraits are
left as they are.
"""

from __future__ import annotations

import argparse
import shutil
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from flashportrait.avatars import Identity, render, sample_identities, sample_performance
from flashportrait.avatars.controls import COLUMNS
from flashportrait.cli.train import NANO_FRAMING as FRAMING
from flashportrait.drawing import DrawnClip
from flashportrait.face.motion import BLENDSHAPES
from flashportrait.inputs import FaceChoice, Framing, frame_portrait
from flashportrait.media.writer import VideoWriter

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
RATE = 25
CLIP_SIZE = 256
PORTRAIT_SIZE = 512
BATCH = 8

PERFORMER = "portrait_3.jpg"
"""The photograph that performs, on its mesh."""
FILMED = ("driving_photo", 150, "talking", 1102)
"""Its clip: name, frames, kind and seed of the performance."""
CLIPS = {"driving_talking": (125, "talking", 164, 2), "driving_expressive": (125, "large", 221, 32)}
"""Frames, kind of performance, seed of the performance, seed of the performer."""
DRAWN = {"drawn_1": 25, "drawn_2": 3}
"""Seed of each drawn portrait."""
PORTRAITS = {"portrait_1": "portrait_08", "portrait_2": "portrait_12", "portrait_3": "portrait_14"}
"""Which pictures of the folder of portraits to copy."""
RELAXED_SQUINT = 0.25
"""How far relaxed eyes are closed, as the landmarker reads them."""


def person(seed: int) -> Identity:
    """One identity."""
    return sample_identities(1, torch.Generator().manual_seed(seed))


def to_bytes(frames: torch.Tensor) -> np.ndarray:
    """[n 3 h w] in [0, 1] to uint8 RGB [n h w 3]."""
    return frames.permute(0, 2, 3, 1).mul(255).round().byte().numpy()


def write_clip(name: str, frames: int, kind: str, seed: int, performer: int) -> None:
    """Film one performance."""
    motion = sample_performance(frames, RATE, kind, torch.Generator().manual_seed(seed))
    with VideoWriter(EXAMPLES / f"{name}.mp4", Fraction(RATE), model="flashportrait avatars") as writer:
        for start in range(0, frames, BATCH):
            for frame in to_bytes(render(person(performer), motion[start : start + BATCH], CLIP_SIZE).frames):
                writer.write(frame)


def film_photograph(name: str, frames: int, kind: str, seed: int) -> None:
    """Film a photograph of a person who doesn't exist, performing on its mesh."""
    framed = frame_portrait(EXAMPLES / PERFORMER, Framing(**FRAMING), FaceChoice())
    motion = sample_performance(frames, RATE, kind, torch.Generator().manual_seed(seed))
    with VideoWriter(EXAMPLES / f"{name}.mp4", Fraction(RATE), model="flashportrait rig") as writer:
        for frame in DrawnClip(framed, motion):
            writer.write(frame)


def write_portrait(name: str, seed: int) -> None:
    """Draw one portrait at rest."""
    motion = torch.zeros(1, BLENDSHAPES.width)
    for column in (COLUMNS["eyeSquintLeft"], COLUMNS["eyeSquintRight"]):
        motion[:, column] = RELAXED_SQUINT
    Image.fromarray(to_bytes(render(person(seed), motion, PORTRAIT_SIZE).frames)[0]).save(EXAMPLES / f"{name}.png")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--portraits", type=Path, help="folder of portrait_NN.jpg and LICENSE to copy from")
    arguments = parser.parse_args()
    EXAMPLES.mkdir(exist_ok=True)
    for name, clip in CLIPS.items():
        write_clip(name, *clip)
    for name, seed in DRAWN.items():
        write_portrait(name, seed)
    if arguments.portraits:
        for name, source in PORTRAITS.items():
            shutil.copyfile(arguments.portraits / f"{source}.jpg", EXAMPLES / f"{name}.jpg")
        shutil.copyfile(arguments.portraits / "LICENSE", EXAMPLES / "LICENSE-portraits.txt")
    film_photograph(*FILMED)


if __name__ == "__main__":
    main()
