"""The 14B's parts from a folder of downloaded files, within the memory of a modest machine.

Two layouts are understood: what ``flashportrait download 14b`` makes, and the released code's ``checkpoints`` folder
with Wan2.1 in its original form.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from flashportrait.checkpoints.files import load_strictly, read_checkpoint
from flashportrait.checkpoints.tables import KeyTable, Rule
from flashportrait.errors import UserError
from flashportrait.files import user_folder
from flashportrait.weights.hub import WEIGHTS, Weight, locate_weight
from flashportrait.weights.lora import Lora, load_lora
from flashportrait.weights.official import (
    empty_image_encoder,
    load_image_encoder,
    load_text_encoder,
    load_vae,
    vision_prefix,
)
from flashportrait.weights.plan import BF16_BYTES, Sizes
from flashportrait.weights.sizes import image_encoder_config, text_encoder_config, transformer_words, vae_config

if TYPE_CHECKING:
    from flashportrait.models.transformer import FlashPortraitTransformer3DModel

WAN_FOLDERS = (WEIGHTS["wan_14b"].file, "Wan2.1-I2V-14B-720P")
"""Names of the folder with text encoder, image encoder and VAE: diffusers' layout, and the original one."""

ORIGINAL_TEXT_ENCODER = "models_t5_umt5-xxl-enc-bf16.pth"
ORIGINAL_IMAGE_ENCODER = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"
ORIGINAL_VAE = "Wan2.1_VAE.pth"
ORIGINAL_TOKENIZER = "google/umt5-xxl"

FOLDERS = ("", "FlashPortrait")
"""Below a given folder, where the released files may lie: in it, or as in the released code's ``checkpoints``."""

SHIFT = 5.0
"""Of the noise schedule that the 14B samples with."""


NEEDED = ("transformer_14b", "portrait_encoder_14b", "wan_14b")
"""The 14B's files, by their names in ``hub.WEIGHTS``."""
NEEDED_FAST = ("fast_lora_14b", "fast_vae_14b")
NEEDED_FOR_VIDEOS = ("pdfgc", "face_det_14b", "face_landmark_14b")
"""What reads motion for it; templates hold it already."""


@dataclass(frozen=True)
class Released:
    """A model in the released layout."""

    folder: Path | None
    """With its files; None where ``flashportrait download 14b`` puts them."""
    fast: bool
    """With the 4-step LoRA and the tiny VAE."""


def released_model(name_or_path: str | Path) -> Released | None:
    """What a model's name or folder means, if that is a model in the released layout of whatever size, else None."""
    if name_or_path in ("14b", "14b-fast"):
        return Released(None, fast=name_or_path == "14b-fast")
    folder = Path(name_or_path).expanduser()
    if (folder / "model_index.json").is_file():
        return None
    here = any((folder / below / WEIGHTS["transformer_14b"].file).is_file() for below in FOLDERS)
    return Released(folder, fast=False) if here else None


def check_files(model: Released, *, videos: bool) -> None:
    """Refuse to begin without the model's files; nothing is read.

    Args:
        model: which one.
        videos: the driver is a video, not a template.

    Raises:
        UserError: what is not there, and how to fetch it.
    """
    needed = (*NEEDED, *(NEEDED_FAST if model.fast else ()), *(NEEDED_FOR_VIDEOS if videos else ()))
    files = ModelFiles(model.folder)
    absent = [WEIGHTS[name] for name in needed if files.locate(name) is None]
    if not absent:
        return
    names = ", ".join(weight.file for weight in absent)
    if model.folder is not None:
        raise UserError(
            f"'{model.folder}' holds a model in the released layout, but not all of it: {names} not found; complete it "
            f"with `flashportrait download 14b --to {model.folder}`"
        )
    raise UserError(
        f"the 14B isn't on this machine whole: {names} not found in "
        f"{user_folder('cache')}; run `flashportrait download 14b`, or name a file by its variable "
        f"(as {absent[0].variable}); the embedded model (nano) needs no download"
    )


