"""Loaded models with one owner, so that a process that runs many jobs loads each once."""

from __future__ import annotations

import gc
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from flashportrait.errors import UserError
from flashportrait.job.job import MODELS, Job

if TYPE_CHECKING:
    from flashportrait.distributed.ranks import Ranks
    from flashportrait.drawing import MeshPipeline
    from flashportrait.pipeline import FlashPortraitPipeline
    from flashportrait.weights.machine import Machine
    from flashportrait.weights.plan import Plan


class ModelCache:
    """Keeps the models last used, until it is closed; a context manager.

    A model is kept by what decides how it is loaded: its name or folder, device, type, LoRAs and, for the 14B, how it
    is fitted to the machine. Only one run at a time uses the cache; others wait.

    Args:
        capacity: models kept at once; the one not used for longest makes room before another is loaded.
        ranks: other processes that share the passes of the network, and hold one model at a time.
    """

    def __init__(self, capacity: int = 1, ranks: Ranks | None = None) -> None:
        self.capacity = capacity if ranks is None else 1
        self._ranks = ranks
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
        from flashportrait.weights.machine import default_device, detect_machine

        chosen = torch_device(own_device(device, self._ranks)) or default_device()
        with self._lock:
            if str(chosen) not in self._machines:
                self.close()  # what is held would count as taken for ever
                machine = detect_machine(chosen)
                self._machines[str(chosen)] = machine if self._ranks is None else _share_of(machine, self._ranks)
            return self._machines[str(chosen)]

    @contextmanager
    def using(self, job: Job, plan: Plan | None = None) -> Iterator[FlashPortraitPipeline | MeshPipeline]:
        """The job's model, loaded if it isn't there, and nobody else's until the block ends.

        Of a model whose result is all drawn on a mesh, unless the job says otherwise, no network is loaded.

        Raises:
            UserError: there is no such model or device, it is damaged, or a LoRA doesn't fit it.
        """
        with self._lock:
            drawn = None if plan is not None or self._ranks is not None else drawn_alone(job)
            if drawn is not None:
                yield drawn  # it holds nothing that is worth keeping
                return
            key = _key(job, plan)
            if key not in self._pipelines:
                while len(self._pipelines) >= max(1, self.capacity):
                    self._pipelines.popitem(last=False)
                    _free()
                self._pipelines[key] = _load(job, plan) if self._ranks is None else load_shared(job, plan, self._ranks)
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


def drawn_alone(job: Job) -> MeshPipeline | None:
    """What draws the job's result where all of it is drawn, and nothing is asked of the model's network.

    Raises:
        UserError: there is no such model or device.
    """
    from flashportrait.drawing import MeshPipeline
    from flashportrait.weights.folder import model_folder, read_index
    from flashportrait.weights.loading import released_model

    if job.lora or job.compile or job.attention is not None or released_model(job.model) is not None:
        return None
    folder = model_folder(job.model)
    index = read_index(folder)
    if not MeshPipeline.suffices(index, job.refine):
        return None
    torch_device(job.device)
    return MeshPipeline(index, folder.name)


def _key(job: Job, plan: Plan | None) -> Hashable:
    """What decides a loaded pipeline; files count with their time of change."""
    files = (Path(job.model) / name for name in ("model_index.json", "transformer.pt"))
    model = job.model if job.model in MODELS else tuple(map(_stamp, files))
    fitted = None if plan is None else (plan.storage, plan.placement, plan.text_encoder, plan.float8, plan.compiled)
    return (
        model,
        job.device,
        job.dtype,
        job.attention,
        job.compile,
        tuple(map(_stamp, job.lora)),
        job.lora_strength,
        fitted,
    )


def _stamp(file: Path) -> tuple[str, int | None]:
    return str(file.resolve()), file.stat().st_mtime_ns if file.exists() else None


def _load(
    job: Job, plan: Plan | None, device: str | None = None, *, network_only: bool = False, splittable: bool = False
) -> FlashPortraitPipeline:
    import torch

    from flashportrait.loading import load_pipeline
    from flashportrait.weights.kernels import compile_blocks, set_attention

    pipeline = load_pipeline(
        job.model,
        device=torch_device(device or job.device),
        dtype=None if job.dtype is None else getattr(torch, job.dtype),
        plan=plan,
        loras=[(file, job.lora_strength) for file in job.lora],
        network_only=network_only,
    )
    set_attention(pipeline.transformer, job.attention, pipeline._execution_device, splittable=splittable)
    if job.compile and plan is None:  # or else it is the plan's to say
        compile_blocks(pipeline.transformer, splittable=splittable)
    return pipeline


def _share_of(machine: Machine, ranks: Ranks) -> Machine:
    """What each of several processes has; those of one machine share its host memory."""
    ram = machine.free_ram // ranks.local_size
    vram = ram if machine.unified else machine.free_vram
    return replace(machine, free_vram=vram, free_ram=ram, processes=ranks.size)


def own_device(name: str | None, ranks: Ranks | None) -> str | None:
    """The device of this process among others; alone, what was asked for."""
    return name if ranks is None else ranks.device(name)


def load_shared(job: Job, plan: Plan | None, ranks: Ranks) -> FlashPortraitPipeline:
    """The job's model in the leading process, with its network in all others.

    Raises:
        UserError: as of loading alone, or a process has other versions or weights.
    """
    from flashportrait.distributed.passes import SharedPasses, check_alike

    ranks.tell({"kind": "load", "job": job.absolute().to_dict(), "plan": plan})
    device = ranks.device(job.device)
    pipeline = _load(job, plan, device, splittable=True)
    check_alike(ranks.gather(_identity(pipeline)))
    pipeline.passes = SharedPasses(ranks, pipeline.transformer, device)
    return pipeline


def follow(ranks: Ranks) -> None:
    """Answer the leading process until it is done.

    Raises:
        UserError: it is gone, or the model can't be loaded here.
    """
    from flashportrait.distributed import passes

    def load(message: dict[str, Any]) -> tuple[Any, str, dict[str, Any]]:
        job = Job.from_dict(message["job"])
        device = ranks.device(job.device)
        pipeline = _load(job, message["plan"], device, network_only=True, splittable=True)
        return pipeline.transformer, device, _identity(pipeline)

    passes.follow(ranks, load)


def _identity(pipeline: FlashPortraitPipeline) -> dict[str, Any]:
    """What must be the same in every process."""
    from flashportrait.workdir import model_digest, package_versions

    return {**package_versions(), "weights": model_digest({"transformer": pipeline.transformer})}


def _free() -> None:
    """Give freed memory back to the device."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    elif torch.backends.mps.is_available():
        torch.mps.empty_cache()
