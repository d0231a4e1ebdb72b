"""Moves the head in a picture: its landmark mesh, textured by the photo, is moved by motion rows and drawn again.

The 478 landmarks are lifted into the head frame, displaced by the expression basis times the change of coefficients,
turned and moved as the head pose asks (weak perspective), and drawn with a z-buffer. Rings around the face carry hair
and neck along and come to rest at the border of the picture. Mouth and eye openings show a second, painted layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.rig.edges import soften_edges, soften_outlines
from flashportrait.rig.expression import smoothstep
from flashportrait.rig.face import Expression, ExpressiveFace, with_hidden_side_drawn_in, with_lip_rims, with_lower_rims
from flashportrait.rig.glasses import glasses_seen
from flashportrait.rig.interior import SLIT_PIXELS, paint_layers
from flashportrait.rig.landmarks import (
    INNER_LIPS_LOWER,
    INNER_LIPS_UPPER,
    IRISES,
    LANDMARKS,
    LID_CREASES,
    LOWER_LIDS,
    MESH_LANDMARKS,
    OUTER_LIPS,
    UPPER_LIDS,
)
from flashportrait.rig.mesh import load_face_mesh
from flashportrait.rig.pose import GUIDE_REACH, fit_head, limit_motion, rotation_matrices, with_symmetric_depth
from flashportrait.rig.rasterizer import barycentric_maps, rasterize
from flashportrait.rig.rings import OVERHANG, RINGS, place_rings, ring_triangles
from flashportrait.rig.streaks import LEAST_STREAK, STREAK_CM, Streaks, streaked_part, stretched_by_axis
from flashportrait.rig.texture import SHADE_CM, PhotoTexture

RIG_PIXELS = 2
"""A picture is turned from one this much larger than the frames drawn, so that drawing anew costs no sharpness."""
DEPTH_GAIN = 1.3
"""Correction of the landmarks' depths, calibrated so that a head turned by an angle is read as turned by it."""
ROOM_SHARE = 0.5
"""Of the way from the face's outline to a border that stays still, how much the head may move towards it: what lies
between is squeezed."""
STRETCHED = 0.5
"""Share of the photo's area from which on what is drawn is called stretched."""
OUTLINE_JUMP = 6.0
"""Distance in the photo between what neighbouring pixels show, in pixels drawn, from which on an outline parts them."""

AS_IT_IS_CM = 0.3
"""Change of the gap between the lips after which nothing behind them is as in the photo."""
LIDS_AS_THEY_ARE = 0.25
"""The same for the lids, in units of the photo's own opening."""
SHUT = 0.1
"""Openness of lids, over the photo's own, below which they are closed."""
GAZE_LIMIT = (0.3, 0.22)
"""Largest shift of an iris across and along the picture, in units of the eye's width."""

Size = int | tuple[int, int]
"""Height and width of frames in pixels; one number for both, or a square's."""


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


