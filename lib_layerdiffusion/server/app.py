"""The FastAPI app: where every route is, what becomes of errors, and the page's files where there is a page."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from os import stat_result
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from lib_layerdiffusion.errors import LayerDiffusionError
from lib_layerdiffusion.server.endpoints import Facts, Json, Runs, Tools
from lib_layerdiffusion.server.faults import BusyError, FieldError, MissingError, one_line
from lib_layerdiffusion.server.form import CHAIN, GENERATE, request_schema
from lib_layerdiffusion.server.guard import App, Doors, Guard
from lib_layerdiffusion.server.routes import PREFIX, UNPROCESSABLE
from lib_layerdiffusion.server.service import Service
from lib_layerdiffusion.version import __version__

WEB = Path(__file__).parent / "web"
"""The page."""
BODIES = {"generate": GENERATE, "chain": CHAIN}
"""What these routes take."""
_LOG = logging.getLogger(__name__)
_SENTENCES = {
    400: "The request must be a JSON object.",
    404: f"There is nothing here: {PREFIX}/openapi.json lists what there is.",
    405: f"This is not done in this way: {PREFIX}/openapi.json lists how.",
}


class _Page(StaticFiles):
    """The page's files; a browser asks each time whether they have changed."""

    def lookup_path(self, path: str) -> tuple[str, stat_result | None]:
        """Where a file is; a name that no file can have is the name of none."""
        try:
            return super().lookup_path(path)
        except (OSError, ValueError):
            return "", None

    def file_response(self, *args: Any, **kwargs: Any) -> Response:
        """One file."""
        response = super().file_response(*args, **kwargs)
        response.headers["Cache-Control"] = "no-cache"
        return response


def build_app(service: Service) -> FastAPI:
    """The routes of a service, without the guard in front of them."""
    app = FastAPI(
        title="LayerDiffusion",
        version=__version__,
        description="Transparent pictures and layers from prompts. Errors are `{detail: one sentence, field: name}`.",
        openapi_url=f"{PREFIX}/openapi.json",
        docs_url=None,  # these pages load their scripts from elsewhere
        redoc_url=None,
    )
    _add_handlers(app)
    facts, tools, runs = Facts(service), Tools(service), Runs(service)
    defaults = service.facts.default_values()
    bodies = {name: _json_body(request_schema(defaults, rows)) for name, rows in BODIES.items()}
    for verb, path, endpoint, extra in (
        *_routes_of_facts(facts),
        *_routes_of_tools(tools),
        *_routes_of_runs(runs, bodies),
    ):
        app.add_api_route(
            f"{PREFIX}/{path}",
            endpoint,
            methods=[verb],
            response_class=Json,
            response_model=None,
            openapi_extra=extra,
            tags=["LayerDiffusion"],
        )
    if service.web is not None:
        app.mount("/", _Page(directory=service.web, html=True))
    return app


Row = tuple[str, str, Callable[..., Any], "dict[str, Any] | None"]


def _routes_of_facts(facts: Facts) -> list[Row]:
    return [
        ("GET", "model", facts.model, None),
        ("GET", "schema", facts.schema, None),
        ("GET", "request-schema", facts.request_schema, None),
        ("GET", "methods", facts.methods, None),
        ("GET", "translations/{language}", facts.translations, None),
        ("POST", "words", facts.words, None),
        ("GET", "status", facts.status, None),
    ]


def _routes_of_tools(tools: Tools) -> list[Row]:
    any_file = {"requestBody": {"content": {"image/*": {"schema": {"type": "string", "format": "binary"}}}}}
    return [
        ("POST", "pictures", tools.add_picture, any_file),
        ("GET", "pictures/{name}", tools.picture, None),
        ("POST", "compose", tools.compose, None),
        ("POST", "trim", tools.trim, None),
        ("POST", "layers", tools.layers, None),
        ("POST", "encode", tools.encode, None),
        ("POST", "decode", tools.decode, None),
    ]


def _json_body(schema: dict[str, object]) -> dict[str, Any]:
    return {"requestBody": {"content": {"application/json": {"schema": schema}}, "required": True}}


def _routes_of_runs(runs: Runs, bodies: Mapping[str, dict[str, Any]]) -> list[Row]:
    return [
        ("POST", "generate", runs.generate, bodies["generate"]),
        ("POST", "chain", runs.chain, bodies["chain"]),
        ("POST", "stop", runs.stop_all, None),
        ("GET", "jobs", runs.jobs, None),
        ("GET", "jobs/{name}", runs.job, None),
        ("GET", "jobs/{name}/events", runs.events, None),
        ("POST", "jobs/{name}/stop", runs.stop, None),
        ("DELETE", "jobs/{name}", runs.forget, None),
        ("GET", "jobs/{name}/files.zip", runs.files, None),
        ("GET", "jobs/{name}/{index}.{ending}", runs.layer_file, None),
    ]


def _add_handlers(app: FastAPI) -> None:
    """Every error is answered with a status and one sentence."""

    def mistake(request: Request, error: Exception) -> Json:
        status = 404 if isinstance(error, MissingError) else 429 if isinstance(error, BusyError) else UNPROCESSABLE
        field = {"field": error.field} if isinstance(error, FieldError) else {}
        headers = {"Retry-After": "10"} if status == 429 else None
        if request.method == "POST":
            _LOG.warning("Refused: %s", one_line(error))
        return Json({"detail": str(error), **field}, status_code=status, headers=headers)

    def unreadable(_request: Request, error: Exception) -> Json:
        places = error.errors() if isinstance(error, RequestValidationError) else []
        names = [str(part) for place in places for part in place.get("loc", ())[1:2]]
        is_body = not places or places[0].get("loc", ("body",))[0] == "body"
        sentence = "The request must be a JSON object." if is_body else f'"{names[0] if names else ""}" cannot be read.'
        return Json({"detail": sentence}, status_code=UNPROCESSABLE)

    def refused(_request: Request, error: Exception) -> Json:
        status = error.status_code if isinstance(error, HTTPException) else 500
        detail = error.detail if isinstance(error, HTTPException) else ""
        answered = UNPROCESSABLE if status == 400 else status
        return Json({"detail": _SENTENCES.get(status, detail)}, status_code=answered)

    def fault(_request: Request, error: Exception) -> Json:
        _LOG.error("A request failed", exc_info=error)
        return Json({"detail": "This failed for a reason that is not yours; the server's log has it."}, 500)

    app.add_exception_handler(LayerDiffusionError, mistake)
    app.add_exception_handler(RequestValidationError, unreadable)
    app.add_exception_handler(HTTPException, refused)
    app.add_exception_handler(Exception, fault)


def guarded(service: Service, doors: Doors) -> App:
    """The whole server: the app behind its guard."""
    return Guard(build_app(service), doors)  # type: ignore[arg-type] - starlette's own words for the same
