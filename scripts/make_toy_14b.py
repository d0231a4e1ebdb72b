"""Writes a model in the exact layout of the released 14B, with random weights, small enough for any machine.

    python scripts/make_toy_14b.py DIR [--wan both|diffusers|original] [--full] [--seed 0]

    flashportrait download 14b --from DIR --to CACHE && FLASHPORTRAIT_CACHE=CACHE flashportrait animate ... --model 14b
    flashportrait animate FACE.jpg DRIVE.mp4 -o OUT.mp4 --model DIR --size 64

What it makes is noise, made by every part that the released model has: 222 landmarks, PD-FGC, UMT5, CLIP, the video
transformer, the autoencoders. The two ONNX graphs answer that there is an upright face in the middle of any picture
that isn't black.

``--full`` gives every network its true shape, in bfloat16. All weights of a file are then views of one stored buffer,
so that DIR takes 4 GB rather than 50; loaded to a device they take what the released ones take. Wan2.1's parts are then
written in the original layout only, which can hold views.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from flashportrait.checkpoints.config import TRANSFORMER_14B, transformer_config
from flashportrait.checkpoints.tables import TEXT_ENCODER, TRANSFORMER, VAE, image_encoder_table
from flashportrait.face.landmarks222 import CROP_FILL, CROP_SIDE, DETECTOR_MEAN, DETECTOR_STD, LANDMARKS
from flashportrait.face.pdfgc import ALIGNED_LANDMARKS, ALIGNED_POSITIONS
from flashportrait.models.motion_encoder import MotionEncoder
from flashportrait.models.portrait_encoder import PortraitEncoder
from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.models.transformer import FlashPortraitTransformer3DModel
from flashportrait.weights.hub import WEIGHTS
from flashportrait.weights.loading import (
    ORIGINAL_IMAGE_ENCODER,
    ORIGINAL_TEXT_ENCODER,
    ORIGINAL_TOKENIZER,
    ORIGINAL_VAE,
    WAN_FOLDERS,
)
from flashportrait.weights.official import (
    IMAGE_ENCODER_VIT_H,
    TEXT_ENCODER_XXL,
    empty_image_encoder,
    vision_prefix,
)

TRANSFORMER_TOY = {
    "dim": 256,
    "ffn_dim": 512,
    "num_heads": 2,
    "num_layers": 2,
    "text_dim": 32,
    "image_dim": 80,
    "expression_dim": 32,
}
TEXT_TOY = {"vocab_size": 384, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
IMAGE_TOY = {
    "hidden_size": 80,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 1,
    "image_size": 56,
    "patch_size": 14,
}
PORTRAIT_TOY = {"token_dim": 32, "resampler_dim": 32, "resampler_depth": 1, "resampler_heads": 2}
LORA_RANK = 64
DEVIATION = 0.02
"""Of the weights at full size."""
WORDS = ("a", "the", "girl", "boy", "man", "woman", "is", "singing", "talking", "smiling", "slowly", "portrait")


class Weights:
    """Random weights for networks on the meta device: drawn one by one, or views of one buffer."""

    def __init__(self, seed: int, shared: bool) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._shared = shared

    def of(self, model: nn.Module, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
        """Tensors for all parameters and buffers of a model."""
        return self.like(model.state_dict(), dtype)

    def like(self, shapes: Mapping[str, Tensor], dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
        """Tensors of the same names and shapes."""
        if self._shared:
            largest = max(tensor.numel() for tensor in shapes.values())
            buffer = DEVIATION * torch.randn(largest, generator=self._generator).to(dtype)
            tensors = {key: buffer[: tensor.numel()].view(tensor.shape) for key, tensor in shapes.items()}
        else:
            tensors = {key: self._draw(key, tensor.shape).to(dtype) for key, tensor in shapes.items()}
        one = torch.ones((), dtype=dtype)
        gains = {key: one.expand(tensor.shape) for key, tensor in shapes.items() if _is_gain(key, tensor)}
        return tensors | ({key: gain.clone() for key, gain in gains.items()})

    def _draw(self, key: str, shape: torch.Size) -> Tensor:
        fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 16
        return torch.randn(shape, generator=self._generator) / fan_in**0.5


def _is_gain(key: str, tensor: Tensor) -> bool:
    name = key.rsplit(".", 1)[-1]
    return name in ("gamma", "running_var") or (name == "weight" and tensor.ndim == 1)


def make(folder: Path, wan: str = "both", full: bool = False, seed: int = 0) -> Path:
    """Write the whole model; returns the folder.

    Args:
        folder: to fill.
        wan: layout of Wan2.1's parts: ``diffusers``, ``original`` or ``both``; at full size the original one only.
        full: true sizes rather than small ones.
        seed: of the weights.
    """
    folder.mkdir(parents=True, exist_ok=True)
    weights = Weights(seed, shared=full)
    _write_flashportrait(folder, weights, full)
    _write_wan(folder, weights, full, wan)
    write_face_graphs(folder)
    return folder


def _write_flashportrait(folder: Path, weights: Weights, full: bool) -> None:
    words = TRANSFORMER_14B | ({} if full else TRANSFORMER_TOY)
    with torch.device("meta"):
        transformer = FlashPortraitTransformer3DModel(**transformer_config(**words))
        portrait_encoder = PortraitEncoder(**{} if full else PORTRAIT_TOY)
        tiny = TinyVideoAutoencoder() if full else TinyVideoAutoencoder(8, (16, 8, 8))
        motion_encoder = MotionEncoder()
    state = weights.like(TRANSFORMER.to_official(transformer.state_dict()))
    torch.save(state, folder / WEIGHTS["transformer_14b"].file)
    save_file(_lora(state, full), folder / WEIGHTS["fast_lora_14b"].file)
    torch.save(weights.of(portrait_encoder, torch.float32), folder / WEIGHTS["portrait_encoder_14b"].file)
    torch.save(weights.of(tiny), folder / WEIGHTS["fast_vae_14b"].file)
    motion = weights.of(motion_encoder, torch.float32)
    motion |= {key: torch.zeros_like(t) for key, t in motion.items() if key.endswith(("running_mean", "tracked"))}
    torch.save(motion, folder / WEIGHTS["pdfgc"].file)


def _lora(state: Mapping[str, Tensor], full: bool) -> dict[str, Tensor]:
    """A 4-step LoRA as released: pairs for the linears of the blocks, plain differences for norms and biases."""
    rank, lora = LORA_RANK if full else 4, {}
    for key, tensor in state.items():
        module, _, leaf = key.rpartition(".")
        if leaf == "weight" and tensor.ndim == 2 and key.startswith("blocks.") and "emo_" not in key:
            lora[f"diffusion_model.{module}.lora_down.weight"] = torch.full((rank, tensor.shape[1]), 1e-3).bfloat16()
            lora[f"diffusion_model.{module}.lora_up.weight"] = torch.full((tensor.shape[0], rank), 1e-3).bfloat16()
        elif leaf == "bias" and key.startswith("blocks."):
            lora[f"diffusion_model.{module}.diff_b"] = torch.full(tensor.shape, 1e-3).bfloat16()
    return lora


def _write_wan(folder: Path, weights: Weights, full: bool, layout: str) -> None:
    """Text encoder, image encoder, autoencoder and tokenizer in diffusers' layout, the original one, or both."""
    from diffusers import AutoencoderKLWan
    from transformers import UMT5Config, UMT5EncoderModel

    text_config = TEXT_ENCODER_XXL | ({} if full else TEXT_TOY)
    image = empty_image_encoder(None, **IMAGE_ENCODER_VIT_H | ({} if full else IMAGE_TOY)).to("meta")
    with torch.device("meta"):
        text = UMT5EncoderModel(UMT5Config(**text_config))
        vae = AutoencoderKLWan(**{} if full else {"base_dim": 8})
    text_state = weights.like(TEXT_ENCODER.to_official(text.state_dict()))
    image_table = image_encoder_table(vision_prefix(image))
    image_state = weights.like(image_table.to_official(image.state_dict()))
    vae_state = weights.like(VAE.to_official(vae.state_dict()))
    if full or layout in ("original", "both"):
        original = folder / WAN_FOLDERS[1]
        original.mkdir(exist_ok=True)
        torch.save(text_state, original / ORIGINAL_TEXT_ENCODER)
        torch.save(image_state | {"log_scale": torch.zeros(())}, original / ORIGINAL_IMAGE_ENCODER)
        torch.save(vae_state, original / ORIGINAL_VAE)
        write_tokenizer(original / ORIGINAL_TOKENIZER, text_config["vocab_size"])
    if full or layout == "original":
        return
    diffusers = folder / WAN_FOLDERS[0]
    text.load_state_dict(TEXT_ENCODER.to_ours(text_state), strict=False, assign=True)
    text.encoder.embed_tokens.weight = text.shared.weight
    image.load_state_dict(image_table.to_ours(image_state), strict=False, assign=True)
    vae.load_state_dict({key: tensor.contiguous() for key, tensor in VAE.to_ours(vae_state).items()}, assign=True)
    for part, name in ((text, "text_encoder"), (image, "image_encoder"), (vae, "vae")):
        part.save_pretrained(diffusers / name)
    write_tokenizer(diffusers / "tokenizer", text_config["vocab_size"])
    (diffusers / "image_processor").mkdir(exist_ok=True)
    (diffusers / "image_processor" / "preprocessor_config.json").write_text("{}\n")


