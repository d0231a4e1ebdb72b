"""How good the embedded model is: pictures, expression, head pose and identity on people and performances it never saw.

    python benchmarks/embedded.py [--quick] [--model nano] [--faces DIR] [--groups NAME ...] [--json FILE] [--sheet PNG]

Every clip is driven by the rows of a made-up performance, so the truth is known: drawn people are drawn performing it,
photographed ones are warped to it. Two yardsticks stand beside the model's figures: ``copy`` repeats the portrait, and
``autoencoder`` decodes the encoded truth, which is the best that this model could do.

- ``psnr`` inside the face, dB, and ``ssim`` of the whole frame, against the truth;
- ``jaw``, ``blink``, ``smile``, ``yaw``, ``pitch``, ``roll``: correlation over all frames of what the landmarker reads
  on the result with the rows that drove it; the row ``truth`` says how well it reads the truth itself, ``margin`` by
  how much the model passes its aim (``AIMS``, or ``SHARE`` of what is reached on the truth, whichever is less), and
  ``+-`` the standard error of that over clips;
- ``pose``: mean difference of head angles from those read on the truth, degrees;
- ``identity``: likeness of result and portrait (SFace cosine) over that of truth and portrait (needs the extra
  ``eval``).

``--faces`` names a folder with ``diverse/``, ``official/`` (portraits with landmarks.npz, of which training leaves one
in 16 out) and ``generated/``; photographs are left out without it. Then the whole command is timed, and a long clip's
identity and colours are searched for a trend. With ``--groups`` only those groups of clips are judged, and nothing is
timed: so many clips can be shared out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

import end_to_end
import soak
from acceleration_clips import draw_portrait
from flashportrait.avatars.renderer import render
from flashportrait.errors import UserError
from flashportrait.evaluation import metrics
from flashportrait.evaluation.extractors import FaceRows, IdentityEmbedder, read_faces
from flashportrait.face.blendshapes import MEDIAPIPE_NAMES, FaceLandmarker
from flashportrait.face.motion import BLENDSHAPE_NAMES, MotionFeatures
from flashportrait.inputs import FramedPortrait
from flashportrait.loading import load_pipeline
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.reference import HEAD_POSE
from flashportrait.result import to_pictures
from flashportrait.training.data import sample_motion
from flashportrait.training.photos import Photo, PhotoSet, fit_motion, photo_row
from flashportrait.training.samples import save_sheet

GROUPS = ("drawn", "diverse", "official", "generated")
KINDS = ("talking", "mixed", "large", "keyframes")
KEYFRAME_SPACING = (8, 24)
"""Slower than in training, nearer to people."""
FRAMES = 33
FACE_STRIDE = 2
EXPRESSIONS = {
    "jaw": ("jawOpen",),
    "blink": ("eyeBlinkLeft", "eyeBlinkRight"),
    "smile": ("mouthSmileLeft", "mouthSmileRight"),
}
ANGLES = ("yaw", "pitch", "roll")
AIMS = dict.fromkeys(EXPRESSIONS, 0.85) | dict.fromkeys(ANGLES, 0.95)
"""Correlations that the model should reach."""
SHARE = 0.95
"""Of what the landmarker reads on the truth, where that makes less."""
LANDMARKER_SIDE = 256
"""Pixels: smaller pictures are enlarged before faces are read."""
SEED = 40_000
"""Of the first clip: far from the seeds that training draws."""


@dataclass(frozen=True)
class Case:
    """A portrait, the performance that drives it, and what it should look like."""

    framed: FramedPortrait
    rows: Tensor
    """[t 57]"""
    truth: Tensor
    """[t 3 s s] in [0, 1]"""
    face: Tensor
    """[t 1 s s] 1 on the face"""


def drawn_cases(count: int, frames: int, size: int) -> Iterator[Case]:
    """People drawn by formula."""
    for index in range(count):
        generator = torch.Generator().manual_seed(SEED + index)
        identity, framed = draw_portrait(generator, size)
        rows = sample_motion(KINDS[index % len(KINDS)], frames, generator, KEYFRAME_SPACING)
        drawn = render(identity, rows, size=size)
        yield Case(framed, rows, drawn.frames, drawn.face_mask)


def photo_cases(photos: PhotoSet, count: int, frames: int, size: int) -> Iterator[Case]:
    """Photographs, as they are, warped to performances within the warp's reach."""
    chosen = np.linspace(0, len(photos) - 1, min(count, len(photos))).round().astype(int)
    for index, photo in enumerate(photos[int(i)] for i in chosen):
        generator = torch.Generator().manual_seed(SEED + index)
        framed = framed_photo(photo, size)
        rows = fit_motion(photo.row, sample_motion(KINDS[index % len(KINDS)], frames, generator, KEYFRAME_SPACING))
        warped = framed.rig().animate(rows, size)
        yield Case(framed, warped.motion, warped.frames, warped.face_mask)


