"""The face mesh: topology of MediaPipe's 478 landmarks, their place in the head, and how expressions move them.

Head frame: x to the right of the picture, y down, z away from the camera, in centimetres of an average head. The
expression basis is a ridge regression of aligned landmarks on the coefficients that the landmarker reads from the same
faces, so a face moved by it reads, to first order, as the coefficients asked for. Actions that the landmarker never
reports (cheekPuff, cheekSquint, noseSneer) have no basis and move nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

import numpy as np
import torch
from torch import Tensor

from flashportrait.face.motion import BLENDSHAPE_NAMES
from flashportrait.rig.expression import READING_GAINS, anatomical, stem_of
from flashportrait.rig.landmarks import LANDMARKS, MESH_LANDMARKS


@dataclass(frozen=True)
class FaceMesh:
    """Topology and statistics of the landmark mesh, as tensors on one device."""

    triangles: Tensor
    """[898 3] landmark indices."""
    canonical_face: Tensor
    """[478 3] landmarks of MediaPipe's canonical face in the head frame, centimetres; irises: the mean face's."""
    neutral_face: Tensor
    """[478 3] landmarks of the average face at rest, all coefficients 0, in the head frame, centimetres."""
    expression_basis: Tensor
    """[51 478 3] centimetres per unit of each coefficient, in row order."""
    gains: Tensor
    """[51] ``READING_GAINS`` in row order."""
    pose_weights: Tensor
    """[468] weights of the rigid fit; they favour landmarks that expressions hardly move."""
    mirror: Tensor
    """[478] index of each landmark's twin on the other side."""

    def to(self, device: torch.device | str) -> FaceMesh:
        """The same mesh on another device."""
        return FaceMesh(**{name: tensor.to(device) for name, tensor in vars(self).items()})

    @property
    def oval(self) -> list[int]:
        """The 36 landmarks of the mesh's boundary, in order around the face."""
        return boundary_loop(self.triangles)

    def displacement(self, own: Tensor, target: Tensor, proportions: Tensor | None = None) -> Tensor:
        """Displacement of the landmarks [t 478 3] in centimetres, from coefficients ``own`` [51] to ``target`` [t 51].

        Gains apply to actions that grow. An action that fades ends at rest, where the regression puts it: going
        further would leave no trace in the reading, which stops at 0. Gaze has no rest, so its gains always apply.
        ``proportions`` [51]: how far each action moves a face, in units of the average face's.
        """
        change = target - own
        two_way = torch.tensor([name.startswith("eyeLook") for name in BLENDSHAPE_NAMES], device=change.device)
        if proportions is not None:
            change = change * proportions
        change = change * torch.where((change > 0) | two_way, self.gains, torch.ones_like(self.gains))
        return torch.einsum("tc,cnd->tnd", change, self.expression_basis)

    def triangles_around(self, vertices: Sequence[int], rings: int = 1) -> Tensor:
        """[898] bool: triangles that touch the vertices, those that touch these, and so on, for some rings."""
        touching = torch.isin(self.triangles, self.triangles.new_tensor(list(vertices))).any(1)
        for _ in range(rings - 1):
            touching = torch.isin(self.triangles, self.triangles[touching]).any(1)
        return touching

    def triangles_inside(self, polygon: tuple[int, ...] | list[int], grow: float = 1.0) -> Tensor:
        """[898] bool: triangles whose centre lies inside the canonical face's polygon, scaled about its own centre."""
        corners = self.canonical_face[list(polygon), :2]
        middle = corners.mean(0)
        centres = self.canonical_face[self.triangles, :2].mean(1)
        return points_in_polygon(centres, middle + (corners - middle) * grow)

    def triangles_among(self, landmarks: tuple[int, ...] | list[int]) -> Tensor:
        """[898] bool: triangles with all three corners among the landmarks."""
        return torch.isin(self.triangles, self.triangles.new_tensor(landmarks)).all(1)


@lru_cache(maxsize=1)
def load_face_mesh() -> FaceMesh:
    """The mesh that ships with the package, on the CPU."""
    with resources.files(__package__).joinpath("face_mesh.npz").open("rb") as file, np.load(file) as arrays:
        canonical_face = torch.from_numpy(arrays["canonical_face"]).float()
        gains = torch.tensor([READING_GAINS.get(stem_of(name), 1.0) for name in BLENDSHAPE_NAMES])
        return FaceMesh(
            triangles=torch.from_numpy(arrays["triangles"]).long(),
            canonical_face=canonical_face,
            neutral_face=torch.from_numpy(arrays["neutral_face"]).float(),
            expression_basis=anatomical(torch.from_numpy(arrays["expression_basis"]).float(), gains, canonical_face),
            gains=gains,
            pose_weights=torch.from_numpy(arrays["pose_weights"]).float(),
            mirror=torch.from_numpy(arrays["mirror"]).long(),
        )


