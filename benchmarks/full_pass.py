"""One pass of the released transformer's layout at full size, on random weights: seconds, memory, arithmetic.

    python benchmarks/full_pass.py [--quick] [--sizes 512x512 480x832] [--frames 81] [--blocks 40] [--json FILE]

Needs a GPU with 40 GB; nothing is downloaded. Beside the peak of memory stands what ``weights/plan.py`` predicts, by
which ``--model 14b`` decides what fits. ``--quick`` shrinks the network to a size for any CPU; nothing is predicted
then.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from flashportrait.evaluation.machine import timed
from flashportrait.models.transformer import FlashPortraitTransformer3DModel
from flashportrait.sampling.windows import latent_frame_count
from flashportrait.weights import plan

SMALL = {
    "num_layers": 2,
    "num_attention_heads": 2,
    "ffn_dim": 256,
    "text_dim": 64,
    "image_dim": 64,
    "added_kv_proj_dim": 256,
    "expression_dim": 64,
}
IMAGE_TOKENS, EXPRESSION_TOKENS = 257, 16


def build(device: str, blocks: int | None) -> FlashPortraitTransformer3DModel:
    """The transformer with random bfloat16 weights; ``None`` blocks: the small one."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            return FlashPortraitTransformer3DModel(**SMALL if blocks is None else {"num_layers": blocks}).eval()
    finally:
        torch.set_default_dtype(default)


@torch.no_grad()
def measure(
    model: FlashPortraitTransformer3DModel, frames: int, height: int, width: int, repeats: int
) -> dict[str, Any]:
    """Median seconds of a pass over one window, and the device's peak memory in bytes (None on a CPU)."""
    config, device = model.config, model.device
    latent_frames = latent_frame_count(frames)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=model.dtype)

    inputs = (
        noise(1, config.in_channels, latent_frames, height // 8, width // 8),
        torch.full((1,), 900.0, device=device),
        noise(1, config.text_len, config.text_dim),
        noise(1, IMAGE_TOKENS, config.image_dim),
        noise(1, latent_frames, EXPRESSION_TOKENS, config.expression_dim),
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    seconds = timed(lambda: model(*inputs), device, repeats)
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    tokens = plan.window_tokens(plan.Work(height, width, latent_frames), latent_frames)
    return {"size": [height, width], "tokens": tokens, "seconds": seconds, "peak_bytes": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a small network, on any machine")
    parser.add_argument("--sizes", nargs="+", default=["512x512", "480x832"], metavar="HxW")
    parser.add_argument("--frames", type=int, default=81)
    parser.add_argument("--blocks", type=int, default=plan.LAYERS)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not args.quick:
        parser.error("no GPU found: the full network needs one with 40 GB; --quick runs a small one here")

    model = build(device, None if args.quick else args.blocks)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    rows = []
    for size in ["128x128"] if args.quick else args.sizes:
        row = measure(model, 9 if args.quick else args.frames, *map(int, size.split("x")), repeats=3)
        if not args.quick and args.blocks == plan.LAYERS:
            row |= {"predicted_peak_bytes": weights + plan.activation_bytes(row["tokens"])}
            row |= {"tflops": plan.forward_flops(row["tokens"]) / row["seconds"] / 1e12}
        rows.append(row)
        print(", ".join(f"{key} {value}" for key, value in row.items()), flush=True)
    if args.json:
        args.json.write_text(json.dumps({"weight_bytes": weights, "passes": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
