"""What a server allows, and which of a job's settings its clients may choose."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from flashportrait.errors import UserError
from flashportrait.intake import Limits
from flashportrait.job import Job, Setting

OWN = (
    *("portrait", "driving", "output", "keep_work", "restart", "lora", "lora_strength", "sign_cert", "sign_key"),
    *("device", "dtype", "threads", "attention", "compile", "weights", "offload", "frames"),
)
"""Settings that are the server's own: paths on its disk, and how its machine is used."""

FORMATS = {
    "mp4": "video/mp4",
    "webm": "video/webm",
    "gif": "image/gif",
    "webp": "image/webp",
}
"""What results may be, with their types."""


@dataclass(frozen=True)
class ServiceSettings:
    """Of one server."""

    data: Path
    """Folder of jobs, results and their list; made if it is missing."""
    workers: int | None = None
    """Jobs that run at a time; None for one, or on a cluster one for each GPU, or each node where there are none."""
    ray: str | None = None
    """Address of a Ray cluster that runs the jobs, or ``local`` to start one; None for processes of this machine."""
    models: tuple[str, ...] = ("nano",)
    """Models that clients may choose, the first by default: names, or folders by their last part."""
    templates: Path | None = None
    """Folder of motion templates and videos that clients may name in the place of a driver."""
    limits: Limits = field(default_factory=Limits)
    """Of an uploaded file."""
    looks: int = 4
    """Uploads that are looked at at a time, the others waiting; each look may hold ``limits.memory``."""
    size: int = 1280
    """Longest side of a result in pixels."""
    waiting: int = 1000
    """Jobs that may wait, of all clients."""
    keep_seconds: float = 24 * 3600.0
    """How long results stay."""
    tries: int = 3
    """How often a job is begun, if workers die over it."""
    fetch: bool = False
    """Whether clients may give addresses (https) in the place of files."""
    unmarked: bool = False
    """Whether clients may switch the marks of synthetic media off."""
    threads: int | None = None
    """CPU threads of a worker; None to share the cores out."""
    memory: int | None = 16 << 30
    """Bytes that a worker may hold; None for no limit, as is needed on a GPU."""

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise UserError(f"{self.workers} workers were asked for: give a whole number from 1 up")

    @property
    def jobs(self) -> Path:
        """Folder of the jobs' own folders."""
        return self.data / "jobs"

    def model_names(self) -> dict[str, str]:
        """What clients call the models, and what a job does."""
        return {Path(model).name: model for model in self.models}


def offered(settings: ServiceSettings) -> dict[str, Setting]:
    """Settings that clients may choose, by name."""
    left_out = {*OWN, *(() if settings.unmarked else ("mark",))}
    return {name: setting for name, setting in Job.settings().items() if name not in left_out}
