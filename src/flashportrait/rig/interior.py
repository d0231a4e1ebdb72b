"""What a photograph hides: teeth, tongue and the dark of the mouth, and the eyeball behind the lids.

Two painted layers, in the photograph's own frame and light. One is fixed to the skull: the mouth's dark with the upper
teeth before it, and irises and whites. The other moves with the jaw: lower teeth and tongue. Where the photograph
shows teeth or an eye, its own pixels are kept, and what is painted takes their colour.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.rig.blur import box_mean
from flashportrait.rig.expression import smoothstep
from flashportrait.rig.landmarks import (
    BROWS,
    INNER_LIPS_LOWER,
    INNER_LIPS_UPPER,
    IRISES,
    LID_CREASES,
    LOWER_LIDS,
    UPPER_LIDS,
)
from flashportrait.rig.mesh import points_in_polygon
from flashportrait.rig.teeth import lower_row, upper_row

COLOURLESS = (0.02, 0.08)
"""Saturation of skin up to which a photograph is black and white, and from which it has colours."""
THROAT_COLOUR = (0.15, 0.05, 0.045)
TONGUE_COLOUR = (0.58, 0.31, 0.29)
TEETH_COLOUR = (1.0, 0.96, 0.89)
GUM_COLOUR = (0.64, 0.40, 0.38)
SCLERA_COLOUR = (0.86, 0.83, 0.81)
TEETH_SHOWN_CM = 0.34
"""How far the upper teeth reach below an upper lip at rest."""
OVERBITE_CM = 0.15
"""How far they cover the lower ones when the jaw is closed."""
TONGUE_CM = 1.3
"""How much of the tongue is seen behind the lower teeth."""
RESTING_HALF_MOUTH_CM = 2.6
"""Half the width of an average mouth at rest, for which the teeth are measured."""
SLIT_PIXELS = 2.0
"""Lips parted less than this, on average, count as closed."""
TEETH_SEEN = 0.04
"""Least area of teeth in the photograph, in square centimetres, from which their colour is taken."""
TEETH_KEPT = (0.7, 1.4)
"""Area of them from which the photograph's own teeth begin to be kept where the mouth moves, and are."""
LIP_COLOURED = (0.2, 0.36)
"""Saturation from which the colour of what may be teeth is rather that of lips, and is not teeth's."""
IRIS_MARGIN = 1.06
"""The landmarks' iris radius times this takes in the dark limbus."""
SKIN_AROUND = 0.3
"""How far from an eye the skin is taken to be like its lid's, in units of the eye's width."""
CREASE_FADE = 0.14
"""How far above the crease a closed lid's skin goes over into the photograph's, in units of the eye's width."""
LASH_LINE = 0.03
"""Width of the lashes on a closed lid, in the same units."""
LASHES = 0.05
"""Width of the rim of an eye that lids and lashes darken, in units of the eye's width."""
LIT = 2.0
"""Power of its light by which skin counts for the lit middle of a closed lid."""
LIT_MOST = 1.15
"""How much lighter than all the skin around that is, at most."""
GLARE = 1.5
"""Light, over the median of the skin around, from which it is none of what a lid is painted with."""
COVERED = 0.35
"""Share of opening and folded lid, blurred by ``CREASE_FADE``, from which a closed lid's skin covers all."""
MIN_SCLERA_PIXELS = 6.0
LID_COLOURED = (0.12, 0.3)
"""Saturation from which what may be the white of an eye has the colour of its lids, and has nothing else."""
MOUTH_REACH_CM = (1.5, 1.5, 6.5)
"""How far the layers go on beyond the mouth: to each side, up and down."""
TRIM = 4
"""Pixels that are kept around what a layer covers, for it is looked up between them."""
EYE_REACH = 0.6
"""How far they go on around an eye, in units of its width."""


@dataclass(frozen=True)
class Layers:
    """What is painted behind the openings, each layer for the part of the photograph that it is needed in."""

    corners: tuple[Tensor, Tensor, Tensor]
    """Left and top of each layer in the photograph, [2]."""
    skull: Tensor
    """[6 h w]: colour; share of the photograph's pixels kept always; share kept while the opening is as in the
    photograph; share of what lies behind the jaw's layer."""
    jaw: Tensor
    """[4 h w]: colour and coverage, where the jaw is in the photograph."""
    lids: Tensor
    """[5 h w]: the skin of closed upper lids, how much of it shows, and how near the lashes are, .5 at the rim."""


