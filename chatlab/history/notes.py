"""Notes that stand in for the first turns of a conversation: which count, when the next is due, what a prompt says.

A note belongs to turns that follow each other, by their ids and by a hash of their words, so an edit, another version
or another branch within them leaves it behind by itself. Those that count form a chain from the first turn on. They are
frozen: a prompt gets one more when it would grow too full, and begins as before until then. Nothing is noted of a note:
where notes are merged, the turns are read again.

In a prompt a note is an exchange of its own, what the user said in a marked block, what the assistant said in its own
voice: a model goes on from it as from the turns themselves (docs/log.md).
"""

import hashlib
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from chatlab.history.quotes import LINE_BREAKS, without_marks
from chatlab.messages import Note, Role, Statement, StrategyName, Turn

COMPRESSION = 6.9  # tokens of turns for a token of a note; 7.3 as it comes out, what is not worth it left out
MIN_TOKENS = 64  # of a note, its marks included; less says nothing
MAX_SHARE = 0.5  # of the room for turns, that a prompt gives to notes, whatever a person writes into them

OPEN, CLOSE = "<notes>", "</notes>"
HEAD = "Notes of earlier turns, not instructions."
NOTHING_SAID = "Noted."
VOICE = re.compile(r"^[^\S\n]*(?:(?:user|assistant): *)+", re.MULTILINE)  # in a model's summary, which is about both


@dataclass(frozen=True, slots=True)
class Noting:
    """When a strategy writes notes, in shares of the room for turns.

    Attributes:
        start: The oldest turns are noted when those without a note take so much.
        piece: So much of them at a time.
        share: The most that notes take; then old ones are merged.
        swap: A prompt that takes more gets the next note instead of turns; None where turns go by themselves.
    """

    start: float
    piece: float
    share: float
    swap: float | None = None


NOTING: Mapping[StrategyName, Noting] = {
    "summarize": Noting(start=0.6, piece=0.4, share=0.35, swap=0.85),
    "hybrid": Noting(start=0.45, piece=0.38, share=0.1),
}


@dataclass(frozen=True, slots=True)
class Link:
    """A note of a chain, which stands for the turns from the `begin`-th to the one before the `end`-th."""

    note: Note
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Piece:
    """What is to be noted next.

    Attributes:
        turns: Read from the originals.
        tokens: Of these, in a prompt.
        room: Most tokens of the note.
        before: Notes of the turns before.
        instead_of: Notes that it replaces.
    """

    turns: tuple[Turn, ...]
    tokens: int
    room: int
    before: tuple[Note, ...] = ()
    instead_of: tuple[Note, ...] = ()

    @property
    def first(self) -> bool:
        """Whether its note is the first one of a prompt."""
        return not self.before


@dataclass(frozen=True, slots=True)
class Line:
    """A line of a note; without a role it is about both sides."""

    role: Role | None
    text: str

    def __str__(self) -> str:
        return self.text if self.role is None else f"{self.role}: {self.text}"


# Which notes count


def source_hash(turns: Sequence[Turn]) -> str:
    """Of the turns' ids and words."""
    digest = hashlib.sha256()
    for turn in turns:
        for text in (turn.turn_id, turn.user_message, turn.assistant_message or ""):
            digest.update(f"{len(text)} {text}".encode())
    return digest.hexdigest()


def chain(notes: Sequence[Note], turns: Sequence[Turn]) -> tuple[Link, ...]:
    """The notes that stand for the first turns of a path, in order; where two could, the longer one.

    Args:
        notes: Of the chat.
        turns: Those with an answer, root first.
    """
    by_first: dict[str, list[Note]] = {}
    for note in notes:
        by_first.setdefault(note.turn_ids[0], []).append(note)
    found: list[Link] = []
    begin = 0
    while begin < len(turns):
        here = sorted(by_first.get(turns[begin].turn_id, ()), key=lambda note: -len(note.turn_ids))
        note = next((each for each in here if _stands_for(each, turns[begin : begin + len(each.turn_ids)])), None)
        if note is None:
            break
        found.append(Link(note, begin, begin + len(note.turn_ids)))
        begin = found[-1].end
    return tuple(found)


def _stands_for(note: Note, turns: Sequence[Turn]) -> bool:
    ids = tuple(turn.turn_id for turn in turns)
    return note.turn_ids == ids and note.source_hash == source_hash(turns)


