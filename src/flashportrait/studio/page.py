"""The page: what is on it and where. What it does is wired up in ``events``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gradio as gr

from flashportrait.job import Job
from flashportrait.studio import forms
from flashportrait.studio.history import UPLOADS_SECONDS
from flashportrait.studio.live import live_html
from flashportrait.studio.studio import Studio

HERE = Path(__file__).parent
INTRODUCTION = """<header class="head"><h1>flashportrait <span>studio</span></h1>
<p>A portrait moves as somebody in a video does. Animate only people who agreed to it, or who don't exist;
results are marked as made by AI.</p></header>"""
HISTORY_SCRIPT = """
element.addEventListener('click', event => {
  const button = event.target.closest('[data-act]');
  if (!button) return;
  if (button.dataset.act === 'delete' && !confirm('Delete this animation and its files?')) return;
  trigger('click', {entry: button.dataset.entry, act: button.dataset.act});
});
"""


@dataclass
class Found:
    """Where it is said what is in a file, and a face is chosen."""

    told: Any
    group: Any
    """Shown where there are several faces."""
    numbered: Any
    face: Any


@dataclass
class Page:
    """The components that events speak to."""

    tabs: Any = None
    portrait: Any = None
    portrait_found: Any = None
    video: Any = None
    template: Any = None
    driver_found: Any = None
    start: Any = None
    end: Any = None
    controls: dict[str, Any] = field(default_factory=dict)
    """Of a job's settings, by name."""
    models_told: Any = None
    animate: Any = None
    told: Any = None
    estimate: Any = None
    watched: Any = None
    """Name of the entry that this browser looks at."""
    seen: Any = None
    """What of it the page shows."""
    wanted: Any = None
    """Faces that are to be chosen once the files are looked at."""
    timer: Any = None
    panel: Any = None
    status: Any = None
    preview: Any = None
    cancel: Any = None
    resume: Any = None
    again: Any = None
    trio: Any = None
    result: Any = None
    downloads: Any = None
    webm: Any = None
    gif: Any = None
    report: Any = None
    left_over: Any = None
    history_tab: Any = None
    history: Any = None
    history_told: Any = None
    live_start: Any = None
    live_rest: Any = None
    live_stop: Any = None
    live_ticket: Any = None
    live_told: Any = None

    @property
    def driver(self) -> list[Any]:
        """Where a driver may come from."""
        return [self.video, self.template]


def lay_out(studio: Studio) -> tuple[gr.Blocks, Page]:
    """Everything on the page, not wired up yet."""
    page = Page()
    blocks = gr.Blocks(title="flashportrait studio", analytics_enabled=False, delete_cache=(3600, int(UPLOADS_SECONDS)))
    with blocks:
        page.watched = gr.BrowserState("", storage_key="flashportrait-studio", secret="none")
        # Of the browser, not of the server: what counts is which answers have come through.
        page.seen = gr.Textbox("", visible=False)
        page.wanted = gr.State({})
        page.timer = gr.Timer(0.6, active=False)
        gr.HTML(INTRODUCTION)
        with gr.Tabs(selected="animate") as page.tabs:
            with gr.Tab("Animate", id="animate"):
                page.left_over = gr.HTML()
                with gr.Row(equal_height=False):
                    _portrait(page, studio)
                    _driver(page, studio)
                _settings(page, studio)
                with gr.Row(elem_classes="go"):
                    page.animate = gr.Button("Animate", variant="primary", size="lg", elem_id="animate", scale=0)
                    page.estimate = gr.HTML(elem_id="estimate")
                page.told = gr.HTML(elem_id="told")
                _running(page)
            with gr.Tab("History", id="history") as page.history_tab:
                page.history_told = gr.HTML()
                page.history = gr.HTML(elem_id="history", js_on_load=HISTORY_SCRIPT)
            with gr.Tab("Live", id="live"):
                gr.HTML('<p class="notice">Your webcam moves the portrait that is chosen under Animate, at once.</p>')
                gr.HTML(live_html())
                page.live_told = gr.HTML(elem_id="live-told")
                page.live_ticket = gr.Textbox(visible=False)
                with gr.Row(elem_classes="buttons"):
                    page.live_start = gr.Button("Start", variant="primary", scale=0, elem_id="live-start")
                    page.live_rest = gr.Button("I am at rest now", scale=0, elem_id="live-rest")
                    page.live_stop = gr.Button("Stop", scale=0, elem_id="live-stop")
    return blocks, page