def paint_layers(image: Tensor, landmarks: Tensor, pixels_per_cm: float, lip_rise: float, jaw_drop: float) -> Layers:
    """The layers of a photograph.

    Args:
        image: [3 h w] in [0, 1].
        landmarks: [478 3] in its pixels.
        pixels_per_cm: scale of the head in it.
        lip_rise: how far its upper lip is raised from rest, in centimetres.
        jaw_drop: how far its jaw is open.
    """
    points = landmarks[:, :2]
    lips = points[list(INNER_LIPS_UPPER + INNER_LIPS_LOWER)]
    aside, above, below = (reach * pixels_per_cm for reach in MOUTH_REACH_CM)
    low, high = [lips.amin(0) - lips.new_tensor([aside, above])], [lips.amax(0) + lips.new_tensor([aside, below])]
    for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True):
        lids = points[list(upper + lower)]
        reach = EYE_REACH * (points[upper[-1]] - points[upper[0]]).norm()
        low.append(lids.amin(0) - reach)
        high.append(lids.amax(0) + reach)
    (left, top), (right, bottom) = torch.stack(low).amin(0).tolist(), torch.stack(high).amax(0).tolist()
    height, width = image.shape[1:]
    columns = slice(min(max(int(left), 0), width - 1), max(min(int(right) + 1, width), 1))
    rows = slice(min(max(int(top), 0), height - 1), max(min(int(bottom) + 1, height), 1))
    corner = points.new_tensor([columns.start, rows.start])
    part, points = image[:, rows, columns], points - corner
    skull = torch.cat((part, torch.zeros_like(part)))
    jaw, lids = torch.zeros_like(skull[:4]), torch.zeros_like(skull[:5])
    light = _light(image, landmarks)
    _paint_mouth(skull, jaw, part, points, pixels_per_cm, light, lip_rise, jaw_drop)
    eyes = zip(UPPER_LIDS, LOWER_LIDS, LID_CREASES, IRISES, BROWS, strict=True)
    for upper, lower, crease, iris, brow in eyes:
        _paint_eye(skull, part, points, upper, lower, iris, light)
        _paint_lid(lids, part, points, upper, lower, crease, brow)
    share = _colourfulness(image, landmarks)
    for layer in (skull, jaw):
        layer[:3] = torch.lerp(layer[:3].mean(0), layer[:3], share)
    (jaw, jaw_corner), (lids, lids_corner) = (_trimmed(layer, corner) for layer in (jaw, lids))
    return Layers((corner, jaw_corner, lids_corner), skull, jaw, lids)


def _trimmed(layer: Tensor, corner: Tensor) -> tuple[Tensor, Tensor]:
    """A layer [c h w] without the borders where its fourth channel is nothing, and its left and top."""
    rows, columns = (layer[3].any(axis).nonzero().squeeze(1) for axis in (1, 0))
    if len(rows) == 0:
        return layer, corner
    top, left = max(int(rows[0]) - TRIM, 0), max(int(columns[0]) - TRIM, 0)
    trimmed = layer[:, top : int(rows[-1]) + 1 + TRIM, left : int(columns[-1]) + 1 + TRIM].clone()
    return trimmed, corner + corner.new_tensor([left, top])


def _skin(image: Tensor, landmarks: Tensor) -> Tensor:
    """Colours of cheeks, nose and forehead, [3 6]."""
    points = landmarks[[50, 280, 4, 101, 330, 151], :2]
    size = image.new_tensor([image.shape[2], image.shape[1]])
    grid = (points / size * 2 - 1).view(1, 1, -1, 2)
    return F.grid_sample(image[None], grid, align_corners=False)[0, :, 0]


def _colourfulness(image: Tensor, landmarks: Tensor) -> Tensor:
    """0 for a photograph without colours, in which teeth and tongue have none either; 1 for one with.  []"""
    skin = _skin(image, landmarks).mean(1)
    start, end = COLOURLESS
    return smoothstep((1 - skin.amin() / skin.amax().clamp_min(0.02) - start) / (end - start))


