"""One face's expressions: proportions, lids that close, lips that stay below the nose."""

from __future__ import annotations

import pytest
import torch

from flashportrait.face.motion import BLENDSHAPE_NAMES
from flashportrait.rig.face import (
    BROWS_LIFTED,
    LEAST_BROW_PROPORTION,
    LIP_RISE,
    ExpressiveFace,
    with_hidden_side_drawn_in,
    with_lip_rims,
)
from flashportrait.rig.landmarks import BROWS, INNER_LIPS_LOWER, INNER_LIPS_UPPER, LOWER_LIDS, OUTER_LIPS, UPPER_LIDS
from flashportrait.rig.mesh import average_landmarks, load_face_mesh
from flashportrait.rig.pose import rotation_matrices


def _coefficients(**values: float) -> torch.Tensor:
    row = torch.zeros(1, len(BLENDSHAPE_NAMES))
    for name, value in values.items():
        for column, known in enumerate(BLENDSHAPE_NAMES):
            if known in (name, name + "Left", name + "Right"):
                row[0, column] = value
    return row


def _face(head: torch.Tensor | None = None, **own: float) -> ExpressiveFace:
    mesh = load_face_mesh()
    coefficients = _coefficients(**own)
    moved = mesh.displacement(torch.zeros(51), coefficients)[0]
    return ExpressiveFace(mesh, (mesh.neutral_face if head is None else head) + moved, coefficients[0])


def test_a_face_with_its_own_expression_is_itself() -> None:
    face = _face(eyeBlink=0.2, jawOpen=0.3)
    expression = face(face.own[None])
    torch.testing.assert_close(expression.head[0], face.head, atol=1e-4, rtol=0)
    torch.testing.assert_close(expression.openness, torch.ones(1, 2))


@pytest.mark.parametrize("side", [0, 1])
def test_a_closed_upper_lid_lies_on_the_lower_one(side: int) -> None:
    face = _face()
    closed = face(_coefficients(eyeBlink=1.0)).head[0]
    upper, lower = closed[list(UPPER_LIDS[side])], closed[list(LOWER_LIDS[side])]
    for x, y in upper[1:-1, :2].tolist():
        right = int((lower[:, 0].sort().values < x).sum().clamp(1, 8))
        ordered = lower[lower[:, 0].argsort()]
        share = (x - ordered[right - 1, 0]) / (ordered[right, 0] - ordered[right - 1, 0])
        below = torch.lerp(ordered[right - 1, 1], ordered[right, 1], share)
        assert abs(float(below) - y) < 0.15


def test_closing_eyes_keep_their_corners_and_lower_lids() -> None:
    face = _face()
    closed = face(_coefficients(eyeBlink=1.0)).offsets[0]
    for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True):
        width = float((face.head[upper[0], :2] - face.head[upper[-1], :2]).norm())
        assert float(closed[[*lower], 1].abs().max()) < 0.12 * width
        assert float(closed[[*upper[3:6]], 1].min()) > 0.25 * width


def test_lips_of_any_raised_upper_lip_stay_below_the_nose() -> None:
    short = load_face_mesh().neutral_face.clone()
    short[list(OUTER_LIPS), 1] -= 0.6
    for head in (None, short):
        face = _face(head)
        own = face.head[0, 1] - face.head[2, 1]
        raised = face(_coefficients(mouthUpperUp=1.0, mouthShrugUpper=1.0, mouthFunnel=1.0)).head[0]
        assert raised[0, 1] - raised[2, 1] > (1 - LIP_RISE - 0.15) * own


def test_lips_that_smile_in_the_photo_meet_when_the_mouth_closes() -> None:
    smile = {"mouthSmile": 0.9, "mouthUpperUp": 0.5, "mouthLowerDown": 0.3}
    face = _face(**smile)
    # The photo shows more between the lips than the average face would with this smile.
    face.head[list(INNER_LIPS_LOWER[1:-1]), 1] += 0.3
    upper, lower = list(INNER_LIPS_UPPER[1:-1]), list(INNER_LIPS_LOWER[1:-1])
    smiling, closed = face(torch.cat((_coefficients(**smile), _coefficients()))).head
    assert (smiling[lower, 1] - smiling[upper, 1]).mean() > 0.6
    assert (closed[lower] - closed[upper]).norm(dim=1).max() < 0.05


