"""SMIRK's encoders (Retsinas et al., CVPR 2024): FLAME parameters of expression and head pose from pictures of faces.

The networks are MobileNetV3 without squeeze-and-excitation and hard swish ("minimal"), in TensorFlow's convention of
padding. Modules are named as in SMIRK's own file, which therefore needs no translation.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flashportrait.checkpoints.files import read_checkpoint
from flashportrait.checkpoints.tables import KeyTable, check_keys
from flashportrait.errors import UserError
from flashportrait.evaluation.profiles import SMIRK

SIDE = 224
"""Pixels of a crop."""
CROP_SCALE = 1.4
"""Side of a crop over the mean of width and height of the landmarks' box."""
EXPRESSION, EYELIDS, JAW, POSE = 50, 2, 3, 3
"""Numbers that are read."""
MEASURED = EXPRESSION + EYELIDS + JAW
"""Of these, those by which expressions are compared."""
SHAPE, CAMERA = 300, 3
"""Numbers that the encoders give beside these."""
EPSILON = 1e-3
"""Of batch normalisation."""
PREFIX = "smirk_encoder."
LAYOUT = KeyTable("SMIRK", (), ignored=("smirk_generator.",), advice=SMIRK.advice)
"""The released file holds SMIRK's generator, too, which isn't needed."""

Stages = Sequence[Sequence[tuple[int, int, int]]]
"""Of each stage its blocks: channels inside, channels out, stride."""

SMALL: Stages = (
    ((72, 24, 2), (88, 24, 1)),
    ((96, 40, 2), (240, 40, 1), (240, 40, 1)),
    ((120, 48, 1), (144, 48, 1)),
    ((288, 96, 2), (576, 96, 1), (576, 96, 1)),
)
LARGE: Stages = (
    ((64, 24, 2), (72, 24, 1)),
    ((72, 40, 2), (120, 40, 1), (120, 40, 1)),
    ((240, 80, 2), (200, 80, 1), (184, 80, 1), (184, 80, 1)),
    ((480, 112, 1), (672, 112, 1)),
    ((672, 160, 2), (960, 160, 1), (960, 160, 1)),
)
STEM = 16


