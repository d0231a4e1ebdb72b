"""An avatar's identity: everything about a drawn portrait that expression and head pose don't change.

Lengths are in head units (a tenth of a metre for an average adult) or are ratios to the average face; colours are
display values in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Generator, Tensor

BLOBS = 4
"""Blurred lights in each background."""

# Mean, spread and limits of ratios and positions drawn from a clipped normal distribution.
_RANGES: dict[str, tuple[float, float, float, float]] = {
    "skull_width": (1.0, 0.04, 0.9, 1.1),
    "skull_height": (1.0, 0.05, 0.88, 1.14),
    "face_length": (1.0, 0.045, 0.88, 1.12),
    "jaw_width": (1.0, 0.07, 0.8, 1.2),
    "chin_width": (1.0, 0.2, 0.55, 1.5),
    "chin_depth": (1.0, 0.35, 0.2, 2.0),
    "cheekbones": (1.0, 0.4, 0.1, 2.0),
    "cheek_fullness": (0.0, 0.03, -0.06, 0.08),
    "eye_size": (1.0, 0.1, 0.8, 1.35),
    "eye_spacing": (1.0, 0.05, 0.88, 1.14),
    "eye_openness": (1.0, 0.13, 0.68, 1.35),
    "eye_tilt": (0.012, 0.014, -0.025, 0.05),
    "eye_depth": (1.0, 0.25, 0.4, 1.7),
    "lid_crease": (0.6, 0.3, 0.0, 1.0),
    "iris_size": (1.0, 0.07, 0.85, 1.2),
    "brow_height": (1.0, 0.05, 0.88, 1.15),
    "brow_thickness": (1.0, 0.3, 0.4, 1.9),
    "brow_length": (1.0, 0.07, 0.8, 1.15),
    "brow_arch": (1.0, 0.4, 0.0, 2.0),
    "brow_tilt": (0.0, 0.02, -0.05, 0.05),
    "nose_length": (1.0, 0.06, 0.84, 1.16),
    "nose_width": (1.0, 0.14, 0.7, 1.45),
    "nose_projection": (1.0, 0.16, 0.6, 1.4),
    "nose_bridge": (1.0, 0.3, 0.2, 1.8),
    "mouth_width": (1.0, 0.04, 0.88, 1.12),
    "mouth_height": (0.0, 0.015, -0.035, 0.035),
    "upper_lip": (1.0, 0.25, 0.45, 1.7),
    "lower_lip": (1.0, 0.22, 0.5, 1.7),
    "cupid_bow": (0.6, 0.3, 0.0, 1.2),
    "ear_size": (1.0, 0.12, 0.7, 1.3),
    "neck_width": (1.0, 0.09, 0.8, 1.25),
    "shoulder_width": (1.0, 0.09, 0.8, 1.25),
    "shoulder_slope": (1.0, 0.25, 0.5, 1.6),
    "center_x": (0.0, 0.02, -0.05, 0.05),
    "center_y": (-0.02, 0.025, -0.08, 0.05),
    "face_size": (0.52, 0.03, 0.44, 0.6),
}

# From light to dark.
_SKIN = (
    (0.98, 0.79, 0.69),
    (0.97, 0.74, 0.61),
    (0.94, 0.70, 0.55),
    (0.89, 0.64, 0.48),
    (0.82, 0.57, 0.41),
    (0.73, 0.49, 0.34),
    (0.62, 0.40, 0.27),
    (0.51, 0.32, 0.21),
    (0.40, 0.245, 0.165),
    (0.31, 0.19, 0.135),
)
_HAIR = (
    (0.07, 0.06, 0.06),
    (0.12, 0.085, 0.07),
    (0.20, 0.13, 0.09),
    (0.30, 0.19, 0.12),
    (0.42, 0.28, 0.17),
    (0.60, 0.44, 0.26),
    (0.80, 0.66, 0.42),
    (0.55, 0.24, 0.12),
)
_IRIS = (
    (0.20, 0.12, 0.07),
    (0.32, 0.19, 0.09),
    (0.42, 0.30, 0.14),
    (0.36, 0.42, 0.24),
    (0.30, 0.46, 0.58),
    (0.42, 0.56, 0.68),
    (0.42, 0.47, 0.50),
)


@dataclass(frozen=True)
class Identity:
    """A batch of identities: every field is a float32 tensor with one row per identity.

    Ratios and positions are [n]; colours [n 3]. Index with a slice, a list or a tensor of row numbers.
    """

    # Head
    skull_width: Tensor
    skull_height: Tensor
    face_length: Tensor
    jaw_width: Tensor
    chin_width: Tensor
    chin_depth: Tensor
    cheekbones: Tensor
    cheek_fullness: Tensor
    ear_size: Tensor
    neck_width: Tensor
    # Eyes and brows
    eye_size: Tensor
    eye_spacing: Tensor
    eye_openness: Tensor
    eye_tilt: Tensor
    eye_depth: Tensor
    lid_crease: Tensor
    lashes: Tensor
    eye_shadow: Tensor
    iris_size: Tensor
    iris_color: Tensor
    brow_height: Tensor
    brow_thickness: Tensor
    brow_length: Tensor
    brow_arch: Tensor
    brow_tilt: Tensor
    brow_color: Tensor
    # Nose and mouth
    nose_length: Tensor
    nose_width: Tensor
    nose_projection: Tensor
    nose_bridge: Tensor
    mouth_width: Tensor
    mouth_height: Tensor
    upper_lip: Tensor
    lower_lip: Tensor
    cupid_bow: Tensor
    lip_color: Tensor
    teeth_color: Tensor
    # Skin
    skin_color: Tensor
    blush: Tensor
    gloss: Tensor
    age: Tensor
    freckles: Tensor
    # Hair
    hair_color: Tensor
    hairline: Tensor
    """Where the hair begins above the eyes, as a direction's height in [0, 1]; above 1: bald on top."""
    hair_recession: Tensor
    hair_fringe: Tensor
    hair_part: Tensor
    hair_sides: Tensor
    """How far the hair comes down beside the face: 0 above the ears, 1 over them."""
    hair_length: Tensor
    """How far the hair falls behind the neck and before the shoulders, head units; 0 for short hair."""
    hair_volume: Tensor
    hair_curl: Tensor
    hair_gloss: Tensor
    beard: Tensor
    moustache: Tensor
    beard_length: Tensor
    # Glasses
    glasses: Tensor
    """1 with glasses, 0 without."""
    glasses_color: Tensor
    glasses_size: Tensor
    glasses_roundness: Tensor
    glasses_width: Tensor
    lens_tint: Tensor
    # Clothes
    clothes_color: Tensor
    clothes_accent: Tensor
    neckline: Tensor
    """Depth of the neckline: 0 a high collar, 1 a deep V."""
    collar: Tensor
    stripes: Tensor
    shoulder_width: Tensor
    shoulder_slope: Tensor
    # Scene
    background_top: Tensor
    background_bottom: Tensor
    blob_position: Tensor
    """Picture positions of the blurred lights, [n BLOBS 2] in [-1, 1]."""
    blob_radius: Tensor
    blob_color: Tensor
    key_direction: Tensor
    """Unit vector to the main light: x right, y up, z to the viewer.  [n 3]"""
    key_color: Tensor
    ambient_color: Tensor
    rim_light: Tensor
    softness: Tensor
    """0 a flat cartoon, 1 soft three-dimensional shading."""
    outline: Tensor
    # Camera
    center_x: Tensor
    """Where the head's centre rests, in frames right of the middle."""
    center_y: Tensor
    """Where the head's centre rests, in frames below the middle."""
    face_size: Tensor
    """Height of an average face, hairline to chin, in frames."""
    camera_distance: Tensor
    """Head units between camera and head."""
    phase: Tensor
    """Where this identity's textures begin, radians.  [n 4]"""

    def __len__(self) -> int:
        return len(self.skull_width)

    def __getitem__(self, index: int | slice | list[int] | Tensor) -> Identity:
        """The identities at ``index``, always as a batch."""
        if isinstance(index, int):
            index = [index]
        return Identity(**{name: value[index] for name, value in self._tensors()})

    @classmethod
    def join(cls, parts: Sequence[Identity]) -> Identity:
        """One batch of several."""
        return cls(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(cls)})

    def expand(self, count: int) -> Identity:
        """``count`` rows of a batch of one, without copying."""
        return Identity(**{name: value.expand(count, *value.shape[1:]) for name, value in self._tensors()})

    def repeat(self, count: int) -> Identity:
        """Each identity ``count`` times in a row: a, a, b, b."""
        return Identity(**{name: value.repeat_interleave(count, dim=0) for name, value in self._tensors()})

    def to(self, device: str | torch.device) -> Identity:
        """The same identities on ``device``."""
        return Identity(**{name: value.to(device) for name, value in self._tensors()})

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        return ((field.name, getattr(self, field.name)) for field in fields(self))