def cases_of(group: str, faces: Path | None, count: int, frames: int, size: int) -> Iterator[Case]:
    """The clips of one of ``GROUPS``; photographs lie in ``faces``."""
    if group == "drawn":
        return drawn_cases(count, frames, size)
    photos = GeneratedFaces(faces / group, count) if group == "generated" else PhotoSet(faces / group).split()[1]
    return photo_cases(photos, count, frames, size)


def framed_photo(photo: Photo, size: int) -> FramedPortrait:
    """A photograph of the training sets' framing as the model takes portraits."""
    pixels = F.interpolate(photo.image[None], (size, size), mode="bilinear", antialias=True)
    return FramedPortrait(pixels, photo.row.numpy(), photo.image, photo.landmarks)


class GeneratedFaces:
    """Portraits without landmarks.npz, read here; pictures without a face are left out."""

    def __init__(self, folder: Path, count: int) -> None:
        landmarker = FaceLandmarker()
        self._photos: list[Photo] = []
        for path in sorted(folder.glob("*.jpg")):
            if len(self._photos) == count:
                break
            with Image.open(path) as picture:
                pixels = np.asarray(picture.convert("RGB"))
            faces = landmarker.detect(pixels)
            if faces:
                landmarks = torch.from_numpy(faces[0].landmarks)
                row = photo_row(landmarks, torch.from_numpy(faces[0].expression))
                image = torch.from_numpy(pixels.copy()).permute(2, 0, 1).float() / 255
                self._photos.append(Photo(image, landmarks, row))

    def __len__(self) -> int:
        return len(self._photos)

    def __getitem__(self, index: int) -> Photo:
        return self._photos[index]


class Readings:
    """What the landmarker and SFace read on clips, gathered over the clips of a group."""

    def __init__(self) -> None:
        self._landmarker = FaceLandmarker()
        try:
            self._embedder: IdentityEmbedder | None = IdentityEmbedder()
        except UserError as error:
            print(f"identity is left out: {error}", file=sys.stderr)
            self._embedder = None

    def read(self, frames: np.ndarray) -> FaceRows | None:
        """Faces of a clip, enlarged to what the landmarker likes; None where there is none."""
        try:
            return read_faces([_enlarged(frame) for frame in frames[::FACE_STRIDE]], self._landmarker)
        except UserError:
            return None

    def likeness(self, frames: np.ndarray, faces: FaceRows, portrait: np.ndarray) -> float | None:
        """Mean SFace cosine of a clip's faces with the portrait's."""
        own = self.read(portrait[None])
        if self._embedder is None or own is None:
            return None
        embeddings = self._embedder([_enlarged(frame) for frame in frames[::FACE_STRIDE]], faces.points)
        return metrics.identity_similarity(embeddings, self._embedder([_enlarged(portrait)], own.points)[0])


