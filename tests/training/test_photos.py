"""Animated photographs: known answers on a drawn face, and agreement with the landmarker on real pictures."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.face.blendshapes import MEDIAPIPE_NAMES, FaceLandmarker
from flashportrait.face.motion import BLENDSHAPE_NAMES, HEAD_POSE_NAMES
from flashportrait.face.pose import rotation_matrix
from flashportrait.models.tiny_vae import bend
from flashportrait.rig.landmarks import IRISES
from flashportrait.rig.mesh import load_face_mesh, mirrored_coefficients
from flashportrait.rig.photo import PhotoRig
from flashportrait.rig.pose import (
    head_angles,
    head_pose_limits,
    limit_motion,
    rotation_angles,
    rotation_matrices,
)
from flashportrait.training.photos import (
    Photo,
    PhotoSet,
    animate_photo,
    fit_motion,
    mirror_photo,
    mirror_row,
    photo_row,
    vary_photo,
)
from flashportrait.weights.hub import locate_weight

COLUMNS = {name: column for column, name in enumerate((*HEAD_POSE_NAMES, *BLENDSHAPE_NAMES))}
SIDE = 256
NOSE_TIP, CHIN, FOREHEAD, LEFT_CHEEK = 4, 152, 10, 425


def place_landmarks(yaw: float = 0.0, pitch: float = 0.0, roll: float = 0.0) -> Tensor:
    """The canonical face in the middle of the picture, nine pixels to the centimetre.  [478 3]"""
    rotation = rotation_matrices(torch.tensor([yaw, pitch, roll]))
    return 9.0 * load_face_mesh().canonical_face @ rotation.mT + torch.tensor([128.0, 124.0, 0.0])


def draw_photo(spot: int | None = None, landmarks: Tensor | None = None) -> Photo:
    """A smooth picture with dark irises and, if asked, a white spot on one landmark."""
    landmarks = place_landmarks() if landmarks is None else landmarks
    axis = (torch.arange(SIDE) + 0.5) / SIDE
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    image = torch.stack((0.35 + 0.2 * x, 0.3 + 0.2 * y, 0.3 + 0.1 * torch.sin(6 * x) * torch.cos(5 * y)))
    spots = [(landmarks[iris[0], :2], 3.5, 0.0) for iris in IRISES]
    if spot is not None:
        spots.append((landmarks[spot, :2], 3.0, 1.0))
    for centre, radius, value in spots:
        distance = torch.hypot(x * SIDE - centre[0], y * SIDE - centre[1])
        image = image + (value - image) * torch.sigmoid((radius - distance) * 2)
    return Photo(image, landmarks, photo_row(landmarks, torch.zeros(len(BLENDSHAPE_NAMES))))


def rows_of(photo: Photo, *changes: dict[str, float]) -> Tensor:
    """The photo's own row with some columns set, one row per change."""
    rows = photo.row.repeat(len(changes), 1)
    for row, change in zip(rows, changes, strict=True):
        for name, value in change.items():
            row[COLUMNS[name]] = value
    return rows


def both(name: str, value: float) -> dict[str, float]:
    return {name + "Left": value, name + "Right": value}


def bright_spot(frame: Tensor) -> Tensor:
    """Centre (x, y) in pixels of what is nearly white."""
    weight = (frame.amin(0) - 0.75).clamp_min(0)
    axis = torch.arange(frame.shape[-1]) + 0.5
    return torch.stack(((weight.sum(0) * axis).sum(), (weight.sum(1) * axis).sum())) / weight.sum()


def animate(photo: Photo, rows: Tensor, size: int = SIDE):
    return animate_photo(photo.image, photo.landmarks, photo.row, rows, size)


angle = st.floats(-1.2, 1.2)


