"""The engine that answers with the user's message, word for word: for tests, load and a look at the plumbing.

A token is a word with the white space before it. It has no queue: every request has a slot.
"""

import asyncio
import re
from collections.abc import AsyncGenerator, Sequence

from chatlab.engines.base import (
    Chunk,
    EngineLoad,
    Finished,
    GenerationRequest,
    ModelFacts,
    Piece,
    Started,
    answer_limit,
    check_room,
)
from chatlab.engines.text import StopStrings
from chatlab.messages import Message

TOKEN = re.compile(r"\s*\S+|\s+")
CONTEXT_TOKENS = 1_000_000
SLOTS = 1_000_000


class EchoEngine:
    """Deterministic, with a settable pace.

    Args:
        tokens_per_second: Pace of one stream; 0 is as fast as it can. The first token comes at once.
    """

    def __init__(
        self,
        tokens_per_second: float = 0.0,
        context_tokens: int = CONTEXT_TOKENS,
    ) -> None:
        self._interval_seconds = 1 / tokens_per_second if tokens_per_second else 0.0
        self._running = 0
        self._facts = ModelFacts(
            model="echo",
            engine="echo",
            device="cpu",
            context_tokens=context_tokens,
            default_max_new_tokens=context_tokens // 2,
            slots=SLOTS,
            writes_titles=False,
        )

    @property
    def facts(self) -> ModelFacts:
        """The limits of the echo."""
        return self._facts

    @property
    def load(self) -> EngineLoad:
        """Nothing ever waits."""
        return EngineLoad(running=self._running, waiting=0)

    @property
    def alive(self) -> bool:
        """Always."""
        return True

    def render(self, messages: Sequence[Message]) -> str:
        """One line a message."""
        return "".join(f"{message['role']}: {message['content']}\n" for message in messages)

    def count(self, messages: Sequence[Message]) -> int:
        """Words of the rendered text."""
        return len(self.render(messages).split()) + 1  # the end of the last line is white space, too

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """The last user message without what is quoted before it, a word at a time."""
        prompt_tokens, limit = self.count(request.messages), answer_limit(self._facts, request.params)
        check_room(self._facts, prompt_tokens, limit)
        said = next((m["content"] for m in reversed(request.messages) if m["role"] == "user"), "")
        tokens: list[str] = TOKEN.findall(said[request.quoted_chars :])
        stops = StopStrings(request.params.stop or ())
        loop = asyncio.get_running_loop()
        due = loop.time()
        self._running += 1
        try:
            yield Started(prompt_tokens, reused_prefix_tokens=0)
            for token in tokens[:limit]:
                await asyncio.sleep(max(0.0, due - loop.time()))
                due += self._interval_seconds
                yield Piece(stops.feed(token))
                if stops.hit:
                    break
            if held := stops.flush():
                yield Piece(held, tokens=0)
            yield Finished("length" if len(tokens) > limit and not stops.hit else "stop")
        finally:
            self._running -= 1

    def warm(self, request: GenerationRequest) -> None:
        """Nothing: there are no keys and values, and the first token comes at once."""

    def close(self) -> None:
        """Nothing to free."""
