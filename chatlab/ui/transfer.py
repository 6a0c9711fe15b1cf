"""The page's own routes for files of chats: what a ticket permits, and failures as words that the page shows."""

from collections.abc import Awaitable
from typing import get_args

import structlog
from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from chatlab.errors import ExchangeError, NotFound
from chatlab.exchange import FormatName
from chatlab.filing import give_out, take_in
from chatlab.ui.tickets import Tickets
from chatlab.wiring import Parts

log = structlog.get_logger(__name__)


def files_router(parts: Parts) -> APIRouter:
    """The routes over running parts."""
    router = APIRouter(include_in_schema=False)
    tickets = Tickets(parts.secret_key)

    @router.post("/page/import")
    async def import_chats(request: Request, ticket: str = "") -> Response:
        user_id = tickets.user_id(ticket)
        if user_id is None:
            return _too_old()

        async def work() -> Response:
            done = await take_in(parts.chats, user_id, request, parts.settings.max_import_bytes)
            return JSONResponse({"chats": done.chats, "turns": done.turns, "leftOut": dict(done.left_out)})

        return await _answered(work())

    @router.get("/page/export")
    async def export_chats(ticket: str = "", format: str = "json", chat: str = "") -> Response:
        user_id = tickets.user_id(ticket)
        if user_id is None:
            return _too_old()
        name = next((each for each in get_args(FormatName) if each == format), None)
        if name is None:
            return JSONResponse({"detail": "There is no such format."}, 422)
        return await _answered(give_out(parts.chats, user_id, name, chat or None))

    return router


async def _answered(work: Awaitable[Response]) -> Response:
    try:
        return await work
    except ExchangeError as error:
        return JSONResponse({"detail": str(error)}, 422)
    except NotFound:
        return JSONResponse({"detail": "This chat is not there any more."}, 404)
    except HTTPException as error:
        return JSONResponse({"detail": f"That did not work: {error.detail}."}, error.status_code)
    except Exception:
        log.exception("a file of chats was not moved")
        return JSONResponse({"detail": "The server could not do it; its log says why."}, 500)


def _too_old() -> Response:
    return JSONResponse({"detail": "This link is too old: choose it again on the page."}, 403)
