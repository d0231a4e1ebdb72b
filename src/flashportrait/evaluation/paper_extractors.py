"""The profile ``paper``: SMIRK, ArcFace and I3D, from files that the user brings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from flashportrait.errors import UserError
from flashportrait.evaluation.arcface import ArcFace
from flashportrait.evaluation.extractors import Embedder, FaceRows, packaged
from flashportrait.evaluation.features import Extractors
from flashportrait.evaluation.profiles import ARCFACE, I3D, PAPER, SMIRK, GivenExtractor, Profile
from flashportrait.evaluation.smirk import MEASURED, SmirkReader
from flashportrait.face.blendshapes import FaceObservation
from flashportrait.face.motion import fill_gaps
from flashportrait.files import sha256_of


@dataclass(frozen=True)
class PaperFiles:
    """Weights of the papers' extractors; no package carries them."""

    smirk: Path
    arcface: Path
    i3d: Path | None = None
    """For FVD."""

    @classmethod
    def checked(cls, smirk: Path | None, arcface: Path | None, i3d: Path | None, fvd: bool) -> PaperFiles:
        """Of what was given.

        Raises:
            UserError: a file that is needed isn't given; all of them.
        """
        given = ((SMIRK, smirk), (ARCFACE, arcface), *(((I3D, i3d),) if fvd else ()))
        absent = [each for each, path in given if path is None]
        if smirk is None or arcface is None or absent:
            needs = "; ".join(f"{each.name} ({each.option} FILE): {each.advice}" for each in absent)
            raise UserError(f"the profile 'paper' needs {needs}")
        return cls(smirk, arcface, i3d)


class PaperExtractors(Extractors):
    """SMIRK and ArcFace, on faces that the face landmarker finds, as SMIRK's own code does.

    Args:
        files: the weights.
        cache: folder in which features are kept; None to keep nothing.

    Raises:
        UserError: a file is missing, or holds something else; or onnxruntime isn't installed.
    """

    profile: ClassVar[Profile] = PAPER

    def __init__(self, files: PaperFiles, cache: Path | None) -> None:
        self._files: dict[GivenExtractor, Path | None] = {SMIRK: files.smirk, ARCFACE: files.arcface, I3D: files.i3d}
        self._smirk = SmirkReader(files.smirk)
        super().__init__(cache)

    def _make_embedder(self) -> Embedder:
        path = self._files[ARCFACE]
        assert path is not None
        return ArcFace(path)

    def told(self, name: str) -> dict[str, Any]:
        for given, path in self._files.items():
            if given.name == name and path is not None:
                told = {"name": name, "file": path.name, "source": given.source, "licence": given.licence}
                faces = {} if given is I3D else {"faces": packaged("face_landmarker")}
                return {**told, "sha256": sha256_of(path), **faces}
        return packaged(name)

    @property
    def _readers(self) -> Sequence[str]:
        return SMIRK.name, ARCFACE.name, "face_landmarker"

    def _motion(self, frame: np.ndarray, face: FaceObservation) -> np.ndarray:
        return self._smirk(frame, face.landmarks)

    def _motions(self, rows: FaceRows, motions: Sequence[np.ndarray | None]) -> tuple[np.ndarray, np.ndarray]:
        values, _ = fill_gaps(motions)
        return values[:, :MEASURED], values[:, MEASURED:]
