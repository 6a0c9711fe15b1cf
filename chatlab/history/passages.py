"""Turns as passages: what is searched for and quoted. A passage is a message, or a part of a long one.

The parts of a message are a function of its text alone, so that a vector needs no more than their number.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from chatlab.messages import UNKNOWN_TIME, PassageRef, Turn

# A part is what common embedders read, 256 tokens; a message of two is left whole, its end found by its words alone.
LONG_CHARS, PART_CHARS = 2_000, 800
ENDS = ("\n\n", "\n", ". ", " ")  # where to part a text, best first


@dataclass(frozen=True, slots=True)
class Passage:
    """A stretch of a past turn.

    Attributes:
        text: Word for word.
        said_at: When the turn was asked, if that is known.
        n_parts: How many passages the message has.
        last_part: The last one that this is, of several that follow each other.
    """

    ref: PassageRef
    text: str
    said_at: datetime | None
    n_parts: int
    last_part: int


def passages_of(turn: Turn) -> Iterator[Passage]:
    """The passages of a turn's question and answer, in order; blank ones are left out."""
    said_at = None if turn.created_at == UNKNOWN_TIME else turn.created_at
    for role, message in (("user", turn.user_message), ("assistant", turn.assistant_message or "")):
        parts = split(message)
        for number, text in enumerate(parts):
            if text.strip():
                assert role in ("user", "assistant")
                yield Passage(PassageRef(turn.turn_id, role, number), text, said_at, len(parts), number)


def joined(passages: Iterable[Passage]) -> list[Passage]:
    """Passages in the order in which they were said, those that continue each other as one."""
    whole: list[Passage] = []
    for passage in passages:
        before = whole[-1] if whole else None
        if before and passage.ref == before.ref._replace(part=before.last_part + 1):
            whole[-1] = replace(before, text=before.text + passage.text, last_part=passage.last_part)
        else:
            whole.append(passage)
    return whole


def split(text: str) -> Sequence[str]:
    """A text in parts that an embedder can read, which together are the text."""
    if len(text) <= LONG_CHARS:
        return (text,)
    parts: list[str] = []
    start = 0
    while len(text) - start > LONG_CHARS:
        for end_mark in ENDS:
            at = text.rfind(end_mark, start + PART_CHARS // 2, start + PART_CHARS)
            if at >= 0:
                end = at + len(end_mark)
                break
        else:
            end = start + PART_CHARS
        parts.append(text[start:end])
        start = end
    return (*parts, text[start:])
