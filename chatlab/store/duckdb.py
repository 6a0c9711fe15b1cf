"""Chats and turns in a DuckDB file: one writer thread, a pool of reading threads, the chats in use in memory.

Knows rows and owners, not prompts or answers. A method returns when its change is on disk. What a caller may see is
decided here, once: every read takes the user's id, and what is not theirs is `NotFound`.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import duckdb

from chatlab.errors import NotFound
from chatlab.messages import LIVE, Chat, Problem, Turn
from chatlab.store.lock import DataDirLock
from chatlab.store.migrate import migrate, migrations
from chatlab.store.recent import Conversation, RecentChats
from chatlab.store.rows import (
    CHAT_COLUMNS,
    TURN_COLUMNS,
    Page,
    chat_from,
    chat_row,
    cursor_of,
    from_db_time,
    place_of,
    problem_json,
    to_db_time,
    turn_from,
    turn_row,
)
from chatlab.store.statements import Row, Statement
from chatlab.store.writer import Change, Writer

FILE = "chatlab.duckdb"
READERS = 4

T = TypeVar("T")

_IDENTITY = ("chat_id", "user_id", "created_at")
_FEEDBACK_COLUMNS = ("turn_id", "chat_id", "user_id", "created_at", "rating", "reason")
# What a turn is stored with, and what its end adds: fewer columns make a faster commit.
_QUESTION = TURN_COLUMNS[:6] + ("status", "provenance", "prompt")
_ANSWER = ("assistant_message", "status", "source", "error", "finished_at", "finish_reason", "provenance")

INSERT_CHAT = Statement("insert", "chats", CHAT_COLUMNS)
UPDATE_CHAT = Statement("update", "chats", ("chat_id", *(name for name in CHAT_COLUMNS if name not in _IDENTITY)))
INSERT_TURN = Statement("insert", "turns", _QUESTION)
UPDATE_ANSWER = Statement("update", "turns", ("turn_id", *_ANSWER))
UPDATE_PARTIAL = Statement("update", "turns", ("turn_id", "assistant_message", "status"))
FAIL_TURN = Statement("update", "turns", ("turn_id", "status", "error", "finished_at"))
DELETE_CHAT = Statement("delete", "chats", ("chat_id",))
DELETE_TURNS = Statement("delete", "turns", ("chat_id",))
DELETE_FEEDBACK = Statement("delete", "feedback", ("chat_id",))
UPSERT_FEEDBACK = Statement("upsert", "feedback", _FEEDBACK_COLUMNS)

# A chat moves with its last turn; that time is not stored twice.
_MOVED = """
    SELECT chat_id, max(coalesce(finished_at, created_at)) AS moved_at FROM turns WHERE {where} GROUP BY chat_id
