"""The 14B's speed and memory on a GPU, with random weights, in at most eight minutes: one table, and JSON.

    python benchmarks/gpu_14b.py --out DIR [--minutes 8] [--only REGEX] [--toy]

Stages run one after another, each with a limit of its own; a stage that is done is kept in DIR and not run again, so an
interrupted script goes on when it is called again. Nothing is downloaded: weights are
random, of the released shapes, since speed doesn't depend on what they are. ``--toy`` runs the same on a CPU with a
small network, to try the script.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import io
import json
import platform
import re
import statistics
import subprocess
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flashportrait.errors import UserError
from flashportrait.evaluation.machine import timed
from flashportrait.face.motion import LAYOUTS
from flashportrait.models.transformer import FlashPortraitTransformer3DModel
from flashportrait.sampling.windows import latent_frame_count
from flashportrait.weights import plan as planning
from flashportrait.weights.float8 import Float8Linear, multiplies_float8, multiply_in_float8, rounded
from flashportrait.weights.kernels import ATTENTION, attention_of, compile_blocks, set_attention

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))

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


class Bench:
    """What stages share in one process.

    Args:
        toy: a small network on a CPU.
    """

    def __init__(self, toy: bool) -> None:
        self.toy = toy
        self.device = torch.device("cpu" if toy else "cuda")
        self.height, self.width = (64, 64) if toy else (HEIGHT, WIDTH)
        self.frames = 9 if toy else FRAMES

    @cached_property
    def network(self) -> FlashPortraitTransformer3DModel:
        """The transformer with random bfloat16 weights, attending with the fastest exact kernel there is."""
        default = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with self.device:
                model = FlashPortraitTransformer3DModel(**TOY_NETWORK if self.toy else {}).eval()
        finally:
            torch.set_default_dtype(default)
        set_attention(model, None, self.device)
        return model

    def noise(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        return torch.randn(*shape, device=self.device, dtype=dtype)

    def arguments(self, frames: int, batch: int = 1) -> dict[str, Any]:
        """Of a pass over a window of pixel frames."""
        config, latent_frames = self.network.config, latent_frame_count(frames)
        return {
            "hidden_states": self.noise(batch, config.in_channels, latent_frames, self.height // 8, self.width // 8),
            "timestep": torch.full((batch,), 900.0, device=self.device),
            "encoder_hidden_states": self.noise(batch, config.text_len, config.text_dim),
            "encoder_hidden_states_image": self.noise(batch, IMAGE_TOKENS, config.image_dim),
            "expression_tokens": self.noise(batch, latent_frames, EXPRESSION_TOKENS, config.expression_dim),
        }

    def timed(self, work: Callable[[], Any], repeats: int) -> float:
        """Median seconds, after one run that doesn't count."""
        return timed(work, self.device, repeats)

    def wait(self) -> None:
        if not self.toy:
            torch.cuda.synchronize()

    @torch.no_grad()
    def measure_pass(self, frames: int | None = None, repeats: int = 3, batch: int = 1) -> dict[str, Any]:
        """Seconds, arithmetic and memory of a pass."""
        given = self.arguments(frames or self.frames, batch)
        if not self.toy:
            torch.cuda.reset_peak_memory_stats()
        seconds = self.timed(lambda: self.network(**given), repeats)
        shape = given["hidden_states"].shape
        tokens = shape[2] * shape[3] * shape[4] // 4
        result: dict[str, Any] = {"seconds": seconds, "tokens": tokens, "attention": attention_of(self.network)}
        if not self.toy:
            result["tflops"] = batch * planning.forward_flops(tokens) / seconds / 1e12
            result["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        return result


def ceiling(bench: Bench) -> dict[str, Any]:
    """What large products reach on this device: bfloat16, and fp8 with scales by row where there is one."""
    side = 256 if bench.toy else 8192
    a, b = bench.noise(side, side), bench.noise(side, side)
    result = {"bf16_tflops": 2 * side**3 / bench.timed(lambda: a @ b, 10) / 1e12}
    if multiplies_float8(bench.device):
        linear = torch.nn.Linear(side, side, bias=False, device=bench.device, dtype=torch.bfloat16)
        layer = Float8Linear(linear)
        tokens, scale = rounded(a)

        def product() -> Tensor:
            return torch._scaled_mm(
                tokens,
                layer.weight.t(),
                scale_a=scale,
                scale_b=layer.scale,
                out_dtype=torch.bfloat16,
                use_fast_accum=True,
            )

        result["fp8_tflops"] = 2 * side**3 / bench.timed(product, 10) / 1e12
        result["fp8_with_rounding_tflops"] = 2 * side**3 / bench.timed(lambda: layer(a), 10) / 1e12
    return result


@torch.no_grad()
def attention(bench: Bench) -> dict[str, Any]:
    """Kernels of attention beside each other, seconds of one block's in a pass over 81 frames."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    tokens, heads = (256, 2) if bench.toy else (32760, 40)
    query, key, value = (bench.noise(1, tokens, heads, 128) for _ in range(3))
    holder = FlashPortraitTransformer3DModel(**TOY_NETWORK | {"num_layers": 1})
    result: dict[str, Any] = {}
    exact = dispatch_attention_fn(query, key, value, backend="native").float()

    def note(name: str, attend: Callable[[], Tensor]) -> None:
        result[name] = bench.timed(attend, 3)
        result[f"{name}_error"] = float((attend().float() - exact).norm() / exact.norm())
        result[f"{name}_tflops"] = 4 * tokens**2 * heads * 128 / result[name] / 1e12

    for name, backend in ATTENTION.items():
        try:
            set_attention(holder, name, bench.device)
            note(name, partial(dispatch_attention_fn, query, key, value, backend=backend))
        except (UserError, RuntimeError) as error:
            result[name] = str(error)[:120]
    with contextlib.suppress(ImportError, OSError):
        from fa3_fwd_interface import flash_attn_func

        rounded_all = [tensor.to(torch.float8_e4m3fn) for tensor in (query, key, value)]
        note("flash3 in fp8", partial(flash_attn_func, *rounded_all))
    return result


def eager(bench: Bench) -> dict[str, Any]:
    """A pass over 81 frames as it stands, with PyTorch's own attention and with the fastest exact one."""
    best = attention_of(bench.network)
    set_attention(bench.network, "native", bench.device)
    native = bench.measure_pass()
    set_attention(bench.network, best, bench.device)
    return {"native_seconds": native["seconds"], **(bench.measure_pass() if best != "native" else native)}


def batch(bench: Bench) -> dict[str, Any]:
    """Two guidance branches in one pass, seconds a branch."""
    result = bench.measure_pass(batch=2, repeats=1)
    return {**result, "seconds": result["seconds"] / 2}


def windows(bench: Bench) -> dict[str, Any]:
    """A pass at each length of window."""
    lengths = (2, 3) if bench.toy else (13, 31, 51)
    return {str(length): bench.measure_pass(4 * (length - 1) + 1, 1)["seconds"] for length in lengths}


def compiled(bench: Bench) -> dict[str, Any]:
    """A pass with compiled blocks; the time of compiling beside it."""
    compile_blocks(bench.network, backend="eager" if bench.toy else None)
    return {"compiling_seconds": _first_pass(bench), **bench.measure_pass()}


def compiled_fp8(bench: Bench) -> dict[str, Any]:
    """The same with the inner blocks' linear layers multiplied in fp8, compiled again, and how far that is off."""
    if not bench.toy and not multiplies_float8(bench.device):
        return {"error": "this device has no products of fp8"}

    def change() -> None:
        blocks = bench.network.blocks
        for block in blocks[planning.FP8_FIRST : len(blocks) - planning.FP8_LAST]:
            multiply_in_float8(block)

    return _changed(bench, change)


def fp8_attention(bench: Bench) -> dict[str, Any]:
    """That with self-attention in fp8 too."""
    return _changed(bench, lambda: None if bench.toy else set_attention(bench.network, "flash3-fp8", bench.device))


@torch.no_grad()
def _changed(bench: Bench, change: Callable[[], object]) -> dict[str, Any]:
    """A pass after a change of the network, compiled again, and the relative change of its result."""
    given = bench.arguments(bench.frames)
    exact = bench.network(**given).float()
    change()
    seconds = _first_pass(bench)
    error = (bench.network(**given).float() - exact).norm() / exact.norm()
    return {"compiling_seconds": seconds, "relative_change": float(error), **bench.measure_pass()}


@torch.no_grad()
def profile(bench: Bench) -> dict[str, Any]:
    """Where the time of a pass of the network as it now is goes, by kernel."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    given = bench.arguments(bench.frames)
    bench.network(**given)
    bench.wait()
    kinds = [ProfilerActivity.CPU if bench.toy else ProfilerActivity.CUDA]
    with profiler(activities=kinds) as seen:
        bench.network(**given)
        bench.wait()

    def spent(event: Any) -> float:
        return event.self_cpu_time_total if bench.toy else event.self_device_time_total

    events = sorted(seen.key_averages(), key=spent, reverse=True)[:20]
    return {
        f"{place}: {event.key[:60]}": f"{spent(event) / 1e3:.1f} ms in {event.count}"
        for place, event in enumerate(events, 1)
    }


def _first_pass(bench: Bench) -> float:
    given = bench.arguments(bench.frames)
    started = time.perf_counter()
    with torch.no_grad():
        bench.network(**given)
    bench.wait()
    return time.perf_counter() - started


def sampling(bench: Bench) -> dict[str, Any]:
    """A small window sampled exactly and at 6 times fewer calls; what waits for the device meanwhile."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    from flashportrait.models.portrait_encoder import PortraitEncoder
    from flashportrait.pipeline import FlashPortraitPipeline
    from flashportrait.sampling.speed import SPEEDS

    config, latent_frames = bench.network.config, 3
    sizes = {"token_dim": config.expression_dim} if bench.toy else {}
    encoder = PortraitEncoder(**sizes).to(bench.device).eval()
    pipeline = FlashPortraitPipeline.for_sampling(
        transformer=bench.network, portrait_encoder=encoder, scheduler=FlowMatchEulerDiscreteScheduler(shift=5.0)
    )
    pipeline.set_progress_bar_config(disable=True)
    grid = bench.height // 8, bench.width // 8
    given = {
        "noise": bench.noise(1, 16, latent_frames, *grid, dtype=torch.float32),
        "prompt_embeds": bench.noise(1, config.text_len, config.text_dim),
        "negative_prompt_embeds": bench.noise(1, config.text_len, config.text_dim),
        "image_embeds": bench.noise(1, IMAGE_TOKENS, config.image_dim),
        "reference_latents": bench.noise(1, 20, latent_frames, *grid),
        "motion": bench.noise(1, 4 * latent_frames - 3, LAYOUTS["pdfgc"].width, dtype=torch.float32),
        "num_inference_steps": STEPS,
        "window": latent_frames,
        "overlap": 0,
    }
    result: dict[str, Any] = {}
    pipeline.sample_latents(**given | {"num_inference_steps": 1})
    for speed in ("exact", "fast"):
        bench.wait()
        started = time.perf_counter()
        pipeline.sample_latents(**given, predictor=SPEEDS[speed])
        bench.wait()
        result[speed] = time.perf_counter() - started
    result["faster"] = result["exact"] / result["fast"]
    if not bench.toy:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            pipeline.sample_latents(**given, predictor=SPEEDS["fast"])
            torch.cuda.set_sync_debug_mode("default")
        waits = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if "synchroniz" in str(w.message))
        result["waits"] = dict(waits)
    return result


