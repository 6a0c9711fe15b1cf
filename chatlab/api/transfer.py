"""The REST routes that take in and give out files of chats; a file is on disk while it is worked on, not in memory."""

import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, Response
from starlette.background import BackgroundTask

from chatlab.api.identity import Caller
from chatlab.api.parameters import problems
from chatlab.api.problems import problem_response, route_class
from chatlab.api.schemas import ImportedBody
from chatlab.chat import ChatService
from chatlab.exchange import FORMATS, FormatName, format_of, read_export
from chatlab.settings import Settings

PACKED = 20  # times that a file may grow when it is unpacked
FILE_TYPES = ("application/json", "application/x-ndjson", "application/gzip", "application/zip")
BYTES = {"schema": {"type": "string", "format": "binary"}}


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
        async with received(request) as file:
            found = read_export(file, max_bytes=PACKED * settings.max_import_bytes)
            return ImportedBody.model_validate(await chats.import_chats(user_id, found))

    @router.get(
        "/chats/export",
        response_class=Response,
        responses={
            **problems(404, 422),
            200: {"content": {each.media_type.partition(";")[0]: BYTES for each in FORMATS.values()}},
        },
    )
    async def export_chats(
        user_id: Caller,
        format: FormatName = "json",
        chatID: Annotated[str | None, Query(min_length=1, max_length=64)] = None,
    ) -> FileResponse:
        """The caller's chats as a file, or one of them."""
        return await exported(chats, user_id, format, chatID)

    return router


@asynccontextmanager
async def received(request: Request) -> AsyncGenerator[Path]:
    """A request's body as a file, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="chatlab-import-") as folder:
        path = Path(folder) / "chats"
        with path.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
        yield path


async def exported(chats: ChatService, user_id: str, name: FormatName, chat_id: str | None) -> FileResponse:
    """A file of chats as an answer; it is deleted once it is sent.

    Raises:
        NotFound: No such chat of this user.
    """
    made = format_of(name, chat_id is not None)
    handle, path = tempfile.mkstemp(prefix="chatlab-export-", suffix=made.suffix)
    try:
        with os.fdopen(handle, "wb") as file:
            await chats.export_chats(user_id, name, file, chat_id)
    except BaseException:
        os.unlink(path)
        raise
    filename = f"chatlab-{name}{made.suffix}" if chat_id is None else f"chat-{chat_id}-{name}{made.suffix}"
    return FileResponse(path, media_type=made.media_type, filename=filename, background=BackgroundTask(os.unlink, path))
