"""Does the Normalized Facial Expression Block earn its place? Small twins that differ in nothing but how it joins.

    python benchmarks/twins.py RUN [--graft nano] [--quick] [--steps 800] [--seeds 0 1] [--twins NAME ...] [--json FILE]

``RUN`` is a folder of ``flashportrait train nano`` with its scenes drawn and encoded. Each twin trains for the same
steps, on the same batches and noise, from the same weights; then each animates the same held-out scenes. With e what
expression attention gives and x the branch it joins, a twin adds to x:

- ``addition``: e;
- ``norm``: e scaled to x's spread;
- ``centring``: e moved to x's mean;
- ``full``: both, the block as published;
- ``addition x10``, ``addition x0.1``: e from features of another scale, which is what the block is for. (``norm`` and
  ``full`` give the same whatever the scale.)

Twins are small networks trained from nothing or, with ``--graft``, a trained model whose way in for expression is new:
portrait encoder, expression keys and values start at random, and only attention learns, as the paper's modules joined
a video model that knew nothing of them.

Printed, on held-out people: the velocity's error with the training's weights; the error of the clean latents, over lips
and eyes, as the network sees them where sampling starts; and AED, the mean difference of the landmarker's 52
coefficients between result and truth, as frames are decoded. Lower is better; ``no expression`` is the full twin
sampled without its expression.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.evaluation import metrics
from flashportrait.evaluation.extractors import read_faces
from flashportrait.face.blendshapes import FaceLandmarker
from flashportrait.models import expression_block
from flashportrait.models.expression_block import NORM_EPS, match_statistics
from flashportrait.models.tiny_vae import TinyVideoAutoencoder
from flashportrait.result import to_pictures
from flashportrait.training.data import LatentScenes, Scenes, shard_batches
from flashportrait.training.flow import FlowConfig, PortraitModel, flow_loss, sample_latents
from flashportrait.training.loop import LoopConfig, build_optimizers, learning_rate_scale
from flashportrait.training.recipe import load_autoencoder
from flashportrait.weights.folder import model_folder

SMALL = FlowConfig(heads=2, layers=4, latent_frames=2)
WHOLE = FlowConfig(latent_frames=2)
"""The embedded model's, which ``--graft`` takes the weights of."""
BATCH = 24
SAMPLING_STEPS = 8
WORTH_COMPILING = 100
"""Steps from which on compiling the blocks, a minute, pays."""
FACE_STRIDE = 4


def _spread(x: Tensor) -> tuple[Tensor, Tensor]:
    return torch.std_mean(x.float(), dim=(1, 2), keepdim=True)


Join = Callable[[Tensor, Tensor], Tensor]
"""Expression and the branch that it joins, to what is added to that branch."""


def only_norm(expression: Tensor, branch: Tensor) -> Tensor:
    """``e std(x) / std(e)``"""
    return (expression * (_spread(branch)[0] / (_spread(expression)[0] + NORM_EPS))).to(branch.dtype)


def only_centring(expression: Tensor, branch: Tensor) -> Tensor:
    """``e - mean(e) + mean(x)``"""
    return (expression - _spread(expression)[1] + _spread(branch)[1]).to(branch.dtype)


TWINS: dict[str, Join] = {
    "addition": lambda expression, branch: expression.to(branch.dtype),
    "norm": only_norm,
    "centring": only_centring,
    "full": match_statistics,
    "addition x10": lambda expression, branch: (10 * expression).to(branch.dtype),
    "addition x0.1": lambda expression, branch: (0.1 * expression).to(branch.dtype),
}


def in_one_process(join: Join) -> Callable[..., Tensor]:
    """``join`` as a block calls ``match_statistics``, which also takes how a pass is split among processes."""
    return lambda expression, branch, _parallel: join(expression, branch)


def build(graft: Path | None) -> tuple[PortraitModel, FlowConfig]:
    """A small network, or the one in the folder ``graft`` with a new way in for expression and the rest frozen."""
    if graft is None:
        return PortraitModel(SMALL), SMALL
    model = PortraitModel(WHOLE)
    new = {name: value.clone() for name, value in model.state_dict().items() if _leads_in(name)}
    model.take_weights(graft)
    model.load_state_dict(model.state_dict() | new)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(_leads_in(name) or ".attn" in name)
    return model, WHOLE


def _leads_in(name: str) -> bool:
    return name.startswith("portrait_encoder.") or ".emo_" in name


