"""A turn as Python callers hold it: the package's own value, which also shows itself in a notebook."""

from dataclasses import fields
from typing import Self

from chatlab.errors import ChatlabError
from chatlab.lab.view import facts_line, turn_html
from chatlab.messages import Turn

SHOWN_CHARS = 60


class LabTurn(Turn):
    """A `Turn`; in a notebook its question, its answer and where that came from."""

    __slots__ = ()

    @classmethod
    def of(cls, turn: Turn) -> Self:
        """The same turn."""
        return cls(**{field.name: getattr(turn, field.name) for field in fields(turn)})

    def __repr__(self) -> str:
        """One line."""
        asked, answered = (_short(text or "") for text in (self.user_message, self.assistant_message))
        return f"<turn, {self.status}: {asked!r} -> {answered!r} ({facts_line(self)})>"

    def _repr_html_(self) -> str:
        return turn_html(self)


class TurnFailed(ChatlabError):
    """The engine or the process failed in the middle of an answer.

    Attributes:
        turn: As far as it came, with `turn.error`, the problem; it is stored like any other.
    """

    def __init__(self, turn: LabTurn) -> None:
        super().__init__(turn.error.detail if turn.error else "the turn failed")
        self.turn = turn


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= SHOWN_CHARS else line[: SHOWN_CHARS - 1] + "…"
