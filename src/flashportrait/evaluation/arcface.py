"""ArcFace (Deng et al., CVPR 2019) as InsightFace's ONNX files hold it: identity embeddings."""

from __future__ import annotations

import mmap
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from flashportrait.errors import UserError
from flashportrait.evaluation.extractors import SFACE_SIDE, align_face
from flashportrait.evaluation.profiles import ARCFACE

CENTRE = 127.5
"""Pixels are fed as (x - 127.5) / 127.5, RGB."""
NORMALISING_NODE = b"_minusscalar"
"""In files converted from MXNet, which centre pixels themselves: fed as above, they would be centred twice."""


class ArcFace:
    """512 numbers that tell persons apart, from a face aligned by its five points.

    Args:
        path: an ONNX file of InsightFace.

    Raises:
        UserError: there is no file or another, or onnxruntime isn't installed.
    """

    width = 512
    """Numbers of an embedding."""

    def __init__(self, path: Path) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise UserError("ArcFace needs onnxruntime; install it with `pip install 'flashportrait[eval]'`") from error
        from onnxruntime.capi import onnxruntime_pybind11_state as failures

        ARCFACE.found(path)
        try:
            self._session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except (failures.InvalidProtobuf, failures.InvalidGraph, failures.Fail, failures.NotImplemented) as error:
            raise ARCFACE.refusal(path, "isn't a working ONNX network") from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        if len(inputs) != 1 or len(outputs) != 1:
            found = f"has {len(inputs)} inputs and {len(outputs)} outputs, not one of each"
            raise ARCFACE.refusal(path, found)
        self._input, shape = inputs[0].name, list(inputs[0].shape)
        needed = [1, 3, SFACE_SIDE, SFACE_SIDE]  # SFace took over ArcFace's alignment
        # Sizes that are left open have names.
        if len(shape) != 4 or any(isinstance(a, int) and a != b for a, b in zip(shape, needed, strict=True)):
            raise ARCFACE.refusal(path, f"takes {_shown(shape)}, not {_shown(needed)}")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            if content.find(NORMALISING_NODE) >= 0:
                raise ARCFACE.refusal(path, "centres pixels itself, as networks converted from MXNet do")
        try:
            given = self._run(np.zeros(needed, np.float32))
        except (failures.InvalidArgument, failures.RuntimeException, failures.Fail) as error:
            raise ARCFACE.refusal(path, f"can't run on {_shown(needed)}") from error
        if given.shape != (1, self.width):
            raise ARCFACE.refusal(path, f"gives {_shown(given.shape)}, not {_shown((1, self.width))}")

    def __call__(self, frames: Iterable[np.ndarray], points: np.ndarray) -> np.ndarray:
        """Embeddings of unit length ``[t 512]`` of the faces with the given points ``[t 5 2]``, see ``five_points``."""
        return np.stack([self._embed(frame, each) for frame, each in zip(frames, points, strict=True)])

    def _embed(self, frame: np.ndarray, points: np.ndarray) -> np.ndarray:
        face = (align_face(frame, points).astype(np.float32) - CENTRE) / CENTRE
        vector = self._run(np.ascontiguousarray(face.transpose(2, 0, 1)[None]))[0]
        return vector / np.linalg.norm(vector)

    def _run(self, faces: np.ndarray) -> np.ndarray:
        return np.asarray(self._session.run(None, {self._input: faces})[0])


def _shown(shape: Iterable[object]) -> str:
    return "x".join("?" if each is None else str(each) for each in shape)
