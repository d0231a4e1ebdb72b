"""What hides a driver's face for a while: hands that touch it or pass before it, and a lock of hair."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from flashportrait.avatars.shapes import coverage, segment_distance

GESTURES = ("cover", "chin", "cheek", "wave", "point")
HANDS_A_MINUTE = 7.0
"""Hands that come up in a minute, on average."""
HOLD_SECONDS = (0.5, 2.2)
MOVE_SECONDS = (0.25, 0.5)
LOCK_CHANCE = 0.35
"""Of a lock of hair over the face, through the whole clip."""

# Where the middle of the palm is held, right and down of the face's centre in face heights, for a hand from the right
# of the picture; how far it is turned from pointing up; how far its fingers are stretched and spread, 0 to 1.
_HELD: dict[str, tuple[tuple[float, float], float, float, float]] = {
    "cover": ((0.12, 0.42), -0.75, 0.9, 0.15),
    "chin": ((0.05, 0.62), -0.5, 0.15, 0.0),
    "cheek": ((0.42, 0.28), -0.35, 0.95, 0.25),
    "wave": ((0.0, -0.05), 0.1, 1.0, 0.6),
    "point": ((0.16, 0.66), -0.35, 0.0, 0.0),
}
_FINGERS = ((-0.135, 0.27), (-0.045, 0.31), (0.045, 0.29), (0.13, 0.22))
"""Where each finger leaves the palm, across it, and its length; in face heights, from the index finger."""
_FINGER_RADIUS, _PALM_RADIUS, _ARM_RADIUS = 0.042, 0.115, 0.12
HAIRLINE = 0.6
"""How far a lock's root is above the face's centre, in face heights."""
_SHADOW = 0.35
_SHADOW_REACH = 0.09
"""How far a hand's shadow goes, in face heights."""


@dataclass(frozen=True)
class FacePlaces:
    """Where the face is in each picture."""

    center: Tensor
    """[t 2] right and down, pixels"""
    height: Tensor
    """[t] hairline to chin, pixels"""
    angles: Tensor
    """[t 3] yaw, pitch, roll in radians"""


@dataclass(frozen=True)
class Hand:
    """One gesture."""

    gesture: str
    start: float
    """Seconds at which the hand begins to come up."""
    attack: float
    hold: float
    release: float
    side: float
    """1 from the right of the picture, -1 from the left."""
    turn: float
    """Radians added to the gesture's own."""

    @property
    def end(self) -> float:
        """Seconds at which it is gone."""
        return self.start + self.attack + self.hold + self.release


@dataclass(frozen=True)
class Lock:
    """Hair that falls from the hairline over one eye."""

    root: float
    """Across the face from its middle, face heights."""
    width: float
    length: float
    curl: float
    phase: float


@dataclass(frozen=True)
class Occlusions:
    """All that hides the face in one clip, drawn at random but the same on every machine."""

    hands: tuple[Hand, ...] = ()
    lock: Lock | None = None

    @classmethod
    def sample(cls, seconds: float, source: random.Random) -> Occlusions:
        """Gestures that don't overlap, over a clip of so many seconds; a longer one begins with at least one."""
        hands: list[Hand] = []
        time = source.uniform(0.6, 3.0)
        while time < seconds:
            gesture = GESTURES[source.randrange(len(GESTURES))]
            attack, release = (source.uniform(*MOVE_SECONDS) for _ in range(2))
            hold = source.uniform(*HOLD_SECONDS)
            side, turn = 1.0 if source.random() < 0.6 else -1.0, source.uniform(-0.2, 0.2)
            hands.append(Hand(gesture, time, attack, hold, release, side, turn))
            time = hands[-1].end + (60 / HANDS_A_MINUTE - 2.1) * source.uniform(0.3, 1.7)
        if source.random() >= LOCK_CHANCE:
            return cls(tuple(hands))
        side = 1.0 if source.random() < 0.5 else -1.0
        lock = Lock(
            side * source.uniform(0.1, 0.26),
            source.uniform(0.05, 0.1),
            source.uniform(0.55, 1.0),
            source.uniform(0.0, 0.05),
            source.uniform(0, 6),
        )
        return cls(tuple(hands), lock)

    def numbers(self) -> list[float]:
        """All that it is made of, in order, to be hashed."""
        parts: list[float] = []
        for hand in self.hands:
            parts += [float(GESTURES.index(hand.gesture)), hand.start, hand.attack, hand.hold, hand.release]
            parts += [hand.side, hand.turn]
        return parts + ([] if self.lock is None else list(vars(self.lock).values()))

    def hides(self, seconds: float) -> bool:
        """Whether a hand is in or near the picture at this time."""
        return any(hand.start <= seconds <= hand.end for hand in self.hands)


def draw_occlusions(
    frames: Tensor, seconds: Sequence[float], places: FacePlaces, occlusions: Occlusions, skin: Tensor, hair: Tensor
) -> Tensor:
    """Lay what hides the face over frames [t 3 s s] in [0, 1], which are changed and returned.

    Args:
        frames: of the driver.
        seconds: time of each frame.
        places: where its face is in them.
        occlusions: of the clip.
        skin, hair: colours [3] of its hands and of its lock of hair, as lit.
    """
    for index, time in enumerate(seconds):
        face = _Face(places, index, frames.shape[-1], frames)
        if occlusions.lock is not None:
            frames[index] = _draw_lock(frames[index], face, occlusions.lock, time, hair)
        for hand in occlusions.hands:
            if hand.start < time < hand.end:
                frames[index] = _draw_hand(frames[index], face, hand, time, skin)
    return frames


