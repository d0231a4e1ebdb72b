"""What the page says: how far a job is, and what became of it, as HTML."""

from __future__ import annotations

from html import escape
from typing import Any

from flashportrait.studio.history import CANCELLED, DONE, FAILED, INTERRUPTED, RUNNING, WAITING, Entry
from flashportrait.studio.runner import Status

STAGES = {
    "load": "Loading the model",
    "portrait": "Reading the portrait",
    "motion": "Reading the motion",
    "calibration": "Reading the motion",
    "conditions": "Preparing",
    "denoise": "Denoising",
    "decode": "Drawing frames",
}
STATES = {
    WAITING: "waiting",
    RUNNING: "running",
    DONE: "done",
    FAILED: "failed",
    CANCELLED: "cancelled",
    INTERRUPTED: "interrupted",
}
SAME_PERSON, DRIFT_SEEN, SEAM_SEEN = 0.363, 5.0, 2.0
"""Levels past which a run's own report warns: SFace's cosine, dE*ab, times the usual change."""
CHART_WIDTH, CHART_HEIGHT = 600, 90


def duration(seconds: float) -> str:
    """``9 s``, ``4 min``, ``2 h 10 min``."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def notice(text: str, kind: str = "note") -> str:
    """A line; ``kind`` is note, good, warning or error."""
    role = ' role="alert"' if kind == "error" else ""
    return f'<p class="notice {kind}"{role}>{escape(text, quote=False)}</p>'


def notices(lines: list[tuple[str, str]]) -> str:
    """Several, of (text, kind)."""
    return "".join(notice(text, kind) for text, kind in lines)


def status_html(status: Status) -> str:
    """How far an entry is."""
    lines = [notice(line, "warning") for line in status.warnings]
    if status.state == WAITING:
        ahead = "Next in the queue" if status.place == 1 else f"Number {status.place} in the queue"
        return f'<div class="run"><b>{ahead}</b><progress></progress></div>'
    if status.state == RUNNING:
        return f'<div class="run">{_running(status)}{"".join(lines)}</div>'
    if status.state == FAILED:
        lines.append(notice(status.error or "it failed", "error"))
    elif status.state == CANCELLED:
        lines.append(notice("Cancelled. What was done is kept: resume goes on from there."))
    elif status.state == INTERRUPTED:
        lines.append(notice("Interrupted when the studio ended. What was done is kept: resume goes on from there."))
    return f'<div class="run">{"".join(lines)}</div>' if lines and status.state != DONE else ""


def _running(status: Status) -> str:
    title = "Stopping" if status.stopping else STAGES.get(status.stage, status.stage)
    counted = status.unit in ("frames", "steps") and status.total
    bar = f'<progress value="{status.done}" max="{status.total}"></progress>' if counted else "<progress></progress>"
    facts = [f"{status.done} of {status.total} {status.unit}"] if counted else []
    if status.frames is not None and status.stage != "decode":
        facts.append(f"{status.frames[0]} of {status.frames[1]} frames ready")
    if counted and status.seconds_left is not None:
        facts.append(f"about {duration(status.seconds_left)} left")
    facts.append(f"{duration(status.seconds)} so far")
    return f'<b>{title}</b>{bar}<span class="facts">{" · ".join(facts)}</span>'


def preview_html(entry: Entry) -> str:
    """Plays the growing file."""
    return (
        f'<figure class="preview"><video src="entry/{entry.id}/preview" autoplay muted playsinline controls></video>'
        "<figcaption>Preview, as frames are written</figcaption></figure>"
    )


def result_html(entry: Entry) -> str:
    """Portrait, driver and result side by side."""
    base = f"entry/{entry.id}"
    offset = start_of(entry.settings.get("trim"))
    figures = [f'<figure><img src="{base}/portrait" alt="the portrait"><figcaption>Portrait</figcaption></figure>']
    if not entry.driver.endswith(".safetensors"):
        figures.append(
            f'<figure><video src="{base}/driver" data-follow="{offset:g}" muted playsinline preload="auto" '
            'aria-label="the driver"></video><figcaption>Driver</figcaption></figure>'
        )
    figures.append(
        f'<figure class="main"><video src="{base}/result.mp4" data-main controls autoplay loop playsinline '
        'aria-label="the result"></video><figcaption>Result</figcaption></figure>'
    )
    return f'<div class="trio">{"".join(figures)}</div>'


def downloads_html(entry: Entry, kinds: list[str]) -> str:
    """Links to the result as what it is there as; ``kinds`` are endings without dots."""
    links = "".join(
        f'<a class="download" href="entry/{entry.id}/result.{kind}?download=1" download>Download {kind}</a>'
        for kind in kinds
    )
    return f'<p class="downloads">{links}</p>'


def start_of(trim: str | None) -> float:
    """Seconds at which the part of the driver begins that is used, of a trim as the page writes it."""
    try:
        return float((trim or "").split(":")[0] or 0)
    except ValueError:
        return 0.0


def report_html(entry: Entry) -> str:
    """The run's report in words, with a chart over time where there is something to see."""
    summary = entry.summary
    if summary is None:
        return ""
    width, height = summary["size"]
    seconds = summary["seconds"]["total"]
    lines: list[tuple[str, str]] = [
        (
            f"{summary['frames']} frames of {width} x {height} in {duration(seconds)}, "
            f"{summary['frames'] / max(seconds, 1e-6):.1f} a second.",
            "note",
        )
    ]
    lines += _judged(summary)
    lines += [(line, "warning") for line in summary["warnings"]]
    if summary.get("sound_lost"):
        lines.append((f"The sound is missing: {summary['sound_lost']}", "warning"))
    lines.append((f"Marked as synthetic: {summary['mark']}", "note"))
    return f'<div class="report"><h3>Report</h3>{notices(lines)}{chart(summary)}</div>'