def _enlarged(frame: np.ndarray) -> np.ndarray:
    image = Image.fromarray(frame)
    ratio = -(-LANDMARKER_SIDE // min(image.size))
    return frame if ratio == 1 else np.asarray(image.resize([ratio * side for side in image.size], Image.BICUBIC))


def judge(pipeline: FlashPortraitPipeline, cases: Iterator[Case], readings: Readings) -> tuple[dict, list[Tensor]]:
    """Rows of figures by who made the frames (model, copy, autoencoder, truth), and pictures for a sheet."""
    scores: dict[str, dict[str, list]] = {}
    pictures: list[Tensor] = []
    for case in cases:
        video = pipeline(case.framed, MotionFeatures(case.rows.numpy(), 25), seed=SEED, progress=False)
        truth, portrait = to_pictures(case.truth), to_pictures(case.framed.pixels)[0]
        clips = {
            "model": np.stack(video.frames),
            "copy": np.repeat(portrait[None], len(truth), axis=0),
            "autoencoder": to_pictures(reconstruct(pipeline, case)),
            "truth": truth,
        }
        read = {name: readings.read(frames) for name, frames in clips.items()}
        for name, frames in clips.items():
            figures = scores.setdefault(name, {})
            _note(figures, frames, truth, case, read[name], read["truth"])
            if read[name] is not None and name != "copy":
                likeness = readings.likeness(frames, read[name], portrait)
                figures.setdefault("likeness", []).append(likeness if likeness is not None else np.nan)
        shown = torch.from_numpy(
            np.stack([clips[name][i] for name in ("truth", "model") for i in (8, 16, 24) if i < len(truth)])
        )
        pictures += [case.framed.pixels[0], *(shown.permute(0, 3, 1, 2).float() / 255)]
    rows = {name: _summary(figures, scores["truth"]) for name, figures in scores.items()}
    margins = {name: margin(name, scores["model"][name], scores["truth"][name]) for name in AIMS}
    rows["margin"], rows["+-"] = ({name: pair[i] for name, pair in margins.items()} for i in (0, 1))
    return rows, pictures


@torch.no_grad()
def reconstruct(pipeline: FlashPortraitPipeline, case: Case) -> Tensor:
    """The truth [t 3 s s] encoded and decoded."""
    missing = -(len(case.truth) - 1) % 4
    turned = case.framed.rig().turn(case.rows[:, HEAD_POSE], case.truth.shape[-1])
    clip, reference = (
        torch.cat([frames, frames[-1:].expand(missing, -1, -1, -1)])[None].to(pipeline.vae.dtype)
        for frames in (case.truth, turned)
    )
    latents = pipeline.vae.encode(clip, reference=reference)
    return pipeline.vae.decode(latents, reference=reference)[0, : len(case.truth)].float()


def _note(
    figures: dict[str, list], frames: np.ndarray, truth: np.ndarray, case: Case, faces: FaceRows | None, true: FaceRows
) -> None:
    """Add one clip's figures."""
    mask = (case.face > 0.5).permute(0, 2, 3, 1).expand(-1, -1, -1, 3).numpy()
    error = np.square(frames.astype(np.float32) - truth)[mask].mean()
    figures.setdefault("psnr", []).append(float(10 * np.log10(255**2 / max(error, 1e-6))))
    figures.setdefault("ssim", []).append(metrics.ssim(frames, truth))
    figures.setdefault("faceless", []).append(float(faces is None))
    if faces is None or true is None:
        for name in AIMS:
            figures.setdefault(name, []).append(None)
        return
    rows = case.rows.numpy()[::FACE_STRIDE]
    for name, actions in EXPRESSIONS.items():
        seen = np.mean([faces.blendshapes[:, MEDIAPIPE_NAMES.index(action)] for action in actions], axis=0)
        meant = np.mean([rows[:, 6 + BLENDSHAPE_NAMES.index(action)] for action in actions], axis=0)
        figures.setdefault(name, []).append((seen, meant))
    for index, name in enumerate(ANGLES):
        figures.setdefault(name, []).append((faces.angles[:, index], rows[:, index]))
    figures.setdefault("pose", []).append(metrics.average_pose_distance(faces.angles, true.angles))


def _summary(figures: dict[str, list], truth: dict[str, list]) -> dict[str, float]:
    """Means over clips; correlations over all frames of all clips."""
    row = {}
    for name, values in figures.items():
        if name in AIMS:
            row[name] = _correlation(values)
        else:
            row[name] = float(np.mean(values))
    if "likeness" in row:
        row["identity"] = row["likeness"] / float(np.mean(truth["likeness"]))
    return row


def _correlation(clips: list[tuple[np.ndarray, np.ndarray] | None]) -> float:
    """Of what is seen with what is meant, over all frames of all clips; clips without a face are None."""
    found = [clip for clip in clips if clip is not None]
    if not found:
        return 0.0
    seen, meant = (np.concatenate(part) for part in zip(*found, strict=True))
    return float(np.corrcoef(seen, meant)[0, 1]) if seen.std() > 0 else 0.0


def margin(name: str, model: list, truth: list) -> tuple[float, float]:
    """By how much the model's correlation passes its aim, and the standard error of that, by leaving out each clip.

    A single clip has no error: NaN.
    """

    def passed(model: list, truth: list) -> float:
        return _correlation(model) - min(AIMS[name], SHARE * _correlation(truth))

    count = len(truth)
    if count < 2:
        return passed(model, truth), float("nan")
    left_out = [passed(model[:i] + model[i + 1 :], truth[:i] + truth[i + 1 :]) for i in range(count)]
    return passed(model, truth), float(np.sqrt((count - 1) * np.var(left_out)))


def print_group(group: str, rows: dict[str, dict[str, float]]) -> None:
    """The figures of one group, a line for each maker."""
    columns = ("psnr", "ssim", *EXPRESSIONS, *ANGLES, "pose", "likeness", "identity", "faceless")
    print(f"\n{group:12}" + "".join(f"{column:>9}" for column in columns))
    for name, row in rows.items():
        print(f"{name:12}" + "".join(f"{row[c]:9.3f}" if c in row else f"{'-':>9}" for c in columns))


def long_clip(frames: int, model: str) -> dict[str, Any]:
    """Slopes of identity and colour over a long clip, with their standard errors."""
    arguments = argparse.Namespace(model=model, schedule="causal", speed=None, steps=None)
    result = soak.soak(frames, arguments)
    windows = result["quality"]["windows"]
    return {
        "frames": frames,
        "seconds_per_frame": result["seconds_per_frame"],
        "identity_per_1000": soak.trend(
            [(w["first_frame"], w["identity"]) for w in windows if w["identity"] is not None]
        ),
        "color_drift_per_1000": soak.trend([(w["first_frame"], w["color_drift"]) for w in windows]),
        "worst": result["quality"]["worst"],
    }


def resting_memory() -> float:
    """MiB of an interpreter with torch loaded."""
    code = "import psutil, torch; print(psutil.Process().memory_info().rss)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return int(done.stdout) / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few and short clips")
    parser.add_argument("--model", default="nano")
    parser.add_argument("--faces", type=Path, metavar="DIR")
    parser.add_argument("--groups", nargs="+", choices=GROUPS, metavar="NAME", help=f"judge only: {', '.join(GROUPS)}")
    parser.add_argument("--clips", type=int, help="clips a group")
    parser.add_argument("--long", type=int, metavar="FRAMES")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--sheet", type=Path, metavar="PNG")
    args = parser.parse_args()
    count, frames = args.clips or (3 if args.quick else 16), 17 if args.quick else FRAMES
    groups = args.groups or (GROUPS if args.faces is not None else GROUPS[:1])
    if args.faces is None and set(groups) != {"drawn"}:
        parser.error(f"--groups {' '.join(groups)}: photographs need --faces DIR")

    pipeline, readings = load_pipeline(args.model), Readings()
    pipeline.set_progress_bar_config(disable=True)
    size = pipeline.framing.resolution
    results: dict[str, Any] = {}
    pictures: list[Tensor] = []
    for name in groups:
        results[name], shown = judge(pipeline, cases_of(name, args.faces, count, frames, size), readings)
        pictures += [] if name == "official" else shown  # real people: measured, not shown
        print_group(name, results[name])
    if args.sheet:
        columns = 1 + 2 * len([i for i in (8, 16, 24) if i < frames])
        save_sheet(torch.stack(pictures), args.sheet, columns=columns)

    if args.groups is None:
        measure_whole_runs(results, pipeline.config.defaults["speed"], args)
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")


def measure_whole_runs(results: dict[str, Any], speed: str, args: argparse.Namespace) -> None:
    """The command's speed and memory, and what changes over a long clip."""
    with tempfile.TemporaryDirectory() as folder:
        portrait, driving = end_to_end.perform(Path(folder), 3 if args.quick else 10)
        results["speed"] = end_to_end.measure(portrait, driving, args.model, speed, Path(folder))
    results["speed"]["memory_above_torch_mib"] = results["speed"]["peak_memory_mib"] - resting_memory()
    print(
        f"\n{speed}: {results['speed']['frames_per_second']:.1f} frames/s end to end, "
        f"{results['speed']['memory_above_torch_mib']:.0f} MiB above an interpreter with torch"
    )
    results["long"] = long_clip(args.long or (200 if args.quick else 3000), args.model)
    for name in ("identity_per_1000", "color_drift_per_1000"):
        if results["long"][name] is not None:
            slope, error = results["long"][name]
            print(f"{results['long']['frames']} frames, {name.replace('_', ' ')}: {slope:+.4f} +- {error:.4f}")


if __name__ == "__main__":
    main()
