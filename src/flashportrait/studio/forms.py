"""Controls of the page, made from a job's settings: their help, choices, ranges and defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gradio as gr

from flashportrait.job import MODELS, Job, Setting

FIRST = ("view", "size", "motion", "speed", "model")
"""What people reach for, beside the gains."""
GAINS = ("head", "eyes", "emotion", "mouth")
PICKED = ("portrait", "driving", "output", "face", "portrait_face", "trim")
"""What has controls of its own: files, faces, the part of the clip."""
NOT_OFFERED = (
    *("keep_work", "restart"),
    *("sign_cert", "sign_key", "lora", "lora_strength"),
    *("device", "threads", "dtype", "attention", "compile", "weights", "offload"),
)
"""What the studio decides itself; what names files of its machine; what is the machine's and not a visitor's."""
NONE_BY_DEFAULT = ("prompt", "label", "portrait_box")
"""What is left out where its field is empty; other empty fields mean the model's or the clip's own."""
STEP = 0.05
"""Of sliders, from one value to the next."""
DEFAULT = "default"
"""Choice of what is left open."""


def folded() -> dict[str, list[Setting]]:
    """Settings that are folded away, by the title of their group."""
    groups: dict[str, list[Setting]] = {}
    for name, entry in Job.settings().items():
        if name not in (*FIRST, *GAINS, *PICKED, *NOT_OFFERED):
            groups.setdefault(entry.group or "result", []).append(entry)
    return groups


def control(entry: Setting, models: tuple[str, ...] = MODELS) -> Any:
    """The control of a setting; what it gives is understood by ``given``."""
    common: dict[str, Any] = {
        "label": entry.name.replace("_", " ").capitalize(),
        "info": entry.help.partition("; default:")[0].replace(" (default)", ""),
        "elem_id": f"setting-{entry.name.replace('_', '-')}",
    }
    if entry.name == "model":
        return gr.Dropdown(list(models), value=entry.default, **common)
    if entry.is_switch and entry.default is not None:
        return gr.Checkbox(value=entry.default, **common)
    if entry.choices or entry.is_switch:
        choices = list(entry.choices) or ["true", "false"]
        if entry.default is None:
            choices.insert(0, DEFAULT)
        kind = gr.Radio if len(choices) <= 3 else gr.Dropdown
        return kind(choices, value=entry.default or DEFAULT, **common)
    if entry.bounds is not None and is_slider(entry):
        return gr.Slider(*entry.bounds, value=entry.default, step=STEP, **common)
    # Numbers, too: a field for numbers can't be left empty.
    empty = {"placeholder": "none" if entry.name in NONE_BY_DEFAULT else DEFAULT}
    return gr.Textbox(value="" if entry.default is None else str(entry.default), max_lines=1, **empty, **common)


def given(values: Mapping[str, Any]) -> dict[str, Any]:
    """What controls hold, as settings of a job: those that differ from the defaults."""
    known = Job.settings()
    found = {}
    for name, value in values.items():
        value = value.strip() if isinstance(value, str) else value
        if value in (None, "", DEFAULT) or str(value) == str(known[name].default):
            continue
        found[name] = value
    return found


def shown(settings: Mapping[str, Any], name: str) -> Any:
    """What a setting's control is to hold."""
    entry = Job.settings()[name]
    value = settings.get(name, entry.default)
    if value is None and (entry.choices or entry.is_switch):
        return DEFAULT
    if entry.is_switch or is_slider(entry):
        return value
    return "" if value is None else str(value)


def is_slider(entry: Setting) -> bool:
    """Whether a setting is a number within bounds, and never left open."""
    return entry.bounds is not None and entry.default is not None


def trim_of(start: str, end: str) -> str | None:
    """The part of the driver between two times in seconds, as a job has it; None for all."""
    start, end = start.strip(), end.strip()
    return f"{start}:{end}" if start or end else None


def span_of(trim: str | None) -> tuple[str, str]:
    """Start and end that ``trim_of`` was given."""
    start, _, end = (trim or "").partition(":")
    return start, end
