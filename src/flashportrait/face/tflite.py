"""A network of TensorFlow Lite's format as a function, run with LiteRT."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

STDERR = 2
"""File descriptor of the standard error."""


class TfliteModel:
    """A LiteRT network as a function from arrays to arrays."""

    def __init__(self, content: bytes, threads: int) -> None:
        from ai_edge_litert.interpreter import Interpreter

        with _native_stderr_silenced():
            self._interpreter = Interpreter(model_content=content, num_threads=threads)
            self._interpreter.allocate_tensors()
        self._input = self._interpreter.get_input_details()[0]["index"]
        self._outputs = [detail["index"] for detail in self._interpreter.get_output_details()]

    def __call__(self, array: np.ndarray) -> list[np.ndarray]:
        """Outputs, copied, for one float32 input."""
        self._interpreter.set_tensor(self._input, array)
        self._interpreter.invoke()
        return [self._interpreter.get_tensor(index) for index in self._outputs]


@contextmanager
def _native_stderr_silenced() -> Iterator[None]:
    """Drop what native code prints: LiteRT announces its delegate and has no switch for it. Its errors are raised."""
    try:
        saved = os.dup(STDERR)
    except OSError:  # closed, as under pythonw
        yield
        return
    with open(os.devnull, "w") as sink:
        os.dup2(sink.fileno(), STDERR)
    try:
        yield
    finally:
        os.dup2(saved, STDERR)
        os.close(saved)