def sample_identities(count: int, generator: Generator | None = None, device: str | torch.device = "cpu") -> Identity:
    """Draw ``count`` identities at random; the same generator state gives the same people on every device."""
    sampler = _Sampler(count, generator)
    feminine = sampler.uniform(0, 1)
    age = sampler.uniform(0, 1) ** 1.3
    values = {name: sampler.normal(*limits) for name, limits in _RANGES.items()}
    values |= {"age": age, "phase": sampler.uniform(0, 2 * math.pi, 4)}
    values |= _face(sampler, values, feminine)
    values |= _skin_and_hair(sampler, values, feminine, age)
    values |= _accessories(sampler)
    values |= _scene(sampler)
    return Identity(**values).to(device)


class _Sampler:
    """Random tensors with ``count`` rows."""

    def __init__(self, count: int, generator: Generator | None) -> None:
        self.count = count
        self.generator = generator

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(self.count, *shape, generator=self.generator)

    def normal(self, mean: float, spread: float, low: float, high: float, *shape: int) -> Tensor:
        return (mean + spread * torch.randn(self.count, *shape, generator=self.generator)).clamp(low, high)

    def chance(self, probability: float | Tensor) -> Tensor:
        """1 with the given probability, else 0."""
        return (self.uniform(0, 1) < probability).float()

    def palette(self, colors: tuple[tuple[float, float, float], ...], position: Tensor) -> Tensor:
        """Colours interpolated at ``position`` in [0, 1] along a palette.  [n 3]"""
        table = torch.tensor(colors)
        place = position.clamp(0, 1) * (len(table) - 1)
        index = place.floor().long().clamp(max=len(table) - 2)
        return torch.lerp(table[index], table[index + 1], (place - index)[:, None])

    def color(self, saturation: tuple[float, float], value: tuple[float, float]) -> Tensor:
        """Colours of any hue.  [n 3]"""
        hue = self.uniform(0, 1, 1)
        shifts = torch.tensor([0.0, 2 / 3, 1 / 3])
        pure = ((hue + shifts) % 1 * 6 - 3).abs().sub(1).clamp(0, 1)
        return self.uniform(*value, 1) * torch.lerp(torch.ones(3), pure, self.uniform(*saturation, 1))


