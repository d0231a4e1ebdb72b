"""What is painted behind mouth and eyes, and how it is looked up."""

from __future__ import annotations

import pytest
import torch

from flashportrait.face.motion import BLENDSHAPE_NAMES
from flashportrait.rig.interior import TEETH_COLOUR, _blurred, _own_teeth, paint_layers
from flashportrait.rig.landmarks import INNER_LIPS_LOWER, INNER_LIPS_UPPER, IRISES, LOWER_LIDS, UPPER_LIDS
from flashportrait.rig.mesh import average_landmarks, load_face_mesh, points_in_polygon
from flashportrait.rig.photo import PhotoRig
from flashportrait.rig.pose import head_angles
from flashportrait.rig.teeth import CROWN_CM, LOWER_WIDTHS, UPPER_WIDTHS, lower_row, upper_row

SIDE = 256
SKIN = torch.tensor([0.8, 0.6, 0.5])


def _row(**values: float) -> torch.Tensor:
    row = torch.zeros(57)
    for name, value in values.items():
        for column, known in enumerate(BLENDSHAPE_NAMES):
            if known in (name, name + "Left", name + "Right"):
                row[6 + column] = value
    return row


def _skin() -> torch.Tensor:
    return SKIN[:, None, None].expand(3, SIDE, SIDE).clone()


def _rig(image: torch.Tensor | None = None, own: torch.Tensor | None = None) -> PhotoRig:
    """The average face with its own expression, on an image of plain skin unless given."""
    own = _row() if own is None else own
    mesh, landmarks = load_face_mesh(), average_landmarks((128.0, 120.0), 160.0)
    height = mesh.canonical_face[:468, 1].amax() - mesh.canonical_face[:468, 1].amin()
    landmarks = landmarks + mesh.displacement(torch.zeros(51), own[None, 6:])[0] * (160.0 / height)
    posed = torch.cat((head_angles(landmarks), own[3:]))
    return PhotoRig(_skin() if image is None else image, landmarks, posed)


def _middle(rig: PhotoRig, row: torch.Tensor) -> torch.Tensor:
    """Colours [n 3] down the middle of the mouth, and its inner lips' heights."""
    frame = rig.draw(row[None], SIDE)[0]
    points = rig.landmarks(row[None])[0]
    top, bottom = (int(points[lip[5], 1]) for lip in (INNER_LIPS_UPPER, INNER_LIPS_LOWER))
    return frame[:, top + 2 : bottom - 1, int(points[13, 0]) + 4].T


def test_rows_of_teeth_end_where_the_last_tooth_does() -> None:
    white, pink = torch.ones(3), torch.tensor([0.6, 0.3, 0.3])
    u = torch.linspace(-4, 4, 401)[None]
    for row, widths in ((upper_row, UPPER_WIDTHS), (lower_row, LOWER_WIDTHS)):
        v = torch.full_like(u, -0.4 if row is upper_row else 0.4)
        _, covered = row(u, v, white, pink, 40.0)
        torch.testing.assert_close(covered[0] > 0.5, u[0].abs() < sum(widths))


def test_gums_begin_beyond_the_crowns() -> None:
    white, pink = torch.ones(3), torch.tensor([0.6, 0.2, 0.2])
    v = torch.tensor([[-0.3, -CROWN_CM - 0.4, 0.3]])
    colour, covered = upper_row(torch.full_like(v, 0.42), v, white, pink, 40.0)
    red = colour[0] / colour[1]
    assert red[0, 0] == pytest.approx(1.0, abs=0.1)
    assert red[0, 1] > 2
    assert covered[0].tolist() == pytest.approx([1, 1, 0], abs=0.01)


