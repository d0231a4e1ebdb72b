"""LPIPS, I3D and FVD: what they are by definition, on weights in the published layout."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from flashportrait.errors import UserError
from flashportrait.evaluation.arrays import read_arrays
from flashportrait.evaluation.fvd import VideoFeatures, frechet_distance
from flashportrait.evaluation.perceptual import PerceptualDistance

ALEX = ((3, 64, 11), (64, 192, 5), (192, 384, 3), (384, 256, 3), (256, 256, 3))


@pytest.fixture(scope="module")
def alex(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights in the layout of the package's."""
    generator = np.random.default_rng(0)
    tree: dict = {"AlexNet_0": {}}
    for layer, (inputs, outputs, side) in enumerate(ALEX):
        kernel = generator.normal(0, 1 / np.sqrt(inputs * side**2), (side, side, inputs, outputs)).astype(np.float32)
        tree["AlexNet_0"][f"Conv_{layer}"] = {"kernel": kernel, "bias": np.full(outputs, 0.1, np.float32)}
        tree[f"NetLinLayer_{layer}"] = {"Conv_0": {"kernel": generator.random((1, 1, outputs, 1)).astype(np.float32)}}
    path = tmp_path_factory.mktemp("weights") / "alex.ckpt"
    path.write_bytes(pickle.dumps(tree))
    return path


@torch.no_grad()
def test_lpips_is_what_its_paper_says(alex: Path):
    """Against AlexNet as torch's modules build it."""
    tree = read_arrays(alex)
    layers = []
    for layer, (inputs, outputs, side) in enumerate(ALEX):
        convolution = nn.Conv2d(inputs, outputs, side, 4 if layer == 0 else 1, 2 if layer < 2 else 1)
        convolution.weight.data = tree[f"AlexNet_0/Conv_{layer}/kernel"].permute(3, 2, 0, 1)
        convolution.bias.data = tree[f"AlexNet_0/Conv_{layer}/bias"]
        before = [nn.MaxPool2d(3, 2)] if layer in (1, 2) else []
        layers.append(nn.Sequential(*before, convolution, nn.ReLU()))
    pictures = torch.rand(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    shift, scale = torch.tensor([-0.03, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.45])
    x = (2 * pictures - 1 - shift.view(3, 1, 1)) / scale.view(3, 1, 1)
    expected = torch.zeros(())
    for layer, module in enumerate(layers):
        x = module(x)
        unit = F.normalize(x, dim=1)
        expected = (
            expected
            + ((unit[0] - unit[1]) ** 2 * tree[f"NetLinLayer_{layer}/Conv_0/kernel"].view(-1, 1, 1)).sum(0).mean()
        )
    found = PerceptualDistance(alex)(pictures[:1], pictures[1:])
    assert float(found[0]) == pytest.approx(expected.item(), rel=1e-5)


def test_lpips_of_equal_pictures_is_zero_and_grows_with_blur(alex: Path):
    distance = PerceptualDistance(alex)
    picture = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = [float(distance(picture, F.avg_pool2d(picture, side, 1, side // 2))) for side in (1, 3, 5, 7)]
    assert found[0] == 0
    assert found == sorted(found)
    with pytest.raises(UserError, match="32x32"):
        distance(picture[..., :20], picture[..., :20])


def test_lpips_says_where_pictures_differ(alex: Path):
    distance = PerceptualDistance(alex)
    picture = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    changed = picture.clone()
    changed[..., :48, :48] = 0
    places = distance.by_place(changed, picture)
    assert places.shape == (1, 1, 128, 128)
    assert places[..., :48, :48].mean() > 20 * places[..., 96:, 96:].mean()
    # Layers are enlarged, which keeps their means but for the edges.
    assert float(places.mean()) == pytest.approx(float(distance(changed, picture)), rel=0.15)
    assert not distance.by_place(picture, picture).any()


class Malicious:
    def __reduce__(self):
        return (print, ("run",))


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"a": Malicious()}),
        pickle.dumps({"a": "text"}),
        pickle.dumps({"a": np.array(["text"])}),
        pickle.dumps(np.float64),
        b"",
        b"\x80\x04broken",
    ],
)
def test_pickles_of_anything_but_arrays_are_refused(content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "weights.ckpt").write_bytes(content)
    with pytest.raises(UserError, match="no pickle of arrays alone"):
        read_arrays(tmp_path / "weights.ckpt")
    assert capsys.readouterr().out == ""


def test_other_weights_are_refused(tmp_path: Path):
    (tmp_path / "weights.ckpt").write_bytes(pickle.dumps({"a": {"b": np.zeros(3, np.float32)}}))
    assert list(read_arrays(tmp_path / "weights.ckpt")) == ["a/b"]
    with pytest.raises(UserError, match="lacks AlexNet_0"):
        PerceptualDistance(tmp_path / "weights.ckpt")
    with pytest.raises(UserError, match="no I3D"):
        VideoFeatures(tmp_path / "weights.ckpt")


def test_the_frechet_distance_of_gaussians_is_known():
    generator = np.random.default_rng(0)
    a = generator.normal(0, 1, (20000, 3)) * np.array([1.0, 2.0, 3.0])
    b = generator.normal(0, 1, (20000, 3)) * np.array([2.0, 2.0, 1.0]) + np.array([1.0, 0.0, -2.0])
    # |m|^2 and, for covariances that commute, the sum of (s1 - s2)^2.
    assert frechet_distance(a, b) == pytest.approx(5 + 1 + 0 + 4, rel=0.05)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(a[:50], b[:40]) == pytest.approx(frechet_distance(b[:40], a[:50]))
    with pytest.raises(UserError, match="2 or more"):
        frechet_distance(a[:1], b)


@pytest.mark.parametrize("dimensions", [5, 40])
def test_the_frechet_distance_is_that_of_the_covariances(dimensions: int):
    """Against the definition with matrix square roots, with fewer and more samples than dimensions."""
    generator = np.random.default_rng(1)
    mix = generator.normal(size=(dimensions, dimensions))
    a, b = generator.normal(size=(30, dimensions)) @ mix, generator.normal(size=(25, dimensions)) + 0.3
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    product = np.linalg.eigvals(first @ second)
    trace = np.trace(first) + np.trace(second) - 2 * np.sqrt(np.maximum(product.real, 0)).sum()
    expected = np.square(a.mean(0) - b.mean(0)).sum() + trace
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-4)
