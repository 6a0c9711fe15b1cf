"""Asking the model for something that nobody waits for: people's messages go first."""

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from chatlab.engines.base import Engine, EngineLoad, Finished, GenerationRequest, Piece
from chatlab.messages import FinishReason

POLL_SECONDS = 0.1

Room = Callable[[EngineLoad, bool], bool]


@dataclass(frozen=True, slots=True)
class Answered:
    """A whole answer and why it ended."""

    text: str
    reason: FinishReason


def nobody_waits(load: EngineLoad, asked: bool) -> bool:
    """Whether no message waits for the engine."""
    return not load.waiting


def nobody_is_answered(load: EngineLoad, asked: bool) -> bool:
    """Whether the engine has nothing else to do than what was `asked` aside."""
    return not load.waiting and load.running <= asked


async def answer_aside(engine: Engine, request: GenerationRequest, room: Room = nobody_waits) -> Answered:
    """Ask as soon as there is room; make room for what comes meanwhile, and then ask anew.

    Args:
        engine: To ask.
        request: What to ask.
        room: Given the load and whether this request is part of it, whether it may go on.

    Raises:
        ChatlabError: The engine failed.
    """
    while True:
        while not room(engine.load, False):
            await asyncio.sleep(POLL_SECONDS)
        text = ""
        async with aclosing(engine.stream(request)) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, Finished):
                    return Answered(text, chunk.reason)
                if not room(engine.load, True):
                    break
                if isinstance(chunk, Piece):
                    text += chunk.text
