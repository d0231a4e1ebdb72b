"""Contact sheets of training samples."""

from __future__ import annotations

from pathlib import Path

from einops import rearrange
from PIL import Image
from torch import Tensor


def save_sheet(pictures: Tensor, path: Path, columns: int) -> None:
    """Writes ``pictures [n 3 h w]`` in [0, 1] as one PNG with ``columns`` a row; n must be a multiple of columns."""
    sheet = rearrange(pictures.clamp(0, 1), "(r k) c h w -> (r h) (k w) c", k=columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((sheet.float().cpu().numpy() * 255).round().astype("uint8")).save(path)
