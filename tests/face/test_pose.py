"""Head pose: angles, similarity fits and the canonical face."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flashportrait.face.pose import CanonicalFace, fit_similarity, rotation_angles, rotation_matrix

ANGLE = st.floats(-1.4, 1.4)


@settings(max_examples=60, deadline=None)
@given(yaw=ANGLE, pitch=ANGLE, roll=st.floats(-3, 3))
def test_angles_survive_the_matrix(yaw, pitch, roll):
    matrix = rotation_matrix(yaw, pitch, roll)
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(3), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)
    np.testing.assert_allclose(rotation_angles(matrix), (yaw, pitch, roll), atol=1e-9)


def test_signs_are_those_of_the_conventions():
    nose, crown = np.array([0, 0, 1]), np.array([0, 1, 0])
    assert (rotation_matrix(0.3, 0, 0) @ nose)[0] > 0, "yaw > 0 moves the nose to the right of the picture"
    assert (rotation_matrix(0, 0.3, 0) @ nose)[1] > 0, "pitch > 0 looks up"
    assert (rotation_matrix(0, 0, 0.3) @ crown)[0] > 0, "roll > 0 leans clockwise in the picture"


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), points=st.integers(4, 30), scale=st.floats(0.01, 100))
def test_similarity_is_recovered_exactly(seed, points, scale):
    rng = np.random.default_rng(seed)
    source, weights = rng.normal(size=(points, 3)), rng.uniform(0.1, 1, points)
    rotation, shift = rotation_matrix(*rng.uniform(-1, 1, 3)), rng.normal(size=3)
    fitted = fit_similarity(source, scale * source @ rotation.T + shift, weights)
    np.testing.assert_allclose(fitted[0], rotation, atol=1e-8)
    assert fitted[1] == pytest.approx(scale)
    np.testing.assert_allclose(fitted[2], shift, atol=1e-8 * max(1, scale))


def test_similarity_never_mirrors():
    source = np.random.default_rng(0).normal(size=(10, 3))
    rotation, _, _ = fit_similarity(source, source * np.array([-1, 1, 1]), np.ones(10))
    assert np.linalg.det(rotation) == pytest.approx(1)


def test_canonical_face_reads_its_message_and_fits_a_turned_head():
    rng = np.random.default_rng(1)
    vertices = rng.normal(size=(468, 3)).astype(np.float32)
    with_texture = np.concatenate([vertices, rng.uniform(size=(468, 2)).astype(np.float32)], axis=1)
    mesh = b"".join(b"\x1d" + value.tobytes() for value in with_texture.astype("<f4").ravel())
    basis = {4: 0.5, 33: 0.2, 263: 0.2, 152: 0.1, 300: 0.3}
    entries = b""
    for landmark, weight in basis.items():
        entry = b"\x08" + _varint(landmark) + b"\x15" + np.float32(weight).astype("<f4").tobytes()
        entries += b"\x12" + _varint(len(entry)) + entry
    canonical = CanonicalFace.from_geometry_metadata(b"\x0a" + _varint(len(mesh)) + mesh + entries + b"\x18\x01")

    turned = 20 * vertices @ rotation_matrix(0.4, -0.2, 0.1).T * np.array([1, -1, -1]) + np.array([320, 240, 7])
    pose = canonical.fit(turned)
    np.testing.assert_allclose((pose.yaw, pose.pitch, pose.roll), (0.4, -0.2, 0.1), atol=1e-5)
    np.testing.assert_allclose(pose.center, (320, 240), atol=1e-3)
    assert pose.size == pytest.approx(20 * np.ptp(vertices[:, 1]), rel=1e-5)


def _varint(value: int) -> bytes:
    encoded = b""
    while value >= 0x80:
        encoded, value = encoded + bytes([value & 0x7F | 0x80]), value >> 7
    return encoded + bytes([value])
