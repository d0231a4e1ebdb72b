"""Fetching a whole model: what it is, how large, under which licence, resumed and verified.

Files come from a model hub through ``huggingface_hub``, which honours ``HF_ENDPOINT``, ``HF_HUB_OFFLINE`` and
``HF_TOKEN``, or from a folder that someone copied over. They end up where ``hub.locate_weight`` looks for them.
"""

from __future__ import annotations

import fnmatch
import logging
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from flashportrait.checkpoints.tables import listing
from flashportrait.errors import UserError
from flashportrait.files import sha256_of, user_folder
from flashportrait.weights.hub import (
    CHUNK_BYTES,
    FLASHPORTRAIT_REPOSITORY,
    WAN_REPOSITORY,
    WEIGHTS,
    Weight,
)

logger = logging.getLogger(__name__)

SPARE_BYTES = 1 << 30
"""Left free on the disk after a download."""

Report = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """A repository of a model and the files of it that we use."""

    repository: str
    """On the hub, as owner/name."""
    folder: str
    """Under the download folder; empty for the folder itself."""
    patterns: tuple[str, ...]
    """Paths inside the repository, as shell patterns."""
    licence: str


@dataclass(frozen=True)
class RemoteFile:
    """One file to have."""

    part: Part
    path: str
    """Inside the repository."""
    size: int | None = None
    """Bytes, where known."""
    sha256: str | None = None
    """Where known."""

    def target(self, folder: Path) -> Path:
        """Where it goes under the download folder."""
        return folder / self.part.folder / self.path


WAN_PATTERNS = (
    "model_index.json",
    "LICENSE*",
    "tokenizer/*",
    "text_encoder/*",
    "image_encoder/*",
    "image_processor/*",
    "vae/*",
)
"""All of Wan2.1's repository but its transformer, whose place FlashPortrait's takes."""


def _flashportrait_files() -> tuple[str, ...]:
    source = f"huggingface.co/{FLASHPORTRAIT_REPOSITORY}"
    return tuple(weight.file for weight in WEIGHTS.values() if weight.source == source)


MODELS: dict[str, tuple[Part, ...]] = {
    "14b": (
        Part(FLASHPORTRAIT_REPOSITORY, "", _flashportrait_files(), WEIGHTS["transformer_14b"].licence),
        Part(WAN_REPOSITORY, WEIGHTS["wan_14b"].file, WAN_PATTERNS, WEIGHTS["wan_14b"].licence),
    ),
}
"""What each model is made of, by name."""


def download_model(
    name: str = "14b", to: str | Path | None = None, source: str | Path | None = None, *, report: Report = print
) -> Path:
    """Download a model, or copy it from a folder. Files that are complete are kept, and partial ones resumed.

    Args:
        name: a key of ``MODELS``.
        to: folder to fill; the cache by default, where the model is found by itself.
        source: folder to copy from in place of the hub: a former download, or the repositories side by side.
        report: receives lines on size, licence, free space and progress.

    Returns:
        The folder that holds the model.

    Raises:
        UserError: unknown model, no way to the hub, too little space, or a file that isn't what was published.
    """
    if name not in MODELS:
        known = ", ".join(MODELS)
        raise UserError(f"there is no model {name!r} to download; there is {known} (nano is part of the package)")
    folder = Path(to).expanduser() if to is not None else user_folder("cache")
    offline = Path(source).expanduser() if source is not None else None
    files = [file for part in MODELS[name] for file in (_in_folder(part, offline) if offline else _on_hub(part))]
    missing = [file for file in files if not _is_there(file, folder)]
    _announce(name, files, missing, folder, report)
    for number, file in enumerate(missing, start=1):
        report(
            f"[{number}/{len(missing)}] {file.path} ({format_bytes(file.size)}) from {offline or file.part.repository}"
        )
        if offline:
            _copy(_origin(file, offline), file, folder)
        else:
            _fetch(file, folder)
        _verify(file, folder)
    report(f"{name} is complete in {folder}")
    if folder != user_folder("cache"):
        report(f"to use it from there, set FLASHPORTRAIT_CACHE={folder}")
    return folder


def _announce(name: str, files: list[RemoteFile], missing: list[RemoteFile], folder: Path, report: Report) -> None:
    """Say what will be fetched and refuse if it can't fit."""
    for part in MODELS[name]:
        own = [file for file in files if file.part == part]
        report(f"{part.repository}: {len(own)} files, {format_bytes(_total(own))}")
        by_licence: dict[str, list[str]] = {}
        for file in own:
            known = _registered(file.path)
            by_licence.setdefault(known.licence if known else part.licence, []).append(file.path)
        for licence, paths in by_licence.items():
            report(f"  licence {licence}: {listing(paths)}")
    existing = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    needed = sum(_remaining(file, folder) for file in missing)
    report(f"to fetch: {format_bytes(needed)} into {folder} ({format_bytes(free)} free)")
    if needed + SPARE_BYTES > free:
        raise UserError(
            f"{name} needs {format_bytes(needed + SPARE_BYTES)} in {folder}, where {format_bytes(free)} are free; "
            "make room or choose another disk with --to"
        )


def _total(files: Iterable[RemoteFile]) -> int:
    return sum(file.size or 0 for file in files)


