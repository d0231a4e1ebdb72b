"""``flashportrait train``: train the embedded model from nothing, in stages that can be cut and resumed."""

from __future__ import annotations

import argparse
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from flashportrait.cli.console import Console
from flashportrait.errors import UserError

STAGES = ("draw", "autoencoder", "encode", "transformer", "finish", "export")

NANO_DEFAULTS: dict[str, Any] = {
    "num_inference_steps": 30,
    "speed": "fast",
    "text_scale": 1.0,
    "emotion_scale": 1.0,
    "window": 8,
    "overlap": 3,
    "schedule": "causal",
    "temperature": 0.0,
    "refine": 0.0,
}
"""Sampling settings that suit the embedded model."""

NANO_FRAMING: dict[str, Any] = {
    "mode": "face",
    "resolution": 256,
    "multiple": 32,
    "face_size": 0.58,
    "face_center": (0.5, 0.46),
}
"""How the training pictures hold their faces."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to train, where, for how long."""
    parser.add_argument("name", choices=("nano",), help="the embedded model")
    parser.add_argument("--out", type=Path, default=Path("runs/nano"), metavar="DIR", help="default: runs/nano")
    parser.add_argument("--stage", choices=(*STAGES, "all"), default="all", help="default: all, in this order")
    parser.add_argument(
        "--photos",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="a folder of aligned portraits with landmarks.npz to make training clips from; repeatable",
    )
    parser.add_argument(
        "--start-from",
        metavar="MODEL",
        help="nano or a model's folder: keep its autoencoder and start from its weights",
    )
    parser.add_argument("--scenes", type=int, metavar="N", help="number of training scenes")
    parser.add_argument("--minutes", type=float, metavar="M", help="time limit of each training stage")
    parser.add_argument("--latent-frames", type=int, metavar="F", help="latent frames of a training window")
    parser.add_argument("--batch", type=int, metavar="N", help="batch size of the transformer, in scenes")
    parser.add_argument("--device", default="cpu", metavar="NAME", help="cpu or cuda; default: cpu")


def run(args: argparse.Namespace, console: Console) -> int:
    """Run the stages asked for; each goes on where an earlier run stopped."""
    from flashportrait.training import recipe as stages
    from flashportrait.weights.folder import model_folder

    logging.getLogger("flashportrait").setLevel(logging.WARNING if console.quiet else logging.INFO)
    recipe, start = _recipe(args), None if args.start_from is None else model_folder(args.start_from)
    wanted = STAGES if args.stage == "all" else (args.stage,)
    if "draw" in wanted:
        stages.draw(args.out, recipe, args.photos, args.device)
    if start is not None:
        stages.take_autoencoder(args.out, start)
    elif "autoencoder" in wanted:
        stages.learn_autoencoder(args.out, recipe, args.device)
    if "encode" in wanted:
        stages.encode(args.out, args.device)
    if "transformer" in wanted:
        stages.learn_transformer(args.out, recipe, args.device, start=start)
    if "finish" in wanted:
        stages.finish(args.out, recipe, args.device, start=start)
    if "export" in wanted:
        model = export(args.out, start)
        console.result({"model": str(model)}, f"{model}: use it with --model {model}")
    return 0


def _recipe(args: argparse.Namespace) -> Any:
    from flashportrait.training.recipe import Recipe

    recipe = Recipe()
    if args.scenes is not None:
        recipe = replace(recipe, scenes=args.scenes)
    if args.batch is not None:
        recipe = replace(recipe, batch=args.batch)
    if args.latent_frames is not None:
        recipe = replace(recipe, flow=replace(recipe.flow, latent_frames=args.latent_frames))
    return replace(
        recipe,
        autoencoder_loop=replace(recipe.autoencoder_loop, minutes=args.minutes),
        differences_loop=replace(recipe.differences_loop, minutes=args.minutes),
        flow_loop=replace(recipe.flow_loop, minutes=args.minutes),
        finish_loop=replace(recipe.finish_loop, minutes=args.minutes),
    )


def export(folder: Path, start: Path | None = None) -> Path:
    """Joins the trained parts to a model folder that the pipeline loads, weights in float16.

    The autoencoder is the finished one where that stage was run; transformer and encoders are those of the model folder
    ``start`` where this run has trained none.

    Raises:
        UserError: a part hasn't been trained yet.
    """
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler

    from flashportrait.models.image_encoder import PortraitImageEncoder
    from flashportrait.models.portrait_encoder import PortraitEncoder
    from flashportrait.models.tiny_vae import TinyVideoAutoencoder
    from flashportrait.models.transformer import FlashPortraitTransformer3DModel
    from flashportrait.pipeline import FlashPortraitPipeline
    from flashportrait.training.flow import FlowConfig
    from flashportrait.training.recipe import trained_parts

    learned, finished = trained_parts(folder, start), (folder / "finish" / "vae").is_dir()
    sources = {
        "transformer": (FlashPortraitTransformer3DModel, learned / "transformer"),
        "portrait_encoder": (PortraitEncoder, learned / "portrait_encoder"),
        "image_encoder": (PortraitImageEncoder, learned / "image_encoder"),
        "vae": (TinyVideoAutoencoder, folder / ("finish" if finished else "autoencoder") / "vae"),
    }
    for name, (_, path) in sources.items():
        if not path.is_dir():
            raise UserError(f"{path} is missing; train the {name} before exporting")
    parts = {name: cls.from_pretrained(path).to(torch.float16) for name, (cls, path) in sources.items()}
    for part in parts.values():
        part.register_to_config(_name_or_path="")  # a path of the training machine
    scheduler = FlowMatchEulerDiscreteScheduler(shift=FlowConfig().shift)
    pipeline = FlashPortraitPipeline(
        scheduler=scheduler,
        motion_layout="blendshapes",
        defaults=NANO_DEFAULTS,
        framing=NANO_FRAMING,
        reference="animated",
        **parts,
    )
    pipeline.save_pretrained(folder / "model")
    return folder / "model"
