"""Whether the metrics of ``flashportrait evaluate`` say what they should: videos spoiled on purpose, known parameters.

    python benchmarks/metrics_validity.py [--quick] [--json FILE]

Spoiled: an example's frames are the truth, and the result is the same, blurred, noisy, late, with dropped frames, with
a tint that grows, with a jump, or another person's; each metric should be best for the truth and get worse with the
amount. Known: drawn people perform, and what the landmarker reads (AED's coefficients, APD's angles, gaze) is
correlated with the parameters that drew them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter

from flashportrait.avatars.controls import COLUMNS
from flashportrait.avatars.identity import sample_identities
from flashportrait.avatars.performance import sample_performance
from flashportrait.avatars.renderer import render
from flashportrait.errors import UserError
from flashportrait.evaluation.extractors import read_faces
from flashportrait.evaluation.features import Extractors
from flashportrait.evaluation.perceptual import PerceptualDistance
from flashportrait.evaluation.profiles import METRICS
from flashportrait.evaluation.protocols import Entry
from flashportrait.evaluation.scoring import Scorer
from flashportrait.face.blendshapes import MEDIAPIPE_NAMES, FaceLandmarker
from flashportrait.media.reader import VideoReader
from flashportrait.media.writer import VideoWriter
from flashportrait.weights.hub import find_weight

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
Frames = list[np.ndarray]


def _blur(frames: Frames, sigma: float) -> Frames:
    return [np.asarray(Image.fromarray(frame).filter(ImageFilter.GaussianBlur(sigma))) for frame in frames]


def _noise(frames: Frames, deviation: float) -> Frames:
    generator = np.random.default_rng(0)
    return [np.clip(frame + generator.normal(0, deviation, frame.shape), 0, 255).astype(np.uint8) for frame in frames]


def _delay(frames: Frames, count: float) -> Frames:
    return [frames[max(0, index - int(count))] for index in range(len(frames))]


def _drop(frames: Frames, every: float) -> Frames:
    """Of every so many frames, one is shown in the place of all."""
    return [frames[index // int(every) * int(every)] for index in range(len(frames))]


def _tint(frames: Frames, amount: float) -> Frames:
    ramp = (np.array([amount * index / len(frames), 0, 0]) for index in range(len(frames)))
    return [np.clip(frame + add, 0, 255).astype(np.uint8) for frame, add in zip(frames, ramp, strict=True)]


def _jump(frames: Frames, pixels: float) -> Frames:
    half = len(frames) // 2
    return [np.roll(frame, int(pixels), 1) if index >= half else frame for index, frame in enumerate(frames)]


SPOILED: dict[str, tuple[Callable[[Frames, float], Frames], Sequence[float]]] = {
    "blur, sigma in px": (_blur, (1, 2, 4)),
    "noise, of 255": (_noise, (4, 10, 25)),
    "delay, frames": (_delay, (1, 2, 4)),
    "one frame for so many": (_drop, (2, 3, 5)),
    "tint at the end, of 255": (_tint, (10, 25, 60)),
    "jump, px": (_jump, (3, 8, 20)),
}


def sensitivity(folder: Path, frames: int) -> list[dict[str, Any]]:
    """Every metric of the truth itself, of spoiled copies, and of another person."""
    scorer = Scorer(Extractors(folder / "cache"), PerceptualDistance(find_weight("lpips_alex")))
    truth = list(VideoReader(EXAMPLES / "driving_photo.mp4", trim=f"20f:{20 + frames}f"))
    other = list(VideoReader(EXAMPLES / "driving_talking.mp4", trim=f"20f:{20 + frames}f"))
    size = truth[0].shape[1::-1]
    other = [np.asarray(Image.fromarray(frame).resize(size, Image.Resampling.LANCZOS)) for frame in other]
    Image.fromarray(truth[0]).save(folder / "portrait.png")
    _write(folder / "truth.mp4", truth)

    def row(name: str, amount: float | None, made: Frames | None) -> dict[str, Any]:
        result = folder / "truth.mp4" if made is None else _write(folder / "result.mp4", made)
        scored = scorer.score(Entry(folder / "portrait.png", folder / "truth.mp4", result, folder / "truth.mp4"))
        return {"spoiled": name, "amount": amount, **scored.values}

    rows = [row("nothing", None, None)]
    for name, (spoil, amounts) in SPOILED.items():
        rows += [row(name, amount, spoil(truth, amount)) for amount in amounts]
    return [*rows, row("another person", None, other)]


def known_parameters(people: int, frames: int) -> dict[str, float]:
    """Correlation of what is read with what was drawn, over frames, of each measure; mean over people."""
    landmarker, found = FaceLandmarker(), []
    for person in range(people):
        generator = torch.Generator().manual_seed(person)
        identity = sample_identities(1, generator)
        performance = sample_performance(frames, kind="large", generator=generator)
        pictures = torch.cat([render(identity, part, 256).frames for part in performance.split(25)])
        shown = (pictures.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        try:
            rows = read_faces(shown, landmarker)
        except UserError:
            continue
        found.append(_correlations(rows.blendshapes, rows.angles, performance.numpy()))
    return {name: float(np.nanmean([each[name] for each in found])) for name in found[0]}


def _correlations(blendshapes: np.ndarray, angles: np.ndarray, drawn: np.ndarray) -> dict[str, float]:
    read = {name: blendshapes[:, index] for index, name in enumerate(MEDIAPIPE_NAMES)}
    read |= dict(zip(("yaw", "pitch", "roll"), angles.T, strict=True))
    wanted = ("jawOpen", "eyeBlinkLeft", "mouthSmileLeft", "browInnerUp", "eyeLookOutLeft", "yaw", "pitch", "roll")
    return {name: float(np.corrcoef(read[name], drawn[:, COLUMNS[name]])[0, 1]) for name in wanted}


def _write(path: Path, frames: Frames) -> Path:
    with VideoWriter(path, Fraction(25), mark=False) as writer:
        for frame in frames:
            writer.write(frame)
    return path


def markdown(rows: Sequence[dict[str, Any]]) -> str:
    """The table for docs/evaluation.md."""
    names = list(METRICS)
    lines = [
        "| spoiled by | " + " | ".join(METRICS[name].title for name in names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for row in rows:
        amount = "" if row["amount"] is None else f" {row['amount']:g}"
        values = ("–" if row[name] is None else f"{row[name]:.3g}" for name in names)
        lines.append(f"| {row['spoiled']}{amount} | " + " | ".join(values) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 frames, 3 people")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    frames, people = (24, 3) if args.quick else (75, 12)
    with tempfile.TemporaryDirectory() as folder:
        rows = sensitivity(Path(folder), frames)
    print(markdown(rows))
    known = known_parameters(people, 100 if args.quick else 250)
    print("\n".join(f"r {name:>16}  {value:.2f}" for name, value in known.items()))
    if args.json is not None:
        args.json.write_text(json.dumps({"sensitivity": rows, "known parameters, r": known}, indent=1) + "\n")


if __name__ == "__main__":
    main()