def _light(image: Tensor, landmarks: Tensor) -> Tensor:
    """Colour of the light on a surface of unit reflectance, guessed from the cheeks and nose.  [3]"""
    skin = _skin(image, landmarks).amax(1)
    brightness = skin.mean().sqrt().clamp(0.45, 1.0)
    tint = (skin / skin.mean().clamp_min(0.05)).clamp(0.6, 1.4)
    return brightness * (0.7 + 0.3 * tint)


def _window(points: Tensor, margin: tuple[float, float, float], image: Tensor) -> tuple[slice, slice, Tensor]:
    """Rows, columns and pixel centres [h w 2] of the box around points, wider by ``margin``: aside, above, below."""
    height, width = image.shape[1:]
    aside, above, below = margin
    (x0, y0), (x1, y1) = points.amin(0).tolist(), points.amax(0).tolist()
    rows = slice(min(max(int(y0 - above), 0), height - 1), max(min(int(y1 + below) + 1, height), 1))
    columns = slice(min(max(int(x0 - aside), 0), width - 1), max(min(int(x1 + aside) + 1, width), 1))
    y = torch.arange(rows.start, rows.stop, device=image.device) + 0.5
    x = torch.arange(columns.start, columns.stop, device=image.device) + 0.5
    return rows, columns, torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def _blurred(values: Tensor, radius: float) -> Tensor:
    """[c h w] blurred by a box of ``2 radius + 1`` pixels, along rows and columns."""
    return box_mean(box_mean(values, radius, 1), radius, 2)


