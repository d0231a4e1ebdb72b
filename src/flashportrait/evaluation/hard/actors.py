"""Those who perform a hard set: people drawn by formula, and portraits on the rig."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from flashportrait.avatars.camera import Camera
from flashportrait.avatars.identity import Identity
from flashportrait.avatars.performance import POSE_LIMITS
from flashportrait.avatars.renderer import render
from flashportrait.evaluation.hard.occlusion import FacePlaces
from flashportrait.face.motion import BLENDSHAPE_NAMES
from flashportrait.inputs import FramedPortrait
from flashportrait.rig.mesh import MESH_LANDMARKS, load_face_mesh
from flashportrait.rig.pose import GUIDE_REACH

FACE_MIDDLE = (0.0, -0.35, 0.75)
"""Of a drawn face, head space."""
FACE_DEPTH = 0.25
"""How far before the axis about which it turns a face's middle is, in face heights."""
TURN = (0.14, 0.3)
"""Radians of yaw by which a portrait on the rig is turned from the picture that performs."""
NOD = 0.12


class Actor(Protocol):
    """Somebody who performs motion rows."""

    skin: Tensor
    """Colour of its hands, as lit  [3]"""
    hair: Tensor
    """[3]"""

    def reach(self, rows: Tensor) -> Tensor:
        """The rows [t 57] nearest to these that it can perform."""
        ...

    def draw(self, rows: Tensor) -> Tensor:
        """Frames [t 3 s s] in [0, 1]."""
        ...

    def places(self, rows: Tensor) -> FacePlaces:
        """Where its face is in them."""
        ...


class DrawnActor:
    """A person drawn by formula.

    Args:
        identity: of one.
        size: pixels a side.
    """

    def __init__(self, identity: Identity, size: int) -> None:
        self._identity, self._size = identity, size
        light = (identity.key_color * 0.75 + identity.ambient_color)[0]
        self.skin = (identity.skin_color[0] * light).clamp(0, 1)
        self.hair = (identity.hair_color[0] * light).clamp(0, 1)

    def reach(self, rows: Tensor) -> Tensor:
        """All rows."""
        return rows

    def draw(self, rows: Tensor) -> Tensor:
        """Frames [t 3 s s] in [0, 1]."""
        return render(self._identity, rows, self._size).frames

    def places(self, rows: Tensor) -> FacePlaces:
        """Where the face is in them."""
        identity = self._identity.expand(len(rows))
        camera = Camera.of(identity, rows, self._size)
        x, y = (axis.flatten() for axis in camera.project(FACE_MIDDLE))
        pixels = self._size / camera.extent
        center = torch.stack((self._size / 2 + x * pixels, self._size / 2 - y * pixels), -1)
        return FacePlaces(center, identity.face_size * self._size * camera.scale, rows[:, :3])


class RigActor:
    """A portrait on the face mesh.

    Args:
        framed: the portrait, cut to a square around its face.
        size: pixels a side.
    """

    def __init__(self, framed: FramedPortrait, size: int) -> None:
        canvas, self._rig = framed.drawn_on()
        self._size, self._scale = size, size / canvas.texture.shape[-1]
        self._own = self._rig.own_row
        outline = canvas.landmarks[:, :2]
        self._center = outline[:MESH_LANDMARKS].mean(0) * self._scale
        rows = load_face_mesh().canonical_face[:MESH_LANDMARKS, 1]
        self._height = float(self._rig.scale * (rows.amax() - rows.amin())) * self._scale
        self.skin = _color_at(canvas.texture, outline[[50, 280, 4, 101, 330]])
        top = outline[10] - 0.12 * (outline[152] - outline[10])
        self.hair = 0.6 * _color_at(canvas.texture, top[None])

    def reach(self, rows: Tensor) -> Tensor:
        """Poses that the mesh has something to show for; actions that it doesn't know stay the portrait's own."""
        return self._rig.reachable(rows)

    def draw(self, rows: Tensor) -> Tensor:
        """Frames [t 3 s s] in [0, 1]."""
        return self._rig.draw(rows, self._size)

    def places(self, rows: Tensor) -> FacePlaces:
        """Where the face is in them."""
        change = rows - self._own
        front = rows[:, :2].sin() * rows.new_tensor([FACE_DEPTH, -FACE_DEPTH])
        center = self._center + (change[:, 3:5] + front) * self._height
        return FacePlaces(center, self._height * change[:, 5].exp(), rows[:, :3])

    def portrait_row(self, turn: float, nod: float, smile: float) -> Tensor:
        """The row [57] of a picture of it that isn't the one which performs: turned, and with another expression.

        Args:
            turn, nod, smile: in [-1, 1], how far.
        """
        row = self._own.clone()
        yaw = (TURN[0] + (TURN[1] - TURN[0]) * abs(turn)) * (1 if turn > 0 else -1)
        row[0], row[1] = row[0] + yaw, row[1] + NOD * nod
        names = ("mouthSmileLeft", "mouthSmileRight") if smile > 0 else ("browInnerUp",)
        for name in names:
            row[6 + BLENDSHAPE_NAMES.index(name)] += 0.35 * abs(smile)
        return self.reach(row[None])[0]


def within_both(rows: Tensor, first: Actor, second: Actor) -> Tensor:
    """The rows [t 57] nearest to these that both actors can perform."""
    return first.reach(second.reach(first.reach(rows)))


def for_the_rig(rows: Tensor) -> Tensor:
    """A performance's rows [t 57] with head poses scaled from a drawn person's to a mesh's range."""
    share = [min(1.0, reach / limit) for reach, limit in zip(GUIDE_REACH, POSE_LIMITS.values(), strict=True)]
    return torch.cat((rows[:, :6] * rows.new_tensor(share), rows[:, 6:]), 1)


def _color_at(texture: Tensor, places: Tensor) -> Tensor:
    """Mean colour [3] of a picture [3 h w] at places [n 2], of a few pixels each."""
    side = texture.shape[-1]
    reach = max(1, side // 64)
    patches = []
    for x, y in places.round().long().clamp(0, side - 1).tolist():
        patches.append(texture[:, max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1].mean((1, 2)))
    return torch.stack(patches).mean(0)