def _face(sampler: _Sampler, values: dict[str, Tensor], feminine: Tensor) -> dict[str, Tensor]:
    lean = feminine - 0.5
    return {
        "jaw_width": (values["jaw_width"] - 0.1 * lean).clamp(0.78, 1.22),
        "chin_width": (values["chin_width"] - 0.3 * lean).clamp(0.5, 1.5),
        "eye_size": (values["eye_size"] + 0.1 * lean).clamp(0.8, 1.35),
        "brow_thickness": (values["brow_thickness"] - 0.5 * lean).clamp(0.4, 1.9),
        "brow_arch": (values["brow_arch"] + 0.5 * lean).clamp(-0.3, 2.2),
        "brow_height": (values["brow_height"] + 0.1 * lean).clamp(0.7, 1.3),
        "nose_width": (values["nose_width"] - 0.1 * lean).clamp(0.7, 1.45),
        "upper_lip": (values["upper_lip"] + 0.25 * lean).clamp(0.45, 1.7),
        "lower_lip": (values["lower_lip"] + 0.2 * lean).clamp(0.5, 1.7),
        "neck_width": (values["neck_width"] - 0.2 * lean).clamp(0.78, 1.25),
        "shoulder_width": (values["shoulder_width"] - 0.16 * lean).clamp(0.78, 1.25),
        "lashes": (0.25 + 0.75 * feminine * sampler.uniform(0.3, 1)).clamp(0, 1),
        "eye_shadow": sampler.chance(0.5) * sampler.uniform(0, 1) * (feminine > 0.55),
        "iris_color": sampler.palette(_IRIS, sampler.uniform(0, 1) ** 1.3) * sampler.uniform(0.8, 1.15, 1),
        "teeth_color": torch.tensor([0.95, 0.93, 0.88]) * sampler.uniform(0.88, 1.0, 1),
    }