def _remaining(file: RemoteFile, folder: Path) -> int:
    """Bytes still to come; what an interrupted transfer left counts as there."""
    partial = _partial(file.target(folder))
    return max(0, (file.size or 0) - (partial.stat().st_size if partial.exists() else 0))


def format_bytes(count: int | None) -> str:
    """Decimal, as disks and hubs count: 34.5 GB."""
    if count is None:
        return "unknown size"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _registered(path: str) -> Weight | None:
    """What the registry knows of a file."""
    return next((weight for weight in WEIGHTS.values() if weight.file == path), None)


def _on_hub(part: Part) -> list[RemoteFile]:
    """The files of a repository that we use, with the sizes and hashes that the hub states."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    try:
        info = HfApi().model_info(part.repository, files_metadata=True)
    except OfflineModeIsEnabled as error:
        raise UserError(
            f"HF_HUB_OFFLINE is set, so {part.repository} can't be fetched; unset it, or give --from DIR"
        ) from error
    except (HTTPError, OSError) as error:
        raise UserError(
            f"can't reach {part.repository} on {constants.ENDPOINT} ({type(error).__name__}); check the network, set "
            "HF_ENDPOINT to a mirror, or give --from DIR with the files"
        ) from error
    files = []
    for sibling in info.siblings or []:
        if _wanted(part, sibling.rfilename):
            stated = sibling.lfs.sha256 if sibling.lfs else None
            known = _registered(sibling.rfilename)
            sha256 = known.sha256 if known and known.sha256 else stated
            files.append(RemoteFile(part, sibling.rfilename, sibling.size, sha256))
    _check_complete(part, {file.path for file in files}, part.repository)
    return files


def _in_folder(part: Part, source: Path) -> list[RemoteFile]:
    """The files of a part that a folder holds, beside each other or in folders of their repository's name."""
    if not source.is_dir():
        raise UserError(f"there is no folder {source} to take the model from; correct --from")
    found: dict[str, Path] = {}
    for root in _roots(part, source):
        for path in sorted(match for pattern in part.patterns for match in root.glob(pattern)):
            if path.is_file():
                found.setdefault(path.relative_to(root).as_posix(), path)
    _check_complete(part, found.keys(), str(source))
    files = []
    for relative, path in found.items():
        known = _registered(relative)
        files.append(RemoteFile(part, relative, path.stat().st_size, known.sha256 if known else None))
    return files


def _roots(part: Part, source: Path) -> Iterator[Path]:
    """Where a repository's files may lie in an offline folder."""
    owner, name = part.repository.split("/")
    for root in (source / name, source / owner / name, source):
        if root.is_dir():
            yield root


def _origin(file: RemoteFile, source: Path) -> Path:
    return next(root / file.path for root in _roots(file.part, source) if (root / file.path).is_file())


def _wanted(part: Part, path: str) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in part.patterns)


def _check_complete(part: Part, paths: Iterable[str], where: str) -> None:
    """Every file we name is there, and at least one of every folder."""
    paths = list(paths)
    needed = [pattern for pattern in part.patterns if pattern not in ("LICENSE*", "model_index.json")]
    if absent := [pattern for pattern in needed if not any(fnmatch.fnmatch(path, pattern) for path in paths)]:
        raise UserError(f"{where} lacks {listing(absent)} of {part.repository}; complete it or name another folder")


def _is_there(file: RemoteFile, folder: Path) -> bool:
    """Whether the target is whole. Hashes of files already in place are trusted to the size, which takes no hour."""
    target = file.target(folder)
    return target.is_file() and (file.size is None or target.stat().st_size == file.size)


def _fetch(file: RemoteFile, folder: Path) -> None:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import HTTPError, LocalEntryNotFoundError

    try:
        hf_hub_download(file.part.repository, file.path, local_dir=folder / file.part.folder)
    except (HTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{file.path} could not be fetched ({reason}); run the same command again to resume") from error


def _partial(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _copy(origin: Path, file: RemoteFile, folder: Path) -> None:
    """Copy in pieces into a ``.part`` file, going on where an earlier copy stopped, and move it into place."""
    target = file.target(folder)
    if target.exists() and target.samefile(origin):
        return
    partial = _partial(target)
    partial.parent.mkdir(parents=True, exist_ok=True)
    done = partial.stat().st_size if partial.exists() else 0
    with origin.open("rb") as reader, partial.open("ab") as writer:
        reader.seek(done)
        shutil.copyfileobj(reader, writer, CHUNK_BYTES)
    partial.replace(target)


def _verify(file: RemoteFile, folder: Path) -> None:
    target = file.target(folder)
    if file.size is not None and target.stat().st_size != file.size:
        found = format_bytes(target.stat().st_size)
        target.unlink()
        raise UserError(f"{file.path} came as {found}, not {format_bytes(file.size)}; run the same command again")
    if file.sha256 is not None and (found := sha256_of(target)) != file.sha256:
        target.unlink()
        raise UserError(f"{file.path} came with sha256 {found}, not {file.sha256}, and was removed; fetch it again")
    logger.debug("%s verified%s", PurePosixPath(file.path).name, "" if file.sha256 else " by size alone")