def prediction(bench: Bench) -> dict[str, Any]:
    """A predicted step of a window of 51 latent frames, and the memory that a window's history takes."""
    from flashportrait.sampling.speed import SPEEDS

    velocity = bench.noise(1, 16, 3 if bench.toy else 51, bench.height // 8, bench.width // 8, dtype=torch.float32)
    sigmas = [1 - step / STEPS for step in range(STEPS + 1)]
    seconds, peak = [], 0
    state = SPEEDS["fast"].start(sigmas)
    for step in range(STEPS):
        computed = state.is_full(0, step)
        bench.wait()
        started = time.perf_counter()
        state.step(0, step, lambda: velocity)
        bench.wait()
        if not computed:
            seconds.append(time.perf_counter() - started)
        peak = max(peak, state.memory_bytes)
    return {"seconds": statistics.median(seconds), "history_gib": peak / 2**30}


@torch.no_grad()
def decoding(bench: Bench) -> dict[str, Any]:
    """A frame of each autoencoder, decoded as a stream, and the portrait's clip encoded."""
    from diffusers import AutoencoderKLWan

    from flashportrait.models.streaming_vae import encode_portrait, streaming_decoder
    from flashportrait.models.tiny_vae import TinyVideoAutoencoder

    result: dict[str, Any] = {}
    for name, vae in (
        ("wan", AutoencoderKLWan(**{"base_dim": 8} if bench.toy else {})),
        ("tiny", TinyVideoAutoencoder()),
    ):
        vae = vae.to(bench.device, torch.bfloat16).eval()
        decoder = streaming_decoder(vae)
        latents = bench.noise(1, 16, 1, bench.height // 8, bench.width // 8, dtype=torch.float32)
        decoder.push(latents)
        result[f"{name}_seconds_a_frame"] = bench.timed(lambda d=decoder, z=latents: d.push(z), 3) / 4
        portrait = torch.rand(1, 3, bench.height, bench.width, device=bench.device)
        frames = 3 if bench.toy else 51
        result[f"{name}_encoding"] = bench.timed(lambda v=vae, p=portrait, f=frames: encode_portrait(v, p, f), 1)
    return result


def command(bench: Bench) -> dict[str, Any]:
    """The whole command on a toy of the released layout at full size: a short clip."""
    return _command(bench.toy, ["--speed", "fast"], 21)


def small_card(bench: Bench) -> dict[str, Any]:
    """The same on a card of 24 GB, simulated by a limit on memory: within the planned peak?"""
    return _command(bench.toy, ["--speed", "turbo"], 21, None if bench.toy else 24e9)


def long_command(bench: Bench) -> dict[str, Any]:
    """The whole command for 20 s of driver at 480x832, in bfloat16."""
    options = ["--speed", "fast", "--window", "21", "--overlap", "5", *([] if bench.toy else ["--compile"])]
    return _command(bench.toy, options, CLIP_FRAMES)


def long_command_fp8(bench: Bench) -> dict[str, Any]:
    """The same with layers and self-attention in fp8."""
    options = ["--speed", "fast", "--window", "21", "--overlap", "5", "--weights", "fp8"]
    return _command(
        bench.toy, [*options, *([] if bench.toy else ["--compile", "--attention", "flash3-fp8"])], CLIP_FRAMES
    )


def _command(toy: bool, options: list[str], frames: int, limit: float | None = None) -> dict[str, Any]:
    from flashportrait.cli import main
    from flashportrait.weights import machine
    from make_toy_14b import make

    folder = Path("/tmp/flashportrait-14b" + ("-toy" if toy else "-full"))
    if not (folder / "face_landmark.onnx").exists():
        make(folder, full=not toy)
    if limit is not None:
        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(limit / total)
        real = machine.detect_machine

        def limited(device: Any = None) -> Any:
            return replace(real(device), name="24 GB (simulated)", free_vram=int(limit))

        machine.detect_machine = limited
    out = folder / "out.mp4"
    chosen = ["--model", str(folder), "--size", str(64 if toy else WIDTH), "--restart", "--json"]
    chosen += ["--device", "cpu"] if toy else []
    chosen += [] if find_spec("c2pa") else ["--no-mark"]  # a bare machine of measuring signs nothing
    said = io.StringIO()
    inputs = [str(path) for path in _inputs(folder, 5 if toy else frames)]
    with contextlib.redirect_stdout(said):
        code = main(["animate", *inputs, "-o", str(out), *chosen, *options])
    if code:
        raise RuntimeError(f"animate ended with {code}")
    made = json.loads(said.getvalue())
    result = {name: made[name] for name in ("seconds", "frames", "attention", "size") if name in made}
    result["peak_gb"] = made["peak_device_memory_bytes"] / 1e9
    return result


def _inputs(folder: Path, frames: int) -> tuple[Path, Path]:
    """A portrait of 480x832 and a driver of so many frames: an example's, forth and back as often as needed."""
    from PIL import Image, ImageOps

    from flashportrait.media.clip import open_clip
    from flashportrait.media.writer import VideoWriter

    examples = Path(__file__).resolve().parents[1] / "examples"
    portrait, driver = folder / "portrait.png", folder / f"driver_{frames}.mp4"
    with Image.open(examples / "portrait_1.jpg") as picture:
        ImageOps.fit(picture.convert("RGB"), (WIDTH, HEIGHT)).save(portrait)
    if not driver.exists():
        shown = list(open_clip(examples / "driving_talking.mp4"))
        there_and_back = [*shown, *shown[-2:0:-1]]
        with VideoWriter(driver, Fraction(25), mark=False) as writer:
            for index in range(frames):
                writer.write(there_and_back[index % len(there_and_back)])
    return portrait, driver


STAGES: dict[str, tuple[Callable[[Bench], dict[str, Any]], float]] = {
    "ceiling": (ceiling, 60),
    "attention": (attention, 45),
    "prediction": (prediction, 20),
    "pass": (eager, 75),
    "pass of two": (batch, 40),
    "sampling": (sampling, 75),
    "windows": (windows, 75),
    "decoding": (decoding, 45),
    "pass compiled": (compiled, 120),
    "profile": (profile, 40),
    "pass fp8": (compiled_fp8, 120),
    "profile fp8": (profile, 40),
    "pass fp8 attention": (fp8_attention, 60),
    "command": (command, 120),
    "small card": (small_card, 120),
    "long command fp8": (long_command_fp8, 290),
    "long command": (long_command, 360),
}
"""What is measured, with the seconds that it may take, in the order of work."""

ALONE = ("command", "small card", "long command", "long command fp8")
"""Stages that load a model of their own, each in a process of its own; the others share one, and its network."""


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


def measure(names: Sequence[str], out: Path, toy: bool) -> None:
    """Stages one after another in this process; what each gives, or its error, is kept as soon as it is there."""
    bench = Bench(toy)
    for name in names:
        gc.collect()
        if not toy:
            torch.cuda.empty_cache()
        try:
            result = STAGES[name][0](bench)
        except Exception as error:  # noqa: BLE001 - whatever it is: the other stages are measured all the same
            traceback.print_exc()
            result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]}
        whole = file_of(out, name).with_suffix(".part")
        whole.write_text(json.dumps(result))
        whole.replace(file_of(out, name))


