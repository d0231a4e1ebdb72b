"""Training scenes: a portrait, a clip of the same person, and a motion row for each of its frames.

Scenes are drawn once, encoded once and kept: drawing and encoding cost more than the training step itself.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Protocol

import torch
import torch.nn.functional as F
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor
from typing_extensions import Self

from flashportrait.avatars.controls import COLUMNS
from flashportrait.avatars.identity import Identity, sample_identities
from flashportrait.avatars.performance import sample_performance
from flashportrait.avatars.renderer import render
from flashportrait.errors import UserError
from flashportrait.face.blendshapes import FaceLandmarker
from flashportrait.face.motion import HEAD_POSE_NAMES
from flashportrait.models.tiny_vae import SPATIAL_RATIO, TEMPORAL_RATIO, TinyVideoAutoencoder
from flashportrait.rig.photo import RIG_PIXELS, PhotoRig
from flashportrait.training.photos import Photo, PhotoSet, fit_motion

PERFORMANCE_MIX = {"talking": 0.1, "mixed": 0.08, "large": 0.1, "calm": 0.02, "keyframes": 0.5, "wide": 0.2}
"""Shares of the kinds of motion. ``keyframes`` glides between unrelated expressions, so that every corner is seen;
``wide`` does, too, and every other one opens the mouth wide, which is hardest to follow."""

WIDEST_OF = 4
"""Expressions from which ``wide`` takes the one whose jaw is open the most."""

KEYFRAME_SPACING = (3, 8)
"""Least and greatest number of frames from one expression to the next. A network meets as many expressions as glides;
the frames between are cheap, but teach it little."""

SCENES_TOGETHER = 8
"""Drawn people that a GPU draws in one pass: 13 frames of 256 px of each take some 4 GB there."""

REVERSED = 0.5
"""Share of photographs' scenes whose truth is the photograph and whose portrait is made from it."""
MADE_TURN = (5.0, 25.0)
"""Degrees by which a portrait that is made from a photograph is turned."""
SMALL_MOTION = 0.15
"""Of a performance, where a photograph stands for the truth."""
FULL_STRENGTH = 0.6
"""Share of scenes whose reference shows the expression in full, as in use; half of the others are spread evenly."""
STRENGTH_ENDS = 0.5
"""How far beyond [0, 1] strengths are drawn, and brought back to its ends: references without expression, too."""

FLOW_RATIO = 2
"""Rows and columns of a frame for each of its kept flow, which is smooth."""

CROP_FOCUS = 4.0
"""How much more often crops show lips and eyes than what their scenes give less weight."""


