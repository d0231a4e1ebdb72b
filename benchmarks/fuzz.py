"""Damage files of every kind byte by byte, and see that nothing but a UserError comes of it.

    python benchmarks/fuzz.py [--seconds 240] [--quick] [--seed 0]

Pictures, clips, motion templates, LoRAs, models' folders and work folders. Each run opens one damaged file as `animate`
or `resume` does; clips are read to their end, and their sound is tried against an mp4.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from fractions import Fraction
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file

from flashportrait.errors import UserError
from flashportrait.face.motion import BLENDSHAPES, MotionFeatures
from flashportrait.job import Job
from flashportrait.loading import load_pipeline
from flashportrait.media.clip import open_clip
from flashportrait.media.portrait import load_portrait
from flashportrait.media.reader import AudioSpan
from flashportrait.media.writer import VideoWriter, check_output
from flashportrait.models.transformer import FlashPortraitTransformer3DModel
from flashportrait.weights.folder import model_folder
from flashportrait.weights.lora import load_lora
from flashportrait.workdir import WorkDirectory

SIDE, FRAMES, RATE = 80, 6, 25
QUICK_SECONDS = 20
MODEL_FILES = {
    ".json": "model_index.json",
    ".config": "vae/config.json",
    ".safetensors": "portrait_encoder/diffusion_pytorch_model.safetensors",
}
"""Files of a model's folder that are damaged, by the ending of the copy."""
HEADS = (40, 400, 1 << 30)
"""Damage is done within the first so many bytes."""


def read_clip(path: Path) -> None:
    """All frames, their times, and a trial of the sound."""
    clip = open_clip(path)
    for _ in clip:
        pass
    assert len(clip.times) == clip.info.frames
    check_output(path.with_name("out.mp4"), [path], clip.audio)


def read_lora(path: Path) -> None:
    """Read for a toy of the transformer that it fits."""
    load_lora(path, _toy_transformer())


@lru_cache(maxsize=1)
def _toy_transformer() -> FlashPortraitTransformer3DModel:
    sizes = {"num_attention_heads": 1, "attention_head_dim": 12, "ffn_dim": 16, "num_layers": 1, "text_dim": 8}
    return FlashPortraitTransformer3DModel(**sizes, image_dim=8, added_kv_proj_dim=12, text_len=1, expression_dim=8)


def read_model(path: Path) -> None:
    """Load the embedded model with this file in the place of its own."""
    with tempfile.TemporaryDirectory() as name:
        model = Path(name) / "model"
        shutil.copytree(model_folder("nano"), model, copy_function=os.symlink)
        target = model / MODEL_FILES[path.suffix]
        target.unlink()
        shutil.copyfile(path, target)
        load_pipeline(model, device="cpu")


def read_work(path: Path) -> None:
    """Open a work folder with this file as its manifest, or as its motion, and read what it tells."""
    with tempfile.TemporaryDirectory() as name:
        work = WorkDirectory.create(Path(name) / "out.mp4.work", {"portrait": "a", "driving": "b", "output": "c"}, {})
        shutil.copyfile(path, work.path / ("manifest.json" if path.suffix == ".json" else "motion.safetensors"))
        opened = WorkDirectory.open(work.path)
        opened.motion()
        Job.from_dict(opened.command)


