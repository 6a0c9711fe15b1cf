"""Finding a user's chats: the SQL of the list and of the search, and what a search shows of a match.

A text matches where it contains what is looked for, whatever the case of either; nothing in it is a wildcard.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from chatlab.messages import Chat
from chatlab.store.rows import CHAT_COLUMNS, chat_from

EXCERPT_CHARS = 120
LEAD_CHARS = 40  # of an excerpt, before the match

# A chat moves with its last turn; that time is not stored twice.
_MOVED = "SELECT chat_id, max(coalesce(finished_at, created_at)) AS moved_at FROM turns WHERE {where} GROUP BY chat_id"
_CHAT_VALUES = ", ".join(
    "greatest(updated_at, moved_at) AS updated_at" if name == "updated_at" else f"chats.{name}" for name in CHAT_COLUMNS
)
_TURN_TEXTS = ("user_message", "assistant_message")
_ASCII_RUN = re.compile(r"[\x01-\x7f]{2,}")


@dataclass(frozen=True, slots=True)
class SearchHit:
    """A chat that a search found.

    Attributes:
        chat: With the time it last moved.
        turn_id: The newest turn that matches; None where the title does.
        excerpt: The title, or the surroundings of the turn's first match, on one line.
        start: Where the match begins in the excerpt.
        end: Where it ends; the same as `start` where the match cannot be placed.
    """

    chat: Chat
    turn_id: str | None
    excerpt: str
    start: int
    end: int


@dataclass(slots=True)
class Query:
    """SQL that grows with its numbered values."""

    values: list[Any] = field(default_factory=list[Any])

    def value(self, value: object) -> str:
        """The mark of a new value."""
        self.values.append(value)
        return f"${len(self.values)}"

    def contains(self, q: str, *texts: str) -> str:
        """A condition: one of these texts contains `q`, whatever the case of either.

        Without ILIKE, which takes three times as long. What has no case is looked for as it is; letters beyond ASCII
        fold slowly, so only texts with the ASCII part of `q` are searched for the whole.
        """
        if q == q.lower() == q.upper():
            return self._any_of("contains({text}, {value})", q, texts)
        conditions = [self._any_of("regexp_matches({text}, {value}, 'il')", q, texts)]  # literal
        if not q.isascii() and (part := max(_ASCII_RUN.findall(q), key=len, default="")):
            conditions.insert(0, self.contains(part, *texts))
        return f"({' AND '.join(conditions)})"

    def _any_of(self, condition: str, q: str, texts: Sequence[str]) -> str:
        value = self.value(q)
        return f"({' OR '.join(condition.format(text=text, value=value) for text in texts)})"


def select_chats(where: str) -> str:
    """Chats with the time they last moved; `where` limits both the chats and the turns looked at."""
    return f"""
        SELECT {_CHAT_VALUES} FROM (SELECT * FROM chats WHERE {where} AND discarded_at IS NULL) chats
        LEFT JOIN ({_MOVED.format(where=where)}) moved ON chats.chat_id = moved.chat_id
    """


def list_query(
    user_id: str,
    limit: int,
    place: tuple[datetime, str] | None = None,
    q: str | None = None,
    archived: bool | None = None,
    pinned: bool | None = None,
) -> tuple[str, list[Any]]:
    """SQL and values of a user's chats, newest first, in the order of CHAT_COLUMNS.

    Args:
        user_id: Whose.
        limit: Most rows.
        place: The time and the id that the rows come after.
        q: What the title or a message must contain.
        archived: Only chats that are archived, or are not.
        pinned: Only chats that are pinned, or are not.
    """
    query = Query()
    user = query.value(user_id)
    where = _state(query, archived, pinned)
    if place is not None:
        where.append(f"(updated_at, chat_id) < ({query.value(place[0])}, {query.value(place[1])})")
    if q:
        found = f"SELECT chat_id FROM turns WHERE user_id = {user} AND {query.contains(q, *_TURN_TEXTS)}"
        where.append(f"({query.contains(q, 'title')} OR chat_id IN ({found}))")
    sql = f"""
        SELECT * FROM ({select_chats(f"user_id = {user}")}) {_all_of(where)}
        ORDER BY updated_at DESC, chat_id DESC LIMIT {limit:d}
    """
    return sql, query.values


def search_query(user_id: str, q: str, limit: int, archived: bool | None = None) -> tuple[str, list[Any]]:
    """SQL and values of a search, newest chats first: CHAT_COLUMNS, then the id and both texts of the newest match.

    These three are null where the title matches.
    """
    query = Query()
    user, in_turn = query.value(user_id), query.contains(q, *_TURN_TEXTS)
    in_title = f"coalesce({query.contains(q, 'title')}, FALSE)"
    where = [f"({in_title} OR found_id IS NOT NULL)", *_state(query, archived, None)]
    columns = ", ".join(f"listed.{name}" for name in CHAT_COLUMNS)
    sql = f"""
        WITH found AS (
            SELECT chat_id, arg_max(turn_id, created_at) AS found_id FROM turns
            WHERE user_id = {user} AND {in_turn} GROUP BY chat_id
        ), listed AS (
            SELECT chats.*, CASE WHEN {in_title} THEN NULL ELSE found_id END AS found_id
            FROM ({select_chats(f"user_id = {user}")}) chats LEFT JOIN found ON chats.chat_id = found.chat_id
            {_all_of(where)} ORDER BY updated_at DESC, chats.chat_id DESC LIMIT {limit:d}
        )
        SELECT {columns}, found_id, user_message, assistant_message
        FROM listed LEFT JOIN turns ON turns.turn_id = found_id
        ORDER BY listed.updated_at DESC, listed.chat_id DESC
    """
    return sql, query.values


def hit_from(row: Sequence[Any], q: str) -> SearchHit:
    """From a row of `search_query`."""
    chat = chat_from(row)
    turn_id, asked, answered = row[len(CHAT_COLUMNS) :]
    if turn_id is None:
        return SearchHit(chat, None, chat.title or "", *_span(chat.title or "", q))
    text = asked if _found(asked, q) or not answered else answered
    return SearchHit(chat, turn_id, *_excerpt(text, *_span(text, q)))


def _state(query: Query, archived: bool | None, pinned: bool | None) -> list[str]:
    wanted = {"archived": archived, "pinned": pinned}
    return [f"{name} = {query.value(value)}" for name, value in wanted.items() if value is not None]


def _all_of(conditions: Sequence[str]) -> str:
    return f"WHERE {' AND '.join(conditions)}" if conditions else ""


def _found(text: str, q: str) -> re.Match[str] | None:
    """The first match. No text is lowered for it: that changes the length of some, and with it every place."""
    return re.search(re.escape(q), text, re.IGNORECASE)


def _span(text: str, q: str) -> tuple[int, int]:
    found = _found(text, q)
    return found.span() if found else (0, 0)


def _excerpt(text: str, start: int, end: int) -> tuple[str, int, int]:
    """The surroundings of a match, cut between words where that is near, and the match's place in them."""
    first = max(0, start - LEAD_CHARS)
    if first:
        space = text.find(" ", first, start)
        first = space + 1 if space >= 0 else first
    last = min(len(text), first + EXCERPT_CHARS)
    if last < len(text):
        space = text.rfind(" ", min(end, last), last)
        last = space if space >= 0 else last
    shown = re.sub(r"\s", " ", text[first:last])
    lead, tail = "…" if first else "", "…" if last < len(text) else ""
    place = len(lead) - first
    return lead + shown + tail, start + place, min(end, last) + place
