"""One face's expressions: proportions, lids that close, lips that stay below the nose."""

from __future__ import annotations

import pytest
import torch

from flashportrait.face.motion import BLENDSHAPE_NAMES
from flashportrait.rig.face import LIP_RISE, ExpressiveFace, with_hidden_side_drawn_in
from flashportrait.rig.landmarks import INNER_LIPS_LOWER, INNER_LIPS_UPPER, LOWER_LIDS, OUTER_LIPS, UPPER_LIDS
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
    gaps = [
        float((head[lower, 1] - head[upper, 1]).mean())
        for head in face(torch.cat((_coefficients(**smile), _coefficients()))).head
    ]
    assert gaps[0] > 0.6
    assert gaps[1] < 0.1


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
