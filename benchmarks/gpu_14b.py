"""The 14B's speed and memory on a GPU, with random weights, in at most eight minutes: one table, and JSON.

    python benchmarks/gpu_14b.py --out DIR [--minutes 8] [--only REGEX] [--toy]

Stages run in order of importance, each in a process of its own with a limit of its own; a stage that is done is kept in
DIR and not run again, so an interrupted script goes on when it is called again. Nothing is downloaded: weights are
random, of the released shapes, since speed doesn't depend on what they are. ``--toy`` runs the same on a CPU with a
small network, to try the script.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from flashportrait.models.transformer import FlashPortraitTransformer3DModel
from flashportrait.sampling.windows import latent_frame_count
from flashportrait.weights import plan as planning
from flashportrait.weights.kernels import attention_of, compile_blocks, set_attention

TOY_NETWORK = {
    "num_layers": 6,
    "num_attention_heads": 2,
    "ffn_dim": 256,
    "text_dim": 64,
    "image_dim": 64,
    "added_kv_proj_dim": 256,
    "expression_dim": 64,
}
IMAGE_TOKENS, EXPRESSION_TOKENS = 257, 97
FRAMES, HEIGHT, WIDTH = 81, 480, 832
"""Of the pass by which engines are compared."""
CLIP_FRAMES, STEPS, BRANCHES = 501, 30, 2
"""20 s, sampled as released."""


def device_of(toy: bool) -> torch.device:
    return torch.device("cpu" if toy else "cuda")


def network(toy: bool) -> FlashPortraitTransformer3DModel:
    """The transformer with random bfloat16 weights."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device_of(toy)):
            model = FlashPortraitTransformer3DModel(**TOY_NETWORK if toy else {}).eval()
    finally:
        torch.set_default_dtype(default)
    return model


def arguments(model: FlashPortraitTransformer3DModel, frames: int, toy: bool) -> dict[str, Any]:
    """Of a pass over a window of pixel frames."""
    config, device, latent_frames = model.config, device_of(toy), latent_frame_count(frames)
    height, width = (64, 64) if toy else (HEIGHT, WIDTH)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device=device, dtype=torch.bfloat16)

    return {
        "hidden_states": noise(1, config.in_channels, latent_frames, height // 8, width // 8),
        "timestep": torch.full((1,), 900.0, device=device),
        "encoder_hidden_states": noise(1, config.text_len, config.text_dim),
        "encoder_hidden_states_image": noise(1, IMAGE_TOKENS, config.image_dim),
        "expression_tokens": noise(1, latent_frames, EXPRESSION_TOKENS, config.expression_dim),
    }


def timed(work: Callable[[], Any], repeats: int, toy: bool) -> float:
    """Median seconds, after one run that doesn't count."""
    seconds = []
    for _ in range(repeats + 1):
        wait(toy)
        started = time.perf_counter()
        work()
        wait(toy)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[1:])


def wait(toy: bool) -> None:
    if not toy:
        torch.cuda.synchronize()