def make_files(folder: Path, models: bool = False) -> dict[Path, Callable[[Path], object]]:
    """Whole files of every kind, with what opens them; ``models`` too, which take longer."""
    pixels = np.random.default_rng(0).integers(0, 256, (FRAMES, SIDE, SIDE, 3), np.uint8)
    pictures = [Image.fromarray(each) for each in pixels]
    exif = Image.Exif()
    exif[0x0112] = 6
    files: dict[Path, Callable[[Path], object]] = {}
    for suffix in (".jpg", ".png", ".webp", ".tiff", ".bmp", ".gif"):
        options = {"exif": exif} if suffix in (".jpg", ".png", ".webp") else {}
        pictures[0].save(folder / f"still{suffix}", **options)
        files[folder / f"still{suffix}"] = load_portrait
    for suffix in (".png", ".webp", ".gif"):
        pictures[0].save(folder / f"moving{suffix}", save_all=True, append_images=pictures[1:], duration=40)
        files[folder / f"moving{suffix}"] = read_clip
    with av.open(str(folder / "sound.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=44100, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 11025), np.int16), format="s16", layout="mono")
        frame.sample_rate = 44100
        container.mux(stream.encode(frame))
    for suffix in (".mp4", ".mov", ".mkv", ".webm"):
        sound = AudioSpan(folder / "sound.wav", Fraction(0), None)
        with VideoWriter(folder / f"video{suffix}", Fraction(RATE), audio=sound) as writer:
            for each in pixels:
                writer.write(each)
        files[folder / f"video{suffix}"] = read_clip
    rows = np.random.default_rng(0).uniform(0, 0.5, (FRAMES, BLENDSHAPES.width)).astype(np.float32)
    MotionFeatures(rows, Fraction(RATE)).save(folder / "motion.safetensors")
    files[folder / "motion.safetensors"] = MotionFeatures.load
    shutil.copyfile(folder / "motion.safetensors", folder / "work.safetensors")
    files[folder / "work.safetensors"] = read_work
    work = WorkDirectory.create(folder / "a.work", {"portrait": "a", "driving": "b", "output": "c"}, {})
    shutil.copyfile(work.path / "manifest.json", folder / "work.json")
    files[folder / "work.json"] = read_work
    layer = {"lora_down": torch.randn(2, 12), "lora_up": torch.randn(12, 2)}
    named = {f"diffusion_model.blocks.0.self_attn.q.{name}.weight": value for name, value in layer.items()}
    save_file(named, folder / "lora.safetensors")
    files[folder / "lora.safetensors"] = read_lora
    if models:
        for suffix, name in MODEL_FILES.items():
            shutil.copyfile(model_folder("nano") / name, folder / f"model{suffix}")
            files[folder / f"model{suffix}"] = read_model
    return files


def damaged(content: bytes, chance: random.Random) -> bytes:
    """The content with bytes changed, its end cut off, or a part of it in the place of another."""
    changed, span, how = bytearray(content), min(len(content), chance.choice(HEADS)), chance.randrange(4)
    if how < 2:
        for _ in range(chance.choice((1, 3, 20))):
            changed[chance.randrange(span)] = chance.randrange(256)
    elif how == 2:
        del changed[chance.randrange(1, len(changed)) :]
    else:
        target, source = chance.randrange(span), chance.randrange(len(changed))
        changed[target : target + 16] = changed[source : source + 16]
    return bytes(changed)


def fuzz(
    folder: Path, seed: int, *, runs: int | None = None, seconds: float | None = None, models: bool = False
) -> tuple[int, Counter[str]]:
    """Open damaged files, so many or for so long; returns how many, and faults by kind of file and place."""
    files, chance, faults, count = make_files(folder, models), random.Random(seed), Counter(), 0
    deadline = None if seconds is None else time.monotonic() + seconds
    while (runs is None or count < runs) and (deadline is None or time.monotonic() < deadline):
        whole = chance.choice(list(files))
        target = folder / f"damaged{whole.suffix}"
        target.write_bytes(damaged(whole.read_bytes(), chance))
        count += 1
        try:
            files[whole](target)
        except UserError as error:
            if "\n" in str(error):
                faults[f"{whole.name}: a message of several lines"] += 1
        except Exception as error:  # noqa: BLE001 - what is looked for
            place = traceback.extract_tb(error.__traceback__)[-1]
            faults[f"{whole.name}: {type(error).__name__} in {Path(place.filename).name}:{place.lineno}"] += 1
    return count, faults


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=240)
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS} seconds")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.disable(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        count, faults = fuzz(
            Path(folder), args.seed, seconds=QUICK_SECONDS if args.quick else args.seconds, models=True
        )
    print(f"{count} damaged files, {sum(faults.values())} faults")
    for fault, times in faults.most_common():
        print(f"{times:6} {fault}")
    if faults:
        sys.exit("files that end in an internal error")


if __name__ == "__main__":
    main()
