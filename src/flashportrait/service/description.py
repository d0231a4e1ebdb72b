"""What the OpenAPI document says of the interface: made from the settings of jobs, so that it can't lag behind them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

from flashportrait.job import Setting
from flashportrait.service.settings import FORMATS, ServiceSettings, offered

EXAMPLE_ID = "Vx3mY0pQk2s8dZb1hT9c0A"
EXAMPLE_JOB: dict[str, Any] = {
    "id": EXAMPLE_ID,
    "state": "running",
    "created": 1795000000.0,
    "started": 1795000002.5,
    "ended": None,
    "attempts": 1,
    "settings": {"view": "face", "model": "nano", "format": "mp4", "portrait": "ada.jpg", "driving": "talk.mp4"},
    "files": {"portrait": {"media": "picture", "width": 1024, "height": 1024}, "driving": {"media": "video"}},
    "error": None,
    "links": {
        "self": f"/v1/jobs/{EXAMPLE_ID}",
        "events": f"/v1/jobs/{EXAMPLE_ID}/events",
        "result": f"/v1/jobs/{EXAMPLE_ID}/result",
    },
    "progress": {
        "stage": "decode",
        "done": 75,
        "total": 150,
        "unit": "frames",
        "fraction": 0.55,
        "seconds_left": 4.2,
        "warnings": [],
    },
}

JOB_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["id", "state", "created", "settings", "links"],
    "properties": {
        "id": {"type": "string"},
        "state": {"enum": ["queued", "running", "done", "failed", "cancelled", "expired"]},
        "created": {"type": "number", "description": "Seconds since 1970, as all times here."},
        "started": {"type": ["number", "null"]},
        "ended": {"type": ["number", "null"]},
        "expires": {"type": "number", "description": "When the result is removed."},
        "attempts": {"type": "integer"},
        "waiting_before": {"type": "integer", "description": "Jobs that wait before it, of one that is queued."},
        "settings": {"type": "object"},
        "files": {"type": ["object", "null"]},
        "progress": {"type": "object", "description": "Of one that runs: stage, done, total, fraction, seconds_left."},
        "error": {"type": ["string", "null"]},
        "summary": {"type": "object", "description": "Of one that is done, as `flashportrait animate --json` has it."},
        "links": {"type": "object"},
    },
}
ERROR_SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {"type": "string", "description": "One line: what was found, what is needed."},
        "problems": {"type": "object", "description": "A line by setting, where settings are wrong."},
    },
}


def about() -> dict[str, Any]:
    """Of the application."""
    from flashportrait.marking.provenance import software

    return {
        "title": "flashportrait",
        "version": software().split()[-1],
        "description": "Animate one portrait from one driving video. Results are marked as synthetic.",
        "license_info": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
    }


def _json(schema: dict[str, Any], words: str, example: Any = None) -> dict[str, Any]:
    content: dict[str, Any] = {"schema": schema}
    if example is not None:
        content["example"] = example
    return {"description": words, "content": {"application/json": content}}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    words = {
        400: "The request can't be read.",
        401: "The API key is missing or unknown.",
        404: "There is no such job.",
        409: "The job's state doesn't allow it.",
        410: "The result has expired.",
        413: "Too many bytes.",
        415: "No form.",
        416: "Beyond what there is.",
        422: "A file or setting that can't be taken: the line says why.",
        429: "The key's quota is used up.",
        503: "The server's queue is full, or it is stopping.",
        507: "The server's disk is full.",
    }
    return {status: _json(ERROR_SCHEMA, words[status]) for status in statuses}


def setting(each: Setting) -> dict[str, Any]:
    """A setting, as clients read it."""
    return {
        "name": each.name,
        "group": each.group or "general",
        "help": each.help,
        "choices": list(each.choices) or None,
        "default": _plain(each.default),
        "switch": each.is_switch,
    }


def _plain(value: Any) -> Any:
    return str(value) if isinstance(value, (Path, Fraction)) else list(value) if isinstance(value, tuple) else value


def _property(each: Setting) -> dict[str, Any]:
    if each.is_switch:
        kind: dict[str, Any] = {"enum": ["true", "false"]}
    elif each.choices:
        kind = {"enum": list(each.choices)}
    else:
        kind = {"type": "string"}
    if each.default is not None and not isinstance(each.default, tuple):
        plain = _plain(each.default)
        kind["default"] = str(plain).lower() if isinstance(plain, bool) else str(plain)
    return {**kind, "description": each.help}


def post_job(settings: ServiceSettings) -> dict[str, Any]:
    """Of posting a job on this server."""
    file = {"type": "string", "format": "binary"}
    properties: dict[str, Any] = {
        "portrait": {**file, "description": "A picture: JPEG, PNG, WebP, ..."},
        "driving": {**file, "description": "A video, an animation, or a motion template."},
        "template": {"type": "string", "description": "In the place of `driving`: one of `/v1/templates`."},
        "format": {"enum": list(FORMATS), "default": "mp4", "description": "Of the result."},
    }
    if settings.fetch:
        address = {"type": "string", "format": "uri", "description": "In the place of the file: where to fetch it."}
        properties |= {"portrait_url": address, "driving_url": address}
    properties |= {name: _property(each) for name, each in offered(settings).items()}
    properties["model"] = {"enum": list(settings.model_names()), "description": "Which model."}
    body = {"schema": {"type": "object", "required": ["portrait"], "properties": properties}}
    return {
        "summary": "Post a job",
        "description": "Files are looked at before the job is taken; what can't be used is refused with a line that "
        "says why.",
        "responses": {
            200: _json(JOB_SCHEMA, "The job that was posted before with this Idempotency-Key.", EXAMPLE_JOB),
            201: _json(JOB_SCHEMA, "The job, queued.", {**EXAMPLE_JOB, "state": "queued", "waiting_before": 0}),
            **_errors(400, 401, 413, 415, 422, 429, 503, 507),
        },
        "openapi_extra": {
            "requestBody": {"required": True, "content": {"multipart/form-data": body}},
            "parameters": [
                {
                    "name": "Idempotency-Key",
                    "in": "header",
                    "schema": {"type": "string", "maxLength": 200},
                    "description": "Your own name for this request: sent again, it makes no second job.",
                }
            ],
        },
    }


LIST_JOBS: dict[str, Any] = {
    "summary": "List jobs",
    "description": "Of this key, the last first.",
    "responses": {200: _json({"type": "object"}, "Jobs.", {"jobs": [EXAMPLE_JOB]}), **_errors(401, 404)},
}
GET_JOB: dict[str, Any] = {
    "summary": "Ask how a job is",
    "responses": {200: _json(JOB_SCHEMA, "The job.", EXAMPLE_JOB), **_errors(401, 404)},
}
EVENTS: dict[str, Any] = {
    "summary": "Follow a job",
    "description": "Server-sent events, named after the job's state, with the job as data; they end when the job has.",
    "responses": {
        200: {"description": "Events.", "content": {"text/event-stream": {"schema": {"type": "string"}}}},
        **_errors(401, 404),
    },
}
RESULT: dict[str, Any] = {
    "summary": "Fetch a result",
    "description": "With ranges. While the job runs: what there is so far, and then the rest as it grows.",
    "responses": {
        200: {
            "description": "The result.",
            "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in FORMATS.values()},
        },
        206: {"description": "A range of it."},
        **_errors(401, 404, 409, 410, 416),
    },
}
CANCEL: dict[str, Any] = {
    "summary": "Cancel a job",
    "description": "It stops within about a second, and stays on the list.",
    "responses": {200: _json(JOB_SCHEMA, "The job.", {**EXAMPLE_JOB, "state": "cancelled"}), **_errors(401, 404, 409)},
}
DELETE: dict[str, Any] = {
    "summary": "Cancel a job and remove all of it",
    "responses": {204: {"description": "It is gone."}, **_errors(401, 404)},
}
TEMPLATES: dict[str, Any] = {
    "summary": "List templates",
    "responses": {200: _json({"type": "object"}, "Names.", {"templates": ["nod", "talk"]}), **_errors(401)},
}
MODELS: dict[str, Any] = {
    "summary": "List models",
    "responses": {200: _json({"type": "object"}, "Names, the default first.", {"models": ["nano"]}), **_errors(401)},
}
SETTINGS: dict[str, Any] = {
    "summary": "List settings",
    "description": "Everything that a job may choose, with help, choices and defaults: to build forms.",
    "responses": {200: _json({"type": "object"}, "Settings."), **_errors(401)},
}
HEALTH: dict[str, Any] = {"summary": "Whether the server lives"}
READY: dict[str, Any] = {
    "summary": "Whether the server takes jobs",
    "responses": {200: {"description": "It does."}, 503: {"description": "It is stopping."}},
}
METRICS: dict[str, Any] = {"summary": "Measures for Prometheus"}