@dataclass(frozen=True)
class ModelFiles:
    """Where the 14B's files are."""

    folder: Path | None
    """Given by the user; None looks where weights are kept."""

    def locate(self, name: str) -> Path | None:
        """Path of one released file, or of Wan2.1's folder, by its name in ``hub.WEIGHTS``; None if it isn't there."""
        if self.folder is None:
            return locate_weight(name)
        names = WAN_FOLDERS if name == "wan_14b" else (WEIGHTS[name].file,)
        places = (self.folder / below / file for below in FOLDERS for file in names)
        return next((place for place in places if place.exists()), None)

    def find(self, name: str) -> Path:
        """As :meth:`locate`. Raises UserError if it isn't there."""
        return self.locate(name) or self._refuse(WEIGHTS[name])

    def wan(self) -> Path:
        """Folder of Wan2.1's text encoder, image encoder and VAE. Raises UserError if it isn't there."""
        return self.find("wan_14b")

    def _refuse(self, weight: Weight) -> Path:
        where = f"in {self.folder}" if self.folder else "on this machine"
        raise UserError(
            f"{weight.file} ({weight.role}) isn't {where}: run `flashportrait download 14b`"
            + (f" --to {self.folder}" if self.folder else f", or set {weight.variable} to its path")
        )


def load_components(
    folder: str | Path | None = None,
    *,
    torch_dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str | None = None,
    fast: bool = False,
) -> dict[str, Any]:
    """Every part that the pipeline takes, by the name it takes it by.

    Nothing large is read before it is used: weights are views of the mapped files unless ``device`` asks for them.

    Args:
        folder: with the files; None looks where ``flashportrait download 14b`` puts them.
        torch_dtype: of the weights.
        device: where transformer and encoders go, tensor by tensor; None leaves them in the mapped files.
        fast: take the tiny VAE; the 4-step LoRA is for ``load_fast_lora`` to read and the caller to merge.

    Raises:
        UserError: a file is missing or isn't the released one; it is named.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler

    from flashportrait.models.portrait_encoder import PortraitEncoder
    from flashportrait.models.transformer import FlashPortraitTransformer3DModel

    files = ModelFiles(Path(folder).expanduser() if folder is not None else None)
    wan = files.wan()
    placing = {"torch_dtype": torch_dtype, "device": device}
    source = files.find("transformer_14b")
    sizes = transformer_words(read_checkpoint(source))
    transformer = FlashPortraitTransformer3DModel.from_official(source, **placing, **sizes)
    return {
        "transformer": transformer,
        # Small, and run in float32 by the released code.
        "portrait_encoder": PortraitEncoder.from_official(files.find("portrait_encoder_14b")).to(device),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        "vae": _load_tiny_vae(files, **placing) if fast else load_wan_vae(wan, **placing),
        "image_encoder": load_wan_image_encoder(wan, **placing),
        "text_encoder": load_wan_text_encoder(wan, **placing),
        "tokenizer": load_wan_tokenizer(wan),
    }


def sizes_of(folder: str | Path | None = None) -> Sizes:
    """Of the model in a folder (None: where ``flashportrait download 14b`` puts it), for a plan; weights aren't read.

    Raises:
        UserError: a file is missing or broken.
    """
    files = ModelFiles(Path(folder).expanduser() if folder is not None else None)
    tensors = read_checkpoint(files.find("transformer_14b"))
    words = transformer_words(tensors)
    wan = files.wan()
    text, image = (
        _state(wan, "text_encoder", ORIGINAL_TEXT_ENCODER),
        _state(wan, "image_encoder", ORIGINAL_IMAGE_ENCODER),
    )
    portrait = read_checkpoint(files.find("portrait_encoder_14b"))
    return Sizes(
        width=words["dim"],
        ffn_width=words["ffn_dim"],
        layers=words["num_layers"],
        expression_width=words["expression_dim"],
        parameters=sum(tensor.numel() for tensor in tensors.values()),
        text_encoder_bytes=_bf16_bytes(text),
        text_encoder_layer_bytes=max(_bf16_bytes({key: tensor}) for key, tensor in text.items()),
        image_encoder_bytes=_bf16_bytes({key: tensor for key, tensor in image.items() if "textual." not in key}),
        vae_bytes=_bf16_bytes(_state(wan, "vae", ORIGINAL_VAE)),
        portrait_encoder_bytes=_bf16_bytes(portrait),
    )


def _state(wan: Path, folder: str, original: str) -> dict[str, torch.Tensor]:
    return read_checkpoint(wan / folder if (wan / folder).is_dir() else _original(wan, original))


def _bf16_bytes(tensors: Mapping[str, torch.Tensor]) -> int:
    return sum(BF16_BYTES * tensor.numel() for tensor in tensors.values())


def load_fast_lora(transformer: FlashPortraitTransformer3DModel, folder: str | Path | None = None) -> Lora:
    """The 4-step LoRA, not yet merged (sample with ``lora.distilled_sigmas()``). Folder and errors as above."""
    files = ModelFiles(Path(folder).expanduser() if folder is not None else None)
    return load_lora(files.find("fast_lora_14b"), transformer)


def _load_tiny_vae(files: ModelFiles, torch_dtype: torch.dtype, device: torch.device | str | None) -> Any:
    from flashportrait.models.tiny_vae import TinyVideoAutoencoder

    return TinyVideoAutoencoder.from_official(files.find("fast_vae_14b")).to(device, torch_dtype)


def load_wan_text_encoder(
    wan: Path, torch_dtype: torch.dtype | None = None, device: torch.device | str | None = None, **config: Any
) -> Any:
    """UMT5 from either layout of Wan2.1; ``config`` is what the original file's shapes don't tell."""
    folder = wan / "text_encoder"
    if not folder.is_dir():
        path = _original(wan, ORIGINAL_TEXT_ENCODER)
        config = text_encoder_config(read_checkpoint(path)) | config
        return load_text_encoder(path, torch_dtype=torch_dtype, device=device, **config)
    from transformers import UMT5Config, UMT5EncoderModel

    with torch.device("meta"):
        model = UMT5EncoderModel(UMT5Config(**json.loads((folder / "config.json").read_text()))).eval()
    # The embeddings are tied: a file may hold them once or twice.
    tied = ("encoder.embed_tokens.weight",)
    table = KeyTable.same_names("text encoder", model.state_dict(), ignored=tied, aliases=tied)
    load_strictly(model, folder, table, dtype=torch_dtype, device=device)
    model.encoder.embed_tokens.weight = model.shared.weight
    return model


def load_wan_image_encoder(
    wan: Path, torch_dtype: torch.dtype | None = None, device: torch.device | str | None = None, **config: Any
) -> Any:
    """CLIP's vision tower from either layout of Wan2.1; ``config`` is what the original file's shapes don't tell."""
    folder = wan / "image_encoder"
    if not folder.is_dir():
        path = _original(wan, ORIGINAL_IMAGE_ENCODER)
        config = image_encoder_config(read_checkpoint(path)) | config
        return load_image_encoder(path, torch_dtype=torch_dtype, device=device, **config)
    model = empty_image_encoder(device, **json.loads((folder / "config.json").read_text()))
    ours, theirs = vision_prefix(model), vision_prefix(read_checkpoint(folder))
    rules = tuple(Rule(theirs + key.removeprefix(ours), (key,)) for key in model.state_dict())
    table = KeyTable("image encoder", rules, ignored=(theirs + "embeddings.position_ids",))
    load_strictly(model, folder, table, dtype=torch_dtype, device=device)
    return model