class _Convolution(nn.Conv2d):
    """So padded that the output has ceil(size / stride) places, the odd one at the end."""

    def __init__(self, inputs: int, outputs: int, side: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(inputs, outputs, side, stride, groups=groups, bias=False)

    def forward(self, input: Tensor) -> Tensor:
        margins: list[int] = []
        for size, side, stride in zip(input.shape[:1:-1], self.kernel_size, self.stride, strict=True):
            total = max((-(-size // stride) - 1) * stride + side - size, 0)
            margins += [total // 2, total - total // 2]
        return super().forward(F.pad(input, margins) if any(margins) else input)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=EPSILON)


class _FirstBlock(nn.Module):
    """Convolution of each channel, then of all at each place."""

    def __init__(self, channels: int, stride: int) -> None:
        super().__init__()
        self.conv_dw, self.bn1 = _Convolution(channels, channels, 3, stride, groups=channels), _norm(channels)
        self.conv_pw, self.bn2 = _Convolution(channels, channels, 1), _norm(channels)
        self._added = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv_pw(F.relu(self.bn1(self.conv_dw(x)))))
        return x + out if self._added else out


class _Block(nn.Module):
    """Inverted residual: to more channels, convolution of each, to fewer."""

    def __init__(self, inputs: int, inside: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv_pw, self.bn1 = _Convolution(inputs, inside, 1), _norm(inside)
        self.conv_dw, self.bn2 = _Convolution(inside, inside, 3, stride, groups=inside), _norm(inside)
        self.conv_pwl, self.bn3 = _Convolution(inside, outputs, 1), _norm(outputs)
        self._added = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv_pw(x)))
        out = self.bn3(self.conv_pwl(F.relu(self.bn2(self.conv_dw(out)))))
        return x + out if self._added else out


class _LastBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv, self.bn1 = _Convolution(inputs, outputs, 1), _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn1(self.conv(x)))


class MobileNet(nn.Module):
    """Pictures ``[n 3 h w]`` in [0, 1] to features ``[n channels h/32 w/32]``.

    Args:
        stages: those between the first and the last.
        first_stride: of the first stage.
        channels: of the last stage.
    """

    def __init__(self, stages: Stages, first_stride: int, channels: int) -> None:
        super().__init__()
        self.conv_stem, self.bn1 = _Convolution(3, STEM, 3, 2), _norm(STEM)
        blocks, inputs = [nn.Sequential(_FirstBlock(STEM, first_stride))], STEM
        for stage in stages:
            made = []
            for inside, outputs, stride in stage:
                made.append(_Block(inputs, inside, outputs, stride))
                inputs = outputs
            blocks.append(nn.Sequential(*made))
        self.blocks = nn.Sequential(*blocks, nn.Sequential(_LastBlock(inputs, channels)))

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(F.relu(self.bn1(self.conv_stem(x))))


class _Encoder(nn.Module):
    """A network, and a linear layer on the mean of its features; the layer's name is the released one."""

    def __init__(self, encoder: MobileNet, channels: int, layer: str, outputs: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.add_module(layer, nn.Sequential(nn.Linear(channels, outputs)))
        self._layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.get_submodule(self._layer)(self.encoder(x).mean((2, 3)))


class SmirkEncoders(nn.Module):
    """The three encoders; that of the shape is loaded with them but measures nothing here."""

    def __init__(self) -> None:
        super().__init__()
        self.pose_encoder = _Encoder(MobileNet(SMALL, 2, 576), 576, "pose_cam_layers", POSE + CAMERA)
        self.shape_encoder = _Encoder(MobileNet(LARGE, 1, 960), 960, "shape_layers", SHAPE)
        self.expression_encoder = _Encoder(MobileNet(LARGE, 1, 960), 960, "expression_layers", MEASURED)

    def forward(self, x: Tensor) -> Tensor:
        """FLAME parameters of crops ``[n 3 224 224]`` in [0, 1].

        Returns:
            50 of expression, 2 of eyelids in [0, 1], 3 of the jaw and 3 of the head's rotation: rotation vectors in
            radians  ``[n 58]``
        """
        read = self.expression_encoder(x)
        expression, eyelids, opened, turned = read.split([EXPRESSION, EYELIDS, 1, JAW - 1], dim=1)
        pose = self.pose_encoder(x)[:, :POSE]
        return torch.cat([expression, eyelids.clamp(0, 1), F.relu(opened), turned.clamp(-0.2, 0.2), pose], dim=1)

    @classmethod
    def from_file(cls, path: Path) -> SmirkEncoders:
        """The encoders with the weights of SMIRK's file, read strictly.

        Raises:
            UserError: there is no file, or it holds other keys or shapes, which are named.
        """
        encoders = cls()
        needed = encoders.state_dict()
        SMIRK.found(path)
        try:
            tensors = read_checkpoint(path)
        except UserError as error:
            raise SMIRK.refusal(path, "is no checkpoint of tensors (.pt, .pth, .safetensors)") from error
        check_keys(LAYOUT, tensors, {PREFIX + name: tensor for name, tensor in needed.items()}, f"'{path}'")
        encoders.load_state_dict({name: tensors[PREFIX + name] for name in needed})
        return encoders.eval().requires_grad_(False)


class SmirkReader:
    """What SMIRK reads of faces.

    Args:
        path: SMIRK's file.

    Raises:
        UserError: there is no file, or another.
    """

    def __init__(self, path: Path) -> None:
        self._encoders = SmirkEncoders.from_file(path)

    @torch.inference_mode()
    def __call__(self, frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """55 parameters of expression and 3 of pose ``[58]`` of the face with these landmarks; see ``crop_face``."""
        crop = torch.from_numpy(crop_face(frame, landmarks)).permute(2, 0, 1)[None].float() / 255
        return self._encoders(crop)[0].numpy()


def crop_face(frame: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The square of a uint8 RGB frame ``[h w 3]`` that SMIRK looks at, ``[224 224 3]``; black outside the frame.

    Args:
        frame: the picture.
        landmarks: all 478 of the face landmarker, in pixels  [478 2 or more]
    """
    low, high = landmarks[:, :2].min(0), landmarks[:, :2].max(0)
    side = int((high - low).sum() / 2 * CROP_SCALE)
    left, top = (low + high) / 2 - side / 2
    steps = np.arange(SIDE) * side / (SIDE - 1)
    # Values between pixels are cut off, not rounded, as in SMIRK's own cropping.
    return _sampled(_sampled(frame, top + steps, 0), left + steps, 1).astype(np.uint8)


def _sampled(values: np.ndarray, at: np.ndarray, axis: int) -> np.ndarray:
    """Values between places along an axis, linearly; zero outside."""
    low = np.floor(at).astype(int)
    parts = []
    for index, weight in ((low, low + 1 - at), (low + 1, at - low)):
        weight = np.where((index >= 0) & (index < values.shape[axis]), weight, 0.0)
        taken = np.take(values, index, axis, mode="clip")
        parts.append(taken * weight.reshape([-1 if each == axis else 1 for each in range(values.ndim)]))
    return parts[0] + parts[1]