"""
_MOVED_COLUMNS = ", ".join(
    "greatest(updated_at, moved_at) AS updated_at" if name == "updated_at" else f"chats.{name}" for name in CHAT_COLUMNS
)


def _select_chats(where: str) -> str:
    """Chats with the time they last moved; `where` limits both the chats and the turns looked at."""
    return f"""
        SELECT {_MOVED_COLUMNS} FROM (SELECT * FROM chats WHERE {where}) chats
        LEFT JOIN ({_MOVED.format(where=where)}) moved ON chats.chat_id = moved.chat_id
    """


SELECT_TURN = f"SELECT {', '.join(TURN_COLUMNS)} FROM turns"


class DuckDBStore:
    """The store of one data dir, open between `__enter__` and `__exit__`.

    Raises:
        DataDirHeld: Another process has the data dir (`__enter__`).
        ConfigError: The data was written by a newer chatlab (`__enter__`).
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._recent = RecentChats()
        self._resources = ExitStack()
        self._local = threading.local()

    def __enter__(self) -> Self:
        """Lock the data dir, open the file, bring its schema up to date."""
        with ExitStack() as opening:
            opening.enter_context(DataDirLock(self._data_dir))
            self._connection = duckdb.connect(self._data_dir / FILE, config={"threads": 1})
            opening.callback(self._connection.close)
            migrate(self._connection, migrations())
            self._writer = Writer(self._connection.cursor())
            opening.callback(self._writer.close)
            self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")
            opening.callback(self._readers.shutdown)
            self._resources = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Finish reads and writes, close the file, free the data dir."""
        self._resources.close()

    # Chats

    async def add_chat(self, chat: Chat) -> None:
        """Store a new chat."""
        await self._write(
            chat.chat_id,
            (INSERT_CHAT, chat_row(chat)),
            committed=lambda: self._recent.add(Conversation(chat, ())),
        )

    async def conversation(self, user_id: str, chat_id: str) -> Conversation:
        """A chat with all its turns, oldest first.

        Raises:
            NotFound: There is no such chat of this user.
        """
        found = self._recent.get(chat_id) or await self._read(lambda cursor: self._load(cursor, chat_id))
        if found is None or found.chat.user_id != user_id:
            raise NotFound("chat", chat_id)
        return found

    async def chats(self, user_id: str, limit: int, cursor: str | None = None, q: str | None = None) -> Page:
        """A user's chats, newest first.

        Args:
            user_id: Whose.
            limit: Most chats of the page.
            cursor: `next_cursor` of the page before.
            q: Only chats with this text in the title or a message, whatever its case.

        Raises:
            InvalidInput: The cursor is none of ours.
        """
        where: list[str] = []
        values: list[object] = [user_id]
        if cursor is not None:
            values += place_of(cursor)
            where.append(f"(updated_at, chat_id) < (${len(values) - 1}, ${len(values)})")
        if q:
            values.append(f"%{_escape_like(q)}%")
            like = f"ILIKE ${len(values)} ESCAPE '\\'"
            where.append(
                f"(title {like} OR chat_id IN (SELECT chat_id FROM turns WHERE user_id = $1 "
                f"AND (user_message {like} OR assistant_message {like})))"
            )
        condition = f"WHERE {' AND '.join(where)}" if where else ""
        sql = f"""
            SELECT * FROM ({_select_chats("user_id = $1")}) {condition}
            ORDER BY updated_at DESC, chat_id DESC LIMIT {limit + 1:d}
        """
        rows = await self._read(lambda db: db.execute(sql, values).fetchall())
        chats = tuple(chat_from(row) for row in rows)
        return Page(chats[:limit], cursor_of(chats[limit - 1]) if len(chats) > limit else None)

    async def change_chat(self, chat: Chat) -> None:
        """Store a chat's settings and title."""
        await self._write(
            chat.chat_id,
            (UPDATE_CHAT, _pick(UPDATE_CHAT.columns, CHAT_COLUMNS, chat_row(chat))),
            committed=lambda: self._recent.change(chat.chat_id, lambda known: replace(known, chat=chat)),
        )

    async def delete_chat(self, chat_id: str) -> None:
        """Delete a chat and everything that belongs to it."""
        await self._write(
            chat_id,
            *((statement, (chat_id,)) for statement in (DELETE_TURNS, DELETE_FEEDBACK, DELETE_CHAT)),
            committed=lambda: self._recent.change(chat_id, lambda known: None),
        )

    # Turns

    async def add_turn(self, turn: Turn) -> None:
        """Store a new turn."""
        await self._write(
            turn.chat_id,
            (INSERT_TURN, _pick(INSERT_TURN.columns, TURN_COLUMNS, turn_row(turn))),
            committed=lambda: self._recent.change(turn.chat_id, lambda known: _with_turn(known, turn)),
        )

    async def turn(self, user_id: str, turn_id: str) -> Turn:
        """One turn.

        Raises:
            NotFound: There is no such turn of this user.
        """
        rows = await self._read(lambda db: db.execute(f"{SELECT_TURN} WHERE turn_id = $1", [turn_id]).fetchall())
        if not rows or (turn := turn_from(rows[0])).user_id != user_id:
            raise NotFound("turn", turn_id)
        return turn

    def save_partial(self, turn: Turn, text: str) -> Awaitable[None]:
        """Store the text so far of a running turn, so that a crash leaves it.

        It is handed over before this returns, so whatever is stored of the turn afterwards comes after it.
        """
        change = Change(turn.chat_id, [(UPDATE_PARTIAL, (turn.turn_id, text, "running"))])
        return asyncio.wrap_future(self._writer.submit(change))

    async def finish_turn(self, turn: Turn) -> None:
        """Store a turn's end."""
        await self._write(
            turn.chat_id,
            (UPDATE_ANSWER, _pick(UPDATE_ANSWER.columns, TURN_COLUMNS, turn_row(turn))),
            committed=lambda: self._recent.change(turn.chat_id, lambda known: _finished(known, turn)),
        )

    async def rate(self, turn: Turn, rating: int, reason: str | None, at: datetime) -> None:
        """Store a person's verdict on a turn; a later one replaces it."""
        row = (turn.turn_id, turn.chat_id, turn.user_id, to_db_time(at), rating, reason)
        await self._write(turn.chat_id, (UPSERT_FEEDBACK, row))

    # Start

    def fail_live_turns(self, problem: Problem, at: datetime) -> int:
        """Mark turns that an earlier process left unfinished; their texts stay. Blocks.

        Returns:
            How many there were.
        """
        live = self._cursor().execute(
            "SELECT turn_id, chat_id FROM turns WHERE list_contains($1, status)", [list(LIVE)]
        )
        changes = [
            Change(chat_id, [(FAIL_TURN, (turn_id, "failed", problem_json(problem), to_db_time(at)))])
            for turn_id, chat_id in live.fetchall()
        ]
        for done in [self._writer.submit(change) for change in changes]:
            done.result()
        return len(changes)

    def latest_time(self) -> datetime | None:
        """The latest time stored; new times must be later. Blocks."""
        row = (
            self._cursor()
            .execute(
                "SELECT greatest((SELECT max(updated_at) FROM chats), "
                "(SELECT max(coalesce(finished_at, created_at)) FROM turns))"
            )
            .fetchone()
        )
        return from_db_time(row[0]) if row and row[0] else None

    def ping(self) -> None:
        """Raise if the store cannot answer. Blocks."""
        self._cursor().execute("SELECT 1").fetchone()

    def _load(self, cursor: duckdb.DuckDBPyConnection, chat_id: str) -> Conversation | None:
        token = self._recent.loading(chat_id)
        rows = cursor.execute(_select_chats("chat_id = $1"), [chat_id]).fetchall()
        if not rows:
            self._recent.loaded(chat_id, token, None)
            return None
        turns = cursor.execute(f"{SELECT_TURN} WHERE chat_id = $1 ORDER BY created_at", [chat_id]).fetchall()
        conversation = Conversation(chat_from(rows[0]), tuple(turn_from(row) for row in turns))
        self._recent.loaded(chat_id, token, conversation)
        return conversation

    async def _write(
        self, key: str, *rows: tuple[Statement, Row], committed: Callable[[], None] = lambda: None
    ) -> None:
        await asyncio.wrap_future(self._writer.submit(Change(key, rows, committed)))

    async def _read(self, query: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: query(self._cursor()))

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        """This thread's cursor: a connection shared by threads raises."""
        if not hasattr(self._local, "cursor"):
            self._local.cursor = self._connection.cursor()
        return self._local.cursor


def _with_turn(known: Conversation, turn: Turn) -> Conversation:
    if any(other.turn_id == turn.turn_id for other in known.turns):  # loaded from disk right after the commit
        return known
    return Conversation(
        replace(known.chat, updated_at=max(known.chat.updated_at, turn.created_at)), (*known.turns, turn)
    )


def _finished(known: Conversation, turn: Turn) -> Conversation:
    turns = tuple(turn if other.turn_id == turn.turn_id else other for other in known.turns)
    moved_at = max(known.chat.updated_at, turn.finished_at or turn.created_at)
    return Conversation(replace(known.chat, updated_at=moved_at), turns)


def _pick(wanted: Sequence[str], columns: Sequence[str], row: Row) -> Row:
    """The wanted columns of a row."""
    values = dict(zip(columns, row, strict=True))
    return tuple(values[name] for name in wanted)


def _escape_like(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
