"""Pictures side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image


def side_by_side(pictures: Sequence[np.ndarray], height: int) -> np.ndarray:
    """Scale uint8 RGB pictures [h w 3], of any sizes, to one height and set them in a row, [height width 3]."""
    return np.concatenate([_at_height(picture, height) for picture in pictures], axis=1)


def _at_height(picture: np.ndarray, height: int) -> np.ndarray:
    if picture.shape[0] == height:
        return picture
    width = max(1, round(picture.shape[1] * height / picture.shape[0]))
    return np.asarray(Image.fromarray(picture).resize((width, height), Image.Resampling.LANCZOS))