def _skin_and_hair(sampler: _Sampler, values: dict[str, Tensor], feminine: Tensor, age: Tensor) -> dict[str, Tensor]:
    tone = sampler.uniform(0, 1) ** 1.25
    skin = sampler.palette(_SKIN, tone) * (1 + sampler.uniform(-0.05, 0.05, 1) * torch.tensor([-0.3, 0.2, 1.0]))
    natural = sampler.palette(_HAIR, (sampler.uniform(0, 1) * (1.1 - 0.9 * tone)).clamp(0, 1))
    gray = ((age - 0.55) * 3 * sampler.uniform(0, 1.4)).clamp(0, 1)[:, None]
    dyed = sampler.chance(0.04)[:, None]
    hair = torch.lerp(natural, sampler.uniform(0.6, 0.85, 1) * torch.tensor([1.0, 0.99, 0.97]), gray)
    hair = torch.lerp(hair, sampler.color((0.4, 0.8), (0.4, 0.9)), dyed).clamp(0.02, 0.95)
    lipstick = (sampler.chance(0.5) * (feminine > 0.5))[:, None] * sampler.uniform(0.2, 0.8, 1)
    natural_lips = skin * torch.tensor([0.86, 0.64, 0.68])
    painted = torch.stack([sampler.uniform(0.55, 0.85), sampler.uniform(0.1, 0.3), sampler.uniform(0.15, 0.35)], dim=-1)
    long_hair = sampler.chance(0.12 + 0.66 * feminine)
    bald = sampler.chance(0.14 * (1 - feminine) * (0.5 + age))
    bearded = sampler.chance(0.45 * (feminine < 0.45).float())
    return {
        "skin_color": skin.clamp(0.05, 1),
        "blush": sampler.uniform(0.2, 0.9),
        "gloss": sampler.uniform(0.15, 1),
        "freckles": sampler.chance(0.15) * sampler.uniform(0.3, 1),
        "lip_color": torch.lerp(natural_lips, painted, lipstick).clamp(0, 1),
        "brow_color": (hair * sampler.uniform(0.45, 0.85, 1)).clamp(0, 0.75),
        "hair_color": hair,
        "hairline": torch.where(bald > 0, sampler.uniform(0.95, 1.6), sampler.uniform(0.58, 0.74)),
        "hair_recession": sampler.uniform(0, 0.18) * (0.4 + age) * (1 - 0.7 * feminine),
        "hair_fringe": (1 - bald) * sampler.chance(0.45) * sampler.uniform(0.05, 0.28),
        "hair_part": sampler.uniform(-0.8, 0.8),
        "hair_sides": long_hair * sampler.uniform(0.3, 1.0),
        "hair_length": long_hair * sampler.uniform(0.5, 2.2) * (1 - bald),
        "hair_volume": torch.where(bald > 0, 0.02, sampler.uniform(0.05, 0.22) + 0.2 * sampler.chance(0.12)),
        "hair_curl": sampler.uniform(0, 1) ** 2,
        "hair_gloss": sampler.uniform(0.1, 0.9),
        "beard": bearded * sampler.uniform(0.25, 1),
        "moustache": torch.maximum(bearded, sampler.chance(0.1 * (feminine < 0.45).float())) * sampler.uniform(0.2, 1),
        "beard_length": bearded * sampler.chance(0.4) * sampler.uniform(0.02, 0.14),
    }


def _accessories(sampler: _Sampler) -> dict[str, Tensor]:
    dark_frame = sampler.chance(0.7)[:, None]
    return {
        "glasses": sampler.chance(0.22),
        "glasses_color": torch.lerp(sampler.color((0.2, 0.8), (0.3, 0.9)), sampler.uniform(0.03, 0.2, 3), dark_frame),
        "glasses_size": sampler.uniform(0.85, 1.15),
        "glasses_roundness": sampler.uniform(0.25, 1),
        "glasses_width": sampler.uniform(0.012, 0.035),
        "lens_tint": sampler.uniform(0, 0.18),
        "clothes_color": sampler.color((0.0, 0.75), (0.08, 0.92)),
        "clothes_accent": sampler.color((0.0, 0.6), (0.1, 0.98)),
        "neckline": sampler.uniform(0, 1),
        "collar": sampler.chance(0.35),
        "stripes": sampler.chance(0.2) * sampler.uniform(0.3, 1),
    }


def _scene(sampler: _Sampler) -> dict[str, Tensor]:
    base = sampler.color((0.0, 0.55), (0.12, 0.95))
    other = torch.lerp(base, sampler.color((0.0, 0.6), (0.1, 0.95)), sampler.uniform(0, 1, 1))
    flat = sampler.chance(0.3)[:, None]
    warmth = sampler.uniform(-0.08, 0.1, 1) * torch.tensor([1.0, 0.1, -1.0])
    angle, height = sampler.normal(0, 0.6, -1.2, 1.2), sampler.normal(0.35, 0.25, -0.2, 0.9)
    key = torch.stack([torch.sin(angle), height, torch.cos(angle)], dim=-1)
    softness = torch.where(sampler.chance(0.25) > 0, sampler.uniform(0, 0.5), sampler.uniform(0.7, 1))
    return {
        "background_top": base,
        "background_bottom": torch.lerp(other, base, flat),
        "blob_position": sampler.uniform(-1.1, 1.1, BLOBS, 2),
        "blob_radius": sampler.uniform(0.1, 0.55, BLOBS),
        "blob_color": sampler.uniform(-0.35, 0.35, BLOBS, 3)
        * (1 - flat)[..., None]
        * sampler.chance(0.6)[:, None, None],
        "key_direction": key / key.norm(dim=-1, keepdim=True),
        "key_color": sampler.uniform(0.62, 0.95, 1) * (1 + warmth),
        "ambient_color": sampler.uniform(0.4, 0.58, 1) * (1 - warmth),
        "rim_light": sampler.uniform(0, 0.5) * sampler.chance(0.6),
        "softness": softness,
        "outline": sampler.chance(0.5) * (softness < 0.5) * sampler.uniform(0.3, 0.9),
        "camera_distance": sampler.uniform(9, 20),
    }