def file_of(out: Path, name: str) -> Path:
    return out / f"{name.replace(' ', '-')}.json"


def finished(out: Path, name: str) -> dict[str, Any] | None:
    """What a stage gave, if it was measured."""
    file = file_of(out, name)
    return json.loads(file.read_text()) if file.exists() else None


def run_stages(names: Sequence[str], out: Path, toy: bool, deadline: float) -> None:
    """Stages in a process that is ended if one takes too long; the others then go on in a new one."""
    left = list(names)
    while left and time.monotonic() < deadline - 5:
        call = [sys.executable, __file__, "--out", str(out), "--stages", ",".join(left), *(["--toy"] if toy else [])]
        with (out / "log.txt").open("a") as log, subprocess.Popen(call, stdout=log, stderr=log) as process:
            started = time.monotonic()
            while left:
                if process.poll() is not None and finished(out, left[0]) is None:
                    keep_error(out, left.pop(0), f"the process ended with {process.returncode}: see log.txt")
                    break
                if finished(out, left[0]) is not None:
                    print(
                        f"{left[0]} [{time.monotonic() - started:.0f} s]",
                        json.dumps(finished(out, left[0])),
                        flush=True,
                    )
                    left.pop(0)
                    started = time.monotonic()
                elif time.monotonic() > min(started + STAGES[left[0]][1], deadline):
                    keep_error(out, left.pop(0), f"took more than {time.monotonic() - started:.0f} s")
                    break
                time.sleep(0.1)
            process.kill()


