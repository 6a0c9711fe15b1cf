"""Statements of notes that no longer hold, because later turns of the same path say otherwise.

Found when a prompt is made and not kept in the notes: on another branch they may still hold.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence

from chatlab.history.ledger import statements, superseded
from chatlab.messages import Note, Role, Statement, Turn

MAX_REMEMBERED = 20_000

Struck = frozenset[tuple[Role, str]]


class Replacements:
    """What was found, remembered by note and turn. Safe to use from any thread."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int, str, int], Struck] = OrderedDict()

    def in_note(self, note: Note, later: Sequence[Note], turns: Sequence[Turn]) -> Struck:
        """The statements of a note that others replace.

        Args:
            note: The note.
            later: Notes of the turns after its own.
            turns: The turns after these.
        """
        found: set[tuple[Role, str]] = set()
        for other in later:
            found |= self._remembered(note, other.note_id, other.revision, lambda other=other: other.statements)
        for turn in turns:
            found |= self._remembered(note, turn.turn_id, 0, lambda turn=turn: [*statements(turn)])
        return frozenset(found)

    def _remembered(self, note: Note, other_id: str, revision: int, said: Callable[[], Sequence[Statement]]) -> Struck:
        key = (note.note_id, note.revision, other_id, revision)
        if (known := self._known.get(key)) is None:
            replaced = superseded(note.statements, said())
            known = self._known[key] = frozenset((each.role, each.text) for each in replaced)
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        return known
