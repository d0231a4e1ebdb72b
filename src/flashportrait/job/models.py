"""Loaded models with one owner, so that a process that runs many jobs loads each once."""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flashportrait.errors import UserError
from flashportrait.job.job import MODELS, Job

if TYPE_CHECKING:
    from flashportrait.pipeline import FlashPortraitPipeline
    from flashportrait.weights.plan import Machine, Plan


class ModelCache:
    """Keeps the models last used, until it is closed; a context manager.

    A model is kept by what decides how it is loaded: its name or folder, device, type, LoRAs and, for the 14B, how it
    is fitted to the machine. Only one run at a time uses the cache; others wait.

    Args:
        capacity: models kept at once; the one not used for longest makes room before another is loaded.
    """

    def __init__(self, capacity: int = 1) -> None:
        self.capacity = capacity
        self._pipelines: OrderedDict[Hashable, FlashPortraitPipeline] = OrderedDict()
        self._machines: dict[str, Machine] = {}
        self._lock = threading.RLock()

    def __enter__(self) -> ModelCache:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __len__(self) -> int:
        """Models held."""
        return len(self._pipelines)

    def machine(self, device: str | None) -> Machine:
        """What there is to compute with when the cache holds nothing."""
        from flashportrait.loading import default_device
        from flashportrait.weights.plan import detect_machine

        chosen = torch_device(device) or default_device()
        with self._lock:
            if str(chosen) not in self._machines:
                self.close()  # what is held would count as taken for ever
                self._machines[str(chosen)] = detect_machine(chosen)
            return self._machines[str(chosen)]

    @contextmanager
    def using(self, job: Job, plan: Plan | None = None) -> Iterator[FlashPortraitPipeline]:
        """The job's model, loaded if it isn't there, and nobody else's until the block ends.

        Raises:
            UserError: there is no such model or device, it is damaged, or a LoRA doesn't fit it.
        """
        with self._lock:
            key = _key(job, plan)
            if key not in self._pipelines:
                while len(self._pipelines) >= max(1, self.capacity):
                    self._pipelines.popitem(last=False)
                    _free()
                self._pipelines[key] = _load(job, plan)
            self._pipelines.move_to_end(key)
            yield self._pipelines[key]

    def close(self) -> None:
        """Let go of all models, and give their memory back."""
        with self._lock:
            if self._pipelines:
                self._pipelines.clear()
                _free()


def torch_device(name: str | None) -> Any:
    """The named device; None (choose the best) stays None.

    Raises:
        UserError: no such device here.
    """
    if name is None:
        return None
    import torch

    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"the device '{name}' can't be used ({reason}): see `flashportrait doctor`") from error
    return device


def _key(job: Job, plan: Plan | None) -> Hashable:
    """What decides a loaded pipeline; files count with their time of change."""
    files = (Path(job.model) / name for name in ("model_index.json", "transformer.pt"))
    model = job.model if job.model in MODELS else tuple(map(_stamp, files))
    fitted = None if plan is None else (plan.storage, plan.placement, plan.text_encoder)
    return model, job.device, job.dtype, tuple(map(_stamp, job.lora)), job.lora_strength, fitted


def _stamp(file: Path) -> tuple[str, int | None]:
    return str(file.resolve()), file.stat().st_mtime_ns if file.exists() else None


def _load(job: Job, plan: Plan | None) -> FlashPortraitPipeline:
    import torch

    from flashportrait.loading import load_pipeline

    return load_pipeline(
        job.model,
        device=torch_device(job.device),
        dtype=None if job.dtype is None else getattr(torch, job.dtype),
        plan=plan,
        loras=[(file, job.lora_strength) for file in job.lora],
    )


def _free() -> None:
    """Give freed memory back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