@torch.no_grad()
def measure_pass(model: FlashPortraitTransformer3DModel, frames: int, toy: bool, repeats: int = 3) -> dict[str, Any]:
    """Seconds, arithmetic and memory of a pass."""
    given = arguments(model, frames, toy)
    if not toy:
        torch.cuda.reset_peak_memory_stats()
    seconds = timed(lambda: model(**given), repeats, toy)
    shape = given["hidden_states"].shape
    tokens = shape[2] * shape[3] * shape[4] // 4
    result: dict[str, Any] = {"seconds": seconds, "tokens": tokens, "attention": attention_of(model)}
    if not toy:
        result["tflops"] = planning.forward_flops(tokens) / seconds / 1e12
        result["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
    return result


def ceiling(toy: bool) -> dict[str, Any]:
    """What large products reach on this device: bfloat16, and fp8 with scales by row where there is one."""
    side, device = (256 if toy else 8192), device_of(toy)
    a, b = (torch.randn(side, side, device=device, dtype=torch.bfloat16) for _ in range(2))
    result = {"bf16_tflops": 2 * side**3 / timed(lambda: a @ b, 5, toy) / 1e12}
    if not toy and torch.cuda.get_device_capability() >= (8, 9):
        one = torch.ones(side, 1, device=device)
        x, y = a.to(torch.float8_e4m3fn), b.to(torch.float8_e4m3fn).t()

        def product() -> torch.Tensor:
            return torch._scaled_mm(x, y, one, one.t(), out_dtype=torch.bfloat16)

        result["fp8_tflops"] = 2 * side**3 / timed(product, 5, toy) / 1e12
    return result


def eager(toy: bool) -> dict[str, Any]:
    """A pass over 81 frames as it stands."""
    model = network(toy)
    set_attention(model, None, device_of(toy))
    return measure_pass(model, 9 if toy else FRAMES, toy)


def compiled(toy: bool) -> dict[str, Any]:
    """The same with compiled blocks; the time of compiling beside it."""
    model = network(toy)
    set_attention(model, None, device_of(toy))
    compile_blocks(model, backend="eager" if toy else None)
    given = arguments(model, 9 if toy else FRAMES, toy)
    started = time.perf_counter()
    with torch.no_grad():
        model(**given)
    wait(toy)
    return {"compiling_seconds": time.perf_counter() - started, **measure_pass(model, 9 if toy else FRAMES, toy)}


def attention(toy: bool) -> dict[str, Any]:
    """Kernels of attention beside each other, on one block's worth of a pass over 81 frames."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    from flashportrait.errors import UserError
    from flashportrait.weights.kernels import ATTENTION

    device, tokens, heads = device_of(toy), (256 if toy else 32760), (2 if toy else 40)
    query = torch.randn(1, tokens, heads, 128, device=device, dtype=torch.bfloat16)
    holder = FlashPortraitTransformer3DModel(**TOY_NETWORK | {"num_layers": 1})
    result: dict[str, Any] = {}
    for name, backend in ATTENTION.items():
        try:
            set_attention(holder, name, device)
        except UserError as error:
            result[name] = str(error)[:80]
            continue

        def attend(backend: str = backend) -> torch.Tensor:
            return dispatch_attention_fn(query, query, query, backend=backend)

        result[name] = timed(attend, 3, toy)
    return result


def windows(toy: bool) -> dict[str, Any]:
    """A pass at each length of window."""
    model = network(toy)
    set_attention(model, None, device_of(toy))
    lengths = (2, 3) if toy else (13, 21, 31, 51)
    return {str(length): measure_pass(model, 4 * (length - 1) + 1, toy, 1)["seconds"] for length in lengths}


def prediction(toy: bool) -> dict[str, Any]:
    """A predicted step of a window of 51 latent frames, and the memory that a window's history takes."""
    from flashportrait.sampling.speed import SPEEDS

    shape = (1, 16, 3, 8, 8) if toy else (1, 16, 51, HEIGHT // 8, WIDTH // 8)
    velocity = torch.randn(shape, device=device_of(toy))
    sigmas = [1 - step / STEPS for step in range(STEPS + 1)]
    seconds, peak = [], 0
    state = SPEEDS["fast"].start(sigmas)
    for step in range(STEPS):
        computed = state.is_full(0, step)
        wait(toy)
        started = time.perf_counter()
        state.step(0, step, lambda: velocity)
        wait(toy)
        if not computed:
            seconds.append(time.perf_counter() - started)
        peak = max(peak, state.memory_bytes)
    return {"seconds": statistics.median(seconds), "history_gib": peak / 2**30}


@torch.no_grad()
def decoding(toy: bool) -> dict[str, Any]:
    """A frame of each autoencoder, decoded as a stream, and the portrait's clip encoded."""
    from diffusers import AutoencoderKLWan

    from flashportrait.models.streaming_vae import encode_portrait, streaming_decoder
    from flashportrait.models.tiny_vae import TinyVideoAutoencoder

    device, side = device_of(toy), ((64, 64) if toy else (HEIGHT, WIDTH))
    result = {}
    for name, vae in (("wan", AutoencoderKLWan(**{"base_dim": 8} if toy else {})), ("tiny", TinyVideoAutoencoder())):
        vae = vae.to(device, torch.bfloat16).eval()
        decoder = streaming_decoder(vae)
        latents = torch.randn(1, 16, 1, side[0] // 8, side[1] // 8, device=device)
        decoder.push(latents)
        result[f"{name}_seconds_a_frame"] = timed(lambda d=decoder, z=latents: d.push(z), 3, toy) / 4
        portrait = torch.rand(1, 3, *side, device=device)
        frames = 3 if toy else 51
        result[f"{name}_encoding"] = timed(lambda v=vae, p=portrait, f=frames: encode_portrait(v, p, f), 1, toy)
    return result


def command(toy: bool) -> dict[str, Any]:
    """The whole command on a toy of the released layout at full size: a short clip, four steps of prediction."""
    return _command(toy, [] if toy else ["--speed", "turbo"], None)


def small_card(toy: bool) -> dict[str, Any]:
    """The same on a card of 24 GB, simulated by a limit on memory: within the planned peak?"""
    return _command(toy, ["--speed", "turbo"] if not toy else [], None if toy else 24e9)


def _command(toy: bool, options: list[str], limit: float | None) -> dict[str, Any]:
    from flashportrait.cli import main
    from flashportrait.weights import plan
    from make_toy_14b import make

    folder = Path("/tmp/flashportrait-14b" + ("-toy" if toy else "-full"))
    if not (folder / "face_landmark.onnx").exists():
        make(folder, full=not toy)
    if limit is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(limit / total)
        real = plan.detect_machine

        def limited(device: Any = None) -> Any:
            return replace(real(device), name="24 GB (simulated)", free_vram=int(limit))

        plan.detect_machine = limited
    examples = Path(__file__).resolve().parents[1] / "examples"
    out = folder / "out.mp4"
    frames, size = ("5", "64") if toy else ("21", "832")
    chosen = ["--model", str(folder), "--size", size, "--trim", f"0f:{frames}f", "--restart", "--json"]
    chosen += ["--steps", "2"] if toy else []
    if toy:
        chosen += ["--device", "cpu"]
    said = io.StringIO()
    inputs = [str(examples / "portrait_1.jpg"), str(examples / "driving_talking.mp4")]
    with contextlib.redirect_stdout(said):
        code = main(["animate", *inputs, "-o", str(out), *chosen, *options])
    if code:
        raise RuntimeError(f"animate ended with {code}")
    made = json.loads(said.getvalue())
    result = {"seconds": made["seconds"], "frames": made["frames"], "attention": made["attention"]}
    result["peak_gb"] = made["peak_device_memory_bytes"] / 1e9
    return result


STAGES: dict[str, tuple[Callable[[bool], dict[str, Any]], int]] = {
    "ceiling": (ceiling, 60),
    "pass": (eager, 60),
    "pass compiled": (compiled, 120),
    "attention": (attention, 45),
    "decoding": (decoding, 45),
    "prediction": (prediction, 20),
    "command": (command, 150),
    "small card": (small_card, 120),
    "windows": (windows, 60),
}
"""What is measured, in order of importance, with the seconds that it may take."""


def summed(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """A video of 20 s from measured parts: windows x computed steps x branches x seconds of a pass, and decoding."""
    from flashportrait.sampling.windows import WindowPlan

    parts = [results.get(name, {}) for name in ("pass", "pass compiled", "windows", "decoding")]
    eager_pass, compiled_pass, lengths, decode = parts
    if "seconds" not in eager_pass or "wan_seconds_a_frame" not in decode:
        return {}
    ratio = compiled_pass.get("seconds", eager_pass["seconds"]) / eager_pass["seconds"]
    totals = {}
    for length, overlap in ((21, 5), (51, 30)):
        seconds = lengths.get(str(length), eager_pass["seconds"] if length == 21 else None)
        if seconds is None:
            continue
        windows_needed = len(WindowPlan(latent_frame_count(CLIP_FRAMES), length, overlap))
        for calls in (STEPS, 5):
            passes = windows_needed * calls * BRANCHES
            total = passes * seconds * ratio + CLIP_FRAMES * decode["wan_seconds_a_frame"]
            totals[f"windows of {length} sharing {overlap}, {calls} calls of {STEPS} steps: {passes} passes"] = total
        fast = windows_needed * 4 * BRANCHES * seconds * ratio + CLIP_FRAMES * decode["tiny_seconds_a_frame"]
        totals[f"windows of {length} sharing {overlap}, 4-step schedule, tiny autoencoder"] = fast
    return totals


def _measure(name: str, out: Path, toy: bool) -> dict[str, Any]:
    """One stage in this process, kept when it is done."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
    result = STAGES[name][0](toy)
    (out / f"{name.replace(' ', '-')}.json").write_text(json.dumps(result))
    return result


def run_stage(name: str, out: Path, toy: bool, limit: float) -> dict[str, Any]:
    """One stage in a process of its own."""
    file = out / f"{name.replace(' ', '-')}.json"
    if file.exists() and "error" not in (kept := json.loads(file.read_text())):
        return kept
    if toy and name != next(iter(STAGES)):  # starting Python takes longer than the stage
        return _measure(name, out, toy)
    call = [sys.executable, __file__, "--out", str(out), "--stage", name, *(["--toy"] if toy else [])]
    try:
        done = subprocess.run(call, timeout=limit, capture_output=True, text=True)
        if done.returncode == 0:
            return json.loads(file.read_text())
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        result = {"error": reason[:300]}
    except subprocess.TimeoutExpired:
        result = {"error": f"took more than {limit:.0f} s"}
    file.write_text(json.dumps(result))
    return result


def show(results: dict[str, dict[str, Any]], totals: dict[str, float]) -> str:
    """As a table."""
    lines = ["| stage | result |", "|---|---|"]
    for name, result in results.items():
        cells = [
            f"{key} {value:.4g}" if isinstance(value, float) else f"{key} {value}" for key, value in result.items()
        ]
        lines.append(f"| {name} | {', '.join(cells)} |")
    return "\n".join([*lines, *(f"| 20 s, {name} | {seconds:.0f} s |" for name, seconds in totals.items())])


def main() -> None:
    """Run what isn't done yet, and print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="where results are kept")
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything; stages that don't fit are left out")
    parser.add_argument("--only", metavar="REGEX", help="stages whose names match")
    parser.add_argument("--toy", action="store_true", help="a small network, on a CPU")
    parser.add_argument("--stage", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.toy and not torch.cuda.is_available():
        parser.error("no GPU found: --toy tries the script on a CPU")
    if args.stage:
        _measure(args.stage, args.out, args.toy)
        return
    deadline, results = time.monotonic() + 60 * args.minutes, {}
    for name, (_, limit) in STAGES.items():
        if args.only and not re.search(args.only, name):
            continue
        left = deadline - time.monotonic()
        if left < 5:
            results[name] = {"error": "no time left"}
            continue
        results[name] = run_stage(name, args.out, args.toy, min(limit, left))
        print(name, json.dumps(results[name]), flush=True)
    totals = {} if args.toy else summed(results)
    device = platform.processor() if args.toy else torch.cuda.get_device_name()
    facts = {"device": device, "torch": torch.__version__, "stages": results, "clips": totals}
    (args.out / "all.json").write_text(json.dumps(facts, indent=1))
    print(f"\n{device}, torch {torch.__version__}\n\n{show(results, totals)}")


if __name__ == "__main__":
    main()
