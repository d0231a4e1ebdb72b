"""How good the embedded model is: what its network adds to the mesh, how it follows real drivers, how fast it is.

    python benchmarks/embedded.py [--quick] [--parts NAME ...] [--faces DIR] [--media DIR] [--json FILE] [--sheet PNG]

``network``: the mesh alone beside the mesh with all of the network's changes (``--refine 1``), PSNR in dB and LPIPS
(AlexNet, by place) over mouth, eyes, face and where the mesh stretches the portrait by more than two, on people it
never saw:
    ``reversed``  portraits made from photographs by warping, driven back: the truth is the photograph itself
    ``direct``    photographs warped: the truth is the mesh's, which is why it has no figure
    ``far``       drawn people turned by 25 to 45 degrees, exact in three dimensions
``following``: real drivers x photographs, absolute motion: correlation over frames of what the landmarker reads on the
result with what it reads on the driver, and SFace's likeness of the result to the portrait, over the portrait's to
itself moved by the mesh to its own row. The mesh's gains were calibrated with the same landmarker on other people.
``speed``: the whole command, file to file, in a process of its own.

``--faces`` has diverse/, official/ (of which training leaves one in 16 out) and generated/; ``--media`` has driving/.
Parts whose folders are not given are left out, and said so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import end_to_end
from embedded_cases import SIZE, Case, GeneratedFaces, direct_cases, far_turned_cases, framed_photo, reversed_cases
from flashportrait.errors import UserError
from flashportrait.evaluation import metrics
from flashportrait.evaluation.extractors import FaceRows, IdentityEmbedder, read_faces
from flashportrait.evaluation.perceptual import PerceptualDistance
from flashportrait.face.blendshapes import MEDIAPIPE_NAMES, FaceLandmarker
from flashportrait.face.motion import MotionFeatures
from flashportrait.inputs import FaceChoice, MotionControls, load_motion
from flashportrait.loading import load_pipeline
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.training.photos import PhotoSet
from flashportrait.weights.hub import find_weight

PARTS = ("network", "following", "speed")
AS_FILMED = MotionControls(motion="absolute", smooth=0.0)
EXPRESSIONS = {
    "jaw": ("jawOpen",),
    "blink": ("eyeBlinkLeft", "eyeBlinkRight"),
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
    "inner brow": ("browInnerUp",),
    "gaze": ("eyeLookInLeft", "eyeLookOutRight"),
}
ANGLES = ("yaw", "pitch", "roll")
LEAST_SPREAD = {**dict.fromkeys(EXPRESSIONS, 0.05), **dict.fromkeys(ANGLES, np.radians(2))}
"""Standard deviation of what a driver does below which it says nothing about following."""
DRIVERS = ("liveportrait_d12", "liveportrait_d10", "liveportrait_d11", "liveportrait_d3", "latentsync_demo1")
FRAMES = 96
"""Of each driver, from its start."""


def network(args: argparse.Namespace, pipeline: FlashPortraitPipeline, pictures: list[np.ndarray]) -> dict[str, Any]:
    """PSNR and LPIPS of the mesh alone and of the network on it, by group and place."""
    count, frames = args.clips or (2 if args.quick else 16), 9 if args.quick else 17
    groups: dict[str, list[Iterator[Case]]] = {"far": [far_turned_cases(count, frames)]}
    if args.faces is None:
        print("reversed and direct photographs are left out: give --faces DIR")
    else:
        held_out = [PhotoSet(args.faces / name).split()[1] for name in ("diverse", "official")]
        groups["reversed"] = [reversed_cases(photos, count // 2, frames) for photos in held_out]
        groups["direct"] = [direct_cases(photos, count // 2, frames) for photos in held_out]
    distance = PerceptualDistance(find_weight("lpips_alex"))
    results: dict[str, Any] = {}
    for group, sources in groups.items():
        scores: dict[str, list[tuple[float, float]]] = {}
        for case in (case for source in sources for case in source):
            alone, refined = drawn_alone(case), refined_by_network(pipeline, case)
            far_alone, far_refined = (distance.by_place(frames, case.truth) for frames in (alone, refined))
            for place, inside in case.places.items():
                scores.setdefault(f"{place}, dB", []).append(
                    (psnr(alone, case.truth, inside), psnr(refined, case.truth, inside))
                )
                scores.setdefault(f"{place}, LPIPS", []).append(
                    (mean_inside(far_alone, inside), mean_inside(far_refined, inside))
                )
            pictures.append(_row([case.framed.pixels[0], case.truth[-1], alone[-1], refined[-1]]))
        results[group] = {measure: _gain(pairs) for measure, pairs in scores.items()}
        for measure, figures in results[group].items():
            print(f"{group:10}{measure:18}" + "  ".join(f"{name} {value:7.3f}" for name, value in figures.items()))
    return results


def drawn_alone(case: Case) -> Tensor:
    """Frames [t 3 s s] as the mesh draws them."""
    return case.framed.drawn_on()[1].draw(case.rows, SIZE)


def refined_by_network(pipeline: FlashPortraitPipeline, case: Case) -> Tensor:
    """Frames [t 3 s s] with all of the network's changes."""
    motion = MotionFeatures(case.rows.numpy(), 25)
    video = pipeline(case.framed, motion, controls=AS_FILMED, refine=1.0, progress=False)
    return torch.from_numpy(video.frames).permute(0, 3, 1, 2).float() / 255


