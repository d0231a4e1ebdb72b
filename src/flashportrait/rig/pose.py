"""Head poses in the head frame (x right, y down, z away from the camera), and how far a photograph's may change."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.rig.expression import smoothstep
from flashportrait.rig.landmarks import MESH_LANDMARKS
from flashportrait.rig.mesh import FaceMesh, fit_similarity, load_face_mesh

TRUE_REACH = (math.radians(25), math.radians(18), math.radians(20), 0.12, 0.12, 0.15)
"""Largest change of each head pose column (yaw, pitch, roll, x and y in units of the face's height, log scale) from the
photo's own at which a warp still passes for the truth; beyond, the mesh shows sides that the photo lacks."""
GUIDE_REACH = (math.radians(33), math.radians(24), math.radians(28), 0.25, 0.25, 0.3)
"""The same for a warp that is drawn as a reference."""
HIDDEN_SIDE_CAUTION = 1.35
"""A photo turned by an angle may turn back to its front by this much of it less: that side of it is foreshortened."""
COMFORTABLE_CAUTION = 1.8
"""The same where motion is adapted to the photo, so that little is seen that it hardly shows."""
LEAST_TURN_BACK = math.radians(6)
"""How far any photo may, but for those that are ``NEARLY_PROFILES``, which show nothing of that side."""
NEARLY_PROFILES = (math.radians(35), math.radians(50))
"""Turns at which that begins to be so, and is."""
DEPTH_TRUST = 0.02
"""Weight of the landmarker's depths against the symmetry of faces. Symmetry tells more of depths the more a face is
turned: as much as the landmarker at 6 degrees, seven times as much at 15."""
LEAST_MOVE_CM = 0.15
"""Actions that move no landmark this far in the expression basis are unknown to it."""


def rotation_matrices(angles: Tensor) -> Tensor:
    """Head rotations in the head frame from yaw, pitch and roll [... 3] -> [... 3 3].

    The same rotation as ``face.pose.rotation_matrix``, in picture axes.
    """
    (cos_y, cos_p, cos_r), (sin_y, sin_p, sin_r) = angles.cos().unbind(-1), angles.sin().unbind(-1)
    one, zero = torch.ones_like(cos_y), torch.zeros_like(cos_y)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, -1).unflatten(-1, (3, 3))

    about_y = matrix(cos_y, zero, -sin_y, zero, one, zero, sin_y, zero, cos_y)
    about_x = matrix(one, zero, zero, zero, cos_p, sin_p, zero, -sin_p, cos_p)
    about_z = matrix(cos_r, -sin_r, zero, sin_r, cos_r, zero, zero, zero, one)
    return about_y @ about_x @ about_z


def rotation_angles(rotation: Tensor) -> Tensor:
    """Yaw, pitch and roll [... 3] of rotations [... 3 3]; the inverse of ``rotation_matrices`` for |pitch| < pi / 2."""
    yaw = torch.atan2(-rotation[..., 0, 2], rotation[..., 2, 2])
    pitch = torch.asin(rotation[..., 1, 2].clamp(-1, 1))
    roll = torch.atan2(rotation[..., 1, 0], rotation[..., 1, 1])
    return torch.stack((yaw, pitch, roll), -1)


def fit_head(landmarks: Tensor, mesh: FaceMesh) -> tuple[Tensor, Tensor, Tensor]:
    """Scale [...], rotation [... 3 3] and centre [... 3] of the head under landmarks [... 478 3] in pixels."""
    canonical = mesh.canonical_face[:MESH_LANDMARKS].expand_as(landmarks[..., :MESH_LANDMARKS, :])
    return fit_similarity(canonical, landmarks[..., :MESH_LANDMARKS, :], mesh.pose_weights)


def with_symmetric_depth(turned: Tensor, rotation: Tensor, mesh: FaceMesh) -> Tensor:
    """Landmarks [478 3] of a head with ``rotation`` [3 3], about its centre, at depths that make its sides most alike.

    The landmarker's own depths make a turned face lopsided: its features lie too near the side turned away. The depths
    of each pair of mirrored landmarks p and q, in the head frame, are changed by the a and b for which
    |p - mirrored q|^2 + ``DEPTH_TRUST`` (a^2 + b^2) is least. Seen as in the photo, no landmark moves.
    """
    mirrored = turned.new_tensor([-1.0, 1.0, 1.0])
    head = turned @ rotation
    apart = head - head[mesh.mirror] * mirrored
    deeper = rotation[2]
    alike, own = (deeper * deeper * mirrored).sum(), 1 + DEPTH_TRUST
    change = (alike * (apart @ (deeper * mirrored)) - own * (apart @ deeper)) / (own**2 - alike**2)
    return turned + F.pad(change[:, None], (2, 0))


def head_angles(landmarks: Tensor) -> Tensor:
    """Yaw, pitch and roll [... 3] of faces from their landmarks [... 478 3] in pixels."""
    mesh = load_face_mesh().to(landmarks.device)
    return rotation_angles(fit_head(landmarks, mesh)[1])


def head_pose_limits(
    own_row: Tensor, reach: tuple[float, ...] = TRUE_REACH, caution: float = HIDDEN_SIDE_CAUTION
) -> tuple[Tensor, Tensor]:
    """Lowest and highest head pose columns [6] that a photo with ``own_row`` [57] can be warped to."""
    own, below = own_row[:6], own_row.new_tensor(reach)
    above, hidden = below.clone(), caution * own[0]
    start, end = NEARLY_PROFILES
    least = LEAST_TURN_BACK * (1 - smoothstep((own[0].abs() - start) / (end - start)))
    below[0] = (below[0] - hidden.clamp(min=0)).maximum(least)
    above[0] = (above[0] + hidden.clamp(max=0)).maximum(least)
    return own - below, own + above


def limit_motion(own_row: Tensor, motion: Tensor, reach: tuple[float, ...] = TRUE_REACH) -> Tensor:
    """Motion rows [t 57] within what a photo with ``own_row`` [57] can be warped to.

    Actions that the expression basis lacks stay as they are in the photo.
    """
    lowest, highest = head_pose_limits(own_row, reach)
    head = torch.maximum(torch.minimum(motion[:, :6], highest), lowest)
    movable = load_face_mesh().to(motion.device).expression_basis.abs().amax((1, 2)) > LEAST_MOVE_CM
    return torch.cat((head, torch.where(movable, motion[:, 6:].clamp(0, 1), own_row[6:])), 1)
