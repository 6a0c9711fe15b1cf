"""The votes of people on answers side by side. Append-only; those on a chat's conversation go with it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from pydantic import TypeAdapter

from chatlab.messages import ChatSettings
from chatlab.store.answers import Read, Write
from chatlab.store.rows import from_db_time, to_db_time
from chatlab.store.statements import CHAT_IS_THERE, Statement
from chatlab.store.writer import Condition, Outdated

COLUMNS = (
    "comparison_id", "user_id", "chat_id", "created_at", "question", "settings", "answers", "shown", "winner",
)  # fmt: skip
INSERT_VOTE = Statement("insert", "comparisons", COLUMNS)
DELETE_VOTES_OF_CHAT = Statement("delete", "comparisons", ("chat_id",))
SELECT_VOTES = f"SELECT {', '.join(COLUMNS)} FROM comparisons WHERE user_id = $1 ORDER BY created_at"

_settings = TypeAdapter(tuple[ChatSettings, ...])
_texts = TypeAdapter(tuple[str, ...])
_numbers = TypeAdapter(tuple[int, ...])


@dataclass(frozen=True, slots=True)
class Vote:
    """Which of several answers to the same a person found better, not knowing whose they were.

    Attributes:
        chat_id: Whose conversation was gone on with; empty for a question alone.
        settings: The configurations; `answers` are theirs, in the same order.
        shown: Their places, in the order in which they were shown.
        winner: The place of the better one; None where none was.
    """

    vote_id: str
    user_id: str
    chat_id: str
    created_at: datetime
    question: str
    settings: tuple[ChatSettings, ...]
    answers: tuple[str, ...]
    shown: tuple[int, ...]
    winner: int | None


class VoteRows:
    """The votes' part of a store.

    Args:
        read: Of the store.
        write: Of the store.
    """

    def __init__(self, read: Read, write: Write) -> None:
        self._read = read
        self._write = write

    async def save(self, vote: Vote) -> bool:
        """Store a vote unless its chat is gone; whether it was stored."""
        row = (
            vote.vote_id,
            vote.user_id,
            vote.chat_id,
            to_db_time(vote.created_at),
            vote.question,
            _settings.dump_json(vote.settings, exclude_none=True).decode(),
            _texts.dump_json(vote.answers).decode(),
            _numbers.dump_json(vote.shown).decode(),
            vote.winner,
        )
        conditions = [Condition(CHAT_IS_THERE, [vote.chat_id])] if vote.chat_id else []
        try:
            await self._write(vote.chat_id, (INSERT_VOTE, row), conditions=conditions)
        except Outdated:
            return False
        return True

    async def of_user(self, user_id: str) -> Sequence[Vote]:
        """A user's votes, oldest first."""
        rows = await self._read(lambda db: db.execute(SELECT_VOTES, [user_id]).fetchall())
        return [
            Vote(
                vote_id=vote_id,
                user_id=owner,
                chat_id=chat_id,
                created_at=from_db_time(created_at),
                question=question,
                settings=_settings.validate_json(settings),
                answers=_texts.validate_json(answers),
                shown=_numbers.validate_json(shown),
                winner=winner,
            )
            for vote_id, owner, chat_id, created_at, question, settings, answers, shown, winner in rows
        ]