def write_tokenizer(folder: Path, vocabulary: int) -> None:
    """A unigram tokenizer as UMT5's: a few words, all printable ASCII characters, an end of text."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    characters = [chr(code) for code in range(33, 127)]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -3.0)]
    pieces += [(f"▁{word}", -2.0) for word in WORDS] + [(character, -4.0) for character in characters]
    assert len(pieces) <= vocabulary
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokens = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **tokens).save_pretrained(folder)


def write_face_graphs(folder: Path) -> None:
    """``face_det.onnx`` and ``face_landmark.onnx``, which see an upright face in the middle of what isn't black."""
    _write_detector(folder / WEIGHTS["face_det_14b"].file)
    _write_landmarker(folder / WEIGHTS["face_landmark_14b"].file)


def face_template() -> np.ndarray:
    """222 landmarks of a face that looks ahead, in units of the landmark network's crop.  float32 [222 2]"""
    angle = np.linspace(0, 2 * np.pi, LANDMARKS, endpoint=False)
    points = np.stack([0.5 + 0.34 * np.cos(angle), 0.5 + 0.42 * np.sin(angle)], axis=1)
    across = np.linspace(np.pi, 0, 33)
    points[:33] = np.stack([0.5 + 0.36 * np.cos(across), 0.45 + 0.45 * np.sin(across)], axis=1)  # the jaw, ear to ear
    inner = 0.2 + 0.6 * ALIGNED_POSITIONS
    for start, stop, index in ((74, 96, 0), (96, 118, 1), (182, 202, 0), (202, 222, 1)):
        turn = np.linspace(0, 2 * np.pi, stop - start, endpoint=False) + (np.pi if index == 0 else 0)
        points[start:stop] = inner[index] + 0.04 * np.stack([np.cos(turn), 0.5 * np.sin(turn)], axis=1)
    points[list(ALIGNED_LANDMARKS)] = inner
    low, high = points.min(axis=0), points.max(axis=0)
    centred = (points - (low + high) / 2) * CROP_FILL / (high - low).max()
    return (centred + 0.5).astype(np.float32)


