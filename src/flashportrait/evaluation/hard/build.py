"""Draws a hard set into a folder, performance by performance, and goes on where it stopped."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from flashportrait.drawing import side_by_side
from flashportrait.errors import UserError
from flashportrait.evaluation.fitting import draw_portrait
from flashportrait.evaluation.hard.actors import Actor, DrawnActor, RigActor, for_the_rig, within_both
from flashportrait.evaluation.hard.content import picture_digest, video_content
from flashportrait.evaluation.hard.occlusion import draw_occlusions
from flashportrait.evaluation.hard.recipe import KINDS, RATE, Performance, Recipe, standard_rows
from flashportrait.evaluation.protocols import Entry, write_manifest, write_table
from flashportrait.face.motion import MotionFeatures
from flashportrait.files import sha256_of
from flashportrait.inputs import FaceChoice, FramedPortrait, Framing, frame_portrait
from flashportrait.media.place import written_whole
from flashportrait.media.writer import VideoWriter
from flashportrait.result import to_pictures

FRAMING = Framing(mode="face", face_size=0.52, face_center=(0.5, 0.48))
"""How pictures of a folder are cut."""
MOST_TURNED = 0.35
"""Radians of yaw beyond which a picture has too little to show on the other side."""
CHUNK = 8
"""Frames drawn together."""
COLUMNS = ("name", "kind", "frames", "rows", "portrait", "driving", "truth", "driving_look", "truth_look")
MANIFEST, TABLE, RECIPE = "manifest.csv", "hashes.csv", "set.json"

OnFrames = Callable[[int], object]
"""Told how many more frames have been drawn."""


@dataclass(frozen=True)
class _Cast:
    """Who is seen in one performance."""

    portrait: Tensor
    """The picture to animate, [3 s s] in [0, 1]."""
    animated: Actor
    performer: Actor
    rows: Tensor
    """What both perform, [t 57]."""


class HardSet:
    """A folder with (part of) a hard set.

    Each performance is a folder under ``items``: ``portrait.png``, ``driving.mp4`` (somebody else performs, at times
    hidden), ``truth.mp4`` (the person of the portrait performs the same, never hidden) and ``motion.safetensors`` (the
    rows of both). ``manifest.csv`` lists them for ``evaluate``, ``drawn.csv`` and ``rig.csv`` each half of them, and
    ``hashes.csv`` tells what they show.

    Args:
        folder: where.
        recipe: what it is made of.

    Raises:
        UserError: a set of another recipe is there, or the folder can't be made.
    """

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe = folder, recipe
        self._items = folder / "items"
        try:
            self._items.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"the folder '{folder}' can't be made ({error.strerror}): choose another") from error
        digests = {path.name: sha256_of(path) for path in recipe.portraits}
        self._bind(recipe.to_dict(digests))

    def _bind(self, own: dict[str, Any]) -> None:
        path = self.folder / RECIPE
        if path.is_file():
            there = json.loads(path.read_text())
            if changed := [name for name in own if there.get(name) != own[name]]:
                raise UserError(
                    f"'{self.folder}' holds a set made with other {' and '.join(changed)}: give another folder"
                )
            return
        with written_whole(path) as part:
            part.write_text(json.dumps(own, indent=1) + "\n")

    def missing(self, first: int, count: int) -> list[int]:
        """Numbers of performances ``first .. first + count - 1`` that are not there yet."""
        there = {int(row["name"].split("-")[0]) for row in self.table()}
        return [number for number in range(first, first + count) if number not in there]

    def table(self) -> list[dict[str, str]]:
        """What is there, a row of ``COLUMNS`` each, in order."""
        files = sorted(self._items.glob("[0-9]*/item.json"))
        return [json.loads(file.read_text()) for file in files]

    def build(self, number: int, on_frames: OnFrames = lambda count: None) -> dict[str, str]:
        """Draw one performance, and bring the tables up to date.

        Raises:
            UserError: this machine computes another performance than the standard set's, a picture can't be used, or
                the disk is full.
        """
        performance = self.recipe.performance(number)
        self._check_standard(performance)
        cast = self._cast(performance)
        with TemporaryDirectory(prefix=f".{performance.name}-", dir=self._items) as name:
            part = Path(name) / performance.name
            part.mkdir()
            row = self._write(part, performance, cast, on_frames)
            os.replace(part, self._items / performance.name)
        self.write_tables()
        return row

    def _check_standard(self, performance: Performance) -> None:
        if not self.recipe.is_standard:
            return
        for row in standard_rows():
            if row["name"] == performance.name and row["rows"] != performance.digest:
                raise UserError(
                    f"performance {performance.number} isn't the standard set's on this machine: its arithmetic "
                    "rounds otherwise; please report this with the output of `flashportrait doctor`"
                )

    def _cast(self, performance: Performance) -> _Cast:
        size = self.recipe.size
        if performance.kind == "drawn":
            people = []
            for seed in performance.seeds:
                people.append(draw_portrait(torch.Generator().manual_seed(seed), size))
            (own, framed), (other, _) = people
            return _Cast(framed.pixels[0], DrawnActor(own, size), DrawnActor(other, size), performance.rows)
        animated, performer = (RigActor(framed, size) for framed in self._portraits(performance))
        rows = within_both(for_the_rig(performance.rows), animated, performer)
        portrait = animated.draw(animated.portrait_row(*performance.turn)[None])[0]
        return _Cast(portrait, animated, performer, rows)

    def _portraits(self, performance: Performance) -> Iterator[FramedPortrait]:
        """Of the person who is animated, and of the one who performs."""
        paths = self.recipe.portraits
        if not paths:
            for seed in performance.seeds:
                yield draw_portrait(torch.Generator().manual_seed(seed), self.recipe.size)[1]
            return
        turn = performance.number // 2
        for index in (turn, turn + 1 + (turn // len(paths)) % (len(paths) - 1)):
            yield usable_portrait(paths[index % len(paths)], self.recipe.size)

    def _write(self, part: Path, performance: Performance, cast: _Cast, on_frames: OnFrames) -> dict[str, str]:
        Image.fromarray(to_pictures(cast.portrait[None])[0]).save(part / "portrait.png")
        provenance = f"performance {performance.number} of a hard set, seed {self.recipe.seed}"
        MotionFeatures(cast.rows.numpy(), Fraction(RATE), provenance=provenance).save(part / "motion.safetensors")

        def driving(first: int) -> Tensor:
            rows = cast.rows[first : first + CHUNK]
            seconds = [(first + index) / RATE for index in range(len(rows))]
            frames, places = cast.performer.draw(rows), cast.performer.places(rows)
            return draw_occlusions(
                frames, seconds, places, performance.occlusions, cast.performer.skin, cast.performer.hair
            )

        def truth(first: int) -> Tensor:
            return cast.animated.draw(cast.rows[first : first + CHUNK])

        row = {"name": performance.name, "kind": performance.kind, "frames": str(len(performance))}
        row |= {"rows": performance.digest, "portrait": picture_digest(part / "portrait.png")}
        for name, draw in (("driving", driving), ("truth", truth)):
            path = part / f"{name}.mp4"
            with VideoWriter(path, Fraction(RATE)) as writer:
                for frames in side_by_side(draw, range(0, len(cast.rows), CHUNK), torch.get_num_threads()):
                    for frame in to_pictures(frames):
                        writer.write(frame)
                    on_frames(len(frames))
            content = video_content(path, len(performance))
            row |= {name: content.digest, f"{name}_look": content.look}
        (part / "item.json").write_text(json.dumps(row, indent=1) + "\n")
        return row

    def write_tables(self) -> None:
        """Write manifests and table of what is there."""
        rows = self.table()
        write_table(self.folder / TABLE, COLUMNS, rows)
        for kind in (None, *KINDS):
            own = [row for row in rows if kind in (None, row["kind"])]
            path = self.folder / (MANIFEST if kind is None else f"{kind}.csv")
            write_manifest(path, [self._entry(row["name"]) for row in own])

    def _entry(self, name: str) -> Entry:
        item = self._items / name
        result = self.folder / "results" / f"{name}.mp4"
        return Entry(item / "portrait.png", item / "driving.mp4", result, item / "truth.mp4")


def usable_portrait(path: Path, size: int) -> FramedPortrait:
    """A picture cut to the square around its face.

    Raises:
        UserError: it can't be read, shows no face, or one turned too far.
    """
    try:
        framed = frame_portrait(path, FRAMING, FaceChoice(), size, "face")
    except UserError as error:
        raise UserError(f"'{path.name}' can't perform: {error}") from error
    if framed.warning is not None:
        raise UserError(f"'{path.name}' can't perform: {framed.warning}")
    if framed.row is None or abs(float(framed.row[0])) > MOST_TURNED:
        raise UserError(f"'{path.name}' can't perform: its face is turned too far to the side; remove it")
    return framed


def read_table(path: Path) -> dict[str, dict[str, str]]:
    """Rows of a table of hashes by name.

    Raises:
        UserError: it can't be read, or is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"the table '{path}' can't be read ({error}): give a hashes.csv of a hard set") from error
    if not rows or not {"name", "rows"} <= rows[0].keys():
        raise UserError(f"'{path}' has no columns name and rows: give a hashes.csv of a hard set")
    return {row["name"]: row for row in rows}
