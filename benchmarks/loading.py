"""Host memory while a checkpoint in the released layout is loaded, against a plain ``torch.load``.

    python benchmarks/loading.py [--quick] [--gigabytes 3] [--json FILE]

A transformer of the given size is written in the released layout, as one ``.pt`` and as safetensors shards, and
loaded in a fresh process for each row. The claim: however it is loaded, host memory peaks at no more than the largest
shard + 2 GB, the Python process with torch and diffusers included.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = {"dim": 2048, "ffn_dim": 8192, "num_heads": 16}
BYTES_PER_BLOCK = 170e6
SHARDS = 4
MARGIN_BYTES = 2e9

CASES = {
    "plain": "one .pt, torch.load and load_state_dict (for comparison)",
    "mapped": "one .pt, left in the file",
    "used": "one .pt, left in the file, every weight read",
    "shards": f"{SHARDS} safetensors shards, left in the files",
    "fp8": f"{SHARDS} safetensors shards, converted to fp8 as they are read",
}


def write_checkpoint(folder: Path, blocks: int) -> None:
    """Fill ``folder`` with ``one/transformer.pt`` and ``shards/``, in bfloat16."""
    import torch
    from safetensors.torch import save_file

    from flashportrait.checkpoints.config import transformer_config
    from flashportrait.checkpoints.tables import TRANSFORMER
    from flashportrait.models.transformer import FlashPortraitTransformer3DModel

    with torch.device("meta"):
        model = FlashPortraitTransformer3DModel(**transformer_config(**CONFIG, num_layers=blocks))
    shapes = {key: tensor.shape for key, tensor in TRANSFORMER.to_official(model.state_dict()).items()}
    state = {key: torch.full(shape, 0.01, dtype=torch.bfloat16) for key, shape in shapes.items()}
    (folder / "one").mkdir()
    torch.save(state, folder / "one" / "transformer.pt")
    (folder / "shards").mkdir()
    keys = list(state)
    for part in range(SHARDS):
        own = keys[len(keys) * part // SHARDS : len(keys) * (part + 1) // SHARDS]
        save_file({key: state[key] for key in own}, folder / "shards" / f"part{part}.safetensors")


def load(case: str, folder: Path, blocks: int) -> dict[str, float]:
    """Load once in this process: seconds, and bytes of peak, of memory of its own and of weights."""
    import resource

    import torch

    from flashportrait.checkpoints.config import transformer_config
    from flashportrait.checkpoints.tables import TRANSFORMER
    from flashportrait.models.transformer import FlashPortraitTransformer3DModel

    config = CONFIG | {"num_layers": blocks}
    started = time.perf_counter()
    if case == "plain":
        state = torch.load(folder / "one" / "transformer.pt", weights_only=True)
        model = FlashPortraitTransformer3DModel(**transformer_config(**config)).to(torch.bfloat16)
        model.load_state_dict(TRANSFORMER.to_ours(state))
    else:
        source = folder / "shards" if case in ("shards", "fp8") else folder / "one" / "transformer.pt"
        dtype = torch.float8_e4m3fn if case == "fp8" else None
        model = FlashPortraitTransformer3DModel.from_official(source, torch_dtype=dtype, **config)
    if case == "used":
        assert all(parameter.amax() > 0 for parameter in model.parameters())
    return {
        "seconds": time.perf_counter() - started,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024),
        "own": anonymous_bytes(),
        "weights": sum(p.numel() * p.element_size() for p in model.parameters()),
    }


def anonymous_bytes() -> float:
    """Memory of this process that isn't a file's, where Linux tells; else NaN."""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((float(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon")), float("nan"))


def in_a_fresh_process(*arguments: str) -> dict[str, float]:
    """Run this file with ``arguments``. The parent imports nothing large: a child's peak starts at its parent's."""
    finished = subprocess.run([sys.executable, __file__, *arguments], capture_output=True, text=True)
    if finished.returncode:
        sys.exit(finished.stderr)
    return json.loads(finished.stdout.splitlines()[-1])


def commit() -> str:
    """What is checked out here."""
    run = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True)
    return run.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="0.5 GB, to see that it works")
    parser.add_argument("--gigabytes", type=float, default=3.0, help="size of the checkpoint")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.add_argument("--worker", nargs=3, metavar=("CASE", "FOLDER", "BLOCKS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        case, folder, blocks = args.worker[0], Path(args.worker[1]), int(args.worker[2])
        result = write_checkpoint(folder, blocks) if case == "write" else load(case, folder, blocks)
        print(json.dumps(result))
        return
    blocks = max(1, round((0.5 if args.quick else args.gigabytes) * 1e9 / BYTES_PER_BLOCK))
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        in_a_fresh_process("--worker", "write", folder, str(blocks))
        for case, description in CASES.items():
            files = (Path(folder) / ("shards" if case in ("shards", "fp8") else "one")).iterdir()
            row = {"case": description, "largest_shard": max(file.stat().st_size for file in files)}
            rows.append(row | in_a_fresh_process("--worker", case, folder, str(blocks)))
    report(rows, args.json)


def report(rows: list[dict], path: Path | None) -> None:
    """Print the table, write the figures, and fail if a row of ours breaks the claim."""
    print(f"commit {commit()}, Python {platform.python_version()}, {platform.platform()}")
    print(f"{'GB':>66}  weights    shard     peak      own  allowed  seconds")
    broken = []
    for row in rows:
        allowed = row["largest_shard"] + MARGIN_BYTES
        figures = (row["weights"], row["largest_shard"], row["peak"], row["own"], allowed)
        print(f"{row['case']:>66} " + "".join(f"{figure / 1e9:9.2f}" for figure in figures) + f"{row['seconds']:9.1f}")
        if row["peak"] > allowed and row is not rows[0]:
            broken.append(row["case"])
    if path:
        path.write_text(json.dumps({"commit": commit(), "platform": platform.platform(), "rows": rows}, indent=1))
    if broken:
        sys.exit(f"above the largest shard + 2 GB: {'; '.join(broken)}")


if __name__ == "__main__":
    main()