class PhotoRig:
    """One photograph made ready to be animated."""

    def __init__(self, image: Tensor, landmarks: Tensor, own_row: Tensor, *, still_border: bool = False) -> None:
        """Make a photograph ready.

        Args:
            image: [3 h w] in [0, 1].
            landmarks: [478 3] in its pixels.
            own_row: [57], the photo's own motion row.
            still_border: nothing moves at the picture's border, as a part of a larger picture needs it; else what is
                near moves some, and the picture goes on beyond as in a mirror.
        """
        mesh = load_face_mesh().to(image.device)
        self.mesh, self.own_row = mesh, own_row
        self.shape = image.new_tensor([image.shape[2], image.shape[1]])
        """Width and height of the photo."""
        landmarks = with_hidden_side_drawn_in(with_lip_rims(with_lower_rims(landmarks.float())), mesh)
        self.scale, self.rotation, self.centre = fit_head(landmarks, mesh)
        self.lift = landmarks.new_tensor([1.0, 1.0, DEPTH_GAIN])
        turned = with_symmetric_depth((landmarks - self.centre) * self.lift, self.rotation, mesh)
        landmarks = turned / self.lift + self.centre
        self.head = turned @ self.rotation / self.scale
        self.face = ExpressiveFace(mesh, self.head, own_row[6:], glasses_seen(image, landmarks))
        self.texture = PhotoTexture(
            image,
            paint_layers(image, landmarks, float(self.scale), self.face.lip_rise, self.face.jaw_drop),
            streaked_part(landmarks, self.shape, STREAK_CM * float(self.scale)),
            STREAK_CM * float(self.scale),
        )
        self.oval = mesh.oval
        self.room = self._room(landmarks) if still_border else None
        """Least and greatest x and y [2 2] of the head pose, where the border stays still."""
        self.rings, self.ring_weight, self.ring_carry = place_rings(
            landmarks, self.oval, self.shape, self.rotation, self.scale, 0.0 if still_border else OVERHANG
        )
        self.triangles = torch.cat((mesh.triangles, ring_triangles(self.oval, image.device)))
        self.rest = torch.cat((landmarks, self.rings))
        self._mark_triangles()

    def _room(self, landmarks: Tensor) -> Tensor:
        """How far the head may move, left and up, right and down, in units of the face's height.  [2 2]"""
        outline = landmarks[self.oval, :2]
        room = torch.stack((-outline.amin(0), self.shape - outline.amax(0))) * (ROOM_SHARE / self._height())
        return torch.stack((room[0].clamp(max=0), room[1].clamp_min(0))) + self.own_row[3:5]

    def _height(self) -> Tensor:
        """Of the face, in the photo's pixels."""
        height = self.mesh.canonical_face[:MESH_LANDMARKS, 1]
        return self.scale * (height.amax() - height.amin())

    def _mark_triangles(self) -> None:
        mesh, total = self.mesh, len(self.triangles)

        def pad(flags: Tensor) -> Tensor:
            return F.pad(flags, (0, total - len(flags)))

        eyes = [list(upper) + list(lower)[1:-1] for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True)]
        rims = [list(upper) + list(lower)[-2:0:-1] for upper, lower in zip(UPPER_LIDS, LOWER_LIDS, strict=True)]
        self.eye_holes = [pad(mesh.triangles_among(eye)) for eye in eyes]
        self.lids = [
            pad(mesh.triangles_around(crease, 2) & ~mesh.triangles_around(lower[1:-1])) & ~hole
            for crease, lower, hole in zip(LID_CREASES, LOWER_LIDS, self.eye_holes, strict=True)
        ]
        self.lashes = [
            _renumbered(self.triangles[hole], lower, upper)
            for hole, upper, lower in zip(self.eye_holes, UPPER_LIDS, LOWER_LIDS, strict=True)
        ]
        """Corners of an eye's triangles, with the upper lid's landmarks for the lower's."""
        self.mouth_hole = pad(mesh.triangles_among(INNER_LIPS_UPPER + INNER_LIPS_LOWER))
        self.opening = self.mouth_hole | self.eye_holes[0] | self.eye_holes[1]
        self.is_face = pad(torch.ones(len(mesh.triangles), dtype=torch.bool, device=mesh.triangles.device))
        self.is_lip = pad(mesh.triangles_inside(OUTER_LIPS)) | self.mouth_hole
        self.is_eye = pad(mesh.triangles_inside(rims[0], 1.5) | mesh.triangles_inside(rims[1], 1.5))

    def animate(self, motion: Tensor, size: Size = 128, strength: float = 0.0) -> WarpResult:
        """The photo with the motion rows [t 57] within ``TRUE_REACH``, with masks and flow, for training.

        ``strength``: of the expression in the picture from which the flow leads (see ``draw``).
        """
        height, width = _height_width(size)
        motion = limit_motion(self.own_row, motion)
        frames, index, maps = self._animate(motion, height, width)
        covered = index.clamp_min(0)
        head = self.face(self._with_strength(motion, strength)[:, 6:]).head
        shown = self._corners(head, motion[:, :6], height, width)[..., :2]
        leads_to = _positions(*_by_triangle(_with_bare(shown.mT @ maps, (1.0, 1.0)), index))
        flow = leads_to - _pixel_centres(height, width, index.device)
        flow = flow.masked_fill(self.opening[covered].unsqueeze(-1), torch.nan).permute(0, 3, 1, 2)
        masks = [
            (flags[covered] & (index >= 0)).unsqueeze(1).to(frames.dtype)
            for flags in (self.is_face, self.is_lip, self.is_eye)
        ]
        return WarpResult(frames, *masks, motion=motion, flow=flow)

    def reachable(self, motion: Tensor) -> Tensor:
        """Motion rows [t 57] as they are drawn: poses within ``GUIDE_REACH``.

        A head near a border that stays still goes no nearer than ``ROOM_SHARE`` allows.
        """
        motion = limit_motion(self.own_row, motion, GUIDE_REACH)
        if self.room is None:
            return motion
        place = torch.maximum(torch.minimum(motion[:, 3:5], self.room[1]), self.room[0])
        return torch.cat((motion[:, :3], place, motion[:, 5:]), 1)

    def draw(self, motion: Tensor, size: Size = 128, strength: float = 1.0) -> Tensor:
        """The photo with the head pose of the motion rows [t 57] and, by ``strength`` in [0, 1], their expression.

        At 0 it keeps its own expression, at 1 it takes the rows'. Rows are drawn as far as they are ``reachable``.
        Returns [t 3 h w] in [0, 1].
        """
        height, width = _height_width(size)
        motion = self.reachable(motion)
        # On a CPU one at a time: four together are a fifth faster, and take four times the memory.
        together = 1 if self.rest.device.type == "cpu" else max(1, len(motion))
        parts = motion.split(together)
        if strength == 0:
            return torch.cat([self._turn(part[:, :6], height, width) for part in parts])
        return torch.cat([self._animate(self._with_strength(part, strength), height, width)[0] for part in parts])

    def stretched(self, motion: Tensor, size: Size = 128) -> Tensor:
        """Where ``draw`` shows the photo at ``STRETCHED`` of its own pixels or fewer, [t 1 h w] bool: what it hardly
        knows."""
        height, width = _height_width(size)
        motion = self.reachable(motion)
        expression = self.face(motion[:, 6:])
        texture, _ = self._texture_maps(expression)
        index, maps = self._covered(self._corners(expression.head, motion[:, :6], height, width), height, width)
        own_area = self.shape.prod() / (height * width) * (-2 * (motion[:, 5:6] - self.own_row[5])).exp()
        area = torch.linalg.det((texture.mT @ maps)[..., :2]).abs() / own_area
        return _by_triangle(F.pad(area < STRETCHED, (0, 1)).unsqueeze(-1), index)[0].unsqueeze(1)

    def landmarks(self, motion: Tensor) -> Tensor:
        """Where the face's landmarks are in ``animate``'s pictures, in the photo's pixels, [t 478 3]."""
        motion = limit_motion(self.own_row, motion)
        return self._pose(self.face(motion[:, 6:]).head, motion[:, :6])[:, :LANDMARKS]

    def _with_strength(self, motion: Tensor, strength: float) -> Tensor:
        """Motion rows [t 57] whose expression is ``strength`` of the way from the photo's own."""
        own = self.own_row[6:]
        return torch.cat((motion[:, :6], own + strength * (motion[:, 6:] - own)), 1)

    def _animate(self, motion: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
        """As ``_draw``, of motion rows [t 57]."""
        expression = self.face(motion[:, 6:])
        corners = self._corners(expression.head, motion[:, :6], height, width)
        texture, opened = self._texture_maps(expression)
        jaw = (self.scale * expression.jaw @ self.rotation.mT)[:, :2]
        frames, index, maps = self._draw(corners, texture, opened, jaw, height, width)
        self._soften_rims(frames, index, corners[:, self.opening, :, :2])
        return frames, index, maps

    def _soften_rims(self, frames: Tensor, index: Tensor, corners: Tensor) -> None:
        """Antialias the rims of the openings, whose triangles have ``corners`` [t k 3 2]: rewrites frames [t 3 h w]."""
        low, high = corners.amin((0, 1, 2)).floor().long() - 2, corners.amax((0, 1, 2)).ceil().long() + 2
        columns, rows = (
            slice(max(start, 0), max(end, 0)) for start, end in zip(low.tolist(), high.tolist(), strict=True)
        )
        part = frames[:, :, rows, columns]
        if part.numel():
            frames[:, :, rows, columns] = soften_edges(part, self.opening[index[:, rows, columns].clamp_min(0)])

    def _turn(self, head_pose: Tensor, height: int, width: int) -> Tensor:
        """The photo with its head posed by head pose columns [t 6], its expression its own.  [t 3 h w]"""
        count = len(head_pose)
        texture = self.rest[self.triangles, :2].expand(count, -1, -1, -1)
        corners = self._corners(self.head.expand(count, -1, -1), head_pose, height, width)
        return self._draw(corners, texture, texture.new_zeros(texture.shape[:2]), None, height, width)[0]

    def _draw(
        self, corners: Tensor, texture: Tensor, opened: Tensor, jaw: Tensor | None, height: int, width: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Frames [t 3 h w], the triangle at each pixel [t h w] and ``barycentric_maps`` of posed heads.

        corners: [t f 3 3] of triangles; texture: the same [t f 3 2] in the photo; opened, jaw: as the texture takes
        them, by triangle [t f] and frame [t 2].
        """
        index, maps = self._covered(corners, height, width)
        pixel = tuple((self.shape / self.shape.new_tensor([width, height])).tolist())
        affine = texture.mT @ maps
        stretched = stretched_by_axis(affine[..., :2] / min(pixel))
        told = F.pad(torch.stack((opened, (stretched.amax(-1) > LEAST_STREAK).to(opened)), -1), (0, 0, 0, 1))
        *planes, inside, streaked = _by_triangle(torch.cat((_with_bare(affine, pixel), told), -1), index)
        places = _positions(*planes)
        pixels = ((streaked > 0) & (inside == 0)).view(-1).nonzero().squeeze(1)
        triangles = index.view(-1)[pixels] + pixels // (height * width) * stretched.shape[1]
        streaks = Streaks(pixels, stretched.flatten(0, 1)[triangles])
        shade = SHADE_CM * float(self.scale) / pixel[0]
        frames = self.texture.sample(places, inside, jaw, max(1, round(pixel[0])), shade, streaks)
        soften_outlines(frames, places, inside <= 0, OUTLINE_JUMP * max(pixel))
        return frames, index, maps

    def _covered(self, corners: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
        """The triangle at each pixel [t h w], and ``barycentric_maps``."""
        maps = barycentric_maps(corners[..., :2])
        return rasterize(corners, maps, height, width), maps

    def _corners(self, head: Tensor, head_pose: Tensor, height: int, width: int) -> Tensor:
        """Each triangle's corners [t f 3 3] in a frame's pixels, and their depth, of posed heads [t 478 3]."""
        corners = self._pose(head, head_pose)[:, self.triangles]
        return corners * F.pad(corners.new_tensor([width, height]) / self.shape, (0, 1), value=1.0)

    def _pose(self, head: Tensor, pose: Tensor) -> Tensor:
        """Vertices [t 478 + 36 k 3] in the photo's pixels from heads [t 478 3] and head pose columns [t 6]."""
        change = pose - self.own_row[:6]
        rotation = rotation_matrices(pose[:, :3])
        growth = change[:, 5].exp()[:, None, None]
        centre = (self.centre + F.pad(change[:, 3:5] * self._height(), (0, 1)))[:, None]
        face = growth * self.scale * head @ rotation.mT + centre
        still = self.scale * self.head @ rotation.mT * growth + centre
        carried = growth * ((self.rings - self.centre) * self.lift @ self.rotation) @ rotation.mT + centre
        expression = (face - still)[:, self.oval].repeat(1, len(RINGS), 1)
        rings = self.rings + self.ring_weight * (carried - self.rings) + self.ring_carry * expression
        return torch.cat((face, rings), 1)

    def _texture_maps(self, expression: Expression) -> tuple[Tensor, Tensor]:
        """Where each triangle's corners are in the photo [t f 3 2], and if it is open [t f], as the texture has it."""
        inner = (self.scale * expression.head @ self.rotation.mT + self.centre)[..., :2]
        texture = self.rest[self.triangles, :2].expand(len(inner), -1, -1, -1).clone()
        opened = texture.new_zeros(texture.shape[:2])
        upper_lip, lower_lip = list(INNER_LIPS_UPPER[1:-1]), list(INNER_LIPS_LOWER[1:-1])
        gap = (inner[:, lower_lip, 1] - inner[:, upper_lip, 1]).mean(1)
        own_gap = (self.rest[lower_lip, 1] - self.rest[upper_lip, 1]).mean()
        closed = ((gap < SLIT_PIXELS) & (own_gap < SLIT_PIXELS))[:, None]
        as_it_is = 1 - smoothstep((gap - own_gap).abs() / (AS_IT_IS_CM * self.scale))
        opened[:, self.mouth_hole] = torch.where(closed, 0, 1 + as_it_is[:, None])
        mouth = inner[:, self.triangles[self.mouth_hole]]
        texture[:, self.mouth_hole] = torch.where(closed[..., None, None], texture[:, self.mouth_hole], mouth)
        for eye, (hole, upper, iris) in enumerate(zip(self.eye_holes, UPPER_LIDS, IRISES, strict=True)):
            corners = [upper[0], upper[-1]]
            moved = expression.offsets[:, list(iris)].mean(1) - expression.offsets[:, corners].mean(1)
            width = self.scale * (self.head[corners[1]] - self.head[corners[0]]).norm()
            limit = width * moved.new_tensor(GAZE_LIMIT)
            shift = (self.scale * moved @ self.rotation.mT)[:, :2]
            shift = torch.maximum(torch.minimum(shift, limit), -limit)
            texture[:, hole] = inner[:, self.triangles[hole]] - shift[:, None, None]
            change = (expression.openness[:, eye] - 1).abs() / LIDS_AS_THEY_ARE + (shift / limit).norm(dim=1)
            opened[:, hole] = 4 - smoothstep(change)[:, None]
            # What is left between closed lids shows the lashes.
            shut = expression.openness[:, eye] < SHUT
            opened[:, hole] *= ~shut[:, None]
            lashes = self.rest[self.lashes[eye], :2]
            texture[:, hole] = torch.where(shut[:, None, None, None], lashes, texture[:, hole])
            opened[:, self.lids[eye]] = (expression.openness[:, eye, None] - 1).clamp(max=0)
        return texture, opened


def animate_photo(image: Tensor, landmarks: Tensor, own_row: Tensor, motion: Tensor, size: int = 128) -> WarpResult:
    """Animate a photograph by motion rows.

    image: [3 h h] in [0, 1]; landmarks: [478 3] in its pixels (x, y, depth away from the camera in the scale of x);
    own_row: [57] the photo's own row; motion: [t 57]. Rows beyond ``limit_motion`` are drawn at the limits, and the
    result holds the rows drawn.
    """
    return PhotoRig(image, landmarks, own_row).animate(motion, size)


def _height_width(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _renumbered(triangles: Tensor, old: Sequence[int], new: Sequence[int]) -> Tensor:
    """Triangles [f 3] with the vertices ``old`` replaced by ``new``, one by one."""
    renumbered = triangles.clone()
    for before, after in zip(old, new, strict=True):
        renumbered[triangles == before] = after
    return renumbered


def _with_bare(affine: Tensor, bare: tuple[float, float]) -> Tensor:
    """Affine maps [t f 2 3] of triangles as rows, and ``bare`` times x and y for where there is none, [t f + 1 6]."""
    own_place = torch.zeros_like(affine[:, :1])
    own_place[..., 0, 0], own_place[..., 1, 1] = bare
    return torch.cat((affine, own_place), 1).flatten(2)


def _positions(a: Tensor, b: Tensor, c: Tensor, d: Tensor, e: Tensor, f: Tensor) -> Tensor:
    """Where pixel centres are mapped to, [t h w 2], by each pixel's affine map: a x + b y + c and d x + e y + f."""
    height, width = a.shape[1:]
    x = (torch.arange(width, device=a.device) + 0.5).to(a)
    y = (torch.arange(height, device=a.device) + 0.5).to(a)[:, None]
    return torch.stack((torch.addcmul(c, a, x).addcmul_(b, y), torch.addcmul(f, d, x).addcmul_(e, y)), -1)


def _by_triangle(values: Tensor, index: Tensor) -> list[Tensor]:
    """Columns of values [t f + 1 c] of the triangles that cover each pixel, each [t h w].

    The last row is for pixels that none covers (-1).
    """
    frames, count = values.shape[:2]
    row = torch.where(index < 0, count - 1, index) + torch.arange(frames, device=index.device)[:, None, None] * count
    # Columns one by one and short numbers: by pixel, gathering is much of the cost.
    row = row.flatten().int()
    return [column.contiguous().index_select(0, row).view(index.shape) for column in values.flatten(0, 1).unbind(-1)]


def _pixel_centres(height: int, width: int, device: torch.device) -> Tensor:
    """x and y of every pixel's centre [height width 2]."""
    x, y = torch.arange(width, device=device) + 0.5, torch.arange(height, device=device) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)
