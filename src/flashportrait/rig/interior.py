"""What a photograph hides: the inside of the mouth, and the eyeball behind the lids, painted in the photo's own frame.

The layer is a second picture of the photograph's size. Inside the photographed mouth and eye openings it repeats the
photograph; around them it continues with teeth and a dark mouth, or with iris and sclera, in the picture's own light.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.rig.mesh import (
    INNER_LIPS_LOWER,
    INNER_LIPS_UPPER,
    IRISES,
    LOWER_LIDS,
    UPPER_LIDS,
    points_in_polygon,
)

TEETH_COLOUR = (0.93, 0.89, 0.83)
THROAT_COLOUR = (0.13, 0.045, 0.045)
TONGUE_COLOUR = (0.55, 0.26, 0.26)
SCLERA_COLOUR = (0.86, 0.83, 0.81)
TEETH_SHOWN_CM = 0.36
"""How far the upper teeth reach below the resting upper lip."""
SLIT_PIXELS = 2.0
"""Lips parted less than this, on average, count as closed."""
TOOTH_WIDTH_CM = 0.8
IRIS_MARGIN = 1.06
"""The landmarks' iris radius times this takes in the dark limbus."""
MIN_SCLERA_PIXELS = 6.0


def paint_interior(image: Tensor, landmarks: Tensor, pixels_per_cm: float) -> Tensor:
    """The interior layer of a photograph.

    image: [3 h w] in [0, 1]; landmarks: [478 3] in its pixels; pixels_per_cm: scale of the head in it.
    Returns [3 h w].
    """
    layer = image.clone()
    light = _light(image, landmarks)
    _paint_mouth(layer, image, landmarks[:, :2], pixels_per_cm, light)
    for upper, lower, iris in zip(UPPER_LIDS, LOWER_LIDS, IRISES, strict=True):
        _paint_eye(layer, image, landmarks[:, :2], upper, lower, iris, light)
    return layer


def _light(image: Tensor, landmarks: Tensor) -> Tensor:
    """Colour of the light on a surface of unit reflectance, guessed from the cheeks and nose.  [3]"""
    points = landmarks[[50, 280, 4, 101, 330, 151], :2]
    size = image.new_tensor([image.shape[2], image.shape[1]])
    grid = (points / size * 2 - 1).view(1, 1, -1, 2)
    skin = F.grid_sample(image[None], grid, align_corners=False)[0, :, 0].amax(1)
    brightness = skin.mean().sqrt().clamp(0.45, 1.0)
    tint = (skin / skin.mean().clamp_min(0.05)).clamp(0.6, 1.4)
    return brightness * (0.75 + 0.25 * tint)


def _window(points: Tensor, margin: float, image: Tensor) -> tuple[slice, slice, Tensor]:
    """Rows, columns and pixel centres [h w 2] of the box around points, ``margin`` pixels wider."""
    height, width = image.shape[1:]
    x0, y0 = (points.amin(0) - margin).floor().long().tolist()
    x1, y1 = (points.amax(0) + margin).ceil().long().tolist()
    rows = slice(min(max(y0, 0), height - 1), max(min(y1, height), 1))
    columns = slice(min(max(x0, 0), width - 1), max(min(x1, width), 1))
    y = torch.arange(rows.start, rows.stop, device=image.device) + 0.5
    x = torch.arange(columns.start, columns.stop, device=image.device) + 0.5
    return rows, columns, torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def _soften(mask: Tensor, grow: int, blur: int) -> Tensor:
    """A bool mask [h w] grown by ``grow`` pixels and blurred over ``2 blur + 1``, as weights."""
    weights = mask[None, None].float()
    if grow:
        weights = F.max_pool2d(weights, 2 * grow + 1, 1, grow)
    return F.avg_pool2d(weights, 2 * blur + 1, 1, blur, count_include_pad=False)[0, 0]


