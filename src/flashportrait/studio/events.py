"""What happens on the page when somebody does something."""

from __future__ import annotations

import json
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from flashportrait.errors import UserError
from flashportrait.job import JobError
from flashportrait.studio import forms
from flashportrait.studio.history import DONE, OPEN, RUNNING, Entry
from flashportrait.studio.models import missing_html
from flashportrait.studio.page import Found, Page
from flashportrait.studio.studio import Studio
from flashportrait.studio.uploads import Kind, numbered, told
from flashportrait.studio.web import KINDS
from flashportrait.studio.words import (
    STATES,
    downloads_html,
    duration,
    notice,
    preview_html,
    report_html,
    result_html,
    status_html,
)

LONG_SECONDS = 300.0
"""From which on the estimate is a warning."""
SCROLL = "() => setTimeout(() => document.getElementById('run')?.scrollIntoView({behavior: 'smooth'}), 300)"
DIRECT: dict[str, Any] = {"api_visibility": "private", "queue": False}
"""Each request has an answer of its own: what Gradio's queue sends comes through one stream a page, which closes when
all is answered, and the answer to what is asked at that moment may never come."""
QUIET: dict[str, Any] = {**DIRECT, "show_progress": "hidden"}
LOOKING = f"(...given) => given.some(Boolean) ? {json.dumps(notice('Looking at it ...'))} : ''"


def wire(studio: Studio, blocks: gr.Blocks, page: Page) -> None:
    """Connect the page's components with the studio."""
    with blocks:
        _wire_uploads(studio, page)
        _wire_estimate(studio, page)
        _wire_run(studio, page)
        _wire_downloads(studio, page)
        _wire_history(studio, page)
        _wire_live(studio, page)
        opened = [page.left_over, page.timer, page.controls["model"], page.models_told]
        blocks.load(partial(_opened, studio), page.watched, opened, **QUIET)


def _wire_uploads(studio: Studio, page: Page) -> None:
    """Look at files as soon as they come."""
    places: dict[Kind, tuple[Found, str]] = {
        "portrait": (page.portrait_found, "portrait_face"),
        "driving": (page.driver_found, "face"),
    }

    def look(kind: Kind, *values: Any) -> Any:
        *paths, wanted = values
        path = next(filter(None, paths), None)
        place, name = places[kind]
        outputs = {
            place.told: "",
            place.group: gr.update(visible=False),
            place.numbered: "",
            place.face: gr.update(choices=[], value=None),
        }
        if not path:
            return {**outputs, page.wanted: wanted}
        try:
            found = studio.uploads.look(path, kind)
        except UserError as error:
            return {**outputs, place.told: notice(str(error), "error"), page.wanted: wanted}
        if len(found.faces) > 1:
            numbers = [str(face.number) for face in found.faces]
            chosen = str(wanted.get(name) or "")
            outputs[place.group] = gr.update(visible=True)
            outputs[place.numbered] = numbered(found, place.face.elem_id)
            outputs[place.face] = gr.update(choices=numbers, value=chosen if chosen in numbers else None)
        rest = {key: value for key, value in wanted.items() if key != name}
        return {**outputs, place.told: told(found), page.wanted: rest}

    sources: dict[Kind, list[Any]] = {"portrait": [page.portrait], "driving": [page.template, page.video]}
    for kind, given in sources.items():
        place, _ = places[kind]
        changes = [source.change for source in given]
        gr.on(changes, None, given, place.told, js=LOOKING, trigger_mode="multiple", **QUIET)
        gr.on(
            changes,
            partial(look, kind),
            [*given, page.wanted],
            [place.told, place.group, place.numbered, place.face, page.wanted],
            trigger_mode="multiple",
            **QUIET,
        )
    page.template.upload(lambda: None, None, page.video, **QUIET)
    page.video.upload(lambda: None, None, page.template, **QUIET)


def _wire_estimate(studio: Studio, page: Page) -> None:
    """Say how long it will take."""
    deciding = [page.controls[name] for name in ("size", "view", "speed", "model", "fps")]
    inputs = [page.portrait, *page.driver, page.start, page.end, *deciding]

    def estimate(portrait: Any, video: Any, template: Any, start: Any, end: Any, *values: Any) -> str:
        names = ("size", "view", "speed", "model", "fps")
        settings = forms.given(dict(zip(names, values, strict=True)))
        try:
            settings["trim"] = forms.trim_of(start, end)
            expected = studio.estimate(portrait, template or video, settings)
        except (UserError, ValueError):
            return ""
        if expected is None:
            return ""
        frames, seconds = expected
        if seconds is None:
            return notice(f"{frames} frames. How fast this machine is shows with the first.")
        long = seconds >= LONG_SECONDS
        warned = " It goes on if you close this page." if long else ""
        return notice(
            f"{frames} frames, about {duration(seconds)} as measured here.{warned}", "warning" if long else "note"
        )

    triggers = [control.change for control in (page.start, page.end, *deciding)]
    triggers += [page.portrait_found.told.change, page.driver_found.told.change]
    gr.on(triggers, estimate, inputs, page.estimate, trigger_mode="always_last", **QUIET)