class TensorRecord:
    """A dataclass of tensors that share their first axis: indexed, moved, stored and joined together."""

    def __len__(self) -> int:
        return len(getattr(self, fields(self)[0].name))

    def __getitem__(self, index: Tensor | slice) -> Self:
        return type(self)(*(getattr(self, field.name)[index] for field in fields(self)))

    def to(self, device: str) -> Self:
        return type(self)(*(getattr(self, field.name).to(device) for field in fields(self)))

    def save(self, path: Path) -> None:
        """Writes one safetensors file, whole or not at all."""
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        save_file({field.name: getattr(self, field.name).contiguous() for field in fields(self)}, temporary)
        os.replace(temporary, path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Raises ``UserError`` where something is missing."""
        tensors = load_file(path)
        names = [field.name for field in fields(cls)]
        _check_names(path, tensors, names)
        return cls(*(tensors[name] for name in names))

    @classmethod
    def read(cls, path: Path, index: int) -> Self:
        """The record of one scene of a file, without reading the others."""
        return cls(*read_scene(path, index, [field.name for field in fields(cls)]))

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class Scenes(TensorRecord):
    """n scenes of t frames, s pixels a side."""

    portrait: Tensor
    """[n 3 s s] uint8"""
    frames: Tensor
    """[n t 3 s s] uint8"""
    reference: Tensor
    """[n t 3 s s] uint8: the portrait with its head turned as in the frame, and some of the frame's expression"""
    strength: Tensor
    """[n] float32 in [0, 1]: how much of it; 0 keeps the portrait's own"""
    motion: Tensor
    """[n t 57] float32 motion rows; head displacement and scale are relative to the portrait's"""
    weight: Tensor
    """[n t 1 s/8 s/8] float16: 1, more on the face, most on lips and eyes"""
    flow: Tensor
    """[n t 2 s/2 s/2] float16: how far from its place, right and down in pixels of the frame, the reference shows what
    is seen there; NaN where it doesn't, or where nobody knows"""

    @classmethod
    def from_pictures(
        cls,
        portrait: Tensor,
        frames: Tensor,
        reference: Tensor,
        strength: Tensor,
        motion: Tensor,
        weight: Tensor,
        flow: Tensor | None = None,
    ) -> Scenes:
        """Pictures in [0, 1], weights ``[n t 1 s s]`` and, where it is known, flow ``[n t 2 s s]``."""
        pictures = (to_bytes(given) for given in (portrait, frames, reference))
        if flow is None:
            flow = torch.full_like(frames[:, :, :2], torch.nan)
        return cls(
            *pictures,
            strength.float().cpu(),
            motion.float().cpu(),
            _pooled(weight, SPATIAL_RATIO).cpu(),
            _pooled(flow, FLOW_RATIO).cpu(),
        )


def _pooled(maps: Tensor, ratio: int) -> Tensor:
    """Means over ``ratio`` x ``ratio`` pixels of ``[n t c h w]``, as float16."""
    return F.avg_pool2d(maps.flatten(0, 1), ratio).unflatten(0, maps.shape[:2]).half()


def to_bytes(pictures: Tensor) -> Tensor:
    """[0, 1] -> uint8 on the CPU."""
    return (pictures.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


class SceneSource(Protocol):
    """Draws scenes."""

    def scenes(self, count: int, frames: int, size: int, generator: torch.Generator) -> Scenes: ...


def sample_motion(
    kind: str, frames: int, generator: torch.Generator, spacing: tuple[int, int] = KEYFRAME_SPACING
) -> Tensor:
    """Motion rows ``[frames 57]`` of one kind of ``PERFORMANCE_MIX``; ``spacing`` is that of expressions to glide
    between."""
    if kind not in ("keyframes", "wide"):
        return sample_performance(frames, kind=kind, generator=generator)
    least, greatest = spacing
    glide = int(torch.randint(least, greatest + 1, (1,), generator=generator))
    keys = sample_performance(frames // glide + 2, kind="random", generator=generator)
    if kind == "wide":
        keys[1::2] = _wide_mouths(len(keys[1::2]), generator)
    position = torch.arange(frames) / glide
    index = position.long()
    share = (position - index).unsqueeze(1)
    share = share * share * (3 - 2 * share)
    return keys[index] * (1 - share) + keys[index + 1] * share


def _wide_mouths(count: int, generator: torch.Generator) -> Tensor:
    """Expressions ``[count 57]``, each of ``WIDEST_OF`` the one whose jaw is open the most."""
    drawn = sample_performance(WIDEST_OF * count, kind="random", generator=generator).unflatten(0, (count, -1))
    return drawn[torch.arange(count), drawn[:, :, COLUMNS["jawOpen"]].argmax(1)]


def draw_kind(generator: torch.Generator) -> str:
    shares = torch.tensor(list(PERFORMANCE_MIX.values()))
    return list(PERFORMANCE_MIX)[int(torch.multinomial(shares, 1, generator=generator))]


def draw_strength(generator: torch.Generator) -> float:
    """How much of the expression a reference shows: all of it, as in use, or any part, or none."""
    if torch.rand((), generator=generator) < FULL_STRENGTH:
        return 1.0
    part = float(torch.rand((), generator=generator)) * (1 + 2 * STRENGTH_ENDS) - STRENGTH_ENDS
    return min(max(part, 0.0), 1.0)


def loss_weight(face: Tensor, lips: Tensor, eyes: Tensor) -> Tensor:
    """``1 + face + lips`` as in the paper, and twice the lips and eyes: they are small and carry the expression."""
    return 1 + face + 2 * lips + 2 * eyes


class AvatarScenes:
    """People drawn by formula: identity and expression are known exactly.

    The landmarks by which references are turned are read from the drawn portrait, as in use.
    """

    def __init__(self, device: str = "cpu"):
        self.device = device
        self._landmarker = FaceLandmarker()

    def scenes(self, count: int, frames: int, size: int, generator: torch.Generator) -> Scenes:
        # A GPU is idle between the small steps of drawing one scene.
        together = 1 if self.device == "cpu" else SCENES_TOGETHER
        groups = [min(together, count - done) for done in range(0, count, together)]
        return Scenes.join([self._scenes(group, frames, size, generator) for group in groups])

    def _scenes(self, count: int, frames: int, size: int, generator: torch.Generator) -> Scenes:
        """Scenes drawn in one pass."""
        sitters, motion, strengths = [], [], []
        for _ in range(count):
            sitters.append(self._sitter(size, generator))
            motion.append(sample_motion(draw_kind(generator), frames, generator))
            strengths.append(draw_strength(generator))
        identities, portraits, rigs = zip(*sitters, strict=True)
        performed = torch.stack(motion).to(self.device)
        drawn = render(Identity.join(identities).repeat(frames), performed.flatten(0, 1), size=size)
        weight = loss_weight(drawn.face_mask, drawn.lip_mask, drawn.eye_mask)
        references = [
            rig.draw(rows, size, strength) for rig, rows, strength in zip(rigs, performed, strengths, strict=True)
        ]
        return Scenes.from_pictures(
            torch.cat(portraits),
            drawn.frames.unflatten(0, (count, frames)),
            torch.stack(references),
            torch.tensor(strengths),
            performed,
            weight.unflatten(0, (count, frames)),
        )

    def _sitter(self, size: int, generator: torch.Generator) -> tuple[Identity, Tensor, PhotoRig]:
        """Somebody in whose portrait the landmarker finds a face: identity, portrait [1 3 size size], rig."""
        while True:
            identity = sample_identities(1, generator, device=self.device)
            row = self._portrait_row(generator).to(self.device)
            image = render(identity, row[None], size=RIG_PIXELS * size).frames[0]
            faces = self._landmarker.detect(to_bytes(image).permute(1, 2, 0).numpy())
            if faces:
                rig = PhotoRig(image, torch.from_numpy(faces[0].landmarks).to(self.device), row)
                return identity, F.avg_pool2d(image[None], RIG_PIXELS), rig

    def _portrait_row(self, generator: torch.Generator) -> Tensor:
        """Portraits are calm, posed or caught in the middle of something; the head is where the crop put it."""
        kind = ("calm", "calm", "talking", "random")[int(torch.randint(0, 4, (1,), generator=generator))]
        row = sample_performance(1, kind=kind, generator=generator)[0].clone()
        row[:3] *= 0.5
        row[3 : len(HEAD_POSE_NAMES)] = 0
        return row


class PhotoScenes:
    """Photographs animated by warping: real skin, hair and light; expression is known as well as the warp is true.

    A warp can teach nothing that warping doesn't know, so some scenes are turned round (``REVERSED``): another portrait
    is made of the photograph by warping it, and what is asked for is the photograph itself, moved a little. The truth
    then has real teeth, lids and creases, where its reference has a painted mouth and stretched skin.
    """

    def __init__(self, photos: PhotoSet, device: str = "cpu"):
        self.photos = photos
        self.device = device

    def scenes(self, count: int, frames: int, size: int, generator: torch.Generator) -> Scenes:
        return Scenes.join([self._scene(frames, size, generator) for _ in range(count)])

    def _scene(self, frames: int, size: int, generator: torch.Generator) -> Scenes:
        photo = self.photos.sample(generator).to(self.device)
        strength = draw_strength(generator)
        performed = sample_motion(draw_kind(generator), frames, generator).to(self.device)
        truth = PhotoRig(photo.image, photo.landmarks, photo.row)
        if torch.rand((), generator=generator) < REVERSED:
            portrait = made_portrait(photo, generator)
            drawn = truth.animate(small_motion(photo.row, performed), size)
            rig = PhotoRig(portrait.image, portrait.landmarks, portrait.row)
            flow = torch.full_like(drawn.flow, torch.nan)
        else:
            portrait, rig = photo, truth
            drawn = truth.animate(fit_motion(photo.row, performed), size, strength)
            flow = drawn.flow
        reference = rig.draw(drawn.motion, size, strength)
        seen = F.interpolate(portrait.image[None], (size, size), mode="bilinear", antialias=True)
        weight = loss_weight(drawn.face_mask, drawn.lip_mask, drawn.eye_mask)
        return Scenes.from_pictures(
            seen,
            drawn.frames[None],
            reference[None],
            torch.tensor([strength]),
            drawn.motion[None],
            weight[None],
            flow[None],
        )


def made_portrait(photo: Photo, generator: torch.Generator) -> Photo:
    """Another portrait of the same person, made by warping: turned by 5 to 25 degrees, with another expression.

    Its landmarks are those of the mesh it was drawn with, so they are exact.
    """
    rig = PhotoRig(photo.image, photo.landmarks, photo.row)
    row = sample_motion("wide", 2, generator)[1:].to(photo.row)
    least, greatest = (math.radians(angle) for angle in MADE_TURN)
    turn = (least + (greatest - least) * torch.rand((), generator=generator)).item()
    direction = torch.randn(3, generator=generator) * torch.tensor([1.0, 0.5, 0.6])
    row[:, :3] = photo.row[:3] + (turn * F.normalize(direction, dim=0)).to(row)
    row[:, 3 : len(HEAD_POSE_NAMES)] = 0
    drawn = rig.animate(row, photo.image.shape[-1])
    return Photo(drawn.frames[0], rig.landmarks(row)[0], drawn.motion[0])


def small_motion(own_row: Tensor, performed: Tensor) -> Tensor:
    """A performance [t 57] brought near to a photograph's own row [57], where its warp is all but the truth."""
    near = own_row + SMALL_MOTION * (performed - own_row)
    near[:, 3 : len(HEAD_POSE_NAMES)] = SMALL_MOTION * performed[:, 3 : len(HEAD_POSE_NAMES)]
    return near


def scene_places(paths: Iterable[Path]) -> list[tuple[Path, int]]:
    """Where every scene of some shards lies: its file and its place there."""
    places = []
    for path in paths:
        with safe_open(path, "pt") as shard:
            count = shard.get_slice(next(iter(shard.keys()))).get_shape()[0]
        places += [(path, index) for index in range(count)]
    return places


def read_scene(path: Path, index: int, names: Sequence[str], frames: slice = slice(None)) -> list[Tensor]:
    """Some tensors of one scene, ``[1 t ...]``, without reading the others; ``frames`` are cut from each of them.

    Raises:
        UserError: the file lacks one of them.
    """
    with safe_open(path, "pt") as shard:
        _check_names(path, shard.keys(), names)
        parts = [shard.get_slice(name) for name in names]
        return [part[(slice(index, index + 1), frames)[: len(part.get_shape())]] for part in parts]


def _check_names(path: Path, found: Iterable[str], needed: Iterable[str]) -> None:
    """Raises ``UserError`` where a file lacks something that is needed of it."""
    missing = sorted(set(needed) - set(found))
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}: it is of an older version; delete it and make it anew")


def draw_corner(weight: Tensor, side: int, generator: torch.Generator | None = None) -> tuple[int, int]:
    """Top row and left column of a crop, ``side`` long, of a clip's weights ``[t 1 h w]``.

    Its middle is drawn with odds of the weight there to the power ``CROP_FOCUS``, and moved to keep it inside.
    """
    odds = weight[:, 0].mean(0) ** CROP_FOCUS
    row, column = divmod(int(torch.multinomial(odds.flatten(), 1, generator=generator)), odds.shape[1])
    top, left = (
        min(max(place - side // 2, 0), length - side) for place, length in zip((row, column), odds.shape, strict=True)
    )
    return top, left


class DrawnClips:
    """Clips of scenes already drawn, as the autoencoder's training wants them; pictures stay on disk until needed."""

    def __init__(self, shards: Iterable[Path]):
        self._places = scene_places(shards)
        with safe_open(self._places[0][0], "pt") as shard:
            self._frames = shard.get_slice("frames").get_shape()[1]

    def clips(self, count: int, frames: int, crop: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """Clips and their references ``[count frames 3 crop crop]`` in [0, 1], weights ``[count frames 1 crop crop]``
        and flow ``[count frames 2 crop/2 crop/2]``."""
        start = int(torch.randint(0, self._frames - frames + 1, (), generator=generator))
        chosen = torch.randint(0, len(self._places), (count,), generator=generator).tolist()
        span = slice(start, start + frames)
        clips = [self._clip(*self._places[index], span, crop, generator) for index in chosen]
        pictures, references, weight, flow = (torch.cat(part).float() for part in zip(*clips, strict=True))
        weight = weight.repeat_interleave(SPATIAL_RATIO, -1).repeat_interleave(SPATIAL_RATIO, -2)
        return pictures / 255, references / 255, weight, flow

    @staticmethod
    def _clip(path: Path, index: int, span: slice, crop: int, generator: torch.Generator) -> list[Tensor]:
        pictures, references, weight, flow = read_scene(path, index, ("frames", "reference", "weight", "flow"), span)
        side = crop // SPATIAL_RATIO
        top, left = draw_corner(weight[0].float(), side, generator)

        def cut(part: Tensor, pixels: int) -> Tensor:
            return part[..., pixels * top : pixels * (top + side), pixels * left : pixels * (left + side)]

        rows = SPATIAL_RATIO // FLOW_RATIO
        return [cut(pictures, SPATIAL_RATIO), cut(references, SPATIAL_RATIO), cut(weight, 1), cut(flow, rows)]


@dataclass(frozen=True)
class LatentScenes(TensorRecord):
    """n scenes as the transformer meets them; h = w are s / 8, or less where the autoencoder scales pictures."""

    latents: Tensor
    """[n f 16 h w] of the frames, float16"""
    reference: Tensor
    """[n f 16 h w] of the references, float16"""
    strength: Tensor
    """[n] float32 in [0, 1], of the expression in the references"""
    portrait: Tensor
    """[n 3 s s] uint8"""
    motion: Tensor
    """[n t 57] float32"""
    weight: Tensor
    """[n f 1 h w] float16"""

    def slice(self, first: int, count: int) -> LatentScenes:
        """``count`` latent frames, or what there is, of every scene from the ``first`` on, with the rows they show.

        As in a window of a long clip, the first latent frame of a slice has the one row of its last pixel frame.
        """
        stop = min(first + count, self.latents.shape[1])
        return replace(
            self,
            latents=self.latents[:, first:stop],
            reference=self.reference[:, first:stop],
            motion=self.motion[:, TEMPORAL_RATIO * first : TEMPORAL_RATIO * (stop - 1) + 1],
            weight=self.weight[:, first:stop],
        )


@torch.no_grad()
def encode_scenes(scenes: Scenes, vae: TinyVideoAutoencoder, batch: int = 16) -> LatentScenes:
    """Latents of frames, as they decode beside references, and of references; weights averaged over their frames."""
    return LatentScenes.join([_encode(scenes[i : i + batch], vae) for i in range(0, len(scenes), batch)])


def _encode(scenes: Scenes, vae: TinyVideoAutoencoder) -> LatentScenes:
    def encode(pictures: Tensor, beside: Tensor | None = None) -> Tensor:
        with torch.autocast(device_type=vae.device.type, dtype=torch.bfloat16):
            return vae.encode(pictures, parallel=True, reference=beside).half().cpu()

    frames, reference = (pictures.to(vae.device).float() / 255 for pictures in (scenes.frames, scenes.reference))
    weight = F.avg_pool2d(scenes.weight.float().flatten(0, 1), vae.config.upscale).unflatten(0, scenes.weight.shape[:2])
    later = rearrange(weight[:, 1:], "n (f r) c h w -> n f r c h w", r=TEMPORAL_RATIO).mean(dim=2)
    return LatentScenes(
        latents=encode(frames, reference),
        reference=encode(reference),
        strength=scenes.strength,
        portrait=scenes.portrait,
        motion=scenes.motion,
        weight=torch.cat([weight[:, :1], later], dim=1).half(),
    )


def shard_batches(folder: Path, batch: int, generator: torch.Generator) -> Iterator[LatentScenes]:
    """Endless shuffled batches of all shards in ``folder``; shards that arrive later join at the next pass.

    Raises:
        UserError: there are fewer scenes than one batch needs.
    """
    known: list[Path] = []
    while True:
        paths = sorted(folder.glob("*.safetensors"))
        if paths != known:
            scenes, known = LatentScenes.join([LatentScenes.load(path) for path in paths]), paths
            if len(scenes) < batch:
                raise UserError(f"{folder} holds {len(scenes)} scenes, a batch is {batch}; draw more or lower --batch")
        for index in torch.randperm(len(scenes), generator=generator).split(batch):
            if len(index) == batch:
                yield scenes[index]