def test_lips_that_smile_little_in_the_photo_are_level_when_the_smile_goes() -> None:
    corners, middle = [INNER_LIPS_UPPER[0], INNER_LIPS_UPPER[-1]], INNER_LIPS_UPPER[5]
    face = _face(mouthSmile=0.9)
    # Read as a full smile, whose corners are hardly lifted.
    face.head[list(OUTER_LIPS + INNER_LIPS_UPPER + INNER_LIPS_LOWER), 1] += (
        0.5 * (face.head[list(OUTER_LIPS + INNER_LIPS_UPPER + INNER_LIPS_LOWER), 0] / 3).square()
    )
    again = ExpressiveFace(face.mesh, face.head, face.own)
    sags = [
        float(head[corners, 1].mean() - head[middle, 1])
        for head in (again(_coefficients()).head[0], face.mesh.neutral_face)
    ]
    assert sags[0] == pytest.approx(sags[1], abs=0.12)


def test_low_brows_move_less_and_are_not_lifted_to_the_average_face() -> None:
    mesh = load_face_mesh()
    brow = BROWS[0][6]
    low = mesh.neutral_face.clone()
    low[list(BROWS[0] + BROWS[1]), 1] += 0.7
    raised = _coefficients(browInnerUp=1.0)
    travel = [float(_face(head)(raised).offsets[0, brow, 1]) for head in (mesh.neutral_face, low)]
    assert travel[1] == pytest.approx(LEAST_BROW_PROPORTION * travel[0], rel=0.01)
    frowning = _face(browDown=0.3)
    regressed = mesh.displacement(frowning.own, _coefficients())[0, brow, 1]
    lifted = frowning(_coefficients()).offsets[0, brow, 1]
    assert lifted == pytest.approx(
        float(frowning.proportions[BLENDSHAPE_NAMES.index("browDownLeft")] * BROWS_LIFTED * regressed), rel=0.01
    )


def test_the_inner_edges_of_parted_lips_are_put_into_the_lips() -> None:
    landmarks = average_landmarks((128.0, 120.0), 160.0)
    upper, lower = list(INNER_LIPS_UPPER[1:-1]), list(INNER_LIPS_LOWER[1:-1])
    landmarks[lower] = landmarks[upper]
    torch.testing.assert_close(with_lip_rims(landmarks), landmarks)
    landmarks[lower, 1] += 3
    moved = (with_lip_rims(landmarks) - landmarks)[:, 1]
    assert -0.7 < moved[upper[2:-2]].min() < moved[upper[2:-2]].max() < -0.3
    assert 0.3 < moved[lower[2:-2]].min() < moved[lower[2:-2]].max() < 0.7


def test_the_outline_of_a_side_turned_away_is_drawn_into_the_face() -> None:
    mesh, landmarks = load_face_mesh(), average_landmarks((128.0, 120.0), 160.0)
    torch.testing.assert_close(with_hidden_side_drawn_in(landmarks, mesh), landmarks, atol=0.2, rtol=0)
    turn = rotation_matrices(torch.tensor([0.26, 0.0, 0.0]))
    turned = (landmarks - landmarks.mean(0)) @ turn.mT + landmarks.mean(0)
    moved = (with_hidden_side_drawn_in(turned, mesh) - turned)[:, 0]
    hidden, seen = 454, 234
    assert moved[hidden] < -4
    assert moved[seen] == 0
    assert moved[[4, 33, 263, 61, 291]].abs().max() < 0.5


def test_a_small_mouth_moves_less() -> None:
    mesh = load_face_mesh()
    small = mesh.neutral_face.clone()
    middle = small[13].clone()
    near = (small - middle).norm(dim=1) < 3.5
    small[near] = middle + 0.8 * (small[near] - middle)
    smile = _coefficients(mouthSmile=1.0)
    corner = OUTER_LIPS[10]
    travel = [float(_face(head)(smile).offsets[0, corner].norm()) for head in (mesh.neutral_face, small)]
    assert travel[1] == pytest.approx(0.8 * travel[0], rel=0.03)


def test_what_the_photo_shows_of_jaw_and_lip_is_known() -> None:
    assert _face(jawOpen=0.5).jaw_drop > 1.5
    assert _face().jaw_drop == 0
    assert _face(mouthUpperUp=0.8).lip_rise > 0.2