def load_wan_vae(
    wan: Path, torch_dtype: torch.dtype | None = None, device: torch.device | str | None = None, **config: Any
) -> Any:
    """The causal VAE from either layout of Wan2.1; ``config`` is what the original file's shapes don't tell."""
    folder = wan / "vae"
    if not folder.is_dir():
        path = _original(wan, ORIGINAL_VAE)
        config = vae_config(read_checkpoint(path)) | config
        return load_vae(path, torch_dtype=torch_dtype, device=device, **config)
    from diffusers import AutoencoderKLWan

    with torch.device("meta"):
        model = AutoencoderKLWan.from_config(AutoencoderKLWan.load_config(folder)).eval()
    table = KeyTable.same_names("VAE", model.state_dict())
    load_strictly(model, folder, table, dtype=torch_dtype, device=device)
    return model


def load_wan_tokenizer(wan: Path) -> Any:
    """UMT5's tokenizer from either layout of Wan2.1."""
    from transformers import AutoTokenizer

    folder = wan / "tokenizer"
    return AutoTokenizer.from_pretrained(folder if folder.is_dir() else _original(wan, ORIGINAL_TOKENIZER))


def _original(wan: Path, name: str) -> Path:
    path = wan / name
    if not path.exists():
        raise UserError(
            f"{wan} holds neither diffusers' layout of Wan2.1 nor {name}; fetch it: flashportrait download 14b"
        )
    return path
