"""Answers without a chat, for callers that bring the whole conversation with every request (`/v1`).

Nothing is stored. The answer ends when the caller leaves. A history strategy is applied only when asked for.
"""

import asyncio
from collections.abc import AsyncGenerator, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace

from chatlab.clock import Clock
from chatlab.engines.base import Chunk, Engine, GenerationRequest, answer_limit, check_room
from chatlab.errors import EngineError, FieldError, InvalidInput
from chatlab.history import Judge, NoteWriter, PromptBuilder, PromptInput, Recall, UnstoredNotes
from chatlab.history.inert import make_inert
from chatlab.jobs import Jobs
from chatlab.messages import UNKNOWN_TIME, HistoryChoice, Message, PromptProvenance, SamplingParams, Turn

QUESTION_ID = "question"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that fits; `prompt` None when the messages are sent as they came."""

    request: GenerationRequest
    prompt: PromptProvenance | None
    prompt_tokens: int


class CompletionService:
    """Stateless completions on the same engine and within the same limits as chats."""

    def __init__(self, jobs: Jobs, engine: Engine, recall: Recall, clock: Clock) -> None:
        self._jobs = jobs
        self._engine = engine
        self._prompts = PromptBuilder(engine, recall)
        # Nobody waits for an embedder: the rules alone judge what is noted.
        self._notes = UnstoredNotes(self._prompts, NoteWriter(self._prompts.stretches, Judge()), engine.facts.model)
        self._clock = clock

    async def prepare(
        self,
        user_id: str,
        messages: Sequence[Message],
        params: SamplingParams,
        history: HistoryChoice | None = None,
    ) -> Prepared:
        """Check that a request can be answered.

        What a strategy recalls of its messages is found by words alone, what it notes of them is statements alone.

        Raises:
            InvalidInput: The messages do not form a conversation (with `history`), or do not fit (`PromptTooLong`).
        """
        if history is None:
            return await asyncio.to_thread(self._as_sent, user_id, messages, params)
        given = self._as_conversation(user_id, messages)
        given = replace(given, notes=await self._notes.keep(given, history, params))
        prompt = await self._prompts.build(given, history, params)
        provenance = prompt.provenance
        request = GenerationRequest(prompt.messages, params, user_id, prompt.quoted_chars)
        return Prepared(request, provenance, provenance.prompt_tokens)

    async def stream(self, prepared: Prepared) -> AsyncGenerator[Chunk]:
        """The answer; closing the generator cancels.

        Raises:
            QueueFull: Too many answers are under way; raised before the first chunk.
            EngineError: The engine failed.
        """
        with self.slot():
            async with aclosing(self._engine.stream(prepared.request)) as chunks:
                async for chunk in chunks:
                    if self._jobs.closed:
                        raise EngineError("the server is stopping")
                    yield chunk

    @contextmanager
    def slot(self) -> Generator[None]:
        """A place among the answers under way, for work that has no turn.

        Raises:
            QueueFull: Too many answers are under way.
        """
        self._jobs.take_slot()
        try:
            yield
        finally:
            self._jobs.free_slot()

    def _as_sent(self, user_id: str, messages: Sequence[Message], params: SamplingParams) -> Prepared:
        """The messages as they came; tokenising takes time."""
        facts = self._engine.facts
        sent = tuple(Message(role=m["role"], content=make_inert(m["content"], facts)) for m in messages)
        prompt_tokens = self._engine.count(sent)
        check_room(facts, prompt_tokens, answer_limit(facts, params))
        return Prepared(GenerationRequest(sent, params, user_id), None, prompt_tokens)

    def _as_conversation(self, user_id: str, messages: Sequence[Message]) -> PromptInput:
        """Messages as turns, named by the index of their user message."""
        system = [m["content"] for m in messages if m["role"] == "system"]
        rest = [(i, m) for i, m in enumerate(messages) if m["role"] != "system"]
        roles = [m["role"] for _, m in rest]
        if not rest or roles != ["user", "assistant"] * (len(rest) // 2) + ["user"]:
            raise InvalidInput(
                FieldError("messages", "with chatlab.history they must alternate user and assistant and end with user")
            )
        path = [
            Turn(str(i), "", user_id, None, asked["content"], UNKNOWN_TIME, assistant_message=answer["content"])
            for (i, asked), (_, answer) in zip(rest[:-1:2], rest[1::2], strict=True)
        ]
        return PromptInput("\n\n".join(system) or None, path, rest[-1][1]["content"], QUESTION_ID)
