"""An avatar's performance: motion rows of layout ``BLENDSHAPES`` that move as people move."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

from flashportrait.avatars.controls import COLUMNS, SHUT, SHUT_SQUINT
from flashportrait.face.motion import BLENDSHAPES, HEAD_POSE_NAMES

KINDS = ("calm", "talking", "large", "random", "mixed")

_SYLLABLE_SECONDS = (0.2, 0.34)
_BLINK_SECONDS = (0.15, 0.3)
_HEAD_REACH = {"calm": 0.35, "talking": 0.5, "large": 1.0}
"""Head motion of each kind as a share of ``POSE_LIMITS``."""
POSE_LIMITS = dict(zip(HEAD_POSE_NAMES, (0.79, 0.44, 0.44, 0.16, 0.12, 0.16), strict=True))
"""The furthest a head goes: radians, face heights, log scale."""

# Mouth shapes of speech: coefficient of each at full articulation.
_VISEMES: tuple[dict[str, float], ...] = (
    {"jawOpen": 0.62, "mouthLowerDown": 0.2},
    {"jawOpen": 0.42, "mouthStretch": 0.25, "mouthLowerDown": 0.3, "mouthUpperUp": 0.12},
    {"jawOpen": 0.16, "mouthStretch": 0.35, "mouthSmile": 0.25, "mouthLowerDown": 0.4, "mouthUpperUp": 0.2},
    {"jawOpen": 0.32, "mouthFunnel": 0.55, "mouthPucker": 0.3},
    {"jawOpen": 0.12, "mouthFunnel": 0.25, "mouthPucker": 0.8},
    {"jawOpen": 0.22, "mouthShrugUpper": 0.3, "mouthUpperUp": 0.25},
    {"jawOpen": 0.08, "mouthRollLower": 0.4, "mouthUpperUp": 0.2},
)
_CLOSURES: tuple[dict[str, float], ...] = (
    {"mouthPress": 0.35, "mouthRollLower": 0.25, "mouthRollUpper": 0.25},
    {"mouthPress": 0.2, "mouthPucker": 0.25},
    {"jawOpen": 0.05, "mouthShrugLower": 0.2},
)
_SIDES = ("Left", "Right")


def sample_performance(
    frames: int,
    rate: float = 25.0,
    kind: str = "talking",
    generator: Generator | None = None,
    *,
    portable: bool = False,
) -> Tensor:
    """A performance of ``frames`` frames at ``rate`` frames a second.  [t 57]

    kind: "calm" (a listener), "talking", "large" (head to 45 degrees of yaw, 25 of pitch and roll, strong
    expressions), "random" (every frame independent, the whole expression space) or "mixed" (one of the first three).
    portable: use arithmetic only that IEEE 754 rounds in one way, so that the rows are the same to the bit on every
    machine; otherwise, and for "random", exponentials and sines may differ in their last digits.
    The head rests at the origin, so rows are relative to where the avatar's identity puts it.
    """
    if kind not in KINDS:
        raise ValueError(f"performance kind {kind!r}: give one of {', '.join(KINDS)}")
    if frames < 1:
        raise ValueError(f"a performance of {frames} frames: give at least 1")
    actor = (_PortableActor if portable else _Actor)(frames, rate, generator)
    if kind == "mixed":
        kind = KINDS[actor.choice(3)]
    if kind == "random":
        return _random_rows(actor)
    actor.hold_mood()
    actor.move_head(_HEAD_REACH[kind])
    actor.look_about(reach=0.9 if kind == "large" else 0.5)
    actor.make_faces(strength=1.0 if kind == "large" else 0.55, every_seconds=1.2 if kind == "large" else 2.5)
    if kind == "talking" or (kind == "large" and actor.uniform() < 0.5):
        actor.speak()
    actor.blink()
    return actor.rows()


class _Actor:
    """Collects the tracks of one performance."""

    def __init__(self, frames: int, rate: float, generator: Generator | None) -> None:
        self.frames = frames
        self.rate = rate
        self.generator = generator
        self.seconds = torch.arange(frames) / rate
        self._rows = torch.zeros(frames, BLENDSHAPES.width)

    def rows(self) -> Tensor:
        """The performance, every coefficient inside its range."""
        rows = self._rows
        expression = rows[:, len(HEAD_POSE_NAMES) :]
        return torch.cat([rows[:, : len(HEAD_POSE_NAMES)], expression.clamp(0, 1)], dim=1)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * torch.rand((), generator=self.generator).item()

    def choice(self, count: int) -> int:
        return int(torch.randint(count, (), generator=self.generator))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)

    def uniforms(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator)

    def add(self, name: str, track: Tensor | float) -> None:
        """Add a track [t] to a coefficient; a name without its side goes to both sides."""
        for column in _columns(name):
            self._rows[:, column] += track

    def smooth_noise(self, seconds: float) -> Tensor:
        """Noise of unit variance whose features last about ``seconds``.  [t]"""
        sigma = max(seconds * self.rate / 2, 0.5)
        reach = math.ceil(3 * sigma)
        kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
        kernel = kernel / kernel.norm()
        noise = self.normal(1, 1, self.frames + 2 * reach)
        return F.conv1d(noise, kernel[None, None])[0, 0]

    def envelope(self, start: float, attack: float, hold: float, release: float) -> Tensor:
        """Rises from ``start`` (seconds), holds 1, falls to 0.  [t]"""
        rise = _ease((self.seconds - start) / attack)
        return rise * (1 - _ease((self.seconds - start - attack - hold) / release))

    def bell(self, time: Tensor, width: float) -> Tensor:
        """1 at time 0, 0 beyond ``width``, smooth between."""
        return 0.5 + 0.5 * torch.cos(math.pi * (time / width).clamp(-1, 1))

    def hold_mood(self) -> None:
        """What stays through a clip: a smile, raised or lowered brows, half-lowered lids."""
        for face, chance, low, high in _MOODS:
            if self.uniform() < chance:
                self._act(face, self.uniform(low, high) + 0.06 * self.smooth_noise(1.5))
        self.add("eyeBlink", self.uniform(0, 0.16))
        self.add("eyeLookDown", self.uniform(0, 0.25))
        self.add("eyeSquint", 0.25 + 0.05 * self.smooth_noise(0.8))

    def move_head(self, reach: float) -> None:
        """Head held for a while, then turned to another pose; small sway all the time."""
        for name, limit in POSE_LIMITS.items():
            self.add(name, 0.05 * reach * limit * self.smooth_noise(0.6))
        pose = reach * 0.45 * self.normal(len(POSE_LIMITS))
        start, track = -self.uniform(0, 2), torch.zeros(self.frames, len(POSE_LIMITS))
        track += pose
        while (start := start + self.uniform(0.5, 2.4)) < self.frames / self.rate:
            target = (reach * 0.62 * self.normal(len(POSE_LIMITS))).clamp(-1, 1)
            # People come back to the front more often than not.
            target = target * (0.25 if self.uniform() < 0.4 else 1.0)
            turn = _ease((self.seconds - start) / self.uniform(0.3, 0.9))
            track = track + turn[:, None] * (target - pose)
            pose = target
        for index, (name, limit) in enumerate(POSE_LIMITS.items()):
            self.add(name, limit * track[:, index].clamp(-1, 1))

    def look_about(self, reach: float) -> None:
        """Gaze jumps in one or two frames and rests 0.2 to 1.6 seconds."""
        gaze, start, at = torch.zeros(self.frames, 2), 0.0, torch.zeros(2)
        while start < self.frames / self.rate:
            target = (reach * self.normal(2) * torch.tensor([0.6, 0.45])).clamp(-0.95, 0.95)
            target = target * (0.2 if self.uniform() < 0.45 else 1.0)
            gaze += ((self.seconds - start) * self.rate / 1.5).clamp(0, 1)[:, None] * (target - at)
            at, start = target, start + self.uniform(0.2, 1.6)
        _add_gaze(self._rows, gaze[:, 0], gaze[:, 1])

    def make_faces(self, strength: float, every_seconds: float) -> None:
        """Smiles, raised and lowered brows, sneers and the like, some on one side only."""
        start = self.uniform(-1, every_seconds)
        while start < self.frames / self.rate:
            envelope = self.envelope(start, self.uniform(0.15, 0.5), self.uniform(0.2, 2.0), self.uniform(0.2, 0.7))
            self._act(_FACES[self.choice(len(_FACES))], strength * self.uniform(0.35, 1.0) * envelope)
            start += every_seconds * self.uniform(0.4, 1.6)
        self.add("browInnerUp", 0.05 * self.smooth_noise(0.5).clamp_min(0))

    def _act(self, face: dict[str, float], track: Tensor) -> None:
        lean = self.uniform(0, 1)
        weights = (1.0, 1.0) if lean < 0.75 else (1.0, 0.2) if lean < 0.875 else (0.2, 1.0)
        for name, value in face.items():
            names = [name] if name in COLUMNS else [name + side for side in _SIDES]
            for weight, each in zip(weights, names, strict=False):
                self.add(each, value * weight * track)

    def speak(self) -> None:
        """Phrases of syllables, 3 to 5 a second: a closure or narrowing, then a vowel."""
        time = self.uniform(-0.5, 0.4)
        effort = self.uniform(0.7, 1.4)
        phrase_end = time + self.uniform(1, 4)
        while time < self.frames / self.rate:
            if time > phrase_end:
                time += self.uniform(0.3, 1.1)
                phrase_end = time + self.uniform(1, 4)
            length = self.uniform(*_SYLLABLE_SECONDS)
            vowel = self.bell((self.seconds - time) / length - 0.62, 0.34)
            shape = _VISEMES[self.choice(len(_VISEMES))]
            for name, value in shape.items():
                self.add(name, effort * self.uniform(0.55, 1.1) * value * vowel)
            if self.uniform() < 0.5:
                closure = self.bell((self.seconds - time) / length - 0.02, 0.22)
                for name, value in _CLOSURES[self.choice(len(_CLOSURES))].items():
                    self.add(name, self.uniform(0.6, 1.2) * value * closure)
            time += length
        self.add("pitch", 0.02 * self.smooth_noise(0.15))

    def blink(self) -> None:
        """Blinks of 150 to 300 ms, 2 to 5 seconds apart, now and then twice or with one eye."""
        start = self.uniform(-0.5, 2.5)
        closed = torch.zeros(self.frames, 2)
        while start < self.frames / self.rate:
            length = self.uniform(*_BLINK_SECONDS)
            wink = self.uniform()
            weights = torch.tensor([1.0, 1.0] if wink < 0.92 else [1.0, 0.1] if wink < 0.96 else [0.1, 1.0])
            depth = self.uniform(0.65, 0.9)
            shut = self.bell((self.seconds - start) / length - 0.5, 0.5) * depth
            closed = torch.maximum(closed, shut[:, None] * weights)
            start += length + (self.uniform(0.05, 0.2) if self.uniform() < 0.1 else self.uniform(1.3, 4.2))
        columns = _columns("eyeBlink")
        self._rows[:, columns] = torch.maximum(self._rows[:, columns].clamp_min(0), closed)
        _lower_lids(self._rows, closed)


class _PortableActor(_Actor):
    """The same with sums, products and quotients alone: no exponential, sine or convolution."""

    def normal(self, *shape: int) -> Tensor:
        """Nearly normal: twelve uniform numbers, less their mean (Irwin-Hall).  Of unit variance, within 6."""
        total = self.uniforms(*shape) - 6
        for _ in range(11):
            total = total + self.uniforms(*shape)
        return total

    def smooth_noise(self, seconds: float) -> Tensor:
        """Independent values ``seconds`` apart with smooth steps between them.  [t]"""
        place = self.seconds / seconds + self.uniform()
        before = place.floor().long()
        values = self.normal(int(before[-1]) + 2)
        step = _ease(place - before)
        # Between two values the variance falls to half: 0.74 of it is left on average.
        return (values[before] + step * (values[before + 1] - values[before])) * (1 / 0.86)

    def bell(self, time: Tensor, width: float) -> Tensor:
        return _ease(1 - (time / width).abs())


_MOODS: tuple[tuple[dict[str, float], float, float, float], ...] = (
    ({"mouthSmile": 1.0, "mouthUpperUp": 0.5, "eyeSquint": 0.2}, 0.15, 0.3, 0.9),
    ({"mouthSmile": 1.0, "mouthDimple": 0.1}, 0.15, 0.1, 0.6),
    ({"browInnerUp": 1.0, "browOuterUp": 1.0}, 0.25, 0.1, 0.8),
    ({"browDown": 1.0}, 0.15, 0.1, 0.6),
    ({"jawOpen": 1.0}, 0.08, 0.05, 0.2),
)
"""What a performer may keep up for a whole clip: coefficients, its chance, its least and greatest strength."""

# Faces that people make: coefficients at full strength, names without a side meaning both.
_FACES: tuple[dict[str, float], ...] = (
    {"mouthSmile": 0.85, "eyeSquint": 0.35},
    {"mouthSmile": 0.95, "eyeSquint": 0.5, "jawOpen": 0.12, "mouthUpperUp": 0.6},
    {"mouthSmile": 0.45, "mouthDimple": 0.3},
    {"browInnerUp": 0.8, "browOuterUp": 0.75, "eyeWide": 0.4},
    {"browInnerUp": 0.7, "browOuterUp": 0.5, "eyeWide": 0.3, "jawOpen": 0.4, "mouthFunnel": 0.2},
    {"browDown": 0.8, "eyeSquint": 0.45},
    {"browDown": 0.7, "noseSneer": 0.6, "mouthUpperUp": 0.35},
    {"mouthFrown": 0.7, "browInnerUp": 0.5, "mouthShrugLower": 0.5},
    {"mouthPucker": 0.85},
    {"mouthPress": 0.6, "mouthRollLower": 0.5, "mouthRollUpper": 0.5},
    {"mouthLeft": 0.6, "jawLeft": 0.3},
    {"mouthRight": 0.6, "jawRight": 0.3},
    {"cheekPuff": 0.7, "mouthPucker": 0.3},
    {"mouthStretch": 0.6, "mouthLowerDown": 0.5},
)


_BROWS: tuple[dict[str, float], ...] = (
    {"browInnerUp": 1.0, "browOuterUp": 1.0, "eyeWide": 0.3},
    {"browInnerUp": 1.0, "browOuterUp": 0.6},
    {"browInnerUp": 0.9},
    {"browOuterUp": 0.9},
    {"browDown": 1.0, "eyeSquint": 0.2},
    {"browDown": 0.8, "noseSneer": 0.6},
)
_MOUTHS: tuple[dict[str, float], ...] = (
    {"mouthSmile": 1.0},
    {"mouthSmile": 0.9, "mouthDimple": 0.2},
    {"mouthSmile": 1.0, "mouthUpperUp": 0.5},
    {"mouthSmile": 1.0, "mouthUpperUp": 0.7, "eyeSquint": 0.3},
    {"mouthSmile": 0.9, "mouthUpperUp": 0.5, "jawOpen": 0.35, "mouthLowerDown": 0.2},
    {"jawOpen": 1.0},
    {"jawOpen": 0.9, "mouthLowerDown": 0.3, "mouthUpperUp": 0.2},
    {"jawOpen": 0.6, "mouthStretch": 0.5},
    {"jawOpen": 0.5, "mouthFunnel": 0.8},
    {"jawOpen": 0.5, "mouthClose": 0.45},
    {"mouthPucker": 1.0},
    {"mouthPucker": 0.6, "mouthFunnel": 0.5, "jawOpen": 0.2},
    {"mouthFrown": 0.9, "mouthShrugLower": 0.6},
    {"mouthPress": 0.9, "mouthRollLower": 0.7, "mouthRollUpper": 0.7},
    {"mouthLeft": 0.9, "jawLeft": 0.6},
    {"mouthRight": 0.9, "jawRight": 0.6},
    {"cheekPuff": 0.9, "mouthPucker": 0.2},
)


def _random_rows(actor: _Actor) -> Tensor:
    """Independent frames: each a pose, a brow, a mouth, a gaze, and lids, of any strength."""
    count, limits = actor.frames, torch.tensor(list(POSE_LIMITS.values()))
    rows = torch.zeros(count, BLENDSHAPES.width)
    near = (0.3 * actor.normal(count, len(limits))).clamp(-1, 1)
    wide = (actor.uniforms(count, 1) < 0.5).float()
    rows[:, : len(limits)] = limits * torch.lerp(near, 2 * actor.uniforms(count, len(limits)) - 1, wide)
    rows[:, _columns("eyeSquint")] = 0.25 + 0.08 * actor.normal(count, 1)
    for shapes, chance in ((_BROWS, 0.65), (_MOUTHS, 0.85), (_VISEMES, 0.2)):
        table = torch.stack([_as_row(shape) for shape in shapes])
        chosen = table[torch.randint(len(table), (count,), generator=actor.generator)]
        # The root favours strong shapes: weak ones teach little and extremes must be seen.
        chosen = chosen * actor.uniforms(count, 1).sqrt() * (actor.uniforms(count, 1) < chance)
        rows += chosen * _one_sided(actor.uniforms(count))
    expression = rows[:, len(limits) :]
    expression += actor.uniforms(*expression.shape) * (actor.uniforms(*expression.shape) < 0.02)
    gaze = (torch.tensor([0.5, 0.35]) * actor.normal(count, 2)).clamp(-0.9, 0.9)
    _add_gaze(rows, gaze[:, 0], gaze[:, 1])
    draw = actor.uniforms(count, 1)
    lids = torch.where(draw < 0.15, 0.75, torch.where(draw < 0.4, 0.75, 0.15) * actor.uniforms(count, 1))
    lids = lids.expand(-1, 2) * _one_sided(actor.uniforms(count) ** 0.5)[:, _columns("eyeBlink")]
    rows[:, _columns("eyeBlink")] = lids
    _lower_lids(rows, lids)
    expression.clamp_(0, 1)
    return rows


def _one_sided(draw: Tensor) -> Tensor:
    """Factors that leave nine in ten rows alone and nearly mute one side of the others.  [n] -> [n 57]"""
    factors = torch.ones(len(draw), BLENDSHAPES.width)
    for side, low in zip(_SIDES, (0.0, 0.05), strict=True):
        columns = [column for name, column in COLUMNS.items() if name.endswith(side)]
        muted = (draw >= low) & (draw < low + 0.05)
        factors[:, columns] = torch.where(muted, 0.15, 1.0)[:, None].expand(-1, len(columns))
    return factors


def _as_row(shape: dict[str, float]) -> Tensor:
    row = torch.zeros(BLENDSHAPES.width)
    for name, value in shape.items():
        row[_columns(name)] = value
    return row


def _columns(name: str) -> list[int]:
    """Columns of a coefficient, or of both sides of one."""
    return [COLUMNS[name]] if name in COLUMNS else [COLUMNS[name + side] for side in _SIDES]


def _add_gaze(rows: Tensor, left: Tensor, up: Tensor) -> None:
    """Both eyes turned to the subject's left and up by values in [-1, 1]; the landmarker reads little of looking up."""
    for name, value in (
        ("eyeLookOutLeft", left),
        ("eyeLookInRight", left),
        ("eyeLookInLeft", -left),
        ("eyeLookOutRight", -left),
        ("eyeLookUp", 0.5 * up),
        ("eyeLookDown", -up),
    ):
        for column in _columns(name):
            rows[:, column] += value.clamp_min(0)


def _lower_lids(rows: Tensor, closed: Tensor) -> None:
    """What goes with lids that fall, ``closed`` [t 2]: the landmarker reads shut eyes as looking down, squinting, not
    wide, and neither aside nor up."""
    for side, name in enumerate(_SIDES):
        seen = 1 - (closed[:, side] / SHUT).clamp(max=1)
        for hidden in ("eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeWide"):
            rows[:, COLUMNS[hidden + name]] *= seen
        rows[:, COLUMNS["eyeLookDown" + name]] += closed[:, side]
        rows[:, COLUMNS["eyeSquint" + name]] += SHUT_SQUINT * closed[:, side]


def _ease(time: Tensor) -> Tensor:
    """0 before time 0, 1 after time 1, smooth between."""
    time = time.clamp(0, 1)
    return time * time * (3 - 2 * time)