def _portrait(page: Page, studio: Studio) -> None:
    with gr.Column(min_width=280):
        picture: Any = gr.Image(
            label="Portrait",
            type="filepath",
            image_mode=None,
            sources=["upload", "webcam", "clipboard"],
            webcam_options=gr.WebcamOptions(mirror=False),
            height=300,
            elem_id="portrait",
            buttons=[],
        )
        picture.preprocess = _path_of
        page.portrait = picture
        page.portrait_found = _found("portrait", "Face to animate")
        if studio.examples:
            pictures = sorted(path for path in studio.examples.iterdir() if path.suffix in (".png", ".jpg"))
            gr.Examples([[str(path)] for path in pictures], page.portrait, elem_id="example-portraits")


def _path_of(payload: Any) -> str | None:
    """The file as it was uploaded: it is decoded where that does no harm, not in the server."""
    return payload.path if payload is not None else None


def _found(role: str, label: str) -> Found:
    told = gr.HTML(elem_id=f"{role}-told")
    with gr.Group(visible=False) as group:
        numbered = gr.HTML()
        face = gr.Radio([], label=label, elem_id=f"{role}-face")
    return Found(told, group, numbered, face)


def _driver(page: Page, studio: Studio) -> None:
    with gr.Column(min_width=280):
        page.video = gr.Video(
            label="Driver: whose motion is taken",
            sources=["upload", "webcam"],
            webcam_options=gr.WebcamOptions(mirror=False),
            include_audio=True,
            height=300,
            elem_id="driver",
            buttons=[],
        )
        page.driver_found = _found("driver", "Face to follow")
        if studio.examples:
            clips = sorted(studio.examples.glob("*.mp4"))
            gr.Examples([[str(path)] for path in clips], page.video, elem_id="example-drivers")
        with gr.Row():
            page.start = gr.Textbox(label="From second", placeholder="start", min_width=100, elem_id="start")
            page.end = gr.Textbox(label="To second", placeholder="end", min_width=100, elem_id="end")
        with gr.Accordion("Motion template in place of a video", open=False):
            page.template = gr.File(
                label="Template, made by `flashportrait extract`", file_types=[".safetensors"], elem_id="template"
            )


def _settings(page: Page, studio: Studio) -> None:
    known = Job.settings()
    with gr.Row():
        for name in ("view", "size", "motion"):
            page.controls[name] = forms.control(known[name])
    with gr.Row():
        for name in forms.GAINS:
            page.controls[name] = forms.control(known[name])
    with gr.Row():
        for name in ("model", "speed"):
            page.controls[name] = forms.control(known[name], studio.models)
    page.models_told = gr.HTML(elem_id="models-told")
    with gr.Accordion("More settings", open=False, elem_id="more"):
        for group, entries in forms.folded().items():
            gr.HTML(f"<h3>{group.partition(' (')[0].capitalize()}</h3>")
            with gr.Row():
                for entry in entries:
                    page.controls[entry.name] = forms.control(entry)


def _running(page: Page) -> None:
    with gr.Column(visible=False, elem_id="run") as page.panel:
        page.status = gr.HTML(elem_id="status")
        page.preview = gr.HTML(elem_id="preview")
        with gr.Column(visible=False) as page.result:
            page.trio = gr.HTML(elem_id="trio")
            page.downloads = gr.HTML(elem_id="downloads")
            page.report = gr.HTML(elem_id="report")
        with gr.Row(elem_classes="buttons"):
            page.cancel = gr.Button("Cancel", visible=False, variant="stop", scale=0, min_width=120, elem_id="cancel")
            page.resume = gr.Button(
                "Resume", visible=False, variant="primary", scale=0, min_width=120, elem_id="resume"
            )
            page.again = gr.Button("Again with ...", visible=False, scale=0, min_width=150, elem_id="again")
            page.webm = gr.Button("Make a webm", visible=False, scale=0, min_width=150, elem_id="make-webm")
            page.gif = gr.Button("Make a gif", visible=False, scale=0, min_width=150, elem_id="make-gif")
