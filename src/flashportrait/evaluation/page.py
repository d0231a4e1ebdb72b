"""A report as one HTML file: figures, plots over time, frames, the worst moments first."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from flashportrait.errors import UserError
from flashportrait.evaluation.profiles import LOWER, METRICS
from flashportrait.evaluation.scoring import Scored, check_profile
from flashportrait.media.reader import VideoReader

SHEET_FRAMES, STRIP_FRAMES, MOMENTS = 8, 5, 3
FRAME_SIDE = 200
"""Pixels of the longer side of a frame on the page."""
APART_SECONDS = 1.0
"""Least time between two of the worst moments."""
PLOTTED = ("aed", "apd", "gaze_mae", "identity", "ssim", "lpips", "landmark_distance", "flicker", "color_drift", "seam")
PLOT_WIDTH, PLOT_HEIGHT, PLOT_POINTS = 300, 90, 300
JUDGED = ("lpips", "landmark_distance", "aed", "apd", "gaze_mae", "seam")
"""Figures of frames by which the worst moments are found, each over its own median."""

STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --text: light-dark(#1b1f24, #e8eaed);
  --ground: light-dark(#fff, #16181c); --accent: light-dark(#3455c8, #8aa4ff); }
body { font: 15px/1.45 system-ui, sans-serif; margin: 0 auto; max-width: 1180px; padding: 1rem; color: var(--text);
  background: var(--ground); }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; } .scroll { overflow-x: auto; }
td, th { padding: .3rem .6rem; text-align: right; border-bottom: 1px solid var(--line); white-space: nowrap; }
td:first-child, th:first-child { text-align: left; } th { font-weight: 600; }
.problem { color: light-dark(#a33, #ff8a80); } .note { opacity: .75; font-size: .85rem; }
.strip { display: flex; gap: 4px; overflow-x: auto; margin: .3rem 0; } .strip img { height: 120px; border-radius: 4px; }
.plots { display: grid; grid-template-columns: repeat(auto-fill, minmax(260px, 1fr)); gap: .8rem; }
.plots figure { margin: 0; padding: .5rem; background: var(--soft); border-radius: 6px; }
.plots svg { width: 100%; height: auto; } polyline { fill: none; stroke: var(--accent); stroke-width: 1.4; }
figcaption { font-size: .85rem; display: flex; justify-content: space-between; }
"""


def render(report: dict[str, Any], items: Sequence[Scored]) -> str:
    """The page.

    Args:
        report: as ``evaluate`` writes it.
        items: of which it is made.

    Raises:
        UserError: the items are of another profile than the report, or of several.
    """
    check_profile(items, report["profile"])
    order = sorted(range(len(items)), key=lambda each: _order(items[each]))
    about = ", ".join(f"{name} {value}" for name, value in report["about"].items() if isinstance(value, str))
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>",
        f"<title>Evaluation</title><style>{STYLE}</style><h1>Evaluation of {len(items)} results</h1>",
        f"<p>Profile: {html.escape(report['profile'])}</p><p class=note>{html.escape(about)}</p>",
        _summary(report),
        _items(items),
        *(_item(number, items[number], report) for number in order),
        _conventions(report),
        "</html>\n",
    ]
    return "\n".join(parts)


def _order(item: Scored) -> tuple[bool, float]:
    """What failed first, then the least like its driver."""
    return not item.missing.keys() >= METRICS.keys(), -(item.values["aed"] or 0.0)


def _shown(value: Any) -> str:
    if value is None:
        return "–"
    return value if isinstance(value, str) else f"{value:.4g}"


def _summary(report: dict[str, Any]) -> str:
    rows = []
    for name in METRICS:
        found, metric = report["summary"][name], report["metrics"][name]
        if found is None:
            continue
        interval = "–" if found["interval"] is None else " to ".join(map(_shown, found["interval"]))
        arrow = "↓" if metric["better"] == LOWER else "↑"
        cells = (f"{metric['title']} {arrow}", _shown(found["mean"]), interval, metric["unit"], str(found["items"]))
        rows.append("".join(f"<td>{html.escape(cell)}</td>" for cell in cells))
    fvd = report["summary"].get("fvd")
    if fvd is not None:
        rows.append(f"<td>FVD ↓</td><td>{_shown(fvd['value'])}</td><td>–</td><td></td><td>{fvd['clips']} clips</td>")
    heading = "".join(f"<th>{name}</th>" for name in ("metric", "mean", "95% interval", "unit", "items"))
    return f"<div class=scroll><table><tr>{heading}</tr>{''.join(f'<tr>{row}</tr>' for row in rows)}</table></div>"


def _items(items: Sequence[Scored]) -> str:
    names = [name for name in METRICS if any(item.values[name] is not None for item in items)]
    heading = "<th>result</th>" + "".join(f"<th>{html.escape(METRICS[name].title)}</th>" for name in names)
    rows = []
    for number, item in enumerate(items):
        link = f"<a href='#item-{number}'>{html.escape(item.entry.result.name)}</a>"
        rows.append(f"<td>{link}</td>" + "".join(f"<td>{_shown(item.values[name])}</td>" for name in names))
    return (
        f"<h2>Items</h2><div class=scroll><table><tr>{heading}</tr>"
        f"{''.join(f'<tr>{row}</tr>' for row in rows)}</table></div>"
    )