def psnr(frames: Tensor, truth: Tensor, inside: Tensor) -> float:
    """dB over the pixels that are ``inside`` [t 1 s s]; NaN where there are none."""
    error = (frames - truth).square()[inside.expand_as(truth)]
    return float(-10 * torch.log10(error.mean().clamp_min(1e-9))) if len(error) else float("nan")


def mean_inside(values: Tensor, inside: Tensor) -> float:
    """Mean of values [t 1 s s] over the places that are ``inside`` [t 1 s s]; NaN where there are none."""
    return float(values[inside].mean())


def _gain(pairs: list[tuple[float, float]]) -> dict[str, float]:
    mesh, refined = np.array(pairs).T
    known = np.isfinite(mesh) & np.isfinite(refined)
    gains = (refined - mesh)[known]
    error = float(gains.std(ddof=1) / np.sqrt(len(gains))) if len(gains) > 1 else float("nan")
    means = (float(values[known].mean()) for values in (mesh, refined))
    return {**dict(zip(("mesh", "network"), means, strict=True)), "gain": float(gains.mean()), "+-": error}


def following(args: argparse.Namespace, pipeline: FlashPortraitPipeline, pictures: list[np.ndarray]) -> dict[str, Any]:
    """Mean correlations with the driver and likeness, over drivers x photographs."""
    if args.faces is None or args.media is None:
        print("following real drivers is left out: give --faces DIR and --media DIR")
        return {}
    landmarker, count = FaceLandmarker(), 1 if args.quick else 4
    photos = GeneratedFaces(args.faces / "generated", count)
    scores: dict[str, list[float]] = {}
    for name in DRIVERS[: 1 if args.quick else None]:
        motion = load_motion(args.media / "driving" / f"{name}.mp4", "blendshapes", FaceChoice(), progress=False)
        motion = motion.trimmed(0, min(len(motion), 33 if args.quick else FRAMES))
        for index in range(len(photos)):
            framed = framed_photo(photos[index])
            frames = pipeline(framed, motion, controls=AS_FILMED, progress=False).frames
            seen = read_faces(frames, landmarker)
            for measure, value in followed(seen, motion).items():
                scores.setdefault(measure, []).append(value)
            if (alike := likeness(frames, seen, framed, landmarker)) is not None:
                scores.setdefault("identity", []).append(alike)
            shown = np.linspace(0, len(frames) - 1, 3).round().astype(int)
            pictures.append(np.concatenate([_bytes(framed.pixels[0]), *frames[shown]], axis=1))
    results = {measure: float(np.mean(values)) for measure, values in scores.items()}
    print("following " + "  ".join(f"{measure} {value:.2f}" for measure, value in results.items()))
    return results