def average_landmarks(center: tuple[float, float], height: float) -> Tensor:
    """Landmarks [478 3], in pixels, of the average face at rest looking into the camera, ``height`` pixels high."""
    mesh = load_face_mesh()
    rows = mesh.canonical_face[:MESH_LANDMARKS, 1]
    return mesh.neutral_face * (height / (rows.amax() - rows.amin())) + torch.tensor([*center, 0.0])


def fit_similarity(points: Tensor, target: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted similarity that carries ``points`` onto ``target`` (Umeyama 1991).

    points, target: [... k 3]; weights: [k]. Returns (scale [...], rotation [... 3 3], translation [... 3]) with
    ``target ~ scale * rotation @ point + translation``.
    """
    weights = (weights / weights.sum()).unsqueeze(-1)
    points_mean = (points * weights).sum(-2, keepdim=True)
    target_mean = (target * weights).sum(-2, keepdim=True)
    centred, centred_target = points - points_mean, target - target_mean
    left, singular, right_t = torch.linalg.svd((centred_target * weights).mT @ centred)
    sign = torch.ones_like(singular)
    sign[..., 2] = torch.sign(torch.linalg.det(left @ right_t))
    rotation = (left * sign.unsqueeze(-2)) @ right_t
    scale = (singular * sign).sum(-1) / (centred.square() * weights).sum((-2, -1))
    translation = target_mean - scale[..., None, None] * points_mean @ rotation.mT
    return scale, rotation, translation.squeeze(-2)


def fit_expression_basis(
    landmarks: Tensor, coefficients: Tensor, mesh: FaceMesh, ridge: float = 0.01
) -> tuple[Tensor, Tensor]:
    """Neutral face and expression basis from many faces and what the landmarker read on them.

    landmarks: [n 478 3] in pixels of any scale; coefficients: [n 51] in row order; ridge: the standard deviation below
    which a coefficient is too rare to be trusted. Faces are aligned rigidly, and every face is used mirrored as well,
    so the result is symmetric. Returns (neutral_face [478 3], expression_basis [51 478 3]).
    """
    scale, rotation, translation = fit_similarity(
        landmarks[:, :MESH_LANDMARKS], mesh.canonical_face[:MESH_LANDMARKS], mesh.pose_weights
    )
    aligned = scale[:, None, None] * landmarks @ rotation.mT + translation[:, None]
    flipped = aligned[:, mesh.mirror] * aligned.new_tensor([-1.0, 1.0, 1.0])
    faces = torch.cat((aligned, flipped)).double()
    readings = torch.cat((coefficients, coefficients[:, mirrored_coefficients()])).double()
    mean_face, mean_reading = faces.mean(0), readings.mean(0)
    centred = readings - mean_reading
    gram = centred.mT @ centred + len(centred) * ridge**2 * torch.eye(centred.shape[1], dtype=torch.float64)
    basis = torch.linalg.solve(gram, centred.mT @ (faces - mean_face).flatten(1))
    basis = basis.unflatten(1, (LANDMARKS, 3))
    neutral_face = mean_face - torch.einsum("c,cnd->nd", mean_reading, basis)
    return neutral_face.float(), basis.float()


def mirrored_coefficients() -> list[int]:
    """For each coefficient of a row, the index of its twin on the other side (its own where it has none)."""
    swap = {"Left": "Right", "Right": "Left"}

    def twin(name: str) -> str:
        for side, other in swap.items():
            if name.endswith(side):
                return name.removesuffix(side) + other
        return name

    return [BLENDSHAPE_NAMES.index(twin(name)) for name in BLENDSHAPE_NAMES]


def boundary_loop(triangles: Tensor) -> list[int]:
    """Vertices along the only boundary of a mesh, in order."""
    directed = {(a, b) for t in triangles.tolist() for a, b in ((t[0], t[1]), (t[1], t[2]), (t[2], t[0]))}
    following = {a: b for a, b in directed if (b, a) not in directed}
    loop = [min(following)]
    while (vertex := following[loop[-1]]) != loop[0]:
        loop.append(vertex)
    return loop


def points_in_polygon(points: Tensor, polygon: Tensor) -> Tensor:
    """Even-odd test: points [... 2] against polygon [k 2] -> bool [...]."""
    (left, top), (right, bottom) = polygon.amin(0), polygon.amax(0)
    x, y = points.unbind(-1)
    near = (x >= left) & (x <= right) & (y >= top) & (y <= bottom)
    # Few points are near most polygons, and only they are looked at edge by edge.
    x, y = x[near, None], y[near, None]
    start, end = polygon, polygon.roll(-1, 0)
    crosses = (start[:, 1] > y) != (end[:, 1] > y)
    rise = torch.where(end[:, 1] == start[:, 1], torch.ones_like(end[:, 1]), end[:, 1] - start[:, 1])
    left_of = x < start[:, 0] + (y - start[:, 1]) * (end[:, 0] - start[:, 0]) / rise
    inside = torch.zeros_like(near)
    inside[near] = (crosses & left_of).sum(-1) % 2 == 1
    return inside