def _write_landmarker(path: Path) -> None:
    from onnx import helper

    constants = {
        "points": face_template().T.reshape(1, 2 * LANDMARKS),
        "angles": np.zeros((1, 3), np.float32),
        "gain": np.array(20, np.float32),
        **_limits(1.0),
    }
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "gain"], ["bright"]),
        helper.make_node("Clip", ["bright", "low", "high"], ["probability"]),
        helper.make_node("Identity", ["points"], ["landmarks"]),
        helper.make_node("Identity", ["angles"], ["euler"]),
    ]
    _save_graph(path, nodes, constants, [1, 3, CROP_SIDE, CROP_SIDE], ["landmarks", "euler", "probability"])


def _write_detector(path: Path) -> None:
    """One cell of the finest level answers, the middle one, for a face of a third of the detector's width."""
    from onnx import helper

    cells = {8: (34, 20), 16: (17, 10), 32: (9, 5)}
    reach = np.full((1, 34 * 20, 4, 8), -40, np.float32)
    reach[..., 3], reach[..., 4] = np.log(0.25), np.log(0.75)
    middle = np.zeros((1, 34 * 20, 1), np.float32)
    middle[0, 17 * 20 + 10] = 0.9
    constants = {
        "middle": middle,
        "gain": np.array(20 * DETECTOR_STD.mean() / 255, np.float32),
        "offset": np.array(20 * DETECTOR_MEAN.mean() / 255, np.float32),
        **_limits(1.0),
        **{f"none{stride}": np.zeros((1, h * w, 1), np.float32) for stride, (h, w) in cells.items() if stride > 8},
        "reach8": reach.reshape(1, -1, 32),
        **{f"reach{stride}": np.zeros((1, h * w, 32), np.float32) for stride, (h, w) in cells.items() if stride > 8},
    }
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Mul", ["mean", "gain"], ["scaled"]),
        helper.make_node("Add", ["scaled", "offset"], ["shifted"]),
        helper.make_node("Clip", ["shifted", "low", "high"], ["bright"]),
        helper.make_node("Mul", ["middle", "bright"], ["score8"]),
    ]
    for stride in (16, 32):
        nodes.append(helper.make_node("Identity", [f"none{stride}"], [f"score{stride}"]))
    for stride in cells:
        nodes.append(helper.make_node("Identity", [f"reach{stride}"], [f"box{stride}"]))
    outputs = [f"{kind}{stride}" for kind in ("score", "box") for stride in cells]
    _save_graph(path, nodes, constants, [1, 3, 272, 160], outputs)


def _limits(high: float) -> dict[str, np.ndarray]:
    return {"low": np.array(0, np.float32), "high": np.array(high, np.float32)}


def _save_graph(
    path: Path, nodes: list[Any], constants: dict[str, np.ndarray], shape: list[int], outputs: list[str]
) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "toy",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(path))


def main(argv: list[str] | None = None) -> None:
    """Write the model that the command line describes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="DIR", help="to fill")
    parser.add_argument("--wan", choices=("both", "diffusers", "original"), default="both", help="Wan2.1's layout")
    parser.add_argument("--full", action="store_true", help="true sizes")
    parser.add_argument("--seed", type=int, default=0, help="of the weights")
    args = parser.parse_args(argv)
    print(make(args.folder, args.wan, args.full, args.seed))


if __name__ == "__main__":
    main()