@settings(max_examples=25, deadline=None)
@given(yaw=angle, pitch=angle, roll=angle)
def test_rotations_are_those_of_the_extractor(yaw: float, pitch: float, roll: float):
    rotation = rotation_matrices(torch.tensor([yaw, pitch, roll], dtype=torch.float64))
    picture_axes = np.diag([1.0, -1.0, -1.0])
    np.testing.assert_allclose(rotation, picture_axes @ rotation_matrix(yaw, pitch, roll) @ picture_axes, atol=1e-9)
    np.testing.assert_allclose(rotation_angles(rotation), [yaw, pitch, roll], atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(yaw=st.floats(-0.6, 0.6), pitch=st.floats(-0.5, 0.5), roll=st.floats(-0.6, 0.6))
def test_photo_row_reads_the_pose_of_the_landmarks(yaw: float, pitch: float, roll: float):
    landmarks = place_landmarks(yaw, pitch, roll)
    np.testing.assert_allclose(head_angles(landmarks), [yaw, pitch, roll], atol=1e-3)
    row = photo_row(landmarks, torch.arange(51) / 51)
    np.testing.assert_allclose(row[3:6], 0)
    np.testing.assert_allclose(row[6:], torch.arange(51) / 51)


@pytest.mark.parametrize(("size", "floor_db"), [(256, 38.0), (128, 38.0), (64, 36.0)])
@pytest.mark.parametrize("pose", [(0.0, 0.0, 0.0), (0.25, -0.1, 0.2)])
def test_its_own_row_reproduces_the_photo(size: int, floor_db: float, pose: tuple[float, float, float]):
    photo = draw_photo(NOSE_TIP, place_landmarks(*pose))
    frame = animate(photo, photo.row[None], size).frames[0]
    expected = torch.nn.functional.avg_pool2d(photo.image, SIDE // size)
    assert -10 * torch.log10((frame - expected).square().mean()) > floor_db


@pytest.mark.parametrize(
    ("spot", "change", "direction"),
    [
        (NOSE_TIP, {"yaw": 0.3}, (1, 0)),
        (NOSE_TIP, {"yaw": -0.3}, (-1, 0)),
        (NOSE_TIP, {"pitch": 0.25}, (0, -1)),
        (NOSE_TIP, {"pitch": -0.25}, (0, 1)),
        (FOREHEAD, {"roll": 0.3}, (1, 0)),
        (NOSE_TIP, {"x": 0.1}, (1, 0)),
        (NOSE_TIP, {"y": 0.1}, (0, 1)),
        (LEFT_CHEEK, {"log_scale": 0.15}, (1, 0)),
        (CHIN, {"jawOpen": 0.6}, (0, 1)),
        (LEFT_CHEEK, both("mouthSmile", 0.9), (0, -1)),
    ],
)
def test_motion_moves_the_face_the_way_it_says(spot: int, change: dict[str, float], direction: tuple[int, int]):
    photo = draw_photo(spot)
    before, after = (bright_spot(frame) for frame in animate(photo, rows_of(photo, {}, change)).frames)
    along = ((after - before) * torch.tensor(direction)).sum()
    assert along > 1.5


def test_shift_and_scale_are_in_units_of_the_face():
    photo = draw_photo(NOSE_TIP)
    before, after = (bright_spot(frame) for frame in animate(photo, rows_of(photo, {}, {"x": 0.1})).frames)
    height = load_face_mesh().canonical_face[:468, 1]
    assert after[0] - before[0] == pytest.approx(0.1 * 9.0 * float(height.max() - height.min()), abs=0.5)


def test_jaw_opens_onto_a_dark_mouth_and_leaves_the_forehead():
    photo = draw_photo(FOREHEAD)
    frames = animate(photo, rows_of(photo, {}, {"jawOpen": 0.7})).frames
    assert torch.dist(bright_spot(frames[0]), bright_spot(frames[1])) < 0.5
    x, y = photo.landmarks[14, :2].int().tolist()
    below_lip = (slice(None), slice(y + 4, y + 14), slice(x - 6, x + 6))
    assert frames[1][below_lip].mean() < 0.7 * frames[0][below_lip].mean()


def test_blink_covers_the_iris_and_gaze_moves_it():
    photo = draw_photo()
    to_left = {"eyeLookOutLeft": 0.8, "eyeLookInRight": 0.8}
    frames = animate(photo, rows_of(photo, {}, both("eyeBlink", 1.0), to_left)).frames
    for iris in IRISES:
        x, y = photo.landmarks[iris[0], :2].int().tolist()
        around = (slice(y - 6, y + 7), slice(x - 12, x + 13))
        still, closed, moved = ((0.2 - frame.mean(0)[around]).clamp_min(0) for frame in frames)
        assert closed.sum() < 0.35 * still.sum()
        axis = torch.arange(25.0)
        assert (moved.sum(0) @ axis) / moved.sum() > (still.sum(0) @ axis) / still.sum() + 1


def test_flow_bends_the_turned_photo_into_the_animated_one():
    axis = torch.arange(SIDE) / SIDE
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    image = 0.5 + 0.2 * torch.stack((torch.sin(40 * x), torch.sin(40 * y), torch.sin(30 * (x + y))))
    landmarks = place_landmarks(0.1)
    rig = PhotoRig(image, landmarks, photo_row(landmarks, torch.zeros(len(BLENDSHAPE_NAMES))))
    rows = rig.own_row.repeat(3, 1)
    rows[1, COLUMNS["jawOpen"]], rows[1, COLUMNS["roll"]], rows[2, COLUMNS["yaw"]] = 0.8, 0.2, 0.3
    rows[2, [COLUMNS[name] for name in (*both("eyeBlink", 1), *both("mouthSmile", 1))]] = 0.9
    drawn, turned = rig.animate(rows, 128), rig.draw(rows, 128, 0)
    known = drawn.flow.isfinite()
    assert known.float().mean(dim=(1, 2, 3)).min() > 0.97
    # A photo of its own row isn't bent; a jaw that opens has the inside of a mouth, which isn't known.
    assert drawn.flow[0][known[0]].abs().max() < 0.02
    below = drawn.flow[1].nan_to_num(0)[1].min()
    assert below < -8, "the chin came from above"
    assert (~known[1]).sum() > (~known[0]).sum() + 200
    error = (bend(turned, drawn.flow.nan_to_num(0)) - drawn.frames).abs() * known[:, :1]
    unbent = (turned - drawn.frames).abs() * known[:, :1]
    assert error[1:].mean() < 0.2 * unbent[1:].mean()


def test_a_mirrored_photo_moves_as_in_a_mirror():
    photo = draw_photo(LEFT_CHEEK, place_landmarks(0.15, 0.05, -0.1))
    rows = rows_of(photo, {"yaw": 0.4, "mouthSmileLeft": 0.8}, {"roll": 0.1, "x": 0.1, "eyeBlinkLeft": 0.9})
    plain, mirrored = animate(photo, rows, 128), animate(mirror_photo(photo), mirror_row(rows), 128)
    assert (plain.frames.flip(-1) - mirrored.frames).abs().mean() < 4e-3
    assert (plain.face_mask.flip(-1) - mirrored.face_mask).abs().mean() < 4e-3
    torch.testing.assert_close(mirror_row(plain.motion), mirrored.motion, atol=1e-5, rtol=0)


def test_mirror_row_undoes_itself_and_swaps_sides():
    rows = torch.randn(3, 57, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(mirror_row(mirror_row(rows)), rows)
    assert mirror_row(rows)[0, COLUMNS["jawLeft"]] == rows[0, COLUMNS["jawRight"]]
    assert mirror_row(rows)[0, COLUMNS["yaw"]] == -rows[0, COLUMNS["yaw"]]
    assert sorted(mirrored_coefficients()) == list(range(51))


def test_frames_do_not_depend_on_their_batch():
    photo = draw_photo(NOSE_TIP)
    rows = rows_of(photo, {"yaw": 0.3}, {"jawOpen": 0.5}, both("eyeBlink", 0.7))
    together = animate(photo, rows, 64)
    for index, row in enumerate(rows):
        alone = animate(photo, row[None], 64)
        torch.testing.assert_close(alone.frames[0], together.frames[index], atol=1e-4, rtol=0)
        torch.testing.assert_close(alone.eye_mask[0], together.eye_mask[index])


@settings(max_examples=10, deadline=None)
@given(size=st.integers(16, 140), count=st.integers(1, 4), seed=st.integers(0, 999))
def test_any_rows_give_whole_frames_masks_and_the_rows_drawn(size: int, count: int, seed: int):
    photo = draw_photo()
    rows = 2 * torch.randn(count, 57, generator=torch.Generator().manual_seed(seed))
    result = animate(photo, rows, size)
    assert result.frames.shape == (count, 3, size, size)
    assert result.frames.isfinite().all()
    assert 0 <= result.frames.min() <= result.frames.max() <= 1
    for mask in (result.face_mask, result.lip_mask, result.eye_mask):
        assert mask.shape == (count, 1, size, size)
        assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert (result.motion[:, 6:] >= 0).all()
    assert (result.motion[:, :3].abs() <= 0.45).all()
    again = animate(photo, result.motion, size)
    torch.testing.assert_close(again.motion, result.motion)


def test_actions_the_landmarker_cannot_read_stay_as_in_the_photo():
    photo = draw_photo()
    assert animate(photo, rows_of(photo, {"cheekPuff": 1.0}), 32).motion[0, COLUMNS["cheekPuff"]] == 0


@settings(max_examples=30, deadline=None)
@given(own_yaw=st.floats(-0.35, 0.35), middle=st.floats(-1, 1), width=st.floats(0, 1.5))
def test_fit_motion_shifts_a_performance_within_reach(own_yaw: float, middle: float, width: float):
    own, motion = torch.zeros(57), torch.zeros(5, 57)
    own[0] = own_yaw
    motion[:, 0] = torch.linspace(middle - width / 2, middle + width / 2, 5)
    fitted = fit_motion(own, motion)
    torch.testing.assert_close(fitted[:, 0].diff(), motion[:, 0].diff(), atol=1e-5, rtol=0)
    torch.testing.assert_close(fitted[:, 1:], motion[:, 1:])
    drawn = limit_motion(own, fitted)
    cut = (drawn[:, 0] - fitted[:, 0]).abs()
    lowest, highest = head_pose_limits(own)
    too_wide = max(0.0, width - float(highest[0] - lowest[0]))
    assert cut.max() == pytest.approx(too_wide / 2, abs=1e-4)


def test_a_turned_photo_turns_back_less_than_onward():
    own = torch.zeros(57)
    own[0] = 0.3
    lowest, highest = head_pose_limits(own)
    assert own[0] - lowest[0] < highest[0] - own[0]


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    """Three drawn photos, the second turned too far to be animated; each landmark and coefficient as stored by name."""
    poses = [(0.1, 0.0, 0.0), (0.8, 0.0, 0.0), (-0.2, 0.1, 0.0)]
    blendshapes = np.zeros((3, 52), np.float16)
    blendshapes[2, MEDIAPIPE_NAMES.index("jawOpen")] = 0.5
    for index, pose in enumerate(poses):
        pixels = (draw_photo(NOSE_TIP, place_landmarks(*pose)).image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index:04}.jpg", quality=95)
    landmarks = np.stack([place_landmarks(*pose).numpy() for pose in poses]).astype(np.float16)
    np.savez(tmp_path / "landmarks.npz", landmarks=landmarks, blendshapes=blendshapes)
    return tmp_path


def test_photo_set_reads_photos_with_their_rows(photo_folder: Path):
    photos = PhotoSet(photo_folder)
    assert photos.names == ["0000.jpg", "0002.jpg"]
    assert photos[1].image.shape == (3, SIDE, SIDE)
    assert photos[1].row[COLUMNS["yaw"]] == pytest.approx(-0.2, abs=0.01)
    assert photos[1].row[COLUMNS["jawOpen"]] == 0.5
    torch.testing.assert_close(bright_spot(photos[1].image), photos[1].landmarks[NOSE_TIP, :2], atol=1.0, rtol=0)


def test_nobody_is_both_trained_on_and_judged_by(photo_folder: Path):
    most, few = PhotoSet(photo_folder).split(one_in=2)
    assert (most.names, few.names) == (["0002.jpg"], ["0000.jpg"])
    assert most[0].row[COLUMNS["yaw"]] == pytest.approx(-0.2, abs=0.01)
    assert few[0].row[COLUMNS["yaw"]] == pytest.approx(0.1, abs=0.01)


def test_sampling_is_repeatable_and_keeps_landmarks_on_the_picture(photo_folder: Path):
    photos = PhotoSet(photo_folder)
    first, second = (photos.sample(torch.Generator().manual_seed(5)) for _ in range(2))
    torch.testing.assert_close(first.image, second.image)
    assert 0 <= first.image.min() <= first.image.max() <= 1


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 9999))
def test_varied_photos_keep_their_landmarks_and_row(seed: int):
    varied = vary_photo(draw_photo(NOSE_TIP, place_landmarks(0.2)), torch.Generator().manual_seed(seed))
    brightness = varied.image.sum(0)
    spot = (brightness == brightness.max()).nonzero().float().mean(0).flip(0) + 0.5
    assert torch.dist(spot, varied.landmarks[NOSE_TIP, :2]) < 3
    torch.testing.assert_close(head_angles(varied.landmarks), varied.row[:3], atol=1e-3, rtol=0)


def test_the_landmarker_reads_what_was_asked_for(shared: Path):
    weight = locate_weight("face_landmarker")
    if weight is None:
        pytest.skip("needs face_landmarker.task")
    landmarker, generator = FaceLandmarker(weight), torch.Generator().manual_seed(3)
    photos = PhotoSet(shared / "faces" / "diverse")
    asked, read = [], []
    for _ in range(10):
        photo = photos.sample(generator, vary=False)
        rows = photo.row.repeat(2, 1)
        rows[0, :3] += (2 * torch.rand(3, generator=generator) - 1) * torch.tensor([0.4, 0.3, 0.3])
        rows[1, COLUMNS["jawOpen"]] = 0.8 * torch.rand((), generator=generator)
        result = animate(photo, rows)
        for frame in result.frames:
            picture = (frame.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)
            faces = landmarker.detect(picture)
            assert len(faces) == 1
            read.append(faces[0].motion_row(faces[0].center, faces[0].size))
        asked.extend(result.motion.numpy())
    asked, read = np.stack(asked), np.stack(read)
    for name, floor, shown in (("yaw", 0.97, 0), ("pitch", 0.93, 0), ("roll", 0.97, 0), ("jawOpen", 0.8, 1)):
        wanted, found = asked[shown::2, COLUMNS[name]], read[shown::2, COLUMNS[name]]
        assert np.corrcoef(wanted, found)[0, 1] > floor, name
        assert 0.7 < np.polyfit(wanted, found, 1)[0] < 1.3, name


def test_a_folder_without_photos_is_an_error(tmp_path: Path, photo_folder: Path):
    with pytest.raises(UserError, match="give a folder"):
        PhotoSet(tmp_path / "nowhere")
    (photo_folder / "0002.jpg").unlink()
    with pytest.raises(UserError, match="2 photos"):
        PhotoSet(photo_folder)
