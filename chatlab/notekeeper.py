"""Writes the notes of chats: after a turn, beside everything else, waited for by nobody.

The statements come first and take milliseconds, so a note is ready long before a prompt needs it. A summary by the
model, where it may write one, replaces that note as long as no prompt has carried it. Originals are only read. A note
is stored if everything is still as it was when it was begun, and not at all otherwise. Belongs to one event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from chatlab.capability import measure
from chatlab.clock import Clock
from chatlab.engines.base import Engine
from chatlab.errors import NotFound, check_text
from chatlab.history import Piece, PromptBuilder, PromptInput, chain, lines_of, note_of, text_of
from chatlab.history.note_writer import PROMPT_VERSION, SUMMARY_SHARE
from chatlab.history.notes import MIN_TOKENS
from chatlab.messages import HistoryChoice, Note, NotesMode, SamplingParams, Turn
from chatlab.store import Store
from chatlab.summarizer import summarize

MAX_LOST_CHANGES = 20  # times that others were first, when a person changes a note
MAX_LOST = 3  # times that others were first, until the next turn is waited for
MAX_NOTE_CHARS = 20_000
MAX_ASKED = 1_000  # that are remembered
SUMMARY_SECONDS = 300.0  # from asking to the end, waiting for others included

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """A turn that has ended, and how its prompt was made."""

    turn: Turn
    given: PromptInput
    choice: HistoryChoice
    params: SamplingParams

    @property
    def after(self) -> PromptInput:
        """What the next prompt is made from, but for its question."""
        return replace(self.given, path=(*self.given.path, self.turn))

    def noted(self, notes: Sequence[Note]) -> "Ended":
        """With the chat's notes as they are now."""
        return replace(self, given=replace(self.given, notes=notes))


class NoteKeeper:
    """The notes of all chats.

    Args:
        prompts: The builder of prompts, which says what is due and writes it.
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
        self._asked: deque[str] = deque(maxlen=MAX_ASKED)  # notes for which the model was asked
        self._measuring = asyncio.Lock()  # guards the gate: it is measured once
        self._passed: bool | None = None

    async def keep(self, ended: Ended) -> Ended:
        """Write the notes that are due.

        Returns:
            The turn with the chat's notes.

        Raises:
            NotFound: The chat is gone.
            InvalidInput: No prompt can be built, so none is due.
        """
        self._prompts.writer.judge.prepare()
        lost = 0
        ended = await self._now(ended)
        while lost < MAX_LOST:
            piece = await self._prompts.due(ended.after, ended.choice, ended.params)
            if piece is None:
                break
            content = await self._prompts.writer.draft(piece)
            chat_id, user_id = ended.turn.chat_id, ended.turn.user_id
            model = self._engine.facts.model
            note = note_of(piece, content, self._new_id(), chat_id, user_id, model, self._clock())
            lost += not await self._store.commit_note(note, piece.instead_of)
            ended = await self._now(ended)
        return ended

    async def improve(self, ended: Ended) -> bool:
        """Let the model write where no prompt carries a note yet; returns at once where it may not.

        Returns:
            Whether a note changed.

        Raises:
            ChatlabError: The engine failed, or the chat is gone.
        """
        if self._mode == "ledger" or self._passed is False or not self._engine.facts.writes_titles:
            return False
        changed = False
        while (found := await self._next_to_improve(ended)) is not None:
            if not await self._may_write():
                break
            changed |= await self._rewritten(*found)
            self._asked.append(found[0].note_id)
        return changed

    # What a person does with notes

    async def of_chat(self, user_id: str, chat_id: str) -> tuple[Note, ...]:
        """A chat's notes, on whatever branch, oldest first."""
        known = await self._store.conversation(user_id, chat_id)
        return tuple(note for note in known.notes if note.kind != "deleted")

    async def find(self, user_id: str, chat_id: str, note_id: str) -> Note:
        """A note.

        Raises:
            NotFound: No such note; notes that were merged are gone.
        """
        for note in await self.of_chat(user_id, chat_id):
            if note.note_id == note_id:
                return note
        raise NotFound("note", note_id)

    async def edit(self, user_id: str, chat_id: str, note_id: str, text: str) -> Note:
        """Let a note say what a person wants it to say; from then on nothing but a person changes it.

        Raises:
            NotFound: No such note.
            InvalidInput: The text is empty, too long, or cannot be stored.
        """
        check_text("text", text, MAX_NOTE_CHARS)
        lines = {(line.role, line.text) for line in lines_of(text)}

        def edited(note: Note) -> Note:
            kept = tuple(each for each in note.statements if (each.role, each.text) in lines)
            tokens = self._prompts.stretches.note_tokens(text, first=True)
            return replace(note, text=text, statements=kept, kind="edited", tokens_after=tokens)

        return await self._change(user_id, chat_id, note_id, edited)

    async def delete(self, user_id: str, chat_id: str, note_id: str) -> None:
        """Empty a note for good: nothing stands for its turns, and no other note of them is written.

        Raises:
            NotFound: No such note.
        """
        await self._change(
            user_id,
            chat_id,
            note_id,
            lambda note: replace(note, text="", statements=(), kind="deleted", tokens_after=0),
        )

    async def _change(self, user_id: str, chat_id: str, note_id: str, change: Callable[[Note], Note]) -> Note:
        for _ in range(MAX_LOST_CHANGES):  # others may be first
            known = await self.find(user_id, chat_id, note_id)
            changed = replace(change(known), updated_at=self._clock(), revision=known.revision + 1)
            if await self._store.commit_note(changed, [known]):
                return changed
        raise NotFound("note", note_id)

    # What has to be known for it

    async def _now(self, ended: Ended) -> Ended:
        known = await self._store.conversation(ended.turn.user_id, ended.turn.chat_id)
        return ended.noted(known.notes)

    async def _next_to_improve(self, ended: Ended) -> tuple[Note, Piece] | None:
        """A note for which the model was not asked and that no prompt has carried, and how to write it anew."""
        given = (await self._now(ended)).after
        newest_at = max(turn.created_at for turn in given.path)
        answered = [turn for turn in given.path if turn.assistant_message]
        seen = {
            turn_id
            for turn in answered
            if turn.provenance.prompt is not None
            for turn_id in turn.provenance.prompt.turn_ids_in("summary")
        }
        links = chain(given.notes, answered)
        for i, link in enumerate(links):
            note = link.note
            carried = note.created_at < newest_at and not seen.isdisjoint(note.turn_ids)
            if note.kind == "ledger" and note.note_id not in self._asked and not carried:
                room = max(note.tokens_after, MIN_TOKENS)  # what it has, or old ones would be merged for it
                before = tuple(each.note for each in links[:i])
                return note, Piece(tuple(answered[link.begin : link.end]), note.tokens_before, room, before)
        return None

    async def _rewritten(self, note: Note, piece: Piece) -> bool:
        """Ask the model for a summary, and let it stand before the statements if it is sound."""
        begun = time.perf_counter()
        most = int(SUMMARY_SHARE * piece.room)
        try:
            async with asyncio.timeout(SUMMARY_SECONDS):
                summary = await summarize(self._engine, piece.turns, most, note.user_id)
        except TimeoutError:
            log.info("no time for a summary", chat_id=note.chat_id)
            return False
        wrong = summary.flaw
        if wrong is None and self._prompts.stretches.note_tokens(text_of(summary.text, ()), piece.first) > piece.room:
            wrong = "longer than the note"
        if wrong is not None:
            log.info("a summary was not used", chat_id=note.chat_id, reason=wrong)
            return False
        content = await self._prompts.writer.draft(piece, summary.text)
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