def train(folder: Path, steps: int, seed: int, graft: Path | None) -> PortraitModel:
    """One twin; the expression block is whatever is in place."""
    torch.manual_seed(seed)
    model, config = build(graft)
    if steps >= WORTH_COMPILING:
        torch.compiler.reset()  # the block of the twin before
        model.transformer.compile_repeated_blocks()
    optimizers = build_optimizers(model, config.lr, config.matrix_lr, config.weight_decay)
    rates, loop = [optimizer.param_groups[0]["lr"] for optimizer in optimizers], LoopConfig(steps=steps, warmup=50)
    batches = shard_batches(folder / "latents", BATCH, torch.Generator().manual_seed(seed))
    for step in range(steps):
        batch = next(batches)
        with torch.autocast("cpu", torch.bfloat16):
            loss = flow_loss(model, batch, config)["loss"]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), loop.clip_norm)
        for optimizer, rate in zip(optimizers, rates, strict=True):
            optimizer.param_groups[0]["lr"] = rate * learning_rate_scale(step / steps, step, loop)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    return model.eval()


class Judge:
    """Held-out scenes, and how far a twin is from them."""

    def __init__(self, folder: Path, scenes: int) -> None:
        paths = sorted((folder / "latents_held_out").glob("*.safetensors"))
        if not paths:
            raise UserError(f"{folder} holds no encoded scenes; run `flashportrait train nano --out {folder}` first")
        self.scenes = LatentScenes.join([LatentScenes.load(path)[:scenes] for path in paths]).slice(0, 3)
        pictures = [Scenes.load(folder / "scenes" / path.name)[:scenes] for path in paths]
        count = self.scenes.motion.shape[1]
        self.references = torch.cat([part.reference[:, :count] for part in pictures]).float() / 255
        self.vae: TinyVideoAutoencoder = load_autoencoder(folder)
        self.landmarker = FaceLandmarker()
        truth = torch.cat([part.frames[:, :count] for part in pictures]).float() / 255
        self.truth = [self.read(frames) for frames in truth]

    def read(self, frames: Tensor) -> np.ndarray | None:
        """Coefficients of the landmarker on every fourth frame [t 3 s s]; None where no face is seen."""
        try:
            return read_faces(to_pictures(frames[::FACE_STRIDE]), self.landmarker).blendshapes
        except UserError:
            return None

    @torch.no_grad()
    def __call__(self, model: PortraitModel, *, expression: float = 1.0) -> dict[str, float]:
        """The figures of one twin. Both configurations judge alike."""
        scenes = self.scenes
        torch.manual_seed(1)
        errors = [float(flow_loss(model, scenes, SMALL)["loss"]) for _ in range(8)]
        clean, reference = (
            rearrange(part.float(), "b f c h w -> b c f h w") for part in (scenes.latents, scenes.reference)
        )
        noise = SMALL.temperature * torch.randn_like(clean)
        arguments = reference, scenes.strength, scenes.portrait.float() / 255, scenes.motion, expression
        velocity = model(noise, torch.ones(len(clean)), *arguments)
        features = (rearrange(scenes.weight.float(), "b f c h w -> b c f h w") > 2).float()
        squared = (noise - velocity - clean).square() * features
        whole = PortraitModel.forward
        with patch.object(PortraitModel, "forward", lambda *given: whole(*given, expression)):
            latents = sample_latents(model, scenes, SAMPLING_STEPS, SMALL.shift, SMALL.temperature)
        frames = self.vae.decode(latents, parallel=True, reference=self.references)
        distances = [
            metrics.average_expression_distance(read, truth)
            for read, truth in zip((self.read(clip) for clip in frames), self.truth, strict=True)
            if read is not None and truth is not None
        ]
        return {
            "velocity_error": statistics.mean(errors),
            "features_error": float(squared.sum() / (features.sum() * clean.shape[1])),
            "aed": statistics.mean(distances) if distances else float("nan"),
            "faces_read": len(distances) / len(frames),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN")
    parser.add_argument("--quick", action="store_true", help="50 steps, or 5 with --graft, one seed")
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--graft", metavar="MODEL", help="nano or a model's folder: teach it a new way in")
    parser.add_argument("--twins", nargs="+", choices=TWINS, default=list(TWINS), metavar="NAME")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    steps, seeds = (50 if args.graft is None else 5, [0]) if args.quick else (args.steps, args.seeds)
    graft = None if args.graft is None else model_folder(args.graft)

    judge, rows = Judge(args.run, 4 if args.quick else 24), []
    columns = ("velocity_error", "features_error", "aed", "faces_read")
    print(f"{'twin':14}{'seed':>5}" + "".join(f"{column:>16}" for column in columns))
    for seed in seeds:
        for name in args.twins:
            with patch.object(expression_block, "match_statistics", in_one_process(TWINS[name])):
                model = train(args.run, steps, seed, graft)
                found = {name: judge(model)} | (
                    {"no expression": judge(model, expression=0.0)} if name == "full" else {}
                )
            for label, figures in found.items():
                rows.append({"twin": label, "seed": seed, "steps": steps, **figures})
                print(f"{label:14}{seed:5}" + "".join(f"{figures[column]:16.4f}" for column in columns), flush=True)
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(str(error)) from None
