"""The HTTP interface."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from flashportrait.errors import UserError
from flashportrait.listening import stranger
from flashportrait.service import description
from flashportrait.service.errors import Refused
from flashportrait.service.keys import Key, Keys
from flashportrait.service.measures import Measures
from flashportrait.service.posting import post, templates
from flashportrait.service.results import send_result
from flashportrait.service.service import Service
from flashportrait.service.settings import ServiceSettings, offered
from flashportrait.service.store import ENDED

Next = Callable[[Request], Awaitable[Response]]
Middleware = Callable[[Request, Next], Awaitable[Response]]

EVENT_SECONDS = 0.5
"""Between two looks at a job for its listeners."""
KEEP_ALIVE_SECONDS = 15.0
"""After which a silent stream of events says something, so that proxies keep it open."""

_bearer = HTTPBearer(auto_error=False, description="An API key, as `Authorization: Bearer fp_...`.")
_header = APIKeyHeader(name="X-API-Key", auto_error=False, description="An API key.")


def owner_of(
    request: Request,
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    header: Annotated[str | None, Depends(_header)],
) -> Key:
    """Whose key a request shows.

    Raises:
        Refused: no one's.
    """
    owner = request.app.state.service.keys.owner(bearer.credentials if bearer is not None else header)
    if owner is None:
        raise Refused(401, "the API key is missing or unknown: send it as 'Authorization: Bearer KEY'")
    return owner


Owner = Annotated[Key, Depends(owner_of)]


def create_app(settings: ServiceSettings, keys: Keys, *, local: bool = False) -> FastAPI:
    """The application; it works on jobs from its start-up to its shut-down.

    Args:
        settings: of the server.
        keys: whom it serves.
        local: it is reached from this machine alone, and answers to this machine's names alone.
    """
    service = Service(settings, keys)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await run_in_threadpool(service.start)
        try:
            yield
        finally:
            await run_in_threadpool(service.stop)

    # FastAPI's own page loads scripts from others' servers, and they could use a server that asks for no keys.
    app = FastAPIOffline(redoc_url=None, **description.about(), lifespan=lifespan)
    app.state.service = service
    _answer_errors(app)
    app.middleware("http")(_measured(service.measures))
    app.middleware("http")(_guarded(keys, local))
    _add_jobs(app, service)
    _add_rest(app, service)
    return app


def _add_jobs(app: FastAPI, service: Service) -> None:
    @app.post("/v1/jobs", status_code=201, **description.post_job(service.settings))
    async def post_job(request: Request, owner: Owner) -> JSONResponse:
        entry, new = await post(request, owner, service.settings, service.store, service.looking)
        service.dispatcher.wake()
        told = await run_in_threadpool(service.status, entry)
        return JSONResponse(told, 201 if new else 200, headers={"Location": told["links"]["self"]})

    @app.get("/v1/jobs", **description.LIST_JOBS)
    def list_jobs(
        owner: Owner,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        before: Annotated[
            str | None, Query(max_length=100, description="The id of the last job of the page before.")
        ] = None,
    ) -> dict[str, Any]:
        number = service.entry(before, owner).number if before is not None else None
        entries = service.store.of_owner(owner.name, limit, number)
        return {"jobs": [service.status(entry) for entry in entries]}

    @app.get("/v1/jobs/{id}", **description.GET_JOB)
    def get_job(id: str, owner: Owner) -> dict[str, Any]:
        return service.status(service.entry(id, owner))

    @app.get("/v1/jobs/{id}/events", **description.EVENTS)
    async def events(id: str, request: Request, owner: Owner) -> StreamingResponse:
        await run_in_threadpool(service.entry, id, owner)
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        return StreamingResponse(_events(service, id, owner, request), media_type="text/event-stream", headers=headers)

    @app.get("/v1/jobs/{id}/result", **description.RESULT)
    async def get_result(id: str, request: Request, owner: Owner) -> Response:
        entry = await run_in_threadpool(service.entry, id, owner)
        return await send_result(service, entry, request)

    @app.post("/v1/jobs/{id}/cancel", **description.CANCEL)
    def cancel_job(id: str, owner: Owner) -> dict[str, Any]:
        service.entry(id, owner)
        if not service.dispatcher.cancel(id):
            raise Refused(409, "the job has ended already: there is nothing to cancel")
        return service.status(service.entry(id, owner))

    @app.delete("/v1/jobs/{id}", status_code=204, **description.DELETE)
    def delete_job(id: str, owner: Owner) -> Response:
        service.remove(service.entry(id, owner))
        return Response(status_code=204)


def _add_rest(app: FastAPI, service: Service) -> None:
    @app.get("/v1/templates", **description.TEMPLATES)
    def list_templates(owner: Owner) -> dict[str, Any]:
        return {"templates": list(templates(service.settings))}

    @app.get("/v1/models", **description.MODELS)
    def list_models(owner: Owner) -> dict[str, Any]:
        return {"models": list(service.settings.model_names())}

    @app.get("/v1/settings", **description.SETTINGS)
    def list_settings(owner: Owner) -> dict[str, Any]:
        return {"settings": [description.setting(each) for each in offered(service.settings).values()]}

    @app.get("/healthz", **description.HEALTH)
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    @app.get("/readyz", **description.READY)
    def readyz() -> JSONResponse:
        service.store.count("queued")
        ready = service.dispatcher.is_alive
        return JSONResponse({"status": "ready" if ready else "stopping"}, 200 if ready else 503)

    @app.get("/metrics", response_class=PlainTextResponse, **description.METRICS)
    def metrics() -> Response:
        content, kind = service.measures.text()
        return Response(content, media_type=kind)


async def _events(service: Service, id: str, owner: Key, request: Request) -> AsyncIterator[str]:
    """A job's states as server-sent events, each when it differs from the last, until it has ended."""
    last, spoke = "", time.monotonic()
    while not await request.is_disconnected():
        try:
            told = await run_in_threadpool(lambda: service.status(service.entry(id, owner)))
        except Refused:
            yield _event("removed", json.dumps({"id": id}))
            return
        text = json.dumps(told)
        if text != last:
            last, spoke = text, time.monotonic()
            yield _event(told["state"], text)
        elif time.monotonic() - spoke > KEEP_ALIVE_SECONDS:
            spoke = time.monotonic()
            yield ": still here\n\n"
        if told["state"] in ENDED:
            return
        await asyncio.sleep(EVENT_SECONDS)


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"