def _paint_mouth(layer: Tensor, image: Tensor, points: Tensor, pixels_per_cm: float, light: Tensor) -> None:
    upper, lower = points[list(INNER_LIPS_UPPER)], points[list(INNER_LIPS_LOWER)]
    rows, columns, pixels = _window(torch.cat((upper, lower)), 3.5 * pixels_per_cm, image)
    if pixels.numel() == 0:
        return
    across = F.normalize(upper[-1] - upper[0], dim=0)
    down = torch.stack((-across[1], across[0]))
    middle = (upper[0] + upper[-1]) / 2
    half_width = (upper[-1] - upper[0]).norm() / 2 / pixels_per_cm
    u = ((pixels - middle) @ across) / pixels_per_cm
    v = ((pixels - upper[len(upper) // 2]) @ down) / pixels_per_cm
    side = (u / half_width.clamp_min(0.5)).abs()
    teeth_edge = TEETH_SHOWN_CM * (1 - 0.6 * side.square())
    teeth = torch.sigmoid((teeth_edge - v) * 1.2 * pixels_per_cm) * torch.sigmoid((0.85 - side) * 14)
    gaps = 1 - 0.18 * torch.exp(-(((u / TOOTH_WIDTH_CM + 0.5) % 1 - 0.5) / 0.07).square())
    tooth_shade = gaps * (1 - 0.45 * side.square()) * (0.86 + 0.14 * torch.tanh(v * 4))
    tongue = torch.sigmoid((v - 1.1 - 0.5 * side.square()) * 3.0) * (1 - 0.6 * side.square()).clamp_min(0)
    throat, tongue_colour, enamel = (
        layer.new_tensor(colour)[:, None, None] * light[:, None, None]
        for colour in (THROAT_COLOUR, TONGUE_COLOUR, TEETH_COLOUR)
    )
    painted = throat + (tongue_colour - throat) * tongue * 0.75
    painted = painted + (enamel * tooth_shade - painted) * teeth
    opening = points_in_polygon(pixels, torch.cat((upper, lower.flip(0)[1:-1])))
    # Between nearly closed lips the photo shows lip, not mouth.
    gap = (lower - upper)[1:-1].norm(dim=1).mean()
    keep = _soften(opening, grow=1, blur=1) * ((gap - SLIT_PIXELS) / SLIT_PIXELS).clamp(0, 1)
    layer[:, rows, columns] = painted + (image[:, rows, columns] - painted) * keep


def _paint_eye(
    layer: Tensor,
    image: Tensor,
    points: Tensor,
    upper: tuple[int, ...],
    lower: tuple[int, ...],
    iris: tuple[int, ...],
    light: Tensor,
) -> None:
    contour = torch.cat((points[list(upper)], points[list(lower)].flip(0)[1:-1]))
    centre = points[iris[0]]
    radius = (points[list(iris[1:])] - centre).norm(dim=1).mean() * IRIS_MARGIN
    width = (points[upper[-1]] - points[upper[0]]).norm()
    rows, columns, pixels = _window(contour, 0.6 * float(width), image)
    if pixels.numel() == 0:
        return
    picture = image[:, rows, columns]
    opening = points_in_polygon(pixels, contour)
    distance = (pixels - centre).norm(dim=-1)
    white = (opening & (distance > radius * 1.1)).float()
    plain = layer.new_tensor(SCLERA_COLOUR) * light
    seen = (picture * white).sum((1, 2)) + plain * MIN_SCLERA_PIXELS
    sclera = (seen / (white.sum() + MIN_SCLERA_PIXELS))[:, None, None]
    # An iris is much the same above and below: what the lids hide is taken from the other side of its centre.
    mirrored = pixels * pixels.new_tensor([1.0, -1.0]) + centre * pixels.new_tensor([0.0, 2.0])
    size = image.new_tensor([image.shape[2], image.shape[1]])
    reflected = F.grid_sample(image[None], (mirrored / size * 2 - 1)[None], align_corners=False)[0]
    iris_pixels = (opening & (distance < radius * 0.95)).float()
    iris_colour = ((picture * iris_pixels).sum((1, 2)) + 0.15 * light) / (iris_pixels.sum() + 1)
    seen_mirrored = points_in_polygon(mirrored, contour).float()
    disc_fill = iris_colour[:, None, None] + (reflected - iris_colour[:, None, None]) * seen_mirrored
    disc = torch.sigmoid((radius - distance) * 2.0)
    painted = sclera + (disc_fill - sclera) * disc
    keep = _soften(opening, grow=0, blur=1) * opening
    layer[:, rows, columns] = painted + (picture - painted) * torch.maximum(keep, opening.float())