def _judged(summary: dict[str, Any]) -> list[tuple[str, str]]:
    worst = (summary.get("quality") or {}).get("worst") or {}
    lines = []
    identity, drift, seam = worst.get("identity"), worst.get("color_drift"), worst.get("seam")
    if identity is not None:
        good = identity >= SAME_PERSON
        said = "the same person throughout" if good else "not the same person everywhere"
        lines.append((f"Likeness: {said} ({identity:.2f}; {SAME_PERSON} is the line).", "good" if good else "warning"))
    else:
        lines.append(("Likeness: not measured (needs the extra `eval`).", "note"))
    if drift is not None:
        good = drift <= DRIFT_SEEN
        said = "steady" if good else "they drift"
        lines.append((f"Colours: {said} (dE {drift:.1f}; {DRIFT_SEEN:g} is seen).", "good" if good else "warning"))
    if seam is not None:
        good = seam <= SEAM_SEEN
        said = "none to see" if good else "a jump"
        lines.append((f"Seams: {said} ({seam:.1f} times the usual change).", "good" if good else "warning"))
    missing = summary.get("missing_faces") or []
    if missing:
        lines.append(
            (f"No face in {len(missing)} of the driver's {summary['frames']} frames: interpolated there.", "warning")
        )
    else:
        lines.append(("A face in every frame of the driver.", "good"))
    return lines


def chart(summary: dict[str, Any]) -> str:
    """Likeness and colour over time, with the frames in which no face was seen; empty where nothing changes.

    An SVG for the page.
    """
    windows = (summary.get("quality") or {}).get("windows") or []
    missing, frames = summary.get("missing_faces") or [], max(1, summary["frames"])
    if len(windows) < 2 and not missing:
        return ""
    rate = _rate(summary)

    def x(frame: float) -> float:
        return round(CHART_WIDTH * frame / frames, 1)

    def line(name: str, top: float) -> str:
        points = [
            (x(row["first_frame"]), round(CHART_HEIGHT * (1 - min(row[name] / top, 1)), 1))
            for row in windows
            if row[name] is not None
        ]
        if len(points) < 2:
            return ""
        drawn = " ".join(f"{a},{b}" for a, b in [*points, (CHART_WIDTH, points[-1][1])])
        return f'<polyline class="{name}" points="{drawn}"/>'

    ticks = "".join(
        f'<rect class="missing" x="{x(frame)}" y="0" width="2" height="{CHART_HEIGHT}"/>' for frame in missing
    )
    lines = line("identity", 1.0) + line("color_drift", 2 * DRIFT_SEEN)
    keys = [
        (lines.count('"identity"') > 0, "identity", "likeness (0 to 1)"),
        (lines.count('"color_drift"') > 0, "color_drift", f"colour drift (0 to {2 * DRIFT_SEEN:g})"),
        (bool(missing), "missing", "no face seen"),
    ]
    legend = " ".join(f'<span class="key {kind}">{said}</span>' for shown, kind, said in keys if shown)
    return (
        f'<svg class="chart" viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT}" preserveAspectRatio="none" role="img" '
        f'aria-label="report over time">{ticks}{lines}</svg>'
        f'<p class="legend">0 to {duration(frames / rate)} {legend}</p>'
    )


def _rate(summary: dict[str, Any]) -> float:
    numerator, _, denominator = str(summary["rate"]).partition("/")
    return float(numerator) / float(denominator or 1)
