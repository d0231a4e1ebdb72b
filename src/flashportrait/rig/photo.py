"""Moves the head in a picture: its landmark mesh, textured by the photo, is moved by motion rows and drawn again.

The 478 landmarks are lifted into the head frame, displaced by the expression basis times the change of coefficients,
turned and moved as the head pose asks (weak perspective), and drawn with a z-buffer. Rings around the face carry hair
and neck along and come to rest at the border of the picture. Mouth and eye openings show a second, painted layer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.rig.interior import SLIT_PIXELS, paint_interior
from flashportrait.rig.mesh import (
    INNER_LIPS_LOWER,
    INNER_LIPS_UPPER,
    IRISES,
    LANDMARKS,
    LID_CREASES,
    LOWER_LIDS,
    MESH_LANDMARKS,
    OUTER_LIPS,
    UPPER_LIDS,
    FaceMesh,
    fit_similarity,
    load_face_mesh,
    smoothstep,
)
from flashportrait.rig.rasterizer import barycentric_maps, rasterize

TRUE_REACH = (math.radians(25), math.radians(18), math.radians(20), 0.12, 0.12, 0.15)
"""Largest change of each head pose column (yaw, pitch, roll, x and y in units of the face's height, log scale) from the
photo's own at which a warp still passes for the truth; beyond, the mesh shows sides that the photo lacks."""
GUIDE_REACH = (math.radians(33), math.radians(24), math.radians(28), 0.25, 0.25, 0.3)
"""The same for a warp that a network is only shown, as its reference."""
HIDDEN_SIDE_CAUTION = 0.9
"""A photo turned by an angle may turn back past its front by this much of it less: that side of it is foreshortened."""
RIG_PIXELS = 2
"""A picture is turned from one this much larger than the frames drawn, so that drawing anew costs no sharpness."""
DEPTH_GAIN = 1.3
"""Correction of the landmarks' depths, calibrated so that a head turned by an angle is read as turned by it."""
LEAST_MOVE_CM = 0.15
"""Actions that move no landmark this far in the expression basis are unknown to it."""
RINGS = (0.05, 0.12, 0.22, 0.35, 0.5, 0.7, 1.0)
"""Rings around the face, as fractions of the way from its outline to beyond the picture's border."""
RING_DEPTH_CM = 2.0
"""How far behind the face's outline the rings lie: little enough for hair to turn with the face without folding."""
UPPER_LIP_SHARE = 0.35
"""The upper lip's part in closing a gap between the lips."""
MAX_OPENNESS = 1.6
"""Widest opening of the lids, over the photo's own."""
CREASE_SHARE = 0.35
"""How far the skin above an upper lid follows it down, so that a closed lid is made of more than its darkest edge."""
GAZE_LIMIT = (0.3, 0.22)
"""Largest shift of an iris across and along the picture, in units of the eye's width."""


@dataclass(frozen=True)
class WarpResult:
    """An animated photograph."""

    frames: Tensor
    """[t 3 s s] in [0, 1]"""
    face_mask: Tensor
    """[t 1 s s] 1 on the face, 0 elsewhere"""
    lip_mask: Tensor
    """[t 1 s s] 1 on lips and mouth"""
    eye_mask: Tensor
    """[t 1 s s] 1 on eyes and lids"""
    motion: Tensor
    """[t 57] the rows drawn, after the limits: the truth about the frames"""
    flow: Tensor
    """[t 2 s s] right and down, in pixels: what a pixel shows lies so far from it in the reference with the same head
    pose (``PhotoRig.reference``); NaN where that doesn't show it, inside the mouth and between the lids"""


def rotation_matrices(angles: Tensor) -> Tensor:
    """Head rotations in the head frame (x right, y down, z away) from yaw, pitch and roll [... 3] -> [... 3 3].

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


def head_angles(landmarks: Tensor) -> Tensor:
    """Yaw, pitch and roll [... 3] of faces from their landmarks [... 478 3] in pixels."""
    mesh = load_face_mesh().to(landmarks.device)
    return rotation_angles(_fit_head(landmarks, mesh)[1])


def head_pose_limits(own_row: Tensor, reach: tuple[float, ...] = TRUE_REACH) -> tuple[Tensor, Tensor]:
    """Lowest and highest head pose columns [6] that a photo with ``own_row`` [57] can be warped to."""
    reach, own = own_row.new_tensor(reach), own_row[:6]
    hidden = HIDDEN_SIDE_CAUTION * F.pad(own[:1], (0, 5))
    return own - reach + hidden.clamp(min=0), own + reach + hidden.clamp(max=0)


def limit_motion(own_row: Tensor, motion: Tensor, reach: tuple[float, ...] = TRUE_REACH) -> Tensor:
    """Motion rows [t 57] within what a photo with ``own_row`` [57] can be warped to.

    Actions that the expression basis lacks stay as they are in the photo.
    """
    lowest, highest = head_pose_limits(own_row, reach)
    head = torch.maximum(torch.minimum(motion[:, :6], highest), lowest)
    movable = load_face_mesh().to(motion.device).expression_basis.abs().amax((1, 2)) > LEAST_MOVE_CM
    return torch.cat((head, torch.where(movable, motion[:, 6:].clamp(0, 1), own_row[6:])), 1)


def _fit_head(landmarks: Tensor, mesh: FaceMesh) -> tuple[Tensor, Tensor, Tensor]:
    canonical = mesh.canonical_face[:MESH_LANDMARKS].expand_as(landmarks[..., :MESH_LANDMARKS, :])
    return fit_similarity(canonical, landmarks[..., :MESH_LANDMARKS, :], mesh.pose_weights)


class PhotoRig:
    """One photograph made ready to be animated."""

    def __init__(self, image: Tensor, landmarks: Tensor, own_row: Tensor) -> None:
        """image: [3 h h] in [0, 1]; landmarks: [478 3] in its pixels; own_row: [57], the photo's own motion row."""
        mesh = load_face_mesh().to(image.device)
        self.mesh, self.own_row, self.side = mesh, own_row, image.shape[-1]
        landmarks = landmarks.float()
        self.scale, self.rotation, self.centre = _fit_head(landmarks, mesh)
        self.lift = landmarks.new_tensor([1.0, 1.0, DEPTH_GAIN])
        self.head = ((landmarks - self.centre) * self.lift) @ self.rotation / self.scale
        interior = paint_interior(image, landmarks, float(self.scale))
        self.margin = image.shape[-1] // 4
        self.atlas = F.pad(torch.stack((image, interior)), [self.margin] * 4, "reflect").transpose(0, 1).flatten(1, 2)
        """[3 3h 1.5h] the photo, its edges continued by mirroring, and below it its interior layer."""
        self._smoothed: dict[int, Tensor] = {}
        """The atlas as means over so many texels a side: a pixel shows the mean of those it covers."""
        self.oval = mesh.oval
        self.rings, self.ring_weight, self.ring_carry = self._place_rings(landmarks)
        strips = _ring_triangles(self.oval, len(RINGS), image.device)
        self.triangles = torch.cat((mesh.triangles, strips))
        self.rest = torch.cat((landmarks, self.rings))
        self._mark_triangles()

    def _place_rings(self, landmarks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Positions [36 k 3], share of the head's motion [36 k 1] and of the outline's expression [36 k 1]."""
        outline = landmarks[self.oval]
        middle = outline[:, :2].mean(0)
        ray = outline[:, :2] - middle
        radius = ray.norm(dim=1, keepdim=True)
        direction = ray / radius
        box = torch.where(direction > 0, 1.15 * self.side - middle, middle + 0.15 * self.side)
        reach = (box / direction.abs().clamp_min(1e-6)).amin(1, keepdim=True).maximum(1.6 * radius)
        fraction = landmarks.new_tensor(RINGS)[:, None, None]
        position = middle + direction * (radius + (reach - radius) * fraction)
        back = (outline[:, 2].amax() - outline[:, 2:]).clamp(max=RING_DEPTH_CM * self.scale)
        depth = outline[:, 2:] + back * (fraction / 0.5).clamp(max=1.0)
        down = (direction @ self.rotation[:2, 1]).clamp_min(0)[:, None]
        start, end = 0.22 * (1 - down), 1.0 - 0.35 * down
        share = 1 - smoothstep((fraction - start) / (end - start))
        carry = 1 - smoothstep(fraction / 0.35)
        depth = depth.expand(len(RINGS), -1, -1)
        rings = torch.cat((position, depth), -1).flatten(0, 1)
        return rings, share.flatten(0, 1), carry.expand_as(share).flatten(0, 1)

    def _mark_triangles(self) -> None:
        mesh, total = self.mesh, len(self.triangles)

        def pad(flags: Tensor) -> Tensor:
            return F.pad(flags, (0, total - len(flags)))

        eyes = [list(upper) + list(lower)[1:-1] for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True)]
        rims = [list(upper) + list(lower)[-2:0:-1] for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True)]
        self.eye_holes = [pad(mesh.triangles_among(eye)) for eye in eyes]
        self.mouth_hole = pad(mesh.triangles_among(INNER_LIPS_UPPER + INNER_LIPS_LOWER))
        self.opening = self.mouth_hole | self.eye_holes[0] | self.eye_holes[1]
        self.is_face = pad(torch.ones(len(mesh.triangles), dtype=torch.bool, device=mesh.triangles.device))
        self.is_lip = pad(mesh.triangles_inside(OUTER_LIPS)) | self.mouth_hole
        self.is_eye = pad(mesh.triangles_inside(rims[0], 1.5) | mesh.triangles_inside(rims[1], 1.5))

    def animate(self, motion: Tensor, size: int = 128, strength: float = 0.0) -> WarpResult:
        """The photo with the motion rows [t 57], as ``size`` x ``size`` frames, within ``TRUE_REACH``.

        ``strength``: of the expression in the reference from which the result's flow leads.
        """
        motion = limit_motion(self.own_row, motion)
        frames, index, maps = self._animate(motion, size)
        covered = index.clamp_min(0)
        shown = self._corners(self._expressive(self._with_strength(motion, strength))[0], motion[:, :6], size)[..., :2]
        flow = _positions(index, shown.mT @ maps, 1.0) - _pixel_centres(size, index.device)
        flow = flow.masked_fill(self.opening[covered].unsqueeze(-1), torch.nan).permute(0, 3, 1, 2)
        masks = [
            (flags[covered] & (index >= 0)).unsqueeze(1).to(frames.dtype)
            for flags in (self.is_face, self.is_lip, self.is_eye)
        ]
        return WarpResult(frames, *masks, motion=motion, flow=flow)

    def reference(self, motion: Tensor, size: int = 128, strength: float = 1.0) -> Tensor:
        """The photo with the head pose of the motion rows [t 57] and, by ``strength`` in [0, 1], their expression.

        At 0 it keeps its own expression, at 1 it takes the rows'. Poses beyond ``GUIDE_REACH`` are drawn there. Returns
        [t 3 size size] in [0, 1].
        """
        if strength == 0:
            return self.turn(motion[:, :6], size)
        motion = self._with_strength(limit_motion(self.own_row, motion, GUIDE_REACH), strength)
        # On a CPU one at a time: four together are a fifth faster, and take four times the memory.
        together = 1 if self.rest.device.type == "cpu" else max(1, len(motion))
        return torch.cat([self._animate(part, size)[0] for part in motion.split(together)])

    def landmarks(self, motion: Tensor) -> Tensor:
        """Where the face's landmarks are in ``animate``'s pictures, in the photo's pixels, [t 478 3]."""
        motion = limit_motion(self.own_row, motion)
        return self._pose(self._expressive(motion)[0], motion[:, :6])[:, :LANDMARKS]

    def _with_strength(self, motion: Tensor, strength: float) -> Tensor:
        """Motion rows [t 57] whose expression is ``strength`` of the way from the photo's own."""
        own = self.own_row[6:]
        return torch.cat((motion[:, :6], own + strength * (motion[:, 6:] - own)), 1)

    def _expressive(self, motion: Tensor) -> tuple[Tensor, Tensor]:
        """Heads [t 478 3] with the expression of motion rows [t 57], and what moved each landmark before openings
        were closed."""
        offsets = self.mesh.displacement(self.own_row[6:], motion[:, 6:])
        return self._close_openings(self.head + offsets, offsets), offsets

    def _animate(self, motion: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """As ``_draw``, of motion rows [t 57]."""
        head, offsets = self._expressive(motion)
        inner = (self.scale * head @ self.rotation.mT + self.centre)[..., :2]
        frames, index, maps = self._draw(head, motion[:, :6], self._texture_maps(inner, offsets), size)
        return _soften_edges(frames, self.opening[index.clamp_min(0)]), index, maps

    def turn(self, head_pose: Tensor, size: int = 128) -> Tensor:
        """The photo with its head posed by the first six columns of motion rows [t 6], its expression kept.

        Poses beyond ``GUIDE_REACH`` are drawn there. Returns [t 3 size size] in [0, 1].
        """
        lowest, highest = head_pose_limits(self.own_row, GUIDE_REACH)
        head_pose = torch.maximum(torch.minimum(head_pose, highest), lowest)
        texture = self.rest[self.triangles, :2]
        # On a CPU one at a time: four together are a fifth faster, and take four times the memory.
        together = 1 if self.rest.device.type == "cpu" else max(1, len(head_pose))
        parts = [
            self._draw(self.head.expand(len(part), -1, -1), part, texture.expand(len(part), -1, -1, -1), size)[0]
            for part in head_pose.split(together)
        ]
        return torch.cat(parts)

    def _draw(self, head: Tensor, head_pose: Tensor, texture: Tensor, size: int) -> tuple[Tensor, Tensor, Tensor]:
        """Frames [t 3 size size], the triangle at each pixel [t size size] and ``barycentric_maps`` of posed heads.

        head: [t 478 3]; texture: atlas position of each triangle's corners [t f 3 2].
        """
        corners = self._corners(head, head_pose, size)
        maps = barycentric_maps(corners[..., :2])
        index = rasterize(corners, maps, size)
        return self._shade(index, texture.mT @ maps, size), index, maps

    def _corners(self, head: Tensor, head_pose: Tensor, size: int) -> Tensor:
        """Each triangle's corners [t f 3 3] in a frame's pixels, and their depth, of posed heads [t 478 3]."""
        corners = self._pose(head, head_pose)[:, self.triangles]
        return torch.cat((corners[..., :2] * (size / self.side), corners[..., 2:]), -1)

    def _close_openings(self, head: Tensor, offsets: Tensor) -> Tensor:
        """Heads [t 478 3] whose lids open in proportion to the photo's own and whose lips don't cross."""
        head = head.clone()
        own = self.mesh.displacement(torch.zeros_like(self.own_row[6:]), self.own_row[None, 6:])[..., 1]
        expected = self.mesh.neutral_face[:, 1] + torch.cat((own, own + offsets[..., 1]))
        for upper, lower, crease in zip(UPPER_LIDS, LOWER_LIDS, LID_CREASES, strict=True):
            up, low, above = list(upper[1:-1]), list(lower[1:-1]), list(crease)
            gap = (expected[:, low] - expected[:, up]).mean(1)
            openness = (gap[1:] / gap[0].clamp_min(0.1)).clamp(0, MAX_OPENNESS)
            own_gap = (self.head[low, 1] - self.head[up, 1]).clamp_min(0)
            lid = head[:, low, 1] - own_gap * openness[:, None]
            head[:, above, 1] += CREASE_SHARE * (lid - self.head[up, 1]).clamp_min(0)
            head[:, up, 1] = lid
        up, low = list(INNER_LIPS_UPPER[1:-1]), list(INNER_LIPS_LOWER[1:-1])
        gap = (expected[:, low] - expected[:, up]).clamp_min(0)
        own_gap = (self.head[low, 1] - self.head[up, 1]).clamp_min(0)
        excess = head[:, low, 1] - head[:, up, 1] - (own_gap + gap[1:] - gap[0]).clamp_min(0)
        head[:, up, 1] += UPPER_LIP_SHARE * excess
        head[:, low, 1] -= (1 - UPPER_LIP_SHARE) * excess
        return head

    def _pose(self, head: Tensor, pose: Tensor) -> Tensor:
        """Vertices [t 478 + 36 k 3] in the photo's pixels from heads [t 478 3] and head pose columns [t 6]."""
        height = self.mesh.canonical_face[:MESH_LANDMARKS, 1]
        size = self.scale * (height.amax() - height.amin())
        change = pose - self.own_row[:6]
        rotation = rotation_matrices(pose[:, :3])
        growth = change[:, 5].exp()[:, None, None]
        centre = (self.centre + F.pad(change[:, 3:5] * size, (0, 1)))[:, None]
        face = growth * self.scale * head @ rotation.mT + centre
        still = self.scale * self.head @ rotation.mT * growth + centre
        carried = growth * ((self.rings - self.centre) * self.lift @ self.rotation) @ rotation.mT + centre
        expression = (face - still)[:, self.oval].repeat(1, len(RINGS), 1)
        rings = self.rings + self.ring_weight * (carried - self.rings) + self.ring_carry * expression
        return torch.cat((face, rings), 1)

    def _texture_maps(self, inner: Tensor, offsets: Tensor) -> Tensor:
        """Atlas position, in pixels, of each triangle's corners [t f 3 2]; openings look into the interior layer."""
        texture = self.rest[self.triangles, :2].expand(len(inner), -1, -1, -1).clone()
        below = texture.new_tensor([0.0, self.side + 2.0 * self.margin])
        gap = (inner[:, list(INNER_LIPS_LOWER[1:-1]), 1] - inner[:, list(INNER_LIPS_UPPER[1:-1]), 1]).mean(1)
        own_gap = (self.rest[list(INNER_LIPS_LOWER[1:-1]), 1] - self.rest[list(INNER_LIPS_UPPER[1:-1]), 1]).mean()
        closed = (gap < SLIT_PIXELS) & (own_gap < SLIT_PIXELS)
        mouth = inner[:, self.triangles[self.mouth_hole]] + below
        texture[:, self.mouth_hole] = torch.where(closed[:, None, None, None], texture[:, self.mouth_hole], mouth)
        for hole, upper, iris in zip(self.eye_holes, UPPER_LIDS, IRISES, strict=True):
            corners = [upper[0], upper[-1]]
            moved = offsets[:, list(iris)].mean(1) - offsets[:, corners].mean(1)
            width = self.scale * (self.head[corners[1]] - self.head[corners[0]]).norm()
            limit = width * moved.new_tensor(GAZE_LIMIT)
            shift = (self.scale * moved @ self.rotation.mT)[:, :2]
            shift = torch.maximum(torch.minimum(shift, limit), -limit)
            texture[:, hole] = inner[:, self.triangles[hole]] + below - shift[:, None, None]
        return texture

    def _shade(self, index: Tensor, affine: Tensor, size: int) -> Tensor:
        """Colours [t 3 s s] of the triangles ``index`` [t s s], which map to the atlas by ``affine`` [t f 2 3]."""
        pixel = self.side / size
        covered = max(1, round(pixel))
        if covered not in self._smoothed:
            self._smoothed[covered] = F.avg_pool2d(self.atlas, covered, stride=1)
        atlas = self._smoothed[covered]
        shift = self.margin - (covered - 1) / 2
        grid = _positions(index, affine, pixel) + shift
        grid = grid * (2 / grid.new_tensor([atlas.shape[2], atlas.shape[1]])) - 1
        colours = F.grid_sample(atlas[None], grid.view(1, -1, size, 2), padding_mode="border", align_corners=False)
        return colours.view(3, *index.shape).transpose(0, 1)


def animate_photo(image: Tensor, landmarks: Tensor, own_row: Tensor, motion: Tensor, size: int = 128) -> WarpResult:
    """Animate a photograph by motion rows.

    image: [3 h h] in [0, 1]; landmarks: [478 3] in its pixels (x, y, depth away from the camera in the scale of x);
    own_row: [57] the photo's own row; motion: [t 57]. Rows beyond ``limit_motion`` are drawn at the limits, and the
    result holds the rows drawn.
    """
    return PhotoRig(image, landmarks, own_row).animate(motion, size)


def _positions(index: Tensor, affine: Tensor, bare: float) -> Tensor:
    """Where pixel centres [t s s] are mapped to by ``affine`` [t f 2 3] of the triangles ``index`` that cover them.

    Those that none covers (-1) go to ``bare`` times their own place. Returns [t s s 2], x and y.
    """
    frames, count = affine.shape[:2]
    start = torch.arange(frames, device=index.device)[:, None, None] * count
    triangle = (index.clamp_min(0) + start).flatten()
    plane = affine.flatten(0, 1).permute(1, 2, 0).flatten(0, 1).contiguous()[:, triangle].view(6, *index.shape)
    x, y = _pixel_centres(index.shape[-1], index.device).unbind(-1)
    across = torch.where(index < 0, bare * x, plane[0] * x + plane[1] * y + plane[2])
    along = torch.where(index < 0, bare * y, plane[3] * x + plane[4] * y + plane[5])
    return torch.stack((across, along), -1)


def _pixel_centres(size: int, device: torch.device) -> Tensor:
    """x and y of every pixel's centre [size size 2]."""
    middle = torch.arange(size, device=device) + 0.5
    return torch.stack(torch.meshgrid(middle, middle, indexing="xy"), -1)


def _soften_edges(frames: Tensor, opening: Tensor) -> Tensor:
    """Frames [t 3 s s] with the rims of the openings [t s s] antialiased: a pixel becomes its neighbours' mean."""
    share = _local_mean(opening.unsqueeze(1).to(frames.dtype))
    rim = 1 - (2 * share - 1).abs()
    return frames + (_local_mean(frames) - frames) * rim


def _local_mean(x: Tensor) -> Tensor:
    """Mean over 3 x 3 pixels of [t c h w]."""
    x = F.pad(x, (1, 1, 1, 1), "replicate")
    x = x[..., :-2] + x[..., 1:-1] + x[..., 2:]
    return (x[..., :-2, :] + x[..., 1:-1, :] + x[..., 2:, :]) / 9


def _ring_triangles(oval: list[int], rings: int, device: torch.device) -> Tensor:
    """Two triangles for each quad between consecutive loops: the face's outline, then the rings."""
    count = len(oval)
    loops = torch.cat((torch.tensor(oval), LANDMARKS + torch.arange(rings * count))).view(rings + 1, count)
    inner, outer = loops[:-1], loops[1:]
    inner_next, outer_next = inner.roll(-1, 1), outer.roll(-1, 1)
    first, second = torch.stack((inner, outer, outer_next), -1), torch.stack((inner, outer_next, inner_next), -1)
    return torch.cat((first, second)).flatten(0, 1).to(device)
