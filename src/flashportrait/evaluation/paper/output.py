"""Tables as CSV, Markdown and plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flashportrait.errors import UserError
from flashportrait.evaluation.paper.making import FEW, Result
from flashportrait.evaluation.protocols import write_table
from flashportrait.media.place import written_whole

HEADINGS = {
    "calls": "calls of the network (exact run: 30)",
    "seconds": "seconds",
    "latent_rel_error": "error of latents to the exact run",
    "psnr": "PSNR to the exact run, dB",
    "truth_psnr": "PSNR to the truth, dB",
    "aed": "AED to the truth",
    "apd": "APD to the truth, degrees",
    "gaze_mae": "gaze to the truth, degrees",
    "identity": "likeness to the portrait",
    "seam": "seam over the truth's",
    "first_frame": "passes to the first frame",
}
FORMS = {
    "calls": "{:.1f}",
    "seconds": "{:.2f}",
    "latent_rel_error": "{:.4f}",
    "psnr": "{:.1f}",
    "truth_psnr": "{:.2f}",
    "aed": "{:.4f}",
    "apd": "{:.2f}",
    "gaze_mae": "{:.2f}",
    "identity": "{:.3f}",
    "seam": "{:.2f}",
    "first_frame": "{:.0f}",
}
OVER_CALLS = (4, 5)
"""Tables that are plotted over the number of calls."""


def write_result(result: Result, folder: Path, provenance: dict[str, str]) -> list[Path]:
    """Write ``tableN.csv`` and ``tableN.md``, and ``tableN.png`` if matplotlib is there; returns what was written."""
    stem = folder / f"table{result.table.number}"
    columns = ["name", *dict.fromkeys(name for row in result.rows for name in row if name != "name")]
    rows = [{name: _plain(row.get(name)) for name in columns} for row in result.rows]
    written = [stem.with_suffix(".csv"), stem.with_suffix(".md")]
    write_table(written[0], columns, rows)
    with written_whole(written[1]) as part:
        part.write_text(markdown(result, provenance), encoding="utf-8")
    return written


def markdown(result: Result, provenance: dict[str, str]) -> str:
    """A table with what the paper finds, in words, and whether that came out here."""
    table = result.table
    measures = [name for name in table.measures if any(row.get(name) is not None for row in result.rows)]
    few = len(result.clips) < FEW
    clips = ", ".join(f"{kind} {frames}" for kind, frames in result.clips)
    lines = [
        f"## Table {table.number}: {table.title}",
        "",
        f"The paper finds: {table.paper}",
        "",
        "| | " + " | ".join(HEADINGS[name] for name in measures) + " |",
        "|---" * (1 + len(measures)) + "|",
        *(f"| {row['name']} | " + " | ".join(_shown(row, name) for name in measures) + " |" for row in result.rows),
        "",
        "| in the paper | by | here | clips |",
        "|---|---|---|---|",
        *(
            f"| {verdict.claim} | {HEADINGS[verdict.measure]} | {verdict.outcome} | {verdict.clips} |"
            for verdict in result.verdicts
        ),
        "",
        *(f"Too few clips ({len(result.clips)}) to conclude from: orders are of these alone.\n" for _ in range(few)),
        *(f"Left out: {reason}\n" for reason in table.left_out),
        f"Drawn people, kind and frames of each clip: {clips}; means, with standard errors where there are several. "
        "A difference within two standard errors of its own can't be told. Extractors are not the paper's: compare "
        "rows with each other, never with numbers published elsewhere.",
        "",
        ", ".join(f"{name} {value[:12]}" for name, value in provenance.items()),
        "",
    ]
    return "\n".join(lines)


def _shown(row: dict[str, Any], name: str) -> str:
    if row.get(name) is None:
        return "-"
    error = row.get(f"{name}_error")
    return FORMS[name].format(row[name]) + (f" ± {FORMS[name].format(error)}" if error is not None else "")


def _plain(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def plot(result: Result, path: Path) -> None:
    """The measures that a table shows: over calls of the network, or a bar a row.

    Raises:
        UserError: matplotlib isn't installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise UserError("plots need matplotlib: pip install 'flashportrait[eval]'") from None
    table = result.table
    shown = [name for name in table.shown if all(row.get(name) is not None for row in result.rows)]
    height = max(3.0, 0.42 * len(result.rows) + 1.6)
    figure = Figure(figsize=(6.4 * max(1, len(shown)), height), layout="constrained")
    for axis, name in zip(figure.subplots(1, max(1, len(shown)), squeeze=False)[0], shown, strict=False):
        (_over_calls if table.number in OVER_CALLS else _bars)(axis, result.rows, name)
    figure.suptitle(f"Table {table.number}: {table.title}", fontsize=11)
    with written_whole(path) as part:
        figure.savefig(part, dpi=110, format="png")


def _bars(axis: Any, rows: Sequence[dict[str, Any]], name: str) -> None:
    names = [row["name"] for row in rows]
    errors = [row.get(f"{name}_error") or 0.0 for row in rows]
    axis.barh(range(len(rows)), [row[name] for row in rows], xerr=errors, color="#4878a8", ecolor="#303030", height=0.6)
    axis.set_yticks(range(len(rows)), names, fontsize=9)
    axis.invert_yaxis()
    axis.set_xlabel(HEADINGS[name])
    axis.grid(axis="x", alpha=0.3)


def _over_calls(axis: Any, rows: Sequence[dict[str, Any]], name: str) -> None:
    """Each row as a numbered point, so that near ones don't hide each other's names."""
    ordered = sorted(rows, key=lambda row: (-row["calls"], row["name"]))
    for number, row in enumerate(ordered, 1):
        error = row.get(f"{name}_error") or 0.0
        axis.errorbar(row["calls"], row[name], yerr=error, fmt="o^s"[number // 10], label=f"{number} {row['name']}")
        axis.annotate(str(number), (row["calls"], row[name]), textcoords="offset points", xytext=(5, 4), fontsize=8)
    axis.set(xlabel=HEADINGS["calls"], ylabel=HEADINGS[name])
    axis.set_ylim(bottom=0)  # a difference looks as large as it is
    axis.grid(alpha=0.3)
    axis.legend(fontsize=7)
