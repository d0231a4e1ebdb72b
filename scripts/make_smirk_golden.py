"""Write what SMIRK's own code gives, on random weights and pictures: the numbers that our encoders are tested against.

Needs what the project doesn't: a checkout of github.com/georgeretsi/smirk, and the packages that it runs on, timm
(0.9.16 is what it asks for), torchvision and scikit-image. Run it in an environment of its own.

    python scripts/make_smirk_golden.py SMIRK_CHECKOUT
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np
import torch

from flashportrait.evaluation.smirk import CROP_SCALE, PREFIX, SIDE
from make_toy_extractors import smirk_weights

GOLDEN = Path(__file__).resolve().parents[1] / "tests" / "evaluation" / "smirk_golden.json"
SEEDS = (1, 2)
PARTS = ("expression_params", "eyelid_params", "jaw_params", "pose_params")
SAMPLED = 29
"""Of a crop, every so many-th row and column is kept."""


def pictures() -> torch.Tensor:
    """A dark and a light picture of random squares, in [0, 1]  ``[2 3 224 224]``"""
    squares = np.random.RandomState(5).random_sample((2, 3, 7, 7)).repeat(SIDE // 7, 2).repeat(SIDE // 7, 3)
    squares[1] = 1 - 0.3 * squares[1]
    return torch.from_numpy(squares).float()


def frame_and_landmarks() -> tuple[np.ndarray, np.ndarray]:
    """A uint8 picture and points like a face's that reach out of it on the left."""
    generator = np.random.RandomState(6)
    frame = generator.randint(0, 256, (120, 160, 3)).astype(np.uint8)
    return frame, np.array([20, 60]) + 53.3 * (generator.random_sample((478, 2)) - 0.5) * [1, 1.3]


def encoded(checkout: Path) -> dict[str, list[list[float]]]:
    """By seed, what SMIRK's encoder says of ``pictures``: the parts in our order."""
    import timm

    create = timm.create_model
    # Its weights of ImageNet are not needed: all are replaced.
    timm.create_model = lambda name, pretrained=True, **options: create(name, pretrained=False, **options)
    sys.path.insert(0, str(checkout))
    from src.smirk_encoder import SmirkEncoder

    found = {}
    for seed in SEEDS:
        encoder = SmirkEncoder()
        encoder.load_state_dict({name.removeprefix(PREFIX): value for name, value in smirk_weights(seed).items()})
        with torch.no_grad():
            given = encoder.eval()(pictures())
        rows = torch.cat([given[part] for part in PARTS], 1)
        found[str(seed)] = [[float(f"{value:.6g}") for value in row] for row in rows.tolist()]
    return found


def cropped() -> list[list[list[int]]]:
    """Some pixels of the crop of ``frame_and_landmarks``, made by scikit-image as SMIRK's demo makes it."""
    from skimage.transform import SimilarityTransform, warp

    frame, points = frame_and_landmarks()
    low, high = points.min(0), points.max(0)
    side = int((high - low).sum() / 2 * CROP_SCALE)
    corner, scale = (low + high) / 2 - side / 2, (SIDE - 1) / side
    to_crop = SimilarityTransform(scale=scale, translation=-scale * corner)
    crop = warp(frame, to_crop.inverse, output_shape=(SIDE, SIDE), preserve_range=True).astype(np.uint8)
    return crop[::SAMPLED, ::SAMPLED].tolist()


def main(argv: list[str] | None = None) -> None:
    """Write the numbers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, metavar="SMIRK_CHECKOUT")
    checkout = parser.parse_args(argv).checkout
    GOLDEN.write_text(json.dumps({"encoded": encoded(checkout), "cropped": cropped()}) + "\n")
    print(GOLDEN)


if __name__ == "__main__":
    main()
