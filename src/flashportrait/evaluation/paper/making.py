"""Makes the tables: runs every row on every clip once, keeps what it measured, and says what order came out."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from flashportrait.errors import UserError
from flashportrait.evaluation import metrics
from flashportrait.evaluation.paper import methods
from flashportrait.evaluation.paper.clips import Clip, decode, make_clip
from flashportrait.evaluation.paper.running import STEPS, Judge, Runner, Sample, tuned
from flashportrait.evaluation.paper.tables import Claim, Table, make_table
from flashportrait.evaluation.paper.windows import passes_to_first_frame, seam
from flashportrait.media.place import written_whole
from flashportrait.pipeline import FlashPortraitPipeline
from flashportrait.sampling.windows import WindowPlan
from flashportrait.workdir import describe_model, package_versions

ClipKind = tuple[str, int]
"""Kind of performance, frames."""
CLIPS: dict[bool, tuple[ClipKind, ...]] = {
    False: (("talking", 33), ("large", 33), ("calm", 33)) * 2,
    True: (("talking", 181), ("large", 181), ("calm", 181)),
}
"""By whether they are long."""
QUICK_CLIPS: dict[bool, tuple[ClipKind, ...]] = {False: (("talking", 17), ("large", 17)), True: (("large", 45),)}
FEW = 3
"""Clips below which an order is said to be of those clips alone."""
TUNING_FRAMES, TUNING_ROUNDS, QUICK_TUNING_ROUNDS = 17, 8, 5
CACHE_CALLS = (15, 6)
"""Calls at which caches are compared: the half, where TeaCache stands in the paper, and as many as K = 5 makes."""
SEEN = 2.0
"""Standard errors within which two rows can't be told apart."""
STATE = "paper.json"

OnCell = Callable[[str], object]
"""Told of each row that has been run on a clip."""


@dataclass(frozen=True)
class Verdict:
    """Whether an order that the paper reports came out here."""

    claim: str
    measure: str
    outcome: str
    """``same order``, ``other order``, or ``can't be told`` (the difference is within its error)."""
    clips: int


@dataclass(frozen=True)
class Result:
    """A table as it came out."""

    table: Table
    rows: tuple[dict[str, Any], ...]
    """Name of each row, mean of each measure over the clips and, as ``NAME_error``, its standard error."""
    verdicts: tuple[Verdict, ...]
    clips: tuple[ClipKind, ...]


