"""Notes for conversations that are not stored: written from statements when a prompt is asked for, and remembered."""

import hashlib
from collections import OrderedDict
from dataclasses import replace
from typing import Protocol

from chatlab.history.note_writer import Draft, NoteWriter, note_of
from chatlab.history.notes import NOTING, Piece, source_hash
from chatlab.history.prompt import PromptInput
from chatlab.messages import UNKNOWN_TIME, HistoryChoice, Note, SamplingParams

MAX_REMEMBERED = 2_000
MAX_AT_ONCE = 1_000


class Due(Protocol):
    """The part of a builder of prompts that notes need."""

    async def due(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> Piece | None:
        """What is to be noted next."""
        ...


class UnstoredNotes:
    """The notes that a running chat would have by now. Belongs to one event loop.

    Args:
        prompts: The builder of prompts, which says what is due.
        writer: Writes it.
        model: The engine's.
    """

    def __init__(self, prompts: Due, writer: NoteWriter, model: str) -> None:
        self._prompts = prompts
        self._writer = writer
        self._model = model
        self._known: OrderedDict[str, Draft] = OrderedDict()

    async def keep(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> tuple[Note, ...]:
        """Those known, and what is due.

        Raises:
            PromptTooLong: No prompt can be built.
        """
        notes = tuple(given.notes)
        for _ in range(MAX_AT_ONCE if choice.strategy in NOTING else 0):
            piece = await self._prompts.due(replace(given, notes=notes), choice, params)
            if piece is None:
                break
            # A note is known by its turns, its room and the notes before it.
            before = hashlib.sha256("".join(note.note_id for note in piece.before).encode()).hexdigest()
            note_id = f"{source_hash(piece.turns)}/{piece.room}/{before}"
            if (content := self._known.get(note_id)) is None:
                content = await self._writer.draft(piece)
            self._known[note_id] = content
            while len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
            note = note_of(piece, content, note_id, given.chat_id or "", "", self._model, UNKNOWN_TIME)
            notes = (*(each for each in notes if each not in piece.instead_of), note)
        return notes
