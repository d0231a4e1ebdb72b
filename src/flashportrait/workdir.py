"""A folder beside the output from which an interrupted run goes on: what it was given, and how far it has come.

    manifest.json             command, hashes of inputs, settings, versions
    motion.safetensors        the driving clip's motion rows, as extracted
    window-00012.safetensors  finished latents of a window
    lock                      held by the process that writes here, if there is one
    state-00012.safetensors   what the sampler needs to go on, after its 12th round of work; the newest two are kept

Every file appears whole or not at all, and carries its own hash, so that a damaged one is told from a whole one.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.face.motion import MotionFeatures
from flashportrait.files import sha256_of
from flashportrait.inputs import FramedPortrait
from flashportrait.media.clip import source_files
from flashportrait.media.lock import LOCK_NAME
from flashportrait.sampling.denoise import Denoiser
from flashportrait.sampling.noise import FrameNoise, GivenNoise
from flashportrait.sampling.prediction import PredictionState
from flashportrait.sampling.windows import Window, WindowPlan
from flashportrait.settings import SamplingSettings
from flashportrait.weights.shards import sample, samples_before_sharding

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
PART_SUFFIX = ".part"
"""Of a file that is being written."""
SUFFIX = ".work"
FORMAT_VERSION = 3
STATE_INTERVAL_SECONDS = 10.0
"""Least time between two saved states: how much work a crash may cost."""
VERSIONED_PACKAGES = ("flashportrait", "torch", "diffusers")
"""Packages whose version decides the numbers."""


class WorkDirectory:
    """The folder of one run. Made by ``create``, found again by ``open``."""

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path = path
        self._manifest = manifest
        self.state_interval_seconds = STATE_INTERVAL_SECONDS

    @classmethod
    def beside(cls, output: str | Path) -> Path:
        """Where the work directory of an output lies: ``OUT.mp4.work``."""
        output = Path(output)
        return output.with_name(output.name + SUFFIX)

    @classmethod
    def create(cls, path: str | Path, command: Mapping[str, Any], inputs: Mapping[str, str | Path]) -> WorkDirectory:
        """Make the folder of a new run; what an older run left there is removed.

        Args:
            path: of the folder.
            command: whatever the caller needs to set the run up again, fit for JSON.
            inputs: files that the run reads, by role; their contents must not change until it is done.

        Raises:
            UserError: it can't be written, or something else is there.
        """
        path = Path(path)
        if path.exists() and not _is_ours(path):
            raise UserError(f"{path} is in the way and is no work directory of ours; move it away")
        manifest = {
            "format": FORMAT_VERSION,
            "command": dict(command),
            "inputs": {role: _describe_file(Path(file)) for role, file in inputs.items()},
            "versions": package_versions(),
            "settings": None,
        }
        work = cls(path, manifest)
        with _disk_errors(path):
            path.mkdir(exist_ok=True)
            _empty(path)
        work._write_manifest()
        return work

    @classmethod
    def open(cls, path: str | Path) -> WorkDirectory:
        """The folder of a run that was interrupted.

        Raises:
            UserError: it isn't one, or an input or a program version has changed since; says which.
        """
        path = Path(path)
        try:
            manifest = json.loads((path / MANIFEST).read_text())
        except (OSError, ValueError) as error:  # no text, or no JSON
            raise UserError(f"'{path}' is not a work directory ({error}); give the folder OUT.mp4{SUFFIX}") from error
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT_VERSION:
            raise UserError(f"'{path}' was made by another version of the program; start the run anew")
        if not _is_whole(manifest):
            raise UserError(f"'{path}/manifest.json' is damaged; start the run anew")
        changes = [
            f"{package} was {old} and is {new}"
            for package, old, new in _differences(manifest["versions"], package_versions())
        ]
        for role, old in manifest["inputs"].items():
            file = Path(old["path"])
            try:
                same = _describe_file(file) == old
            except UserError:
                changes.append(f"the {role} {file} is gone")
                continue
            if not same:
                changes.append(f"the {role} {file} has changed")
        if changes:
            raise UserError(f"the run in '{path}' can't go on: {'; '.join(changes)}; start it anew")
        return cls(path, manifest)

    @property
    def command(self) -> dict[str, Any]:
        """What ``create`` was given."""
        return dict(self._manifest["command"])

    def bind(self, settings: Mapping[str, Any]) -> None:
        """Note what decides the result on the first call, and compare with it on later ones.

        Raises:
            UserError: something is different; says what.
        """
        settings = json.loads(json.dumps(settings))
        if self._manifest["settings"] is None:
            self._manifest["settings"] = settings
            self._write_manifest()
            return
        changes = [
            f"{name} was {old} and is {new}" for name, old, new in _differences(self._manifest["settings"], settings)
        ]
        if changes:
            raise UserError(f"the run in '{self.path}' can't go on: {'; '.join(changes)}; start it anew")

    def motion(self) -> MotionFeatures | None:
        """The motion rows, if they were saved."""
        file = self.path / "motion.safetensors"
        return MotionFeatures.load(file) if file.is_file() else None

    def save_motion(self, motion: MotionFeatures) -> None:
        """Keep the motion rows, so that the driving clip need not be looked at again."""
        motion.save(self.path / "motion.safetensors")

    @staticmethod
    def is_one(path: str | Path) -> bool:
        """Whether a folder looks like a run's."""
        return (Path(path) / MANIFEST).is_file()

    @staticmethod
    def has_progress(path: str | Path) -> bool:
        """Whether a folder holds more of a run than its motion."""
        return any(Path(path).glob("window-*.safetensors")) or any(Path(path).glob("state-*.safetensors"))

    def remove(self) -> None:
        """Remove the folder with all that is in it: the run is done. Who holds its lock removes that."""
        _empty(self.path)
        with suppress(OSError):
            self.path.rmdir()

    def run(
        self,
        denoiser: Denoiser,
        plan: WindowPlan,
        prediction: PredictionState | None = None,
        restored: Callable[[], object] | None = None,
    ) -> Iterator[tuple[Window, Tensor]]:
        """Run ``denoiser`` from where the folder's run stopped, saving each window and now and then the state.

        Yields all windows with their final latents, the saved ones first. ``restored`` is called once ``denoiser`` is
        where the run stopped, before it goes on.

        Raises:
            UserError: the disk is full or can't be written.
        """
        finished, rounds = self._restore(denoiser, prediction)
        if restored is not None:
            restored()
        for index in range(finished):
            content = _read(self._window_file(index))
            assert content is not None, "a window that was whole a moment ago"
            yield plan[index], content[0]["latents"]
        saved_at = time.monotonic()
        for windows in denoiser.run():
            rounds += 1
            for window, latents in windows:
                self._write(self._window_file(window.index), {"latents": latents}, {})
            finished += len(windows)
            if time.monotonic() - saved_at >= self.state_interval_seconds:
                self._save_state(rounds, finished, denoiser, prediction)
                saved_at = time.monotonic()
            yield from windows

    def _restore(self, denoiser: Denoiser, prediction: PredictionState | None) -> tuple[int, int]:
        """Bring the sampler to the newest state that is whole; returns its finished windows and rounds of work."""
        for file in sorted(self.path.glob("state-*.safetensors"), reverse=True):
            content = _read(file)
            needed = [] if content is None else [self._window_file(index) for index in range(content[1]["finished"])]
            broken = [file] if content is None else [window for window in needed if _read(window) is None]
            if broken:
                logger.warning("%s is damaged or gone; going back to an earlier state", broken[0])
                file.unlink()
                continue
            tensors, plain = content
            denoiser.load_state_dict(_below("sampler.", tensors))
            if prediction is not None:
                prediction.load_state_dict({"tensors": _below("prediction.", tensors), "plain": plain["prediction"]})
            return plain["finished"], plain["rounds"]
        return 0, 0

    def _save_state(self, rounds: int, finished: int, denoiser: Denoiser, prediction: PredictionState | None) -> None:
        tensors = {f"sampler.{name}": value for name, value in denoiser.state_dict().items()}
        plain: dict[str, Any] = {"rounds": rounds, "finished": finished, "prediction": None}
        if prediction is not None:
            state = prediction.state_dict()
            tensors |= {f"prediction.{name}": value for name, value in state["tensors"].items()}
            plain["prediction"] = state["plain"]
        self._write(self.path / f"state-{rounds:08}.safetensors", tensors, plain)
        for old in sorted(self.path.glob("state-*.safetensors"))[:-2]:
            old.unlink()

    def _window_file(self, index: int) -> Path:
        return self.path / f"window-{index:08}.safetensors"

    def _write(self, file: Path, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        text = json.dumps(plain)
        content = save(on_cpu, {"plain": text, "sha256": _digest(on_cpu, text)})
        with _disk_errors(self.path):
            _write_whole(file, content)

    def _write_manifest(self) -> None:
        with _disk_errors(self.path):
            _write_whole(self.path / MANIFEST, json.dumps(self._manifest, indent=1).encode())


def _content(path: Path) -> Iterator[Path]:
    """What is in a folder, but for its lock, which belongs to who holds it."""
    return (file for file in path.iterdir() if file.name != LOCK_NAME)


def _is_ours(path: Path) -> bool:
    """Whether a folder is a run's: its manifest is there, or at most what a run that was killed left in its place."""
    if (path / MANIFEST).is_file():
        return True
    return path.is_dir() and {file.name for file in _content(path)} <= {MANIFEST + PART_SUFFIX}


def _empty(path: Path) -> None:
    """Remove what is in a run's folder; the manifest last, so that one who is killed here leaves a run's folder."""
    for file in sorted(_content(path), key=lambda file: file.name == MANIFEST):
        if file.is_dir() and not file.is_symlink():
            shutil.rmtree(file)
        else:
            file.unlink()


def _is_whole(manifest: dict[str, Any]) -> bool:
    """Whether a manifest has all that ``create`` writes."""
    command, inputs, versions = (manifest.get(name) for name in ("command", "inputs", "versions"))
    if "settings" not in manifest or not isinstance(command, dict) or not isinstance(versions, dict):
        return False
    if not isinstance(inputs, dict):
        return False
    return all(isinstance(each, dict) and isinstance(each.get("path"), str) for each in inputs.values())


def _write_whole(file: Path, content: bytes) -> None:
    """Write a file so that, whatever happens, it holds either its old content or all of the new."""
    part = file.with_name(file.name + PART_SUFFIX)
    with part.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(part, file)


def describe_model(pipeline: DiffusionPipeline) -> dict[str, str]:
    """What of a pipeline decides the result, for ``WorkDirectory.bind``."""
    modules = {name: part for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)}
    # diffusers' own notes among them are in an order that is another in each process.
    scheduling = {name: value for name, value in pipeline.scheduler.config.items() if not name.startswith("_")}
    return {
        "model": model_digest(modules),
        "scheduler": f"{type(pipeline.scheduler).__name__} {scheduling}",
        "device": f"{pipeline._execution_device.type} {pipeline.transformer.dtype}",
    }