class PaperTables:
    """The tables of one model, in a folder.

    What each row measured on each clip is kept there (``cells``), so that an interrupted run goes on where it stopped
    and nothing is computed twice.

    Args:
        pipeline: a model that reads the motion of drawn people. One that draws the portrait with the driver's
            expression is shown it with its own, so that expression is the network's work, and all that the network
            changes is taken over.
        folder: where.
        quick: few rows on one or two short clips, within minutes.
        seed: of people, performances and noise.

    Raises:
        UserError: another model, or other settings, in this folder; or a model whose motion drawn people don't have.
    """

    def __init__(self, pipeline: FlashPortraitPipeline, folder: Path, *, quick: bool, seed: int) -> None:
        if pipeline.config.motion_layout != "blendshapes":
            raise UserError(
                f"this model reads motion of {pipeline.config.motion_layout}, which drawn people don't have: the "
                "tables can be made on nano, or on another model that reads blendshapes"
            )
        if pipeline.config.reference == "animated":
            pipeline.register_to_config(reference="turned")
        self._pipeline, self._folder, self._quick, self._seed = pipeline, folder, quick, seed
        self._cells = folder / "cells"
        self._cells.mkdir(parents=True, exist_ok=True)
        self.provenance = self._bind()
        """Model, versions and settings, in words."""
        methods.register_blocks()
        self._runner, self._judge = Runner(pipeline), Judge()
        self._clips: dict[tuple[str, int, int], Clip] = {}
        self._exact: dict[tuple[str, int, int], tuple[Sample, np.ndarray]] = {}

    @property
    def judges_identity(self) -> bool:
        """Whether likeness to the portrait can be measured."""
        return self._judge.embedder is not None

    def clips_of(self, number: int) -> tuple[ClipKind, ...]:
        """Kinds and frames of a table's clips."""
        return (QUICK_CLIPS if self._quick else CLIPS)[number == 3]

    def make(self, number: int, on_cell: OnCell = lambda name: None) -> Result:
        """Make one table."""
        settings = self._pipeline.settings("exact")
        dial = self._pipeline.config.defaults.get("speeds")
        table = make_table(number, settings, dial, self._caches, quick=self._quick)
        kinds, cells = self.clips_of(number), {method.name: [] for method in table.rows}
        for index, (kind, frames) in enumerate(kinds):
            for method in table.rows:
                cells[method.name].append(self._cell(method, kind, frames, index))
                on_cell(f"{method.name}, {kind}")
        rows = tuple(_summary(table.labels.get(method.name, method.name), cells[method.name]) for method in table.rows)
        verdicts = tuple(
            judged(claim, measure, cells) for claim in table.claims for measure in claim.measures if claim.worse
        )
        return Result(table, rows, verdicts, kinds)

    def _bind(self) -> dict[str, str]:
        """What decides the figures; refuses a folder of others."""
        pipeline, path = self._pipeline, self._folder / STATE
        settings = pipeline.settings("exact")
        own = {
            "model": describe_model(pipeline)["model"],
            "precision": str(pipeline.transformer.dtype).removeprefix("torch."),
            "window": str(settings.window),
            "emotion_scale": f"{settings.emotion_scale:g}",
            "temperature": f"{settings.temperature:g}",
            "reference": pipeline.config.reference,
            "quick": str(self._quick).lower(),
            "seed": str(self._seed),
        }
        if path.is_file():
            there = json.loads(path.read_text())
            if changed := [name for name in own if there.get(name) != own[name]]:
                raise UserError(
                    f"'{self._folder}' holds tables made with other {' and '.join(changed)}: give another folder"
                )
            return there
        own |= {name: str(version) for name, version in package_versions().items()}
        with written_whole(path) as part:
            part.write_text(json.dumps(own, indent=1) + "\n")
        return own

    def _cell(self, method: methods.Method, kind: str, frames: int, index: int) -> dict[str, float]:
        """What a row measures on a clip, from the folder if it is there."""
        seed = self._seed + index
        key = hashlib.sha256(f"{method.name} {kind} {frames} {seed}".encode()).hexdigest()[:16]
        path = self._cells / f"{key}.json"
        if path.is_file():
            return json.loads(path.read_text())["measures"]
        clip = self._clip(kind, frames, seed)
        reference, pictures = self._exact_run(clip)
        if method.name == methods.exact(STEPS).name:
            sample, made = reference, pictures
        else:
            sample = self._runner.run(method, clip)
            made = decode(self._pipeline, sample.latents, clip)
        measures = self._judge.compare(clip, made, pictures)
        measures |= {
            "calls": STEPS * sample.block_runs / reference.block_runs,
            "seconds": sample.seconds,
            "latent_rel_error": metrics.latent_relative_error(sample.latents, reference.latents),
        }
        measures |= self._of_windows(method, clip, made)
        kept = {"method": method.name, "clip": kind, "frames": frames, "seed": seed, "measures": measures}
        with written_whole(path) as part:
            part.write_text(json.dumps(kept, indent=1) + "\n")
        return measures

    def _of_windows(self, method: methods.Method, clip: Clip, made: np.ndarray) -> dict[str, float]:
        """Seams and latency, on clips of several windows."""
        settings = self._pipeline.settings("exact")
        overlap = method.sampling.get("overlap", settings.overlap)
        plan = WindowPlan(clip.noise.shape[2], settings.window, overlap)
        joined = seam(made, clip.truth, plan)
        if joined is None:
            return {}
        order = None if method.sampler is not None else method.sampling.get("schedule", "diagonal")
        return {"seam": joined, "first_frame": passes_to_first_frame(order, plan, STEPS)}

    def _clip(self, kind: str, frames: int, seed: int) -> Clip:
        key = (kind, frames, seed)
        if key not in self._clips:
            self._clips[key] = make_clip(self._pipeline, kind, frames, seed, self._pipeline.settings("exact").window)
        return self._clips[key]

    def _exact_run(self, clip: Clip) -> tuple[Sample, np.ndarray]:
        """The clip with every step computed, in windows as the paper weighs them, and its frames."""
        key = (clip.kind, len(clip), clip.seed)
        if key not in self._exact:
            sample = self._runner.run(methods.exact(STEPS), clip)
            self._exact[key] = sample, decode(self._pipeline, sample.latents, clip)
        return self._exact[key]

    def _caches(self) -> list[methods.Method]:
        """TeaCache and others at matched numbers of calls; thresholds that were found are kept."""
        path = self._folder / "thresholds.json"
        found: dict[str, float] = json.loads(path.read_text()) if path.is_file() else {}
        search: list[methods.Tune] = []

        def tune(family: str, configure: methods.Configure, calls: int) -> float:
            name = f"{family} {calls}"
            if name not in found:
                if not search:
                    search.append(self._search())
                found[name] = search[0](family, configure, calls)
                with written_whole(path) as part:
                    part.write_text(json.dumps(found, indent=1) + "\n")
            return found[name]

        families = ("TeaCache",) if self._quick else ("TeaCache", "FirstBlockCache", "TaylorSeer n=1")
        chosen = []
        for calls in CACHE_CALLS:
            every = methods.caches(calls, STEPS, [], tune, lambda name: name.split(" ~")[0] in families)
            chosen += [method for method in every if method.family in families]
        return chosen

    def _search(self) -> methods.Tune:
        pipeline = self._pipeline
        clip = make_clip(pipeline, "talking", TUNING_FRAMES, self._seed - 1, pipeline.settings("exact").window)
        whole = self._runner.run(methods.exact(STEPS), clip).block_runs
        rounds = QUICK_TUNING_ROUNDS if self._quick else TUNING_ROUNDS
        return tuned(self._runner, clip, whole / STEPS, rounds)