class _Face:
    """Face coordinates of a picture's pixels: right and down of the face's centre, in its heights."""

    def __init__(self, places: FacePlaces, index: int, size: int, like: Tensor) -> None:
        line = torch.arange(size, dtype=like.dtype, device=like.device) + 0.5
        height = places.height[index]
        right, down = ((line - places.center[index, axis]) / height for axis in (0, 1))
        self.right, self.down = right[None, :].expand(size, size), down[:, None].expand(size, size)
        self.pixel = 1 / float(height)
        self.yaw, _, self.roll = places.angles[index].tolist()


def _draw_hand(picture: Tensor, face: _Face, hand: Hand, time: float, skin: Tensor) -> Tensor:
    """A hand that rises from below the picture, is held, and sinks again."""
    (x, y), turn, stretch, spread = _HELD[hand.gesture]
    risen = _ease((time - hand.start) / hand.attack) * (1 - _ease((time - hand.end + hand.release) / hand.release))
    held = time - hand.start - hand.attack
    x, y = x + 0.01 * math.sin(5 * held), y + 0.012 * math.sin(7 * held + 1)
    if hand.gesture == "wave":
        x += 0.35 * math.sin(4 * held)
    at_x, at_y = hand.side * (x + 0.5 * (1 - risen)), y + 1.9 * (1 - risen)
    angle = hand.side * (turn + hand.turn)
    across, along = (math.cos(angle), math.sin(angle)), (math.sin(angle), -math.cos(angle))
    right, down = face.right - at_x, face.down - at_y
    # u across the hand, from the thumb's side; v along it, towards the fingers.
    u, v = hand.side * (right * across[0] + down * across[1]), right * along[0] + down * along[1]
    shapes = _hand_shapes(u, v, stretch, spread, pointing=hand.gesture == "point")
    nearest = torch.stack([distance for distance, _ in shapes]).amin(0)
    picture = picture * (1 - _SHADOW * (1 - nearest / _SHADOW_REACH).clamp(0, 1) ** 2)
    for distance, radius in shapes:
        inside = coverage(distance, face.pixel)
        # Round like a sausage, lit from above: darkest at its rim, so that fingers stay apart.
        depth = (-distance / radius).clamp(0, 1)
        light = 0.62 + 0.38 * torch.sqrt((1 - (1 - depth) ** 2).clamp_min(1e-6))
        picture = torch.lerp(picture, (skin[:, None, None] * light).clamp(0, 1), inside)
    return picture


def _hand_shapes(u: Tensor, v: Tensor, stretch: float, spread: float, *, pointing: bool) -> list[tuple[Tensor, float]]:
    """Signed distances [s s] of arm, palm, fingers and thumb, in the order they are painted, with their radii."""
    shapes = [
        (segment_distance(u, v, (0.0, -2.5), (0.0, -0.2)) - _ARM_RADIUS, _ARM_RADIUS),
        (segment_distance(u, v, (-0.06, -0.08), (0.05, -0.06)) - _PALM_RADIUS - 0.02, _PALM_RADIUS),
        (segment_distance(u, v, (-0.05, 0.02), (0.05, 0.01)) - _PALM_RADIUS, _PALM_RADIUS),
    ]
    for number, (base, length) in reversed(list(enumerate(_FINGERS))):
        out = 1.0 if pointing and number == 0 else stretch
        fan = (base / 0.135) * (0.05 + 0.35 * spread)
        knuckle = (base, 0.1)
        reach = length * (0.35 + 0.65 * out)
        tip = (base + reach * math.sin(fan), 0.1 + reach * math.cos(fan))
        radius = _FINGER_RADIUS * (1.15 - 0.25 * out) * (0.88 if number == 3 else 1.0)
        shapes.append((segment_distance(u, v, knuckle, tip) - radius, radius))
    thumb = (-0.2 - 0.08 * spread, 0.12 + 0.08 * stretch)
    shapes.append((segment_distance(u, v, (-0.1, -0.06), thumb) - 1.05 * _FINGER_RADIUS, 1.05 * _FINGER_RADIUS))
    return shapes


def _draw_lock(picture: Tensor, face: _Face, lock: Lock, time: float, hair: Tensor) -> Tensor:
    """A lock that hangs from the hairline and sways a little: rooted in the head's own axes, it falls straight down."""
    cos, sin, root = math.cos(face.roll), math.sin(face.roll), lock.root * math.cos(face.yaw)
    root_x, root_y = root * cos + HAIRLINE * sin, -HAIRLINE * cos + root * sin
    t = ((face.down - root_y) / lock.length).clamp(0, 1)
    sway = 0.04 * math.sin(2.3 * time + lock.phase) + 0.02 * math.sin(5.1 * time)
    toward = math.copysign(0.16, lock.root)
    middle = root_x + toward * t * (1 - 0.7 * t) + (sway + lock.curl * torch.sin(7 * t + lock.phase)) * t
    half = lock.width * (0.35 + 0.65 * torch.sqrt((4 * t * (1 - t)).clamp_min(0))) * (1 - t**4)
    across = (face.right - middle) / half.clamp_min(1e-3)
    inside = coverage((across.abs() - 1) * half, face.pixel) * ((t > 0) & (t < 1))
    strands = 0.78 + 0.16 * torch.sin(9 * across + 3 * t) + 0.1 * torch.sin(23 * across)
    color = (hair[:, None, None] * strands).clamp(0, 1)
    return torch.lerp(picture, color, inside)


def _ease(time: float) -> float:
    time = min(max(time, 0.0), 1.0)
    return time * time * (3 - 2 * time)
