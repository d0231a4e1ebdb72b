"""Head pose: the similarity that lays the canonical face on a face's landmarks, and its angles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class HeadPose:
    """Where a head is and how it is turned; signs as in docs/architecture.md."""

    yaw: float
    """Radians; > 0: turned to the subject's own left (the nose moves to the right of the picture)."""
    pitch: float
    """Radians; > 0: looks up."""
    roll: float
    """Radians; > 0: leans to the subject's own left shoulder (clockwise in the picture)."""
    center: tuple[float, float]
    """Picture position of the canonical face's origin, which lies inside the head behind the nose bridge; pixels."""
    size: float
    """Height of the canonical face, hairline to chin, at the fitted scale; pixels. Turning the head leaves it alone."""


def rotation_matrix(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """Rotation of the head in axes x right, y up, z to the viewer: R_y(yaw) R_x(-pitch) R_z(-roll).  [3 3]"""
    cos_y, sin_y, cos_p, sin_p, cos_r, sin_r = (f(a) for a in (yaw, pitch, roll) for f in (np.cos, np.sin))
    about_y = np.array([[cos_y, 0, sin_y], [0, 1, 0], [-sin_y, 0, cos_y]])
    about_x = np.array([[1, 0, 0], [0, cos_p, sin_p], [0, -sin_p, cos_p]])
    about_z = np.array([[cos_r, sin_r, 0], [-sin_r, cos_r, 0], [0, 0, 1]])
    return about_y @ about_x @ about_z


def rotation_angles(rotation: np.ndarray) -> tuple[float, float, float]:
    """Yaw, pitch and roll of a rotation [3 3]; the inverse of ``rotation_matrix`` for |pitch| < pi / 2."""
    yaw = np.arctan2(rotation[0, 2], rotation[2, 2])
    pitch = np.arcsin(np.clip(rotation[1, 2], -1, 1))
    roll = np.arctan2(-rotation[1, 0], rotation[1, 1])
    return float(yaw), float(pitch), float(roll)


def fit_similarity(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, float, np.ndarray]:
    """Rotation [3 3], scale and translation [3] least squares, target ~ scale * rotation @ source + translation.

    Points are [n 3], weights [n]. Umeyama, "Least-squares estimation of transformation parameters" (1991), eq. 40-42.
    """
    weights = weights / weights.sum()
    source_mean, target_mean = weights @ source, weights @ target
    centered = source - source_mean
    u, singular, vt = np.linalg.svd((weights[:, None] * (target - target_mean)).T @ centered)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u) * np.linalg.det(vt))])
    rotation = (u * sign) @ vt
    scale = float(singular @ sign / (weights @ np.square(centered).sum(axis=1)))
    return rotation, scale, target_mean - scale * rotation @ source_mean


class CanonicalFace:
    """MediaPipe's canonical face: 468 vertices in centimetres and the weights of those that expressions move least."""

    def __init__(self, vertices: np.ndarray, weights: np.ndarray) -> None:
        """Vertices [468 3] (x to the subject's left, y up, z forward) and their weights [468], zero for most."""
        self._basis = np.flatnonzero(weights)
        self._vertices = vertices[self._basis].astype(np.float64)
        self._weights = weights[self._basis].astype(np.float64)
        self._height = float(np.ptp(vertices[:, 1]))

    @classmethod
    def from_geometry_metadata(cls, message: bytes) -> CanonicalFace:
        """Read the task file's ``GeometryPipelineMetadata`` protocol buffer.

        Field 1 is the mesh, whose field 3 holds x, y, z, u, v of each vertex; field 2, repeated, is a landmark's
        number (1) and weight (2).
        """
        mesh, basis = b"", []
        for number, value in _protobuf_fields(message):
            if number == 1:
                mesh = value
            elif number == 2:
                basis.append(dict(_protobuf_fields(value)))
        floats = b"".join(value for number, value in _protobuf_fields(mesh) if number == 3)
        vertices = np.frombuffer(floats, dtype="<f4").reshape(-1, 5)[:, :3]
        weights = np.zeros(len(vertices), dtype=np.float32)
        for entry in basis:
            weights[entry[1]] = np.frombuffer(entry[2], dtype="<f4")[0]
        return cls(vertices, weights)

    def fit(self, landmarks: np.ndarray) -> HeadPose:
        """Pose from landmarks [>= 468 3] in picture pixels (y down, z away from the viewer, in the scale of x).

        Weak perspective: one scale for the whole face, so a head keeps its angles wherever it is in the picture.
        """
        target = landmarks[self._basis].astype(np.float64) * np.array([1, -1, -1])
        rotation, scale, translation = fit_similarity(self._vertices, target, self._weights)
        center = (float(translation[0]), float(-translation[1]))
        return HeadPose(*rotation_angles(rotation), center=center, size=scale * self._height)


def _protobuf_fields(message: bytes) -> list[tuple[int, Any]]:
    """Field number and raw value of each field: an int for varints, bytes for the rest."""
    fields, position = [], 0
    while position < len(message):
        key, position = _protobuf_varint(message, position)
        number, wire_type = key >> 3, key & 7
        if wire_type == 0:
            value, position = _protobuf_varint(message, position)
            fields.append((number, value))
            continue
        if wire_type == 2:
            length, position = _protobuf_varint(message, position)
        else:
            length = {1: 8, 5: 4}[wire_type]
        fields.append((number, message[position : position + length]))
        position += length
    return fields


def _protobuf_varint(message: bytes, position: int) -> tuple[int, int]:
    """The varint at ``position`` and the position after it."""
    value = shift = 0
    while True:
        byte = message[position]
        value |= (byte & 0x7F) << shift
        position, shift = position + 1, shift + 7
        if byte < 0x80:
            return value, position