def describe_run(
    settings: SamplingSettings, noise: FrameNoise | GivenNoise, portrait: FramedPortrait, motion: MotionFeatures
) -> dict[str, Any]:
    """What of a call decides its result, for ``WorkDirectory.bind``.

    Raises:
        UserError: a predictor whose memory is inside the network, where it can't be saved between a window's steps.
    """
    predictor = settings.predictor
    if predictor is not None and predictor.target != "guided" and settings.schedule != "causal":
        raise UserError(
            f"a run that predicts {predictor.target} can't be interrupted in {settings.schedule} order; "
            "use the causal schedule, a predictor of target guided, or no work directory"
        )
    noise_settings = asdict(noise) if isinstance(noise, FrameNoise) else {"latents": tensor_digest(noise.latents)}
    sampling = asdict(settings)
    del sampling["batched"]  # how, not what: a run may go on where there is other memory
    return {**sampling, **noise_settings, **describe_inputs(portrait, motion)}


def describe_inputs(portrait: FramedPortrait, motion: MotionFeatures) -> dict[str, Any]:
    """What of the inputs decides the result, for ``WorkDirectory.bind``."""
    canvas = portrait.canvas
    return {
        "portrait": tensor_digest(portrait.pixels if canvas is None else canvas.texture),
        "canvas": None if canvas is None else canvas.describe(),
        "motion": tensor_digest(torch.from_numpy(motion.values)),
        "rate": str(motion.rate),
    }


