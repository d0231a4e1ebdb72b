"""Make SMIRK, ArcFace and I3D with random weights in the layouts of their files.

With them `flashportrait evaluate --profile paper` runs without the real ones; its figures mean nothing then.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from flashportrait.evaluation.smirk import PREFIX, SmirkEncoders

SMIRK_FILE, ARCFACE_FILE, I3D_FILE = "SMIRK_em1.pt", "w600k_r50.onnx", "i3d_torchscript.pt"


def smirk_weights(seed: int = 0) -> dict[str, Tensor]:
    """Weights of SMIRK's encoders by their released names, the same on every machine."""
    generator = np.random.RandomState(seed)  # whose numbers never change, unlike those of newer generators
    weights = {}
    for name, tensor in SmirkEncoders().state_dict().items():
        shape, kind = tuple(tensor.shape), name.rsplit(".", 1)[1]
        if kind == "num_batches_tracked":
            values = np.array(1)
        elif kind == "running_var" or (kind == "weight" and len(shape) == 1):
            values = generator.uniform(0.5, 1.5, shape)
        elif len(shape) > 1:
            gain = 1.2 if len(shape) > 2 else 0.2  # so that no layer's output grows or dies away
            values = generator.standard_normal(shape) * gain / np.sqrt(np.prod(shape[1:]))
        else:
            values = generator.standard_normal(shape) * 0.1
        weights[PREFIX + name] = torch.from_numpy(np.asarray(values)).to(tensor.dtype)
    return weights


def write_smirk(path: Path, seed: int = 0) -> Path:
    """SMIRK's file, with a bit of a generator as the released one has."""
    torch.save({**smirk_weights(seed), "smirk_generator.weight": torch.zeros(2)}, path)
    return path


def write_arcface(
    path: Path, shape: Sequence[int | str] = ("None", 3, 112, 112), width: int = 512, nodes: str = "Conv", seed: int = 0
) -> Path:
    """A small network from pictures to embeddings, in the layout of InsightFace's files.

    Args:
        path: of the file.
        shape: of its input.
        width: of its output.
        nodes: what the names of its nodes begin with.
        seed: of the weights.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.RandomState(seed)
    constants = {
        "kernel": generator.standard_normal((8, 3, 16, 16)) / 16,
        "slope": np.full((8, 1, 1), 0.25),
        "linear": generator.standard_normal((width, 8 * 7 * 7)) / 20,
    }
    nodes_ = [
        helper.make_node("Conv", ["input.1", "kernel"], ["features"], name=f"{nodes}_0", strides=[16, 16]),
        helper.make_node("PRelu", ["features", "slope"], ["bent"], name="PRelu_1"),
        helper.make_node("Flatten", ["bent"], ["flat"], name="Flatten_2"),
        helper.make_node("Gemm", ["flat", "linear"], ["683"], name="Gemm_3", transB=1),
    ]
    graph = helper.make_graph(
        nodes_,
        "toy",
        [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, list(shape))],
        [helper.make_tensor_value_info("683", TensorProto.FLOAT, [1, width])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 11)], ir_version=6), str(path))
    return path


class ToyI3D(nn.Module):
    """Clips to features by their means, called as the TorchScript I3D is."""

    def __init__(self, width: int = 400) -> None:
        super().__init__()
        weights = np.random.RandomState(0).standard_normal((width, 3 * 4 * 7 * 7)).astype(np.float32)
        self.register_buffer("weights", torch.from_numpy(weights))

    def forward(self, x: Tensor, rescale: bool = False, resize: bool = False, return_features: bool = False) -> Tensor:
        """Features ``[n width]`` of clips in [-1, 1] ``[n 3 t 224 224]``; other ways to call it are refused."""
        assert not rescale
        assert not resize
        assert return_features
        assert x.shape[3] == 224
        assert x.shape[4] == 224
        return torch.nn.functional.adaptive_avg_pool3d(x, [4, 7, 7]).flatten(1) @ self.weights.t()


def write_i3d(path: Path, width: int = 400) -> Path:
    """The toy as TorchScript."""
    torch.jit.save(torch.jit.script(ToyI3D(width)), str(path))
    return path


def main(argv: list[str] | None = None) -> None:
    """Write the three files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="to fill")
    folder = parser.parse_args(argv).folder
    folder.mkdir(parents=True, exist_ok=True)
    for path in (write_smirk(folder / SMIRK_FILE), write_arcface(folder / ARCFACE_FILE), write_i3d(folder / I3D_FILE)):
        print(path)


if __name__ == "__main__":
    main()