def keep_error(out: Path, name: str, reason: str) -> None:
    print(name, reason, flush=True)
    file_of(out, name).write_text(json.dumps({"error": reason}))


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
    parser.add_argument("--stages", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if not args.toy and not torch.cuda.is_available():
        parser.error("no GPU found: --toy tries the script on a CPU")
    if args.stages:
        measure(args.stages.split(","), args.out, args.toy)
        return
    deadline = time.monotonic() + 60 * args.minutes
    names = [name for name in STAGES if not args.only or re.search(args.only, name)]
    for name in names:
        if "error" in (finished(args.out, name) or {}):
            file_of(args.out, name).unlink()
    missing = [name for name in names if finished(args.out, name) is None]
    for group in ([name for name in missing if name not in ALONE], *([name] for name in missing if name in ALONE)):
        run_stages(group, args.out, args.toy, deadline)
    results = {name: finished(args.out, name) or {"error": "no time left"} for name in names}
    totals = {} if args.toy else summed(results)
    device = platform.processor() if args.toy else torch.cuda.get_device_name()
    facts = {"device": device, "torch": torch.__version__, "stages": results, "clips": totals}
    (args.out / "all.json").write_text(json.dumps(facts, indent=1))
    print(f"\n{device}, torch {torch.__version__}\n\n{show(results, totals)}")


if __name__ == "__main__":
    main()