def test_a_photo_with_its_own_expression_is_drawn_as_it_is() -> None:
    own = _row(jawOpen=0.4, mouthSmile=0.3)
    image = torch.rand(3, SIDE // 8, SIDE // 8, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(image[None], (SIDE, SIDE), mode="bilinear")[0]
    rig = _rig(image, own)
    drawn = rig.draw(rig.own_row[None], SIDE)[0]
    # Rims are softened, and the border of the opening falls between pixels.
    assert (drawn - image).abs().mean() < 0.003
    assert (drawn - image).abs().amax(0).flatten().quantile(0.99) < 0.06


def test_an_open_mouth_is_dark_between_teeth_and_shows_no_skin() -> None:
    column = _middle(_rig(), _row(jawOpen=0.8))
    assert column.amax(1).min() < 0.2
    assert ((column - SKIN).abs().amax(1) > 0.05).all()


def test_lower_teeth_go_down_with_the_jaw() -> None:
    rig, seen = _rig(), []
    for jaw in (0.6, 0.95):
        column = _middle(rig, _row(jawOpen=jaw))
        below = column[len(column) // 2 : -1].amax(1)
        assert below.amax() > 0.5
        seen.append(len(column) // 2 + int(below.argmax()))
    assert seen[1] > seen[0] + 8


def test_teeth_take_the_colour_of_those_that_the_photo_shows() -> None:
    own = _row(mouthSmile=0.8, mouthUpperUp=0.6, mouthLowerDown=0.6)
    plain = _rig(own=own)
    image = _skin()
    points = plain.rest[list(INNER_LIPS_UPPER + INNER_LIPS_LOWER), :2]
    (left, top), (right, bottom) = points.amin(0).int().tolist(), points.amax(0).int().tolist()
    ivory = torch.tensor([0.95, 0.85, 0.62])
    image[:, top : bottom + 1, left : right + 1] = ivory[:, None, None]
    column = _middle(_rig(image, own), _row(mouthUpperUp=0.6, mouthLowerDown=0.6, jawOpen=0.3))
    brightest = column[column.sum(1).argmax()]
    torch.testing.assert_close(brightest / brightest.max(), ivory / ivory.max(), atol=0.1, rtol=0)


def test_closed_lids_are_skin_all_over() -> None:
    image = _skin()
    rig = _rig()
    places = torch.stack(torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="xy"), -1) + 0.5
    for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True):
        eye = points_in_polygon(places, rig.rest[list(upper + lower[-2:0:-1]), :2])
        image[:, eye] = torch.tensor([0.9, 0.9, 0.95])[:, None]
    closed = _row(eyeBlink=1.0)
    white = (_rig(image).draw(closed[None], SIDE)[0].amin(0) > 0.8).sum()
    open_white = (_rig(image).draw(_row()[None], SIDE)[0].amin(0) > 0.8).sum()
    assert white < 0.1 * open_white


@pytest.mark.parametrize("radius", [1, 4, 30])
def test_a_blurred_pixel_is_the_mean_of_the_box_around_it(radius: int):
    values = torch.rand(2, 25, 40, generator=torch.Generator().manual_seed(radius))
    blurred = _blurred(values, radius)
    for row, column in ((0, 0), (12, 20), (24, 3), (7, 39)):
        rows, columns = (slice(max(place - radius, 0), place + radius + 1) for place in (row, column))
        torch.testing.assert_close(blurred[:, row, column], values[:, rows, columns].mean((1, 2)))


def test_a_black_and_white_photograph_stays_so_when_its_mouth_opens():
    open_wide = _row(jawOpen=0.8, mouthUpperUp=0.6, mouthSmile=0.5)[None]
    grey = _skin().mean(0).expand(3, SIDE, SIDE).clone()
    frame = _rig(grey).draw(open_wide, SIDE)[0]
    assert (frame.amax(0) - frame.amin(0)).max() < 1e-5
    colours = _rig().draw(open_wide, SIDE)[0]
    assert (colours.amax(0) - colours.amin(0)).max() > 0.2


@pytest.mark.parametrize(
    ("colour", "share", "kept"),
    [((0.9, 0.85, 0.78), 1.0, True), ((0.9, 0.85, 0.78), 0.08, False), ((0.8, 0.45, 0.45), 1.0, False)],
    ids=["a row of teeth", "a tooth", "a lip"],
)
def test_teeth_of_its_own_are_kept_where_a_photo_shows_a_row_of_them(colour, share: float, kept: bool) -> None:
    opening = torch.zeros(40, 100, dtype=torch.bool)
    opening[10:30, : round(100 * share)] = True
    picture = torch.tensor(colour)[:, None, None].expand(3, 40, 100)
    enamel, shown = _own_teeth(picture, opening, 20.0, torch.ones(3))
    assert (float(shown.max()) > 0.9) is kept
    if colour[1] < 0.5:
        torch.testing.assert_close(enamel, torch.tensor(TEETH_COLOUR))


def test_the_white_of_eyes_is_no_lids_colour() -> None:
    rig, image = _rig(), _skin()
    layers = paint_layers(image, rig.rest[:478], float(rig.scale), 0.0, 0.0)
    left, top = layers.corners[0].long().tolist()
    for upper, lower, iris in zip(UPPER_LIDS, LOWER_LIDS, IRISES, strict=True):
        middle = (rig.rest[[upper[-1], iris[0]], :2].mean(0) + rig.rest[[lower[6]], :2].mean(0)) / 2
        column, row = (middle - torch.tensor([left, top])).long().tolist()
        white = layers.skull[:3, row, column]
        assert float(1 - white.amin() / white.amax()) < 0.6 * float(1 - SKIN.amin() / SKIN.amax())