def _paint_mouth(
    skull: Tensor,
    jaw: Tensor,
    image: Tensor,
    points: Tensor,
    pixels_per_cm: float,
    light: Tensor,
    lip_rise: float,
    jaw_drop: float,
) -> None:
    upper, lower = points[list(INNER_LIPS_UPPER)], points[list(INNER_LIPS_LOWER)]
    aside, above, below = (reach * pixels_per_cm for reach in MOUTH_REACH_CM)
    rows, columns, pixels = _window(torch.cat((upper, lower)), (aside, above, below), image)
    across = F.normalize(upper[-1] - upper[0], dim=0)
    down = torch.stack((-across[1], across[0]))
    half_mouth = float((upper[-1] - upper[0]).norm() / 2 / pixels_per_cm)
    size = min(max(half_mouth / RESTING_HALF_MOUTH_CM, 0.7), 1.15)
    u = ((pixels - (upper[0] + upper[-1]) / 2) @ across) / (pixels_per_cm * size)
    v = ((pixels - upper[len(upper) // 2]) @ down) / (pixels_per_cm * size)
    sharpness = 1.2 * pixels_per_cm * size
    edge = TEETH_SHOWN_CM + lip_rise / size

    picture = image[:, rows, columns]
    opening = points_in_polygon(pixels, torch.cat((upper, lower.flip(0)[1:-1])))
    enamel, tooth_like = _own_teeth(picture, opening, pixels_per_cm, light)
    gum, throat, tongue = (skull.new_tensor(colour) * light for colour in (GUM_COLOUR, THROAT_COLOUR, TONGUE_COLOUR))
    cheeks = (u.abs() / 3.2).clamp(max=1).square()
    dark = throat[:, None, None] * (0.55 + 0.9 * cheeks) * (1 - 0.35 * smoothstep((v - 1.5) / 3))
    teeth, covered = upper_row(u, v - edge, enamel, gum, sharpness)
    skull[:3, rows, columns] = dark + (teeth - dark) * covered
    skull[5, rows, columns] = 1 - covered

    below_edge = v - (edge - OVERBITE_CM + jaw_drop / size)
    row, row_covered = lower_row(u, below_edge, enamel, gum, sharpness)
    arch = 1 - (u / 2.3).square()
    share = smoothstep((below_edge + TONGUE_CM * arch) / 0.6) * (arch > 0)
    groove = 1 - 0.12 * torch.exp(-(u / 0.22).square())
    surface = tongue[:, None, None] * groove * (0.62 + 0.38 * smoothstep(1 + below_edge / TONGUE_CM))
    jaw[:3, rows, columns] = surface + (row - surface) * row_covered
    jaw[3, rows, columns] = torch.maximum(row_covered, 0.95 * share)

    # Between nearly closed lips the photo shows lip, not mouth.
    gap = (lower - upper)[1:-1].norm(dim=1).mean()
    keep = _blurred(F.max_pool2d(opening[None].float(), 3, 1, 1), 1)[0] * ((gap - SLIT_PIXELS) / SLIT_PIXELS).clamp(
        0, 1
    )
    skull[3, rows, columns] = keep * tooth_like
    skull[4, rows, columns] = keep * (1 - tooth_like)
    skull[5, rows, columns] *= 1 - keep * tooth_like


def _own_teeth(picture: Tensor, opening: Tensor, pixels_per_cm: float, light: Tensor) -> tuple[Tensor, Tensor]:
    """Colour of the teeth [3], the photograph's own where it shows any, and where it shows them, [h w] in [0, 1]."""
    value = picture.amax(0)
    saturation = (value - picture.amin(0)) / value.clamp_min(0.02)
    bright = torch.sigmoid((value - 0.5 * light.mean()) / 0.04) * torch.sigmoid((0.42 - saturation) / 0.04)
    tooth_like = bright * opening
    area = tooth_like.sum() / pixels_per_cm**2
    plain = picture.new_tensor(TEETH_COLOUR) * light
    if area < TEETH_SEEN:
        return plain, torch.zeros_like(tooth_like)
    own = (picture * tooth_like).sum((1, 2)) / tooth_like.sum()
    near = _blurred(tooth_like[None], 0.1 * pixels_per_cm)[0]
    # The brightest teeth are those in front, which the mean of all understates.
    own = (own * 1.1).clamp(max=1)
    start, end = LIP_COLOURED
    coloured = smoothstep((1 - own.amin() / own.amax() - start) / (end - start))
    # A few teeth of its own among painted ones look broken.
    whole = smoothstep((area - TEETH_KEPT[0]) / (TEETH_KEPT[1] - TEETH_KEPT[0]))
    return torch.lerp(own, plain, coloured), smoothstep(2.5 * near) * (1 - coloured) * whole


def _paint_eye(
    skull: Tensor,
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
    width = float((points[upper[-1]] - points[upper[0]]).norm())
    rows, columns, pixels = _window(contour, (EYE_REACH * width,) * 3, image)
    picture = image[:, rows, columns]
    opening = points_in_polygon(pixels, contour)
    inner = smoothstep((_blurred(opening[None].float(), LASHES * width)[0] - 0.55) / 0.4) * opening
    distance = (pixels - centre).norm(dim=-1)
    white = skull.new_tensor(SCLERA_COLOUR) * light
    sclera = _continued(picture, inner * (distance > radius * 1.15), width, white)
    # As light as it is seen, but of no lid's colour.
    value, (start, end) = sclera.amax(0), LID_COLOURED
    coloured = smoothstep((1 - sclera.amin(0) / value.clamp_min(0.02) - start) / (end - start))
    sclera = torch.lerp(sclera, (white / white.amax())[:, None, None] * value, coloured)
    # An iris is much the same above and below: what the lids hide is taken from the other side of its centre.
    mirrored = pixels * pixels.new_tensor([1.0, -1.0]) + centre * pixels.new_tensor([0.0, 2.0])
    size = image.new_tensor([image.shape[2], image.shape[1]])
    reflected = F.grid_sample(image[None], (mirrored / size * 2 - 1)[None], align_corners=False)[0]
    iris_pixels = inner * (distance < radius * 0.95)
    iris_colour = ((picture * iris_pixels).sum((1, 2)) + 0.15 * light) / (iris_pixels.sum() + 1)
    corner = mirrored.new_tensor([columns.start, rows.start])
    extent = mirrored.new_tensor([inner.shape[1], inner.shape[0]])
    grid = (mirrored - corner) / extent * 2 - 1
    seen_mirrored = F.grid_sample(inner[None, None], grid[None], align_corners=False)[0, 0]
    disc_fill = iris_colour[:, None, None] + (reflected - iris_colour[:, None, None]) * seen_mirrored
    disc = torch.sigmoid((radius - distance) * 2.0)
    skull[:3, rows, columns] = sclera + (disc_fill - sclera) * disc
    skull[3, rows, columns] = inner
    skull[4, rows, columns] = opening.float() - inner
    skull[5, rows, columns] = 0


def _paint_lid(
    lids: Tensor,
    image: Tensor,
    points: Tensor,
    upper: tuple[int, ...],
    lower: tuple[int, ...],
    crease: tuple[int, ...],
    brow: tuple[int, ...],
) -> None:
    """What an open lid folds away, from the skin around: the strip that is seen would be drawn out to streaks."""
    contour = torch.cat((points[list(upper)], points[list(lower)].flip(0)[1:-1]))
    width = float((points[upper[-1]] - points[upper[0]]).norm())
    rows, columns, pixels = _window(contour, (EYE_REACH * width,) * 3, image)
    picture = image[:, rows, columns]
    opening = points_in_polygon(pixels, contour)
    strip = points_in_polygon(pixels, torch.cat((points[list(upper)], points[list(crease)].flip(0))))
    hairy = _blurred(points_in_polygon(pixels, points[list(brow)])[None].float(), LASHES * width)[0] > 0
    lashes, covered, around = (
        _blurred(mask[None].float(), reach * width)[0]
        for mask, reach in ((opening, LASH_LINE), (opening | strip, CREASE_FADE), (opening | strip, SKIN_AROUND))
    )
    value = picture.amax(0)
    skin = ((covered < 0.02) & (around > 0) & ~hairy).float()
    if skin.any():
        # A rim of light beyond shaded eyes is not what lights the lids.
        skin = skin * value * (value < GLARE * value[skin > 0].median())
    plain = (picture * skin).sum((1, 2)) / skin.sum().clamp_min(1e-3)
    # A closed lid is a dome: lit in its middle, and like what is around it where it ends.
    lit = (skin / skin.amax().clamp_min(1e-3)).pow(LIT)
    light = (picture * lit).sum((1, 2)) / lit.sum().clamp_min(1e-3)
    light = light * (LIT_MOST * plain.mean() / light.mean().clamp_min(1e-3)).clamp(max=1)
    rim, fold = points[list(upper)], points[[upper[0], *crease, upper[-1]]]
    below, above = _distance(pixels, rim), _distance(pixels, fold)
    height = torch.where(strip, below / (below + above).clamp_min(1e-6), 1)
    across = ((pixels - rim[[0, -1]].mean(0)) @ F.normalize(rim[-1] - rim[0], dim=0)) / (width / 2)
    dome = (1 - height.square()) * (1 - across.square()).clamp_min(0).sqrt()
    surroundings = _continued(picture, skin, width, plain)
    lids[:3, rows, columns] = torch.lerp(surroundings, light[:, None, None].expand_as(surroundings), dome)
    lids[3, rows, columns] = smoothstep(covered / COVERED)
    lids[4, rows, columns] = lashes


def _distance(points: Tensor, line: Tensor) -> Tensor:
    """Of points [... 2] from the nearest place on a line through corners [k 2]."""
    start, along = line[:-1], line.diff(dim=0)
    offset = points.unsqueeze(-2) - start
    share = ((offset * along).sum(-1) / along.square().sum(-1).clamp_min(1e-6)).clamp(0, 1)
    return (offset - share.unsqueeze(-1) * along).norm(dim=-1).amin(-1)


def _continued(picture: Tensor, known: Tensor, width: float, plain: Tensor) -> Tensor:
    """A picture's smooth colours [3 h w] beyond where they are ``known`` [h w]: what is near, from afar their mean."""
    known = known[None].float()
    mean = ((picture * known).sum((1, 2)) + plain * MIN_SCLERA_PIXELS) / (known.sum() + MIN_SCLERA_PIXELS)
    result = mean[:, None, None].expand_as(picture)
    for reach in (0.3, 0.1):
        weight = _blurred(_blurred(known, reach * width), reach * width)
        near = _blurred(_blurred(picture * known, reach * width), reach * width) / weight.clamp_min(1e-4)
        result = result + (near - result) * (weight / (weight + 0.03))
    return result