def tensor_digest(tensor: Tensor) -> str:
    """SHA-256 of a tensor with its type and shape, in hexadecimal."""
    return _digest({"": tensor.detach().cpu().contiguous()}, "")


def model_digest(modules: Mapping[str, torch.nn.Module]) -> str:
    """SHA-256 of models' structure and of a sample of each weight: quick even where the weights are large."""
    digest = hashlib.sha256()
    for name, module in modules.items():
        sharded = samples_before_sharding(module)
        for key, weight in module.state_dict().items():
            digest.update(f"{name}.{key} {tuple(weight.shape)} {weight.dtype}".encode())
            if key in sharded:
                digest.update(sharded[key])
            elif not weight.is_meta:  # offloaded to where it can't be read
                digest.update(sample(weight))
    return digest.hexdigest()


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and plain data of a file, or None if it is gone or damaged."""
    try:
        with safe_open(file, framework="pt") as stored:
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
            metadata = stored.metadata()
    except (SafetensorError, OSError):
        return None
    if metadata is None or metadata.get("sha256") != _digest(tensors, metadata.get("plain", "")):
        return None
    return tensors, json.loads(metadata["plain"])


def _digest(tensors: Mapping[str, Tensor], text: str) -> str:
    digest = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _describe_file(file: Path) -> dict[str, Any]:
    """A file, or the pictures of a folder or pattern, by content."""
    parts = source_files(file)
    try:
        digest, size = sha256_of(parts), sum(part.stat().st_size for part in parts)
    except OSError as error:
        raise UserError(f"{error.filename} can't be read ({error.strerror or error}); check the path") from error
    return {"path": str(file.resolve()), "bytes": size, "sha256": digest}


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            yield name, old.get(name), new.get(name)


def package_versions() -> dict[str, str]:
    """Of the packages that decide the numbers."""
    versions = {}
    for package in VERSIONED_PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} can't be written ({error.strerror or error}); make room, then: flashportrait resume {path}"
        ) from error
