"""Statements of notes that no longer hold, because later turns of the same path say otherwise.

Found when a prompt is made and not kept in the notes: on another branch they may still hold.
"""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

from chatlab.history.ledger import statements, superseded
from chatlab.history.notes import source_hash
from chatlab.messages import Note, Role, Statement, Turn

MAX_REMEMBERED = 20_000

Struck = frozenset[tuple[Role, str]]
T = TypeVar("T")


class Replacements:
    """What was found, remembered by note and turn. Safe to use from any thread."""

    def __init__(self) -> None:
        self._stated: OrderedDict[Hashable, tuple[Statement, ...]] = OrderedDict()
        self._struck: OrderedDict[Hashable, Struck] = OrderedDict()

    def in_note(self, note: Note, later: Sequence[Note], turns: Sequence[Turn]) -> Struck:
        """The statements of a note that others replace.

        Args:
            note: The note.
            later: Notes of the turns after its own.
            turns: The turns after these.
        """
        found: set[tuple[Role, str]] = set()
        for other in later:
            found |= self._by(note, (other.note_id, other.revision), lambda other=other: other.statements)
        for turn in turns:
            # By its words, too: in conversations that are not stored ids are only places.
            key = source_hash([turn])
            found |= self._by(note, key, lambda turn=turn, key=key: self._of_turn(turn, key))
        return frozenset(found)

    def _of_turn(self, turn: Turn, key: Hashable) -> tuple[Statement, ...]:
        return _remembered(self._stated, key, lambda: tuple(statements(turn)))

    def _by(self, note: Note, key: Hashable, said: Callable[[], Sequence[Statement]]) -> Struck:
        def replaced() -> Struck:
            newer = said()
            named = {(each.role, text) for each in newer for text in each.replaces}
            by_words = superseded(note.statements, newer)
            return frozenset(
                (each.role, each.text)
                for each in note.statements
                if each in by_words or (each.role, each.text) in named
            )

        return _remembered(self._struck, (note.note_id, note.revision, key), replaced)


def _remembered(known: OrderedDict[Hashable, T], key: Hashable, find: Callable[[], T]) -> T:
    if (found := known.get(key)) is None:
        found = known[key] = find()
        if len(known) > MAX_REMEMBERED:
            known.popitem(last=False)
    return found
