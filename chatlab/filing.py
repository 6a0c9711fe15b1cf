"""Files of chats that come and go over HTTP. A file is on disk while it is worked on, never in memory."""

import os
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse

from chatlab.exchange import FormatName, format_of, read_export
from chatlab.importing import Imported
from chatlab.library import ChatLibrary

UNPACKED = 20  # times that a file may grow when it is unpacked


async def take_in(chats: ChatLibrary, user_id: str, request: Request, max_bytes: int) -> Imported:
    """Store the chats of a request's body as a user's, all of them or none.

    Raises:
        HTTPException: The body is larger than `max_bytes` (413).
        ExchangeError: The file cannot be used.
    """
    async with _received(request, max_bytes) as file:
        return await chats.import_chats(user_id, read_export(file, max_bytes=UNPACKED * max_bytes))


async def give_out(chats: ChatLibrary, user_id: str, name: FormatName, chat_id: str | None) -> FileResponse:
    """A user's chats, or one of them, as an answer to be kept as a file; on disk it is deleted once it is sent.

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


@asynccontextmanager
async def _received(request: Request, max_bytes: int) -> AsyncGenerator[Path]:
    """A request's body as a file, gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="chatlab-import-") as folder:
        path, n_bytes = Path(folder) / "chats", 0
        with path.open("wb") as file:
            async for chunk in request.stream():
                n_bytes += len(chunk)
                if n_bytes > max_bytes:
                    raise HTTPException(413, f"the file is larger than {max_bytes:,} bytes")
                file.write(chunk)
        yield path
