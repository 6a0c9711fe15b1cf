"""Answers without a chat, for callers that bring the whole conversation with every request (`/v1`).

Nothing is stored but, for callers that opt in to the cache, answers that may serve again. The answer ends when the
caller leaves. A history strategy is applied only when asked for.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace

from chatlab.auditor import Auditor
from chatlab.cache.answers import AnswerCache
from chatlab.cache.lookup import Ask, Lookup
from chatlab.clock import Clock
from chatlab.engines.base import Chunk, Engine, Finished, GenerationRequest, Piece, answer_limit, check_room
from chatlab.errors import EngineError, FieldError, InvalidInput
from chatlab.history import Judge, NoteWriter, PromptBuilder, PromptInput, Recall, UnstoredNotes
from chatlab.history.inert import make_inert
from chatlab.jobs import Jobs
from chatlab.messages import (
    UNKNOWN_TIME,
    CacheEntry,
    CacheScope,
    FinishReason,
    HistoryChoice,
    Message,
    PromptProvenance,
    Provenance,
    SamplingParams,
    Turn,
    Usage,
)
from chatlab.progress import Progress

QUESTION_ID = "question"


@dataclass(frozen=True, slots=True)
class Prepared:
    """A request that fits, or whose answer is there.

    Attributes:
        prompt: None when the messages are sent as they came.
        lookup: Of the cache, for callers that opted in.
    """

    request: GenerationRequest
    prompt: PromptProvenance | None
    prompt_tokens: int
    lookup: Lookup | None = None


class CompletionService:
    """Stateless completions on the same engine and within the same limits as chats."""

    def __init__(
        self,
        jobs: Jobs,
        engine: Engine,
        recall: Recall,
        answers: AnswerCache,
        auditor: Auditor,
        clock: Clock,
        new_id: Callable[[], str],
    ) -> None:
        self._jobs = jobs
        self._answers = answers
        self._auditor = auditor
        self._new_id = new_id
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
        scope: CacheScope | None = None,
        peek: bool = False,
    ) -> Prepared:
        """Check that a request can be answered, or find its answer in the cache where a scope is given.

        What a strategy recalls of its messages is found by words alone, what it notes of them is statements alone.
        With `peek`, the cache is only looked at: no answer enters it, and no lookup is counted.

        Raises:
            InvalidInput: The messages do not form a conversation (with `history` or a scope), or do not fit
                (`PromptTooLong`).
        """
        lookup = None if scope is None else await self._look_up(user_id, messages, params, scope, history, peek)
        if lookup is not None and lookup.entry is not None:
            return Prepared(GenerationRequest(tuple(messages), params, user_id), None, 0, lookup)
        return replace(await self._prepared(user_id, messages, params, history), lookup=lookup)

    async def _look_up(
        self,
        user_id: str,
        messages: Sequence[Message],
        params: SamplingParams,
        scope: CacheScope,
        history: HistoryChoice | None,
        peek: bool,
    ) -> Lookup:
        given = self._as_conversation(user_id, messages)
        facts = self._engine.facts
        return await self._answers.look_up(
            Ask(
                user_id=user_id,
                chat_id="",
                turn_id=self._new_id(),
                scope=scope,
                question=given.question,
                path=given.path,
                system_prompt=given.system_prompt,
                params=params,
                model=f"{facts.engine}/{facts.model}",
                history=history,
                peek=peek,
            )
        )

    async def _prepared(
        self, user_id: str, messages: Sequence[Message], params: SamplingParams, history: HistoryChoice | None
    ) -> Prepared:
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
        lookup = prepared.lookup
        if lookup is not None and (lookup.entry is not None or await self._follows(lookup)):
            assert lookup.entry is not None
            if not lookup.ask.peek:
                self._jobs.aside(self._served(lookup, prepared), "learn of a hit")
            yield Piece(lookup.entry.answer)
            yield Finished("stop", Usage(0, 0, 0, lookup.entry.saved_tokens))
            return
        progress, said = Progress(time.perf_counter()), list[str]()
        kept: CacheEntry | None = None
        try:
            with self.slot():
                async with aclosing(self._engine.stream(prepared.request)) as chunks:
                    async for chunk in chunks:
                        if self._jobs.closed:
                            raise EngineError("the server is stopping")
                        progress.take(chunk)
                        if isinstance(chunk, Piece):
                            said.append(chunk.text)
                        if isinstance(chunk, Finished) and lookup is not None and not lookup.ask.peek:
                            kept = await self._keep(lookup, prepared, progress, "".join(said))
                        yield chunk
        finally:
            if lookup is not None:
                self._answers.ended(lookup, kept)

    async def _follows(self, lookup: Lookup) -> bool:
        """Whether who asks the same right now got an answer, which is served then; else others may wait for it here."""
        if lookup.ask.peek:
            return False
        self._answers.lead(lookup)
        if lookup.following is None:
            return False
        begun = time.perf_counter()
        entry = await asyncio.shield(lookup.following)
        lookup.ms = round(lookup.ms + 1e3 * (time.perf_counter() - begun), 3)
        if entry is not None:
            lookup.serve(entry)
        return entry is not None

    async def _served(self, lookup: Lookup, prepared: Prepared) -> None:
        """Note a hit, and audit it where it was drawn."""
        await self._answers.note(lookup)
        ask, messages = lookup.ask, prepared.request.messages

        async def request() -> tuple[GenerationRequest, PromptProvenance | None]:
            anew = await self._prepared(ask.user_id, messages, ask.params, ask.history)
            return anew.request, anew.prompt

        async def learn(given: Turn) -> None:
            if (kept := await self._answers.audited(lookup, given)) is not None:
                await self._answers.index(lookup, kept)

        if self._answers.to_audit(lookup):
            served = self._turn(
                lookup, Provenance(lookup.provenance), lookup.entry.answer if lookup.entry else "", "stop"
            )
            await self._auditor.ask(served, request, learn)

    async def _keep(self, lookup: Lookup, prepared: Prepared, progress: Progress, answer: str) -> CacheEntry | None:
        """Offer an answer to the cache, and learn from it. Gives what was stored."""
        facts = self._engine.facts
        provenance = Provenance(
            lookup.provenance, prepared.prompt, progress.usage, progress.timing, facts.model, facts.engine
        )
        turn = self._turn(lookup, provenance, answer, progress.finish_reason)
        if (kept := await self._answers.offer(lookup, turn)) is not None:
            self._jobs.aside(self._answers.index(lookup, kept), "index an answer")
        self._jobs.aside(self._noted(lookup, turn), "learn of a miss")
        return kept

    def _turn(self, lookup: Lookup, provenance: Provenance, answer: str, finish_reason: FinishReason | None) -> Turn:
        """An answer as the cache knows it."""
        return Turn(
            turn_id="",
            chat_id="",
            user_id=lookup.ask.user_id,
            parent_turn_id=None,
            user_message=lookup.ask.question,
            created_at=self._clock(),
            assistant_message=answer,
            status="done",
            finish_reason=finish_reason,
            provenance=provenance,
        )

    async def _noted(self, lookup: Lookup, turn: Turn) -> None:
        await self._answers.note(lookup)
        await self._answers.learn(lookup, turn)

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
                FieldError(
                    "messages",
                    "with chatlab.history or chatlab.cache they must alternate user and assistant and end with user",
                )
            )
        path = [
            Turn(str(i), "", user_id, None, asked["content"], UNKNOWN_TIME, assistant_message=answer["content"])
            for (i, asked), (_, answer) in zip(rest[:-1:2], rest[1::2], strict=True)
        ]
        return PromptInput("\n\n".join(system) or None, path, rest[-1][1]["content"], QUESTION_ID)
