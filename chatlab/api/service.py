"""Routes about the service itself: liveness, readiness, metrics, the OpenAPI document and its page."""

import asyncio
from collections.abc import Callable
from importlib.resources import files
from typing import Any

from fastapi import APIRouter, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.routing import BaseRoute
from starlette.staticfiles import StaticFiles

from chatlab import __version__
from chatlab.api.problems import problem_response, route_class
from chatlab.api.schemas import Health
from chatlab.store import Store
from chatlab.telemetry import Metrics

TITLE = "chatlab"
DESCRIPTION = "Chats whose every answer shows where it came from and what it cost."
MAX_BODY_BYTES = 1_000  # these routes take none
PROMETHEUS = "text/plain; version=1.0.0; charset=utf-8"


def service_router(store: Store, metrics: Metrics, check_engine: Callable[[], str]) -> APIRouter:
    """Health and metrics.

    Args:
        store: Asked whether it answers.
        metrics: Shown.
        check_engine: `ok`, or what is wrong.
    """
    router = APIRouter(route_class=route_class(problem_response, MAX_BODY_BYTES), tags=["service"])

    @router.get("/healthz")
    async def healthz() -> Health:
        """Whether the process is alive."""
        return Health(status="ok", checks={})

    @router.get("/readyz", response_model=Health, responses={503: {"model": Health, "description": "Not ready"}})
    async def readyz() -> Response:
        """Whether a message would be answered."""
        checks = {"store": await asyncio.to_thread(_check, store.ping), "engine": check_engine()}
        ready = all(state == "ok" for state in checks.values())
        body = Health(status="ok" if ready else "unavailable", checks=checks)
        return JSONResponse(body.model_dump(), 200 if ready else 503)

    @router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def show_metrics() -> Response:
        """Prometheus metrics."""
        return Response(metrics.prometheus(), media_type=PROMETHEUS)

    return router


def docs_router(routes: list[BaseRoute]) -> APIRouter:
    """The OpenAPI document of `routes` and a page that shows it, without a network."""
    router = APIRouter(include_in_schema=False)
    document: dict[str, Any] = get_openapi(
        title=TITLE, version=__version__, description=DESCRIPTION, routes=routes, openapi_version="3.1.0"
    )

    @router.get("/openapi.json")
    async def openapi() -> Response:
        return JSONResponse(document)

    @router.get("/docs")
    async def docs() -> HTMLResponse:
        return get_swagger_ui_html(
            openapi_url="openapi.json",
            title=f"{TITLE}: API",
            swagger_js_url="docs/assets/swagger-ui-bundle.js",
            swagger_css_url="docs/assets/swagger-ui.css",
            swagger_favicon_url="docs/assets/favicon-32x32.png",
        )

    router.mount("/docs/assets", StaticFiles(directory=str(files("fastapi_swagger") / "resources")))
    return router


def _check(ask: Callable[[], None]) -> str:
    try:
        ask()
    except Exception as error:  # noqa: BLE001 - whatever it is, the answer is "not ready"
        return f"{type(error).__name__}: {error}"
    return "ok"
