"""Media files opened for reading, by any release of PyAV."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
from av.container import InputContainer


def open_input(path: Path) -> InputContainer:
    """The container in a file. Text in its metadata that isn't UTF-8 is not an error.

    Raises:
        av.FFmpegError: the file can't be opened.
    """
    # Releases before 19 refuse such text unless told otherwise; later ones always read it, and don't know the word.
    tolerant: dict[str, Any] = {} if int(av.__version__.split(".")[0]) >= 19 else {"metadata_errors": "ignore"}
    # Absolute, lest a colon in the name is taken for the end of a protocol's.
    return av.open(str(path.absolute()), **tolerant)