def followed(seen: FaceRows, motion: MotionFeatures) -> dict[str, float]:
    """Correlations with what the driver does, of measures in which it does something."""
    from flashportrait.face.motion import BLENDSHAPE_NAMES

    pairs = {}
    for measure, names in EXPRESSIONS.items():
        read = np.mean([seen.blendshapes[:, MEDIAPIPE_NAMES.index(name)] for name in names], axis=0)
        asked = np.mean([motion.values[:, 6 + BLENDSHAPE_NAMES.index(name)] for name in names], axis=0)
        pairs[measure] = read, asked
    for index, measure in enumerate(ANGLES):
        pairs[measure] = seen.angles[:, index], motion.values[:, index]
    return {
        measure: float(np.corrcoef(read, asked)[0, 1])
        for measure, (read, asked) in pairs.items()
        if asked.std() > LEAST_SPREAD[measure] and read.std() > 0
    }


def likeness(frames: np.ndarray, seen: FaceRows, framed: Any, landmarker: FaceLandmarker) -> float | None:
    """SFace's cosine with the portrait; None without the extra that has it."""
    try:
        embedder = IdentityEmbedder()
    except UserError as error:
        print(f"identity is left out: {error}", file=sys.stderr)
        return None
    portrait = _bytes(framed.pixels[0])
    own = embedder([portrait], read_faces([portrait], landmarker).points)[0]
    return float(metrics.identity_similarity(embedder(frames[::8], seen.points[::8]), own))


def speed(args: argparse.Namespace, *_: Any) -> list[dict[str, Any]]:
    """Frames per second of the whole command at several sizes, and memory above an interpreter with torch."""
    rows, resting = [], resting_memory()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        portrait, driving = end_to_end.perform(folder, 3 if args.quick else 10)
        enlarged = folder / "large.png"
        Image.open(portrait).resize((1280, 1280), Image.Resampling.LANCZOS).save(enlarged)
        for label, source, options in (
            ("face 256", portrait, ["--view", "face", "--size", "256"]),
            ("face 512", enlarged, ["--view", "face"]),
            ("face 1024", enlarged, ["--view", "face", "--size", "1024"]),
            ("whole 880", enlarged, ["--size", "880"]),
            ("whole 1280", enlarged, []),
            ("face 256, refine 1", portrait, ["--view", "face", "--size", "256", "--refine", "1"]),
        ):
            row = end_to_end.measure(source, driving, args.model, "fast", folder, options)
            row |= {"speed": label, "memory_above_torch_mib": row["peak_memory_mib"] - resting}
            rows.append(row)
    end_to_end.print_table(rows)
    print(f"an interpreter with torch holds {resting:.0f} MiB")
    return rows


def resting_memory() -> float:
    """MiB of an interpreter with torch loaded."""
    code = "import psutil, torch; print(psutil.Process().memory_info().rss)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) / 2**20


def _row(pictures: list[Tensor]) -> np.ndarray:
    return np.concatenate([_bytes(picture) for picture in pictures], axis=1)


def _bytes(picture: Tensor) -> np.ndarray:
    """[3 h w] in [0, 1] -> uint8 [h w 3]."""
    return (picture.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short clips")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="NAME", help=", ".join(PARTS))
    parser.add_argument("--model", default="nano")
    parser.add_argument("--faces", type=Path, metavar="DIR")
    parser.add_argument("--media", type=Path, metavar="DIR")
    parser.add_argument("--clips", type=int, help="clips a group")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument(
        "--sheet", type=Path, metavar="PNG", help="portrait, truth, mesh, network; then portrait, frames"
    )
    args = parser.parse_args()
    pipeline = load_pipeline(args.model)
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[np.ndarray] = []
    results = {part: globals()[part](args, pipeline, pictures) for part in args.parts}
    if args.sheet and pictures:
        half = -(-len(pictures) // 2)
        blank = np.zeros_like(pictures[0])
        rows = [np.concatenate(pair, 1) for pair in zip_longest(pictures[:half], pictures[half:], fillvalue=blank)]
        Image.fromarray(np.concatenate(rows)).save(args.sheet)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
