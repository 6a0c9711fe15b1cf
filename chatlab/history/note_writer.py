"""What a note says of some turns: statements of theirs, and a summary if there is one, within its room."""

import time
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from chatlab.history.ledger import choose, statements
from chatlab.history.notes import Piece, source_hash, text_of
from chatlab.messages import Note, Statement

PROMPT_VERSION = 1  # of the rules by which statements are chosen, and of the instruction for a summary
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

    def note_tokens(self, text: str) -> int:
        """Of a note with this text."""
        ...

    def line_tokens(self, text: str) -> int:
        """Of a line in a note."""
        ...


def draft(piece: Piece, sizes: NoteSizes, summary: str = "") -> Draft:
    """Write a note.

    Args:
        piece: The turns and the room.
        sizes: What it takes.
        summary: By a model; it comes first, the statements take what it leaves.
    """
    begun = time.perf_counter()
    found = [statement for turn in piece.turns for statement in statements(turn)]
    taken = sizes.note_tokens(text_of(summary, ()) or "x")
    chosen = choose(found, piece.room - taken, lambda text: max(1, sizes.line_tokens(text)))
    while (tokens := sizes.note_tokens(text := text_of(summary, chosen))) > piece.room and chosen:
        chosen = chosen[:-1]
    chosen = tuple(Statement(each.turn_id, each.role, each.text) for each in chosen)
    return Draft(text, chosen, tokens, (time.perf_counter() - begun) * 1e3)


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
