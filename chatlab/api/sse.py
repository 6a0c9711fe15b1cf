"""A turn's events as server-sent events (https://html.spec.whatwg.org/multipage/server-sent-events.html).

The right to read was checked before the first byte: what is in here cannot fail.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

from fastapi.responses import StreamingResponse
from fastapi.sse import format_sse_event
from pydantic import BaseModel

from chatlab.api.schemas import StatusEventBody, TurnBody, problem_body
from chatlab.messages import DeltaEvent, DoneEvent, ErrorEvent, Event, RestartEvent, StatusEvent

KEEP_ALIVE_SECONDS = 15.0
KEEP_ALIVE = b": keep-alive\n\n"
# `no-transform` keeps proxies and compressors from collecting what should flow.
HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}


class Delta(BaseModel):
    """Data of the event `delta`."""

    text: str


def stream_response(parts: AsyncIterator[bytes], headers: dict[str, str] | None = None) -> StreamingResponse:
    """A response that sends each part as it comes."""
    return StreamingResponse(parts, media_type="text/event-stream", headers={**HEADERS, **(headers or {})})


async def encode(events: AsyncGenerator[list[Event]]) -> AsyncGenerator[bytes]:
    """Events in the wire format, with comments in silent times so that proxies keep the connection."""
    async with aclosing(events):
        while True:
            upcoming = asyncio.ensure_future(anext(events, None))
            try:
                while not (await asyncio.wait([upcoming], timeout=KEEP_ALIVE_SECONDS))[0]:
                    yield KEEP_ALIVE
                if (batch := upcoming.result()) is None:
                    return
            finally:
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)
            yield b"".join(map(_encode, batch))


def _encode(event: Event) -> bytes:
    name, data = _data(event)
    return format_sse_event(event=name, id=str(event.id), data_str=data)


def _data(event: Event) -> tuple[str, str]:
    match event.body:
        case StatusEvent() as body:
            left_out = {"similar"} if body.similar is None else None
            return "status", StatusEventBody.model_validate(body).model_dump_json(by_alias=True, exclude=left_out)
        case DeltaEvent() as body:
            return "delta", Delta(text=body.text).model_dump_json()
        case RestartEvent():
            return "restart", "{}"
        case DoneEvent() as body:
            return "done", TurnBody.of(body.turn).model_dump_json(by_alias=True)
        case ErrorEvent() as body:
            return "error", problem_body(body.problem, body.turn.turn_id).model_dump_json(by_alias=True)
