"""The REST routes that take in and give out files of chats."""

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response

from chatlab.api.identity import Caller
from chatlab.api.parameters import problems
from chatlab.api.problems import problem_response, route_class
from chatlab.api.schemas import ImportedBody
from chatlab.chat import ChatService
from chatlab.exchange import FORMATS, FormatName
from chatlab.filing import give_out, take_in
from chatlab.settings import Settings

FILE_TYPES = ("application/json", "application/x-ndjson", "application/gzip", "application/zip")
MADE_TYPES = sorted({each.media_type.partition(";")[0] for each in FORMATS.values()})
BYTES: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}
JSON: dict[str, Any] = {"schema": {}}


def transfer_router(chats: ChatService, settings: Settings) -> APIRouter:
    """The routes over a service."""
    router = APIRouter(route_class=route_class(problem_response, settings.max_import_bytes), tags=["chat"])

    @router.post(
        "/chats/import",
        status_code=201,
        responses=problems(413, 422),
        openapi_extra={"requestBody": {"required": True, "content": dict.fromkeys(FILE_TYPES, BYTES)}},
    )
    async def import_chats(user_id: Caller, request: Request) -> ImportedBody:
        """Take in an export of ChatGPT, Open WebUI, LibreChat, ShareGPT's form or chatlab: all of it or nothing."""
        return ImportedBody.model_validate(await take_in(chats, user_id, request, settings.max_import_bytes))

    @router.get(
        "/chats/export",
        response_class=Response,
        responses={
            **problems(404, 422),
            200: {"content": {kind: JSON if kind == "application/json" else BYTES for kind in MADE_TYPES}},
        },
    )
    async def export_chats(
        user_id: Caller,
        format: FormatName = "json",
        chatID: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
    ) -> FileResponse:
        """The caller's chats as a file, or one of them."""
        return await give_out(chats, user_id, format, chatID)

    return router
