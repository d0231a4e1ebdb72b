"""The PD-FGC motion encoder at its real size, against a restatement by the released key names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.models.motion_encoder import MotionEncoder

Weights = dict[str, Tensor]


def random_weights(like: Weights) -> Weights:
    """Weights that keep activations near unit size, with every statistic and bias away from its default."""
    generator = torch.Generator().manual_seed(0)
    weights: Weights = {}
    for key, value in like.items():
        if key.endswith("num_batches_tracked"):
            weights[key] = torch.tensor(7)
        elif key.endswith("running_var"):
            weights[key] = torch.rand(value.shape, generator=generator) + 0.5
        elif value.ndim > 1:
            fan_in = value[0].numel()
            weights[key] = torch.randn(value.shape, generator=generator) * fan_in**-0.5
        else:
            weights[key] = 0.2 * torch.randn(value.shape, generator=generator)
            if key.endswith("weight"):
                weights[key] += 1
    return weights


@pytest.fixture(scope="module")
def weights() -> Weights:
    with torch.device("meta"):
        shapes = MotionEncoder().state_dict()
    return random_weights(shapes)


@pytest.fixture(scope="module")
def faces() -> Tensor:
    coarse = torch.randn(2, 3, 14, 14, generator=torch.Generator().manual_seed(1))
    return F.interpolate(coarse, size=(224, 224), mode="bicubic").clamp(-1, 1)


class Restatement:
    """The network as formulas over the released names, in the order in which the released code evaluates it."""

    def __init__(self, weights: Weights):
        self.w = {key: value.double() for key, value in weights.items()}

    def norm(self, name: str, x: Tensor) -> Tensor:
        shape = (1, -1) + (1,) * (x.ndim - 2)
        mean, var, scale, shift = (
            self.w[f"{name}.{key}"].view(shape) for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(var + 1e-5) * scale + shift

    def conv(self, name: str, x: Tensor, **options: int) -> Tensor:
        return F.conv2d(x, self.w[f"{name}.weight"], self.w.get(f"{name}.bias"), **options)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return x @ self.w[f"{name}.weight"].T + self.w[f"{name}.bias"]

    def block(self, name: str, x: Tensor) -> Tensor:
        outputs, y = [], x
        for i in (1, 2, 3):
            y = self.conv(f"{name}.conv{i}", self.norm(f"{name}.bn{i}", y).clamp(min=0), padding=1)
            outputs.append(y)
        if f"{name}.downsample.2.weight" in self.w:
            x = self.conv(f"{name}.downsample.2", self.norm(f"{name}.downsample.0", x).clamp(min=0))
        return torch.cat(outputs, dim=1) + x

    def hourglass(self, x: Tensor) -> Tensor:
        """Down to the smallest size, then up again: the recursion unrolled."""
        shortcuts = []
        for level in (4, 3, 2, 1):
            shortcuts.append(self.block(f"model.m0.b1_{level}", x))
            x = self.block(f"model.m0.b2_{level}", F.max_pool2d(x, 2, stride=2))
        x = self.block("model.m0.b2_plus_1", x)
        for level in (1, 2, 3, 4):
            shortcut = shortcuts.pop()
            x = self.block(f"model.m0.b3_{level}", x)
            x = shortcut + F.interpolate(x, size=shortcut.shape[2:], mode="bilinear", align_corners=False)
        return x

    def trunk(self, x: Tensor) -> Tensor:
        x = self.norm("model.bn1", self.conv("model.conv1", x, stride=2, padding=3)).clamp(min=0)
        x = F.max_pool2d(self.block("model.conv2", x), 2)
        x = self.hourglass(self.block("model.conv4", self.block("model.conv3", x)))
        x = self.conv("model.conv_last0", self.block("model.top_m_0", x))
        x = self.conv("model.l0", self.norm("model.bn_end0", x).clamp(min=0))
        x = self.conv("model.conv6", self.norm("model.bn5", x).clamp(min=0), stride=2, padding=1)
        return self.linear("model.fc", x.flatten(1).clamp(min=0))

    def head(self, name: str, x: Tensor) -> Tensor:
        x = self.norm(f"{name}.2", self.linear(f"{name}.0", x).clamp(min=0))
        return self.linear(f"{name}.3", x)

    def __call__(self, faces: Tensor) -> Weights:
        x = self.trunk(faces.double())
        embedded = {"head_pose": "headpose", "eyes": "eye", "emotion": "emo"}
        groups = {
            group: self.linear(f"{name}_embed.1", self.head(f"to_{name}", x).clamp(min=0))
            for group, name in embedded.items()
        }
        return groups | {"mouth": self.head("to_mouth", x)}


@torch.no_grad()
def test_forward_follows_its_definition(weights: Weights, faces: Tensor):
    groups = MotionEncoder.from_official(weights)(faces)
    expected = Restatement(weights)(faces)
    assert list(groups) == ["head_pose", "eyes", "emotion", "mouth"]
    for name, value in groups.items():
        assert value.shape == expected[name].shape
        assert (value - expected[name]).norm() <= 1e-5 * expected[name].norm(), name
        assert (value[0] - value[1]).norm() > 1e-3 * value.norm(), name


def test_keys_and_shapes_are_the_released_ones(shared: Path):
    shapes = json.loads((shared / "layouts" / "official_pdfgc.json").read_text())["shapes"]
    with torch.device("meta"):
        ours = MotionEncoder().state_dict()
    assert {key: list(value.shape) for key, value in ours.items()} == shapes


def test_a_file_with_training_heads_loads_and_keeps_every_bit(weights: Weights, tmp_path: Path):
    path = tmp_path / "pd_fpg.pth"
    # The old stream format, which can't be memory-mapped, is what files of that time use.
    torch.save(weights | {"classifier.0.weight": torch.zeros(3)}, path, _use_new_zipfile_serialization=False)
    loaded = MotionEncoder.from_official(path).to_official()
    assert loaded.keys() == weights.keys()
    assert all(torch.equal(value, loaded[key]) for key, value in weights.items())


def test_from_official_names_the_wrong_key(weights: Weights):
    key = "model.m0.b2_plus_1.conv2.weight"
    without = {name: value for name, value in weights.items() if name != key}
    for wrong, complaint in (
        (without, f"lacks {key}"),
        (weights | {"to_gaze.0.weight": torch.zeros(1)}, "has to_gaze.0.weight"),
        (weights | {"to_eye.0.bias": torch.zeros(3)}, "wrong shape in to_eye.0.bias (3,), not (512,)"),
    ):
        with pytest.raises(UserError, match=re.escape(complaint)):
            MotionEncoder.from_official(wrong)


def test_faces_of_another_size_are_refused(weights: Weights):
    with pytest.raises(UserError, match=r"\(1, 3, 256, 256\)"):
        MotionEncoder.from_official(weights)(torch.zeros(1, 3, 256, 256))
