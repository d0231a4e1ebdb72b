"""What the benchmark of the embedded model says of mesh and network."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from embedded import _gain, followed, mean_inside, psnr
from embedded_cases import far_turned_cases, framed_photo, reversed_cases
from flashportrait.evaluation.extractors import FaceRows
from flashportrait.face.blendshapes import MEDIAPIPE_NAMES
from flashportrait.face.motion import BLENDSHAPE_NAMES, MotionFeatures
from flashportrait.rig.mesh import average_landmarks
from flashportrait.training.photos import Photo


@pytest.fixture
def photo() -> Photo:
    picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(picture[None], (256, 256), mode="bicubic")[0].clamp(0, 1)
    return Photo(image, average_landmarks((128.0, 120.0), 140.0), torch.zeros(57))


def test_psnr_is_of_the_pixels_inside() -> None:
    truth = torch.zeros(2, 3, 8, 8)
    frames, inside = truth.clone(), torch.zeros(2, 1, 8, 8, dtype=torch.bool)
    frames[..., :4] = 0.1
    frames[..., 4:] = 1
    inside[..., :4] = True
    assert psnr(frames, truth, inside) == pytest.approx(20)
    assert np.isnan(psnr(frames, truth, inside & False))


def test_a_mean_is_of_the_pixels_inside() -> None:
    values = torch.arange(32.0).reshape(2, 1, 4, 4)
    assert mean_inside(values, values > 29) == 30.5
    assert np.isnan(mean_inside(values, values > 99))


def test_a_gain_is_the_mean_over_clips_that_have_the_place() -> None:
    figures = _gain([(20.0, 21.0), (30.0, 33.0), (float("nan"), 10.0)])
    assert (figures["mesh"], figures["network"], figures["gain"]) == (25, 27, 2)
    assert figures["+-"] == pytest.approx(1.0)


def test_the_mesh_draws_a_photograph_back_from_a_portrait_made_of_it(photo: Photo) -> None:
    (case,) = reversed_cases([photo], 1, 3)
    assert not torch.allclose(case.framed.canvas.texture, photo.image, atol=0.1)
    back = case.framed.drawn_on()[1].draw(case.rows, 256)
    around = case.places["face"] & ~case.places["stretched"] & ~case.places["mouth"] & ~case.places["eyes"]
    made = case.framed.canvas.texture.expand_as(case.truth)
    assert psnr(back, case.truth, around) > psnr(made, case.truth, around) + 5
    alone = framed_photo(photo).drawn_on()[1].draw(case.rows, 256)
    assert psnr(alone, case.truth, case.places["face"]) > 40


def test_people_turned_far_are_turned_far() -> None:
    cases = list(far_turned_cases(2, 3))
    assert all((case.rows[:, 0].abs().rad2deg() > 24.9).all() for case in cases)
    assert cases[0].rows[0, 0] * cases[1].rows[0, 0] < 0
    assert cases[0].places["face"].any()


def test_following_is_judged_where_the_driver_does_something() -> None:
    values = np.zeros((20, 57), np.float32)
    values[:, 6 + BLENDSHAPE_NAMES.index("jawOpen")] = np.linspace(0, 1, 20)
    read = np.zeros((20, 52), np.float32)
    read[:, MEDIAPIPE_NAMES.index("jawOpen")] = 0.5 * np.linspace(0, 1, 20)
    rows = FaceRows(read, np.zeros((20, 3), np.float32), np.zeros((20, 5, 2), np.float32), ())
    assert followed(rows, MotionFeatures(values, 25)) == {"jaw": pytest.approx(1.0)}