def _wire_run(studio: Studio, page: Page) -> None:
    names = list(page.controls)
    inputs = [page.portrait, *page.driver, page.portrait_found.face, page.driver_found.face, page.start, page.end]
    portrait_told, driver_told = page.portrait_found.told, page.driver_found.told
    errors = {"portrait": portrait_told, "driving": driver_told, "trim": driver_told}
    watching = [page.timer, page.panel, page.status, page.preview, page.result, page.trio, page.downloads]
    watching += [page.webm, page.gif, page.report, page.cancel, page.resume, page.again, page.seen]

    def animate(*values: Any) -> dict[Any, Any]:
        portrait, video, template, portrait_face, face, start, end = values[: len(inputs)]
        settings = forms.given(dict(zip(names, values[len(inputs) :], strict=True)))
        settings |= forms.given({"portrait_face": portrait_face, "face": face, "trim": forms.trim_of(start, end)})
        try:
            entry = studio.create(portrait, template or video, settings)
        except JobError as error:
            said: dict[Any, str] = {}
            for name, line in error.problems.items():
                place = errors.get(name, page.told)
                said[place] = said.get(place, "") + notice(line, "error")
            return {page.told: notice("Nothing was started: see above.", "error"), **said}
        except UserError as error:
            return {page.told: notice(str(error), "error")}
        return {page.told: "", page.watched: entry.id, page.seen: "", page.timer: gr.Timer(active=True)}

    page.animate.click(
        animate,
        [*inputs, *page.controls.values()],
        [page.told, portrait_told, driver_told, page.watched, page.seen, page.timer],
        **QUIET,
    ).success(partial(_look, studio, page), [page.watched, page.seen], watching, **QUIET).then(
        None, None, None, js=SCROLL, **QUIET
    )
    page.timer.tick(partial(_look, studio, page), [page.watched, page.seen], watching, **QUIET)
    page.watched.change(partial(_look, studio, page), [page.watched, page.seen], watching, **QUIET)

    def stop(name: str) -> None:
        studio.runner.cancel(name)

    def go_on(name: str) -> tuple[str, Any]:
        said = ""
        try:
            studio.runner.submit(name)
        except UserError as error:
            said = notice(str(error), "error")
        return said, gr.Timer(active=True)

    page.cancel.click(stop, page.watched, None, **QUIET)
    page.resume.click(go_on, page.watched, [page.told, page.timer], **QUIET)
    page.again.click(
        partial(_fill, studio, page),
        page.watched,
        [*inputs, *page.controls.values(), page.wanted, page.told, page.tabs],
        **QUIET,
    )


def _wire_downloads(studio: Studio, page: Page) -> None:
    def make(kind: str, name: str) -> str:
        try:
            studio.convert(name, kind)
        except UserError as error:
            return notice(str(error), "error")
        entry = studio.history.get(name)
        return downloads_html(entry, kinds(entry)) if entry else ""

    for kind, button in (("webm", page.webm), ("gif", page.gif)):
        button.click(partial(make, kind), page.watched, page.downloads, show_progress="full", **DIRECT)


def kinds(entry: Entry) -> list[str]:
    """What an entry's result can be downloaded as at once."""
    return [kind for kind in KINDS if entry.output.with_suffix(f".{kind}").is_file()]


def _look(studio: Studio, page: Page, name: str, seen: str) -> dict[Any, Any]:
    """Show how far the entry is that this browser watches; only what has changed since ``seen``."""
    status, entry = (studio.runner.status(name), studio.history.get(name)) if name else (None, None)
    if status is None or entry is None:
        return {page.timer: gr.Timer(active=False), page.panel: gr.update(visible=False), page.seen: ""}
    previewed = status.state == RUNNING and status.part is not None
    now = f"{name} {status.state} {previewed}"
    found: dict[Any, Any] = {page.status: status_html(status)}
    if now == seen:
        return found
    open_, done = status.state in OPEN, status.state == DONE
    found |= {
        page.seen: now,
        page.timer: gr.Timer(active=open_),
        page.panel: gr.update(visible=True),
        page.preview: preview_html(entry) if previewed else "",
        page.result: gr.update(visible=done),
        page.trio: result_html(entry) if done else "",
        page.downloads: downloads_html(entry, kinds(entry)) if done else "",
        page.webm: gr.update(visible=done and "webm" not in kinds(entry)),
        page.gif: gr.update(visible=done and "gif" not in kinds(entry)),
        page.report: report_html(entry) if done else "",
        page.cancel: gr.update(visible=open_),
        page.resume: gr.update(visible=entry.can_resume and not open_),
        page.again: gr.update(visible=not open_),
    }
    return found


