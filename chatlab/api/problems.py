"""Failures as HTTP answers. A route class does it, so that our routes have our answers whatever app they are in."""

from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.types import Message

from chatlab.errors import ChatlabError, FieldError, InvalidInput, QueueFull
from chatlab.messages import Problem
from chatlab.problems import TYPE_PREFIX, problem_of

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
_PLACES = ("body", "query", "path", "header")  # pydantic's locations begin with one

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


Answer = Callable[[Problem, Sequence[FieldError]], Response]


def route_class(answer: Answer, max_body_bytes: int) -> type[APIRoute]:
    """A route that reads no more than `max_body_bytes` and turns every failure into an `answer`."""

    class Route(APIRoute):
        def get_route_handler(self) -> Handler:
            handler = super().get_route_handler()

            async def handle(request: Request) -> Response:
                try:
                    return await handler(_limited(request, max_body_bytes))
                except RequestValidationError as error:
                    invalid = InvalidInput(*field_errors(error))
                    return answer(problem_of(invalid), invalid.errors)
                except HTTPException as error:
                    if error.status_code == 400:  # FastAPI's answer to a body that no parser takes
                        invalid = InvalidInput(FieldError("body", f"must be JSON in UTF-8: {error.detail}"))
                        return answer(problem_of(invalid), invalid.errors)
                    return answer(_http_problem(error), ())
                except ChatlabError as error:
                    response = answer(problem_of(error), error.errors if isinstance(error, InvalidInput) else ())
                    if isinstance(error, QueueFull):
                        response.headers["Retry-After"] = str(error.retry_after_seconds)
                    return response
                except Exception as error:
                    log.error("request failed", path=request.url.path, exc_info=True)
                    return answer(problem_of(error), ())

            return handle

    return Route


def _limited(request: Request, max_body_bytes: int) -> Request:
    """The request, failing with 413 as soon as its body proves too large."""
    too_large = HTTPException(413, f"the body is larger than {max_body_bytes} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > max_body_bytes:
        raise too_large
    n_bytes = 0

    async def receive() -> Message:
        nonlocal n_bytes
        message = await request.receive()
        n_bytes += len(message.get("body", b""))
        if n_bytes > max_body_bytes:
            raise too_large
        return message

    return Request(request.scope, receive)


def problem_response(problem: Problem, errors: Sequence[FieldError] = (), turn_id: str | None = None) -> Response:
    """A problem as an HTTP answer."""
    content: dict[str, Any] = {
        "type": problem.type,
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
    }
    if errors:
        content["errors"] = [{"field": error.field, "message": error.message} for error in errors]
    if turn_id is not None:
        content["turnID"] = turn_id
    return JSONResponse(content, problem.status, media_type=MEDIA_TYPE)


def field_errors(error: RequestValidationError) -> list[FieldError]:
    """Pydantic's errors in our words; the field is named as the caller wrote it."""
    found: list[FieldError] = []
    for each in error.errors():
        location = [str(part) for part in each["loc"]]
        if len(location) > 1 and location[0] in _PLACES:
            location = location[1:]
        message = str(each["msg"]).removeprefix("Value error, ")
        if each["type"] == "extra_forbidden":
            message = "no such field"
        if each["type"] == "json_invalid":
            location, message = ["body"], f"must be JSON: {each.get('ctx', {}).get('error', message)}"
        found.append(FieldError(".".join(location), message))
    return found


def _http_problem(error: HTTPException) -> Problem:
    title = "Body too large" if error.status_code == 413 else "Request refused"
    name = "too-large" if error.status_code == 413 else "http"
    return Problem(TYPE_PREFIX + name, title, error.status_code, str(error.detail))
