"""Where a portrait is drawn: sizes, the moving part, and the square that a network sees."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from flashportrait.canvas import FACE_PIXELS, WHOLE_PIXELS, Canvas
from flashportrait.face.crop import PortraitCrop
from flashportrait.result import to_pictures
from flashportrait.rig.mesh import average_landmarks
from flashportrait.rig.photo import RIG_PIXELS


def crop_at(left: float, top: float, side: float) -> PortraitCrop:
    box = (left, top, left + side, top + side)
    return PortraitCrop(Image.new("RGB", (64, 64)), box, np.zeros(57, np.float32), None)


def landmarks_of(crop: PortraitCrop) -> torch.Tensor:
    left, top, right, _ = crop.box
    side = right - left
    return average_landmarks((left + side / 2, top + side / 2), 0.58 * side)


def noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


@settings(max_examples=40, deadline=None)
@given(st.integers(70, 1600), st.integers(70, 1600), st.floats(-0.2, 0.9), st.floats(-0.2, 0.9), st.floats(0.1, 0.8))
def test_whole_pictures_keep_their_shape_and_the_moving_part_lies_inside(width, height, x, y, share):
    side = share * min(width, height)
    crop = crop_at(x * width, y * height, side)
    assume(0 <= x * width + side / 2 <= width and 0 <= y * height + side / 2 <= height)
    canvas = Canvas.of_whole(Image.new("RGB", (width, height)), crop, landmarks_of(crop), None)
    rows, columns = canvas.picture_size
    scale = min(1.0, WHOLE_PIXELS / max(width, height))
    assert rows % 2 == columns % 2 == 0
    assert abs(rows - scale * height) <= 1
    assert abs(columns - scale * width) <= 1
    left, top = canvas.corner
    assert 0 <= left < left + canvas.size[1] <= columns
    assert 0 <= top < top + canvas.size[0] <= rows
    assert canvas.texture.shape[1:] == tuple(RIG_PIXELS * pixels for pixels in canvas.size)
    x0, y0, x1, y1 = canvas.seen
    assert x1 - x0 == y1 - y0
    assert abs(left + x0 - scale * crop.box[0]) <= 2
    assert abs(top + y0 - scale * crop.box[1]) <= 2


@pytest.mark.parametrize(
    ("own", "asked", "side"), [(120, None, 256), (400, None, 400), (900, None, FACE_PIXELS), (900, 1024, 1024)]
)
def test_faces_are_as_large_as_the_portrait_has_them_within_limits(own, asked, side):
    crop = crop_at(10, 20, own)
    canvas = Canvas.of_face(noise(1000, 1000), crop, landmarks_of(crop), asked)
    assert canvas.picture_size == canvas.size == (side, side)
    middle = canvas.landmarks[:, :2].mean(0) / (RIG_PIXELS * side)
    torch.testing.assert_close(middle, ((landmarks_of(crop)[:, :2].mean(0) - torch.tensor([10, 20])) / own))


@settings(max_examples=40, deadline=None)
@given(st.integers(70, 400), st.integers(70, 400), st.floats(-0.4, 0.7), st.floats(-0.4, 0.7), st.floats(0.4, 1.6))
def test_the_square_around_a_face_lies_inside_the_picture(width, height, x, y, share):
    picture, crop = noise(width, height), crop_at(x * width, y * height, share * min(width, height))
    canvas = Canvas.of_face(picture, crop, landmarks_of(crop), 64)
    side, own = crop.box[2] - crop.box[0], min(crop.box[2] - crop.box[0], width, height)
    scale = 64 / own
    x0, y0, x1, y1 = canvas.seen
    assert canvas.still_border == (round(side * scale) > 64)
    assert x1 - x0 == y1 - y0 == pytest.approx(side * scale, abs=1)
    left, top = crop.box[0] - x0 / scale, crop.box[1] - y0 / scale
    assert -1 / scale <= left <= width - own + 1 / scale
    assert -1 / scale <= top <= height - own + 1 / scale
    placed = canvas.landmarks[:, :2] / (RIG_PIXELS * scale) + torch.tensor([left, top])
    torch.testing.assert_close(placed, landmarks_of(crop)[:, :2], atol=1 / scale, rtol=0)


def test_what_does_not_move_keeps_its_pixels():
    picture = noise(800, 500)
    crop = crop_at(300, 150, 120)
    canvas = Canvas.of_whole(picture, crop, landmarks_of(crop), None)
    rig = canvas.rig(torch.zeros(57))
    rows = torch.zeros(1, 57)
    rows[:, 0], rows[:, 6 + 24] = 0.3, 0.5
    frame = canvas.place(to_pictures(rig.draw(rows, canvas.size)))[0]
    outside = np.ones(frame.shape[:2], bool)
    left, top = canvas.corner
    outside[top : top + canvas.size[0], left : left + canvas.size[1]] = False
    assert outside.any()
    assert np.array_equal(frame[outside], np.asarray(picture)[outside])


def test_the_border_of_the_moving_part_stays_still():
    """So it meets the picture around it without an edge."""
    grey = np.linspace(0, 255, 400).astype(np.uint8)
    picture = Image.fromarray(np.repeat(np.tile(grey, (400, 1))[..., None], 3, axis=-1))
    crop = crop_at(140, 120, 130)
    canvas = Canvas.of_whole(picture, crop, landmarks_of(crop), None)
    rows = torch.zeros(1, 57)
    rows[0, :6] = torch.tensor([0.4, 0.2, 0.2, 0.2, 0.1, 0.1])
    drawn = to_pictures(canvas.rig(torch.zeros(57)).draw(rows, canvas.size))
    frame = canvas.place(drawn)[0].astype(int)
    left, top = canvas.corner
    height, width = canvas.size
    ring = np.zeros(frame.shape[:2], bool)
    ring[top : top + height, left : left + width] = True
    ring[top + 2 : top + height - 2, left + 2 : left + width - 2] = False
    assert abs(frame - np.asarray(picture))[ring].max() <= 3
    assert abs(frame - np.asarray(picture)).max() > 12


@pytest.mark.parametrize(("left", "top"), [(40, 30), (-20, 10), (70, 60)])
def test_a_network_sees_its_square_and_the_portraits_surroundings_beyond_the_picture(left, top):
    drawn = torch.full((2, 3, 100, 120), 0.75)
    canvas = Canvas(torch.zeros(3, 200, 240), torch.zeros(478, 3), (100, 120), (left, top, left + 60, top + 60))
    surroundings = torch.zeros(1, 3, 30, 30)
    seen = canvas.seen_part(drawn, 30, surroundings)
    assert seen.shape == (2, 3, 30, 30)
    inside = torch.zeros(30, 30, dtype=torch.bool)
    inside[max(0, -top // 2) : (100 - top) // 2, max(0, -left // 2) : (120 - left) // 2] = True
    assert (seen[..., inside] == 0.75).all()
    assert (seen[..., ~inside] == 0).all()
