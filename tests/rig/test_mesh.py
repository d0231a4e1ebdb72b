"""The face mesh's topology and the regression that gives its expression basis."""

from __future__ import annotations

import pytest
import torch

from flashportrait.face.motion import BLENDSHAPE_NAMES
from flashportrait.rig.landmarks import INNER_LIPS_LOWER, INNER_LIPS_UPPER, LANDMARKS, MESH_LANDMARKS
from flashportrait.rig.mesh import (
    fit_expression_basis,
    fit_similarity,
    load_face_mesh,
    mirrored_coefficients,
    points_in_polygon,
)


def test_the_mesh_is_one_sheet_with_a_closed_outline():
    mesh = load_face_mesh()
    assert mesh.triangles.unique().tolist() == list(range(MESH_LANDMARKS))
    assert len(mesh.triangles) == 2 * MESH_LANDMARKS - 2 - len(mesh.oval)
    assert len(set(mesh.oval)) == 36


def test_the_mesh_is_symmetric():
    mesh = load_face_mesh()
    assert torch.equal(mesh.mirror[mesh.mirror], torch.arange(LANDMARKS))
    flipped = mesh.canonical_face[mesh.mirror] * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(flipped[:MESH_LANDMARKS], mesh.canonical_face[:MESH_LANDMARKS], atol=0.01, rtol=0)
    twin = mesh.expression_basis[mirrored_coefficients()][:, mesh.mirror] * torch.tensor([-1.0, 1.0, 1.0])
    torch.testing.assert_close(twin, mesh.expression_basis, atol=0.02, rtol=0)


def test_gains_apply_to_what_grows_and_to_gaze():
    mesh, smile, look = (
        load_face_mesh(),
        BLENDSHAPE_NAMES.index("mouthSmileLeft"),
        BLENDSHAPE_NAMES.index("eyeLookInLeft"),
    )
    rest = torch.zeros(51)
    for column, fading_gain in ((smile, torch.tensor(1.0)), (look, mesh.gains[look])):
        full = torch.nn.functional.one_hot(torch.tensor(column), 51).float()
        basis = mesh.expression_basis[column]
        torch.testing.assert_close(mesh.displacement(rest, full[None])[0], mesh.gains[column] * basis)
        torch.testing.assert_close(mesh.displacement(full, rest[None])[0], -fading_gain * basis)


def test_the_mouth_opening_is_the_hole_between_the_inner_lips():
    mesh = load_face_mesh()
    rim = INNER_LIPS_UPPER + INNER_LIPS_LOWER[1:-1]
    assert int(mesh.triangles_among(rim).sum()) == len(rim) - 2


def test_fit_similarity_finds_the_transform_that_was_applied():
    generator = torch.Generator().manual_seed(1)
    points = torch.randn(3, 20, 3, generator=generator, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(3, 3, 3, generator=generator, dtype=torch.float64)).Q
    rotation = rotation * torch.linalg.det(rotation).sign()[:, None, None]
    scale = torch.tensor([0.5, 2.0, 7.0], dtype=torch.float64)
    shift = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    target = scale[:, None, None] * points @ rotation.mT + shift[:, None]
    found = fit_similarity(points, target, torch.rand(20, generator=generator, dtype=torch.float64) + 0.1)
    for value, expected in zip(found, (scale, rotation, shift), strict=True):
        torch.testing.assert_close(value, expected)


def test_regression_recovers_a_known_basis():
    mesh, generator = load_face_mesh(), torch.Generator().manual_seed(2)
    coefficients = torch.rand(400, 51, generator=generator)
    # Only what the rigid fit ignores may move, or the alignment would take part of it away.
    loose = (mesh.pose_weights == 0).float()[:, None]
    basis = torch.zeros(51, LANDMARKS, 3)
    basis[:, :MESH_LANDMARKS] = 0.3 * torch.randn(51, MESH_LANDMARKS, 3, generator=generator) * loose
    basis = (basis + (basis[mirrored_coefficients()][:, mesh.mirror] * torch.tensor([-1.0, 1.0, 1.0]))) / 2
    faces = mesh.canonical_face + torch.einsum("nc,cld->nld", coefficients, basis)
    _, found = fit_expression_basis(9.0 * faces + 100.0, coefficients, mesh, ridge=1e-4)
    torch.testing.assert_close(found, basis, atol=0.02, rtol=0)


@pytest.mark.parametrize(("point", "inside"), [((1.0, 1.0), True), ((3.0, 1.0), False), ((-0.1, 0.5), False)])
def test_points_in_polygon(point: tuple[float, float], inside: bool):
    square = torch.tensor([[0.0, 0.0], [2.0, 0.0], [2.0, 2.0], [0.0, 2.0]])
    assert bool(points_in_polygon(torch.tensor(point), square)) is inside


def test_points_near_a_polygon_with_notches_are_told_by_the_turns_around_them():
    generator = torch.Generator().manual_seed(2)
    angles = torch.arange(14.0) / 14 * 2 * torch.pi
    reach = 3 + 4 * torch.rand(14, 1, generator=generator)
    star = reach * torch.stack((angles.cos(), angles.sin()), 1) + torch.tensor([8.0, 9.0])
    y, x = torch.meshgrid(torch.arange(18.0) + 0.5, torch.arange(20.0) + 0.5, indexing="ij")
    points = torch.stack((x, y), -1)
    rays = star - points[:, :, None]
    headings = torch.atan2(rays[..., 1], rays[..., 0])
    turns = (headings.roll(-1, -1) - headings + torch.pi) % (2 * torch.pi) - torch.pi
    assert torch.equal(points_in_polygon(points, star), turns.sum(-1).abs() > torch.pi)