def _summary(name: str, cells: Sequence[dict[str, float]]) -> dict[str, Any]:
    """Means over clips, with their standard errors where there are several."""
    row: dict[str, Any] = {"name": name}
    for measure in dict.fromkeys(key for cell in cells for key in cell):
        values = [cell[measure] for cell in cells if measure in cell]
        finite = len(values) == len(cells) and all(map(math.isfinite, values))
        row[measure] = statistics.mean(values) if finite else None
        if finite and len(values) > 1:
            row[f"{measure}_error"] = statistics.stdev(values) / math.sqrt(len(values))
    return row


def judged(claim: Claim, measure: str, cells: dict[str, list[dict[str, float]]]) -> Verdict:
    """Whether the better row is the better one here, from its differences with the other clip by clip.

    Lower is better. One clip tells an order, but not whether another clip would give it as well.
    """
    pairs = zip(cells[claim.better], cells[claim.worse], strict=True)
    differences = [
        worse[measure] - better[measure] for better, worse in pairs if measure in better and measure in worse
    ]
    if not differences:
        return Verdict(claim.words, measure, "can't be told", 0)
    mean, count = statistics.mean(differences), len(differences)
    error = statistics.stdev(differences) / math.sqrt(count) if count > 1 else 0.0
    order = "same order" if mean > 0 else "other order"
    return Verdict(claim.words, measure, "can't be told" if abs(mean) <= SEEN * error or mean == 0 else order, count)
