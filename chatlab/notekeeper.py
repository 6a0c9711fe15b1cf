"""Writes the notes of chats: after a turn, beside everything else, waited for by nobody.

The statements come first and take milliseconds, so a note is ready long before a prompt needs it. A summary by the
model, where it may write one, replaces that note as long as no prompt has carried it. Originals are only read. A note
is stored if everything is still as it was when it was begun, and not at all otherwise. Belongs to one event loop.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import structlog

from chatlab.aside import answer_aside, nobody_is_answered
from chatlab.capability import measure
from chatlab.clock import Clock
from chatlab.engines.base import Engine, GenerationRequest
from chatlab.history import Piece, PromptBuilder, PromptInput, chain, draft, note_of, text_of
from chatlab.history.abstract import flaw, instruction
from chatlab.history.note_writer import PROMPT_VERSION, SUMMARY_SHARE
from chatlab.history.notes import MIN_TOKENS
from chatlab.messages import HistoryChoice, Note, NotesMode, SamplingParams, Turn
from chatlab.store import Store

MAX_LOST = 3  # times that others were first, until the next turn is waited for
SUMMARY_SECONDS = 300.0  # from asking to the end, waiting for others included
TOKENS_PER_WORD = 1.5

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Noted:
    """Which prompt notes are written for."""

    given: PromptInput
    choice: HistoryChoice
    params: SamplingParams
    user_id: str
    chat_id: str


class NoteKeeper:
    """The notes of all chats.

    Args:
        prompts: The builder of prompts, which says what is due.
        engine: Its engine.
        store: Of chats and their notes.
        clock: Later than everything stored.
        new_id: Unique ids.
        mode: Whether the model may write: `model` if its text is sound, `auto` if it also passed its gate.
    """

    def __init__(
        self,
        prompts: PromptBuilder,
        engine: Engine,
        store: Store,
        clock: Clock,
        new_id: Callable[[], str],
        mode: NotesMode,
    ) -> None:
        self._prompts = prompts
        self._engine = engine
        self._store = store
        self._clock = clock
        self._new_id = new_id
        self._mode: NotesMode = mode
        self._asked: set[str] = set()  # notes for which the model was asked
        self._measuring = asyncio.Lock()  # guards the gate: it is measured once
        self._passed: bool | None = None

    async def keep(self, for_prompt: Noted) -> tuple[Note, ...]:
        """Write the notes that are due.

        Returns:
            The chat's notes.

        Raises:
            NotFound: The chat is gone.
            InvalidInput: No prompt can be built, so none is due.
        """
        lost = 0
        given = await self._now(for_prompt)
        while lost < MAX_LOST:
            piece = await self._prompts.due(given, for_prompt.choice, for_prompt.params)
            if piece is None:
                break
            content = await asyncio.to_thread(draft, piece, self._prompts.stretches)
            note = note_of(
                piece,
                content,
                self._new_id(),
                for_prompt.chat_id,
                for_prompt.user_id,
                self._engine.facts.model,
                self._clock(),
            )
            lost += not await self._store.commit_note(note, piece.instead_of)
            given = await self._now(for_prompt)
        return tuple(given.notes)

    async def improve(self, for_prompt: Noted) -> bool:
        """Let the model write where no prompt carries a note yet; returns at once where it may not.

        Returns:
            Whether a note changed.

        Raises:
            ChatlabError: The engine failed, or the chat is gone.
        """
        if self._mode == "ledger" or self._passed is False or not self._engine.facts.writes_titles:
            return False
        changed = False
        while (found := await self._next_to_improve(for_prompt)) is not None:
            if not await self._may_write():
                break
            note, turns = found
            changed |= await self._rewritten(note, turns)
            self._asked.add(note.note_id)
        return changed

    async def _now(self, for_prompt: Noted) -> PromptInput:
        known = await self._store.conversation(for_prompt.user_id, for_prompt.chat_id)
        return replace(for_prompt.given, notes=known.notes)

    async def _next_to_improve(self, for_prompt: Noted) -> tuple[Note, list[Turn]] | None:
        """A note for which the model was not asked and that no prompt has carried, with its turns."""
        given = await self._now(for_prompt)
        newest_at = max(turn.created_at for turn in given.path)
        answered = [turn for turn in given.path if turn.assistant_message]
        seen = {
            turn_id
            for turn in answered
            if turn.provenance.prompt is not None
            for part in turn.provenance.prompt.parts
            if part.kind == "summary"
            for turn_id in part.turn_ids
        }
        for link in chain(given.notes, answered):
            note = link.note
            carried = note.created_at < newest_at and not seen.isdisjoint(note.turn_ids)
            if note.kind == "ledger" and note.note_id not in self._asked and not carried:
                return note, answered[link.begin : link.end]
        return None

    async def _rewritten(self, note: Note, turns: list[Turn]) -> bool:
        """Ask the model for a summary, and let it stand before the statements if it is sound."""
        begun = time.perf_counter()
        room = max(note.tokens_after, MIN_TOKENS)  # no more than it has, or old ones would be merged for it
        most = int(SUMMARY_SHARE * room)
        params = SamplingParams(temperature=0.0, max_new_tokens=2 * most)
        request = GenerationRequest(
            instruction(turns, int(most / TOKENS_PER_WORD), self._engine.facts), params, note.user_id
        )
        try:
            async with asyncio.timeout(SUMMARY_SECONDS):
                answer = await answer_aside(self._engine, request, nobody_is_answered)
        except TimeoutError:
            log.info("no time for a summary", chat_id=note.chat_id)
            return False
        wrong = flaw(answer.text, answer.reason, turns)
        if wrong is None and self._prompts.stretches.note_tokens(text_of(answer.text, ())) > room:
            wrong = "longer than the note"
        if wrong is not None:
            log.info("a summary was not used", chat_id=note.chat_id, reason=wrong)
            return False
        piece = Piece(tuple(turns), note.tokens_before, room)
        content = await asyncio.to_thread(draft, piece, self._prompts.stretches, answer.text)
        better = replace(
            note,
            text=content.text,
            statements=content.statements,
            kind="model",
            tokens_after=content.tokens,
            model=self._engine.facts.model,
            latency_ms=(time.perf_counter() - begun) * 1e3,
            updated_at=self._clock(),
            revision=note.revision + 1,
        )
        return await self._store.commit_note(better, [note])

    async def _may_write(self) -> bool:
        """Whether the model's text is used, if it is sound."""
        if self._mode == "model" or self._passed:
            return True
        key = f"{self._engine.facts.model} v{PROMPT_VERSION}"
        async with self._measuring:
            if (passed := await self._store.gate(key)) is None:
                found = await measure(self._engine)
                passed = found.passed
                await self._store.save_gate(key, passed, found.as_json(), self._clock())
                log.info(
                    "measured whether the model can write notes", model=key, passed=passed, figures=found.as_json()
                )
            self._passed = passed
        return passed
