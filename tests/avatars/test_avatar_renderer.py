"""Drawn portraits: known answers about where things are, and what the landmarker reads from them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from flashportrait.avatars import RenderResult, render, sample_identities, sample_performance
from flashportrait.avatars.camera import Camera, Window, rotation_matrix
from flashportrait.face.motion import BLENDSHAPE_NAMES, HEAD_POSE_NAMES

COLUMN = {name: index for index, name in enumerate(HEAD_POSE_NAMES + BLENDSHAPE_NAMES)}


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rows(**coefficients: float) -> torch.Tensor:
    """One motion row with the named coefficients; a name without its side means both."""
    row = torch.zeros(1, len(COLUMN))
    for name, value in coefficients.items():
        for each in [name] if name in COLUMN else [name + "Left", name + "Right"]:
            row[0, COLUMN[each]] = value
    return row


def bare_faced(count: int, seed: int = 0):
    """Identities without glasses."""
    identity = sample_identities(4 * count, seeded(seed))
    return identity[(identity.glasses == 0).nonzero().flatten()[:count]]


def centroid(mask: torch.Tensor) -> tuple[float, float]:
    """Middle of a mask [1 h w], right and down, in pixels."""
    weight = mask[0] / mask.sum()
    line = torch.arange(mask.shape[-1], dtype=torch.float32)
    return float((weight.sum(0) * line).sum()), float((weight.sum(1) * line).sum())


def extent(mask: torch.Tensor) -> tuple[int, int]:
    """Width and height of a mask [1 h w], in pixels."""
    inside = mask[0] > 0.5
    return int(inside.any(0).sum()), int(inside.any(1).sum())


def test_pictures_and_masks_are_well_formed():
    identity = sample_identities(6, seeded(1))
    result = render(identity, sample_performance(6, kind="random", generator=seeded(2)), size=96)
    assert result.frames.shape == (6, 3, 96, 96)
    for value in (result.frames, result.face_mask, result.lip_mask, result.eye_mask):
        assert value.isfinite().all()
        assert value.min() >= 0
        assert value.max() <= 1
    for mask in (result.face_mask, result.lip_mask, result.eye_mask):
        assert mask.shape == (6, 1, 96, 96)
        assert (mask.sum(dim=(1, 2, 3)) > 5).all()
    assert (result.lip_mask <= result.face_mask + 1e-6).all()
    assert (result.eye_mask <= result.face_mask + 1e-6).all()


def test_drawing_is_deterministic():
    identity, motion = sample_identities(2, seeded(1)), sample_performance(2, kind="random", generator=seeded(2))
    assert torch.equal(render(identity, motion, 64).frames, render(identity, motion, 64).frames)


def test_a_batch_equals_its_rows_drawn_alone():
    identity, motion = sample_identities(5, seeded(3)), sample_performance(5, kind="random", generator=seeded(4))
    together = render(identity, motion, 64)
    for row in range(5):
        alone = render(identity[row], motion[row : row + 1], 64)
        for name in ("frames", "lip_mask", "eye_mask"):
            difference = (getattr(alone, name)[0] - getattr(together, name)[row]).abs().max()
            assert difference < 1e-3, name


def test_one_identity_is_drawn_for_all_rows():
    identity, motion = sample_identities(1, seeded(5)), sample_performance(3, kind="talking", generator=seeded(6))
    one, repeated = render(identity, motion, 64), render(identity.repeat(3), motion, 64)
    assert torch.equal(one.frames, repeated.frames)


def test_a_wrong_number_of_identities_is_refused():
    with pytest.raises(ValueError, match="2 identities for 3 motion rows"):
        render(sample_identities(2, seeded(0)), torch.zeros(3, 57), 32)


@pytest.mark.parametrize("size", [48, 128, 200])
def test_sizes_show_the_same_picture(size: int):
    identity = bare_faced(1, 7)
    small, large = render(identity, rows(), size), render(identity, rows(), 256)
    x, y = centroid(small.face_mask[0])
    wide_x, wide_y = centroid(large.face_mask[0])
    assert x / size == pytest.approx(wide_x / 256, abs=0.02)
    assert y / size == pytest.approx(wide_y / 256, abs=0.02)


def test_yaw_moves_the_mouth_to_the_right_of_the_picture_and_pitch_up():
    identity = bare_faced(4)
    for row in range(4):
        straight = centroid(render(identity[row], rows(), 128).lip_mask[0])
        left = centroid(render(identity[row], rows(yaw=0.5), 128).lip_mask[0])
        up = centroid(render(identity[row], rows(pitch=0.3), 128).lip_mask[0])
        assert left[0] > straight[0] + 4
        assert up[1] < straight[1] - 2


def test_roll_is_clockwise():
    result = render(bare_faced(1), rows(roll=0.4), 128)
    eyes, lips = centroid(result.eye_mask[0]), centroid(result.lip_mask[0])
    assert eyes[0] > lips[0] + 5


def test_position_and_scale_are_in_face_heights():
    identity = bare_faced(1)
    still, moved = render(identity, rows(), 256).eye_mask[0], render(identity, rows(x=0.1, y=0.05), 256).eye_mask[0]
    face = float(identity.face_size) * 256
    (x0, y0), (x1, y1) = centroid(still), centroid(moved)
    assert (x1 - x0) / face == pytest.approx(0.1, abs=0.01)
    assert (y1 - y0) / face == pytest.approx(0.05, abs=0.01)
    grown = extent(render(identity, rows(log_scale=0.2), 256).eye_mask[0])[0] / extent(still)[0]
    assert grown == pytest.approx(np.exp(0.2), rel=0.05)


def test_an_open_jaw_lengthens_mouth_and_face():
    identity = bare_faced(4)
    for row in range(4):
        heights = [extent(render(identity[row], rows(jawOpen=value), 128).lip_mask[0])[1] for value in (0, 0.4, 0.8)]
        assert heights[0] + 2 < heights[1] < heights[2] - 2
        closed, opened = (extent(render(identity[row], rows(jawOpen=v), 128).face_mask[0])[1] for v in (0, 0.8))
        assert opened > closed + 3


def test_mouth_close_keeps_the_lips_together_under_an_open_jaw():
    identity = bare_faced(1)
    opened = extent(render(identity, rows(jawOpen=0.4), 128).lip_mask[0])[1]
    closed = extent(render(identity, rows(jawOpen=0.4, mouthClose=0.4), 128).lip_mask[0])[1]
    assert closed < opened - 3


def test_smile_widens_and_pucker_narrows_the_mouth():
    identity = bare_faced(1)
    pucker, rest, smile = (
        extent(render(identity, row, 256).lip_mask[0])[0]
        for row in (rows(mouthPucker=0.9), rows(), rows(mouthSmile=0.9))
    )
    assert pucker + 8 < rest < smile - 4


def test_left_is_the_subjects_left():
    identity = bare_faced(1)
    rest, wink = render(identity, rows(), 256), render(identity, rows(eyeBlinkLeft=1.0), 256)
    change = (wink.frames - rest.frames).abs().sum(dim=1)[0]
    assert change[:, 128:].sum() > 50 * change[:, :128].sum()
    smirk = (render(identity, rows(mouthSmileLeft=0.8), 256).frames - rest.frames).abs().sum(dim=1)[0]
    assert smirk[:, 128:].sum() > 3 * smirk[:, :128].sum()


def test_a_blink_hides_iris_and_white():
    identity = bare_faced(1)
    green = dataclasses.replace(identity, iris_color=torch.tensor([[0.0, 1.0, 0.0]]))
    opened, shut = (render(green, rows(eyeBlink=value), 256) for value in (0.0, 1.0))

    def greenness(result: RenderResult) -> float:
        frame = result.frames[0]
        return float(((frame[1] - frame[0] - 0.1).clamp_min(0) * result.eye_mask[0]).sum())

    assert greenness(opened) > 20 * max(greenness(shut), 0.05)


def test_gaze_moves_the_iris_where_the_eye_looks():
    identity = bare_faced(1)
    green = dataclasses.replace(identity, iris_color=torch.tensor([[0.0, 1.0, 0.0]]))

    def left_iris(**gaze: float) -> tuple[float, float]:
        result = render(green, rows(**gaze), 256)
        frame = result.frames[0]
        weight = (frame[1] - frame[0] - 0.1).clamp_min(0) * result.eye_mask[0]
        weight[..., :128] = 0
        return centroid(weight)

    straight = left_iris()
    assert left_iris(eyeLookOutLeft=0.5)[0] > straight[0] + 1.5
    assert left_iris(eyeLookInLeft=0.5)[0] < straight[0] - 1.5
    assert left_iris(eyeLookUpLeft=0.2)[1] < straight[1] - 1
    assert left_iris(eyeLookDownLeft=0.6)[1] > straight[1] + 1


def test_rotation_signs():
    nose, crown = torch.tensor([0.0, 0, 1]), torch.tensor([0.0, 1, 0])
    angle, zero = torch.tensor([0.3]), torch.zeros(1)
    assert (rotation_matrix(angle, zero, zero)[0] @ nose)[0] > 0.2
    assert (rotation_matrix(zero, angle, zero)[0] @ nose)[1] > 0.2
    assert (rotation_matrix(zero, zero, angle)[0] @ crown)[0] > 0.2


def test_windows_cut_and_paste_back():
    window = Window(left=[1, 3], top=[2, 0], width=4, height=5)
    picture = torch.arange(2 * 2 * 8 * 8, dtype=torch.float32).reshape(2, 2, 8, 8)
    part = window.cut(picture)
    assert torch.equal(part[1], picture[1, :, 0:5, 3:7])
    copy = picture.clone()
    window.paste(part + 1, copy)
    assert (copy - picture).sum() == part.numel()


def test_the_head_window_holds_the_head():
    identity = sample_identities(8, seeded(9))
    motion = sample_performance(8, kind="random", generator=seeded(9))
    camera = Camera.of(identity, motion, 128)
    window = Window.around(camera, (0.0, -0.1, 0.0), (1.15, 1.5), torch.zeros(8))
    for row, (left, top) in enumerate(zip(window.left, window.top, strict=True)):
        inside = render(identity[row], motion[row : row + 1], 128).face_mask[0, 0]
        kept = inside[top : top + window.height, left : left + window.width]
        assert float(kept.sum()) == pytest.approx(float(inside.sum()), rel=1e-3)


@pytest.fixture(scope="module")
def landmarker():
    from flashportrait.errors import UserError
    from flashportrait.face.blendshapes import FaceLandmarker

    try:
        return FaceLandmarker()
    except (UserError, ImportError, FileNotFoundError) as error:
        pytest.skip(f"needs the face landmarker: {error}")


def test_the_landmarker_reads_what_was_drawn(landmarker):
    count = 28
    identity = bare_faced(count, 11)
    motion = sample_performance(count, kind="random", generator=seeded(12))
    frames = render(identity, motion, 192).frames
    read, truth = [], []
    for row, frame in enumerate(frames.permute(0, 2, 3, 1).mul(255).round().byte().numpy()):
        faces = landmarker.detect(frame)
        if faces:
            center = ((0.5 + float(identity.center_x[row])) * 192, (0.5 + float(identity.center_y[row])) * 192)
            read.append(faces[0].motion_row(center, float(identity.face_size[row]) * 192))
            truth.append(motion[row].numpy())
    read, truth = np.array(read), np.array(truth)
    assert len(read) >= count - 2

    def agreement(*names: str) -> float:
        columns = [COLUMN[name] for name in names]
        return np.corrcoef(read[:, columns].mean(axis=1), truth[:, columns].mean(axis=1))[0, 1]

    for name in ("yaw", "pitch", "roll", "x", "y"):
        assert agreement(name) > 0.9, name
    assert agreement("log_scale") > 0.75
    assert agreement("jawOpen") > 0.6
    for name in ("eyeBlink", "mouthSmile"):
        assert agreement(f"{name}Left", f"{name}Right") > 0.7, name
    assert agreement("browInnerUp") > 0.65