def _answer_errors(app: FastAPI) -> None:
    """Every error is JSON with one line."""

    @app.exception_handler(Refused)
    async def refused(_: Request, error: Refused) -> JSONResponse:
        headers = {"Retry-After": str(error.retry_after)} if error.retry_after is not None else {}
        if error.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(error.body(), error.status, headers=headers)

    @app.exception_handler(UserError)
    async def user_error(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"error": str(error)}, 503)

    @app.exception_handler(HTTPException)
    async def http_error(_: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": str(error.detail)}, error.status_code, headers=error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        problems = {str(each["loc"][-1]): str(each["msg"]) for each in error.errors()}
        line = "; ".join(f"{name}: {problem}" for name, problem in problems.items())
        return JSONResponse({"error": line, "problems": problems}, 422)


def _guarded(keys: Keys, local: bool) -> Middleware:
    """Keeps pages of other sites, which a browser on this machine shows, from using a server that asks for no keys."""

    async def guarded(request: Request, call_next: Next) -> Response:
        origin = None if keys.needed else request.headers.get("origin")
        refusal = stranger(request.headers.get("host", ""), origin, local=local)
        if refusal is not None:
            return JSONResponse({"error": f"this server {refusal}"}, 403)
        return await call_next(request)

    return guarded


def _measured(measures: Measures) -> Middleware:
    async def measured(request: Request, call_next: Next) -> Response:
        started = time.perf_counter()
        response = await call_next(request)
        route = request.scope.get("route")
        measures.answered(
            request.method, getattr(route, "path", "unknown"), response.status_code, time.perf_counter() - started
        )
        return response

    return measured