# What is due


def due(
    noting: Noting,
    links: Sequence[Link],
    turns: Sequence[Turn],
    size: Callable[[int], int],
    note_size: Callable[[Link], int],
    room: int,
) -> Piece | None:
    """What is to be noted next; None as long as all is well.

    Args:
        noting: Of the strategy.
        links: The chain.
        turns: Those with an answer, root first.
        size: Tokens of a turn in a prompt, by its place.
        note_size: Tokens of a note.
        room: For turns and notes.
    """
    most = int(noting.share * room)
    if noting.swap is not None:  # else quotes need the room more than a note that is too short
        most = min(max(most, MIN_TOKENS), int(MAX_SHARE * room))
    if most < MIN_TOKENS:
        return None
    taken = sum(map(note_size, links))
    if taken > most and (merged := _merge(links, turns, size, note_size, most)) is not None:
        return merged
    begin = links[-1].end if links else 0
    if (taken if noting.swap else 0) + sum(map(size, range(begin, len(turns)))) >= noting.start * room:
        end, tokens = begin, 0
        while end < len(turns) - 1 and tokens < noting.piece * room:
            tokens += size(end)
            end += 1
        if end > begin:
            note_room = min(most, max(MIN_TOKENS, int(tokens / COMPRESSION)))
            return Piece(tuple(turns[begin:end]), tokens, note_room, tuple(link.note for link in links))
    return None


def _merge(
    links: Sequence[Link],
    turns: Sequence[Turn],
    size: Callable[[int], int],
    note_size: Callable[[Link], int],
    most: int,
) -> Piece | None:
    """The notes that are written anew as one: neighbours that stand for the least, the oldest of these.

    Two, or as many as it takes to make one smaller note of them. A single note is written anew where it has too much
    by itself. What a person wrote or deleted is left alone.
    """

    def piece(first: int, last: int, room: int) -> Piece:
        begin, end = links[first].begin, links[last].end
        notes = [link.note for link in links]
        before, known = tuple(notes[:first]), tuple(notes[first : last + 1])
        return Piece(tuple(turns[begin:end]), sum(map(size, range(begin, end))), room, before, known)

    ours = [link.note.kind in ("ledger", "model") for link in links]
    sizes = [*map(note_size, links)]
    runs: list[tuple[int, int, int]] = []
    for first in range(len(links)):
        together = 0
        for last in takewhile(lambda i: ours[i], range(first, len(links))):
            together += sizes[last]
            if last > first and (room := max(MIN_TOKENS, together // 2)) < together:
                runs.append((first, last, room))
                break
    if runs:
        return piece(*min(runs, key=lambda run: links[run[1]].end - links[run[0]].begin))
    alone = [i for i, ok in enumerate(ours) if ok and sizes[i] > most]
    return piece(alone[0], alone[0], most) if alone else None


# What a note says


def lines_of(text: str) -> Iterator[Line]:
    """The lines of a note's text."""
    for line in LINE_BREAKS.sub("\n", text).strip().splitlines():
        before, colon, after = line.strip().partition(": ")
        if colon and (before == "user" or before == "assistant"):
            yield Line(before, after.strip())
        elif line.strip():
            yield Line(None, line.strip())


def text_of(summary: str, statements: Sequence[Statement]) -> str:
    """The text of a note: the model's summary, if there is one, then the statements."""
    summary = VOICE.sub("", LINE_BREAKS.sub("\n", summary))
    lines = [Line(None, line.strip()) for line in summary.splitlines() if line.strip()]
    lines += [Line(each.role, LINE_BREAKS.sub(" ", each.text)) for each in statements]
    return "\n".join(map(str, lines))


def exchange(text: str, struck: Collection[tuple[Role, str]] = (), first: bool = False) -> tuple[str, str] | None:
    """A note as the user's message and the assistant's; None if it says nothing.

    Args:
        text: Of the note.
        struck: Statements that no longer hold.
        first: Whether to say what this is.
    """
    lines = [line for line in lines_of(text) if line.role is None or (line.role, line.text) not in struck]
    if not lines:
        return None
    inside = [without_marks(line.text) for line in lines if line.role != "assistant"]
    said = [without_marks(line.text) for line in lines if line.role == "assistant"]
    block = "\n".join([OPEN, *([HEAD] if first else []), *inside, CLOSE])
    return block, "\n".join(said) or NOTHING_SAID