def _item(number: int, item: Scored, report: dict[str, Any]) -> str:
    parts = [f"<h2 id=item-{number}>{html.escape(str(item.entry.result))}</h2>"]
    parts += [f"<p class=problem>{html.escape(problem)}</p>" for problem in item.problems]
    if item.frames:
        spread = np.linspace(0, item.frames - 1, min(SHEET_FRAMES, item.frames)).round().astype(int)
        parts += _strips(item, spread.tolist(), "over the clip")
        for frame, why in worst_moments(item):
            half = STRIP_FRAMES // 2
            around = [index for index in range(frame - half, frame + half + 1) if 0 <= index < item.frames]
            seconds = frame * item.seconds / item.frames
            parts += _strips(item, around, f"at {seconds:.2f} s (frame {frame}): {why}")
        shown = [name for name in PLOTTED if np.isfinite(item.per_frame.get(name, [])).sum() > 1]
        plots = [_plot(item, name, report["metrics"][name]) for name in shown]
        parts.append(f"<div class=plots>{''.join(plots)}</div>")
    return "\n".join(parts)


def worst_moments(item: Scored) -> list[tuple[int, str]]:
    """Frames that are worst by some figure, over its own median, the worst first; and by which, in words."""
    ratios = {}
    for name in JUDGED:
        values = item.per_frame.get(name)
        if values is not None and np.isfinite(values).sum() > 1:
            usual = float(np.nanmedian(values))
            ratios[name] = np.nan_to_num(values / usual, nan=0.0) if usual > 0 else np.zeros(len(values))
    if not ratios:
        return []
    names, table = list(ratios), np.stack(list(ratios.values()))
    worst, apart, moments = table.max(0), APART_SECONDS * item.frames / max(item.seconds, 1e-9), []
    for frame in np.argsort(-worst, kind="stable"):
        if len(moments) == MOMENTS or worst[frame] <= 1:
            break
        if all(abs(int(frame) - other) >= apart for other, _ in moments):
            metric = METRICS[names[int(table[:, frame].argmax())]]
            value = item.per_frame[metric.name][frame]
            moments.append((int(frame), f"{metric.title} {value:.3g}, {worst[frame]:.1f} times the usual"))
    return moments


def _strips(item: Scored, frames: Sequence[int], words: str) -> list[str]:
    """Rows of frames: of the result, and of what it is compared with, where that can be read."""
    parts = [f"<p class=note>{html.escape(words)}</p>"]
    times = [frame * item.seconds / item.frames for frame in frames]
    other = item.entry.truth or item.entry.driving
    for video, role in ((item.entry.result, "result"), (other, "truth" if item.entry.truth else "driver")):
        pictures = [_picture(video, time) for time in times]
        images = [
            f"<img alt='{role} at {time:.2f} s' title='{role} at {time:.2f} s' src='{picture}'>"
            for picture, time in zip(pictures, times, strict=True)
            if picture
        ]
        parts.append(f"<div class=strip>{''.join(images)}</div>")
    return parts


def _picture(video: Path, seconds: float) -> str | None:
    """The frame at a time as an address that holds it; None where there is none."""
    try:
        reader = VideoReader(video)
        index = min(round(seconds * float(reader.info.rate)), len(reader) - 1)
        frame = next(iter(VideoReader(video, trim=f"{index}f:{index + 1}f")))
    except (UserError, StopIteration):
        return None
    picture = Image.fromarray(frame)
    picture.thumbnail((FRAME_SIDE, FRAME_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"


def _plot(item: Scored, name: str, metric: dict[str, Any]) -> str:
    """A figure over time."""
    values = item.per_frame[name]
    times = np.arange(len(values)) * item.seconds / item.frames
    known = np.isfinite(values)
    times, values = times[known], values[known]
    step = -(-len(values) // PLOT_POINTS)
    times, values = times[::step], values[::step]
    low, high = float(values.min()), float(values.max())
    x = times / max(item.seconds, 1e-9) * PLOT_WIDTH
    y = PLOT_HEIGHT - 4 - (values - low) / max(high - low, 1e-9) * (PLOT_HEIGHT - 8)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    label = html.escape(f"{metric['title']}, {metric['unit']}" if metric["unit"] else metric["title"])
    return (
        f"<figure><figcaption><span>{label}</span><span>{low:.3g} to {high:.3g}</span></figcaption>"
        f"<svg viewBox='0 0 {PLOT_WIDTH} {PLOT_HEIGHT}' role=img aria-label='{label} over time'>"
        f"<polyline points='{points}'/></svg></figure>"
    )


def _conventions(report: dict[str, Any]) -> str:
    rows = []
    for metric in report["metrics"].values():
        extractor = metric.get("extractor") or {}
        source = ", ".join(str(extractor[key]) for key in ("name", "file", "licence", "sha256") if extractor.get(key))
        if "faces" in extractor:
            source += f"; faces found by {extractor['faces']['name']}, {extractor['faces']['sha256']}"
        cells = (metric["title"], metric["of"], metric["convention"], source or "–")
        rows.append(
            "".join(f"<td style='text-align:left;white-space:normal'>{html.escape(cell)}</td>" for cell in cells)
        )
    heading = "".join(f"<th style='text-align:left'>{word}</th>" for word in ("metric", "of", "how", "by"))
    body = "".join(f"<tr>{row}</tr>" for row in rows)
    return f"<h2>How it was measured</h2><div class=scroll><table><tr>{heading}</tr>{body}</table></div>"