def _fill(studio: Studio, page: Page, name: str) -> dict[Any, Any]:
    """Put all that an entry was made from into the form."""
    entry = studio.history.get(name)
    if entry is None:
        return {page.told: notice("this animation is no longer in the history", "error")}
    try:
        portrait, driver = studio.files_again(entry)
    except UserError as error:
        return {page.told: notice(str(error), "error")}
    settings, is_template = entry.settings, driver.suffix == ".safetensors"
    start, end = forms.span_of(settings.get("trim"))
    return {
        page.tabs: gr.Tabs(selected="animate"),
        page.wanted: {key: settings[key] for key in ("portrait_face", "face") if key in settings},
        page.portrait: str(portrait),
        page.video: None if is_template else str(driver),
        page.template: str(driver) if is_template else None,
        page.start: start,
        page.end: end,
        page.told: notice(f"All is as for {title_of(entry)}: change what you like, then animate."),
        **{control: forms.shown(settings, name) for name, control in page.controls.items()},
    }


def _wire_history(studio: Studio, page: Page) -> None:
    def list_all() -> dict[Any, Any]:
        return {page.history: history_html(studio)}

    def act(watched: str, event: gr.EventData) -> dict[Any, Any]:
        name, what = str(event.entry), str(event.act)
        told = ""
        found: dict[Any, Any] = {}
        try:
            if what == "delete":
                studio.delete(name)
            elif what == "resume":
                studio.runner.submit(name)
            if what in ("open", "resume"):
                found = {page.watched: name, page.tabs: gr.Tabs(selected="animate"), page.timer: gr.Timer(active=True)}
        except UserError as error:
            told = notice(str(error), "error")
        return {**found, page.history: history_html(studio), page.history_told: told}

    outputs = [page.history, page.history_told, page.watched, page.tabs, page.timer]
    page.history_tab.select(list_all, None, page.history, **QUIET)
    page.history.click(act, page.watched, outputs, **QUIET).then(None, None, None, js=SCROLL, **QUIET)


def _wire_live(studio: Studio, page: Page) -> None:
    def ticket(portrait: str | None) -> dict[Any, Any]:
        try:
            if not portrait:
                raise UserError("choose a portrait under Animate first")
            studio.uploads.look(portrait, "portrait")
            return {page.live_told: "", page.live_ticket: studio.live.ticket(studio.uploads.path(portrait))}
        except UserError as error:
            return {page.live_told: notice(str(error), "error"), page.live_ticket: ""}

    page.live_start.click(ticket, page.portrait, [page.live_told, page.live_ticket], **QUIET).then(
        None, page.live_ticket, None, js="ticket => studioLive.start(ticket)", **QUIET
    )
    page.live_rest.click(None, None, None, js="() => studioLive.rest()", **QUIET)
    page.live_stop.click(None, None, None, js="() => studioLive.stop()", **QUIET)


def _opened(studio: Studio, watched: str) -> list[Any]:
    """What a page that has just been opened says of unfinished work; it goes on showing what this browser watched."""
    left = [entry for entry in studio.interrupted if (now := studio.history.get(entry.id)) and now.can_resume]
    said = ""
    if left:
        count = "1 animation was" if len(left) == 1 else f"{len(left)} animations were"
        said = notice(f"{count} interrupted when the studio ended last: resume from the history.", "warning")
    present = [name for name in studio.models if name not in studio.missing]
    return [said, gr.Timer(active=bool(watched)), gr.update(choices=present), missing_html(studio.missing)]


def title_of(entry: Entry) -> str:
    """An entry in words."""
    portrait, driver = (Path(entry.names.get(role, role)).stem for role in ("portrait", "driver"))
    return f"{portrait} driven by {driver}"


def history_html(studio: Studio) -> str:
    """All entries as cards."""
    cards = []
    for entry in studio.history.entries():
        status = studio.runner.status(entry.id)
        state = status.state if status is not None else entry.state
        buttons = [("open", "Open")]
        if state not in OPEN:
            buttons += [("resume", "Resume")] if entry.can_resume else []
            buttons += [("delete", "Delete")]
        drawn = "".join(
            f'<button type="button" data-act="{act}" data-entry="{entry.id}" '
            f'aria-label="{said} {escape(title_of(entry), quote=True)}">{said}</button>'
            for act, said in buttons
        )
        cards.append(
            f'<article class="card {state}"><img src="entry/{entry.id}/poster" alt="" loading="lazy">'
            f'<div><b>{escape(title_of(entry))}</b><span class="facts">{entry.created} · {STATES[state]}</span>'
            f'<span class="acts">{drawn}</span></div></article>'
        )
    place = f"Kept in <code>{escape(str(studio.history.folder))}</code>, the newest {studio.history.keep}."
    if not cards:
        return f'<p class="notice">Nothing yet. {place}</p>'
    return f'<p class="notice">{place}</p><div class="cards">{"".join(cards)}</div>'
