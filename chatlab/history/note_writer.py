"""What a note says of some turns: statements of theirs, and a summary if there is one, within its room."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chatlab.history.judge import Judge
from chatlab.history.ledger import Replacement, choose, replacements, statements
from chatlab.history.notes import Piece, source_hash, text_of
from chatlab.messages import Note, Statement

PROMPT_VERSION = 2  # of the rules by which statements are chosen, and of the instruction for a summary
NEWS = 0.5  # that a statement which replaces another is worth remembering, whatever else speaks for it
SUMMARY_SHARE = 0.5  # of a note's room, at most


@dataclass(frozen=True, slots=True)
class Draft:
    """A note's content, the tokens that it takes, and how long it took to write."""

    text: str
    statements: tuple[Statement, ...]
    tokens: int
    latency_ms: float


class NoteSizes(Protocol):
    """What measures notes: the stretches of a builder of prompts."""

    def note_tokens(self, text: str, first: bool) -> int:
        """Of a note with this text, which may be the first of a prompt."""
        ...

    def line_tokens(self, text: str) -> int:
        """Of a line in a note."""
        ...


class NoteWriter:
    """Writes what notes say, as its `judge` sees it.

    Args:
        sizes: What it takes.
        judge: Of what is worth it.
    """

    def __init__(self, sizes: NoteSizes, judge: Judge) -> None:
        self._sizes = sizes
        self.judge = judge

    async def draft(self, piece: Piece, summary: str = "") -> Draft:
        """Write a note.

        Args:
            piece: The turns and the room.
            summary: By a model; it comes first, the statements take what it leaves.
        """
        begun = time.perf_counter()
        found = await asyncio.to_thread(lambda: [each for turn in piece.turns for each in statements(turn)])
        likelihoods = await self.judge.likelihoods(found)
        noted = [each for note in piece.before for each in note.statements]
        await self.judge.remember(noted)
        of_noted, of_found = self.judge.likeness(noted, found), self.judge.likeness(found, found)

        def chosen() -> Draft:
            # What replaces something that was noted must be noted, too, or the old value would be left alone.
            anew = [*replacements(noted, found, of_noted)]
            news = sorted({each.new for each in anew})
            likelihoods[news] = 1 - (1 - NEWS) * (1 - likelihoods[news])
            replaced: dict[int, list[str]] = {}
            for each in anew:
                replaced.setdefault(each.new, []).append(noted[each.old].text)
            kept, text, tokens = self._chosen(
                piece, summary, found, likelihoods, [*replacements(found, found, of_found)]
            )
            stated = (
                Statement(found[i].turn_id, found[i].role, found[i].text, tuple(dict.fromkeys(replaced.get(i, ()))))
                for i in kept
            )
            return Draft(text, tuple(stated), tokens, (time.perf_counter() - begun) * 1e3)

        return await asyncio.to_thread(chosen)

    def _chosen(
        self,
        piece: Piece,
        summary: str,
        found: Sequence[Statement],
        likelihoods: NDArray[np.float64],
        replaced: Sequence[Replacement],
    ) -> tuple[tuple[int, ...], str, int]:
        """The places of a note's statements, its text and tokens."""
        sizes = self._sizes
        room = piece.room - sizes.note_tokens(text_of(summary, ()) or "x", piece.first)
        while True:
            kept = choose(found, likelihoods.tolist(), room, lambda text: max(1, sizes.line_tokens(text)), replaced)
            text = text_of(summary, [found[i] for i in kept])
            tokens = sizes.note_tokens(text, piece.first)
            if tokens <= piece.room or not kept:
                return kept, text, tokens
            room -= tokens - piece.room  # lines together may take more than each by itself


def note_of(piece: Piece, content: Draft, note_id: str, chat_id: str, user_id: str, model: str, at: datetime) -> Note:
    """A new note of statements alone."""
    return Note(
        note_id=note_id,
        chat_id=chat_id,
        user_id=user_id,
        turn_ids=tuple(turn.turn_id for turn in piece.turns),
        source_hash=source_hash(piece.turns),
        text=content.text,
        statements=content.statements,
        kind="ledger",
        tokens_before=piece.tokens,
        tokens_after=content.tokens,
        model=model,
        prompt_version=PROMPT_VERSION,
        latency_ms=content.latency_ms,
        created_at=at,
        updated_at=at,
    )
