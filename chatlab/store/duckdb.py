"""Chats, turns, notes and presets in a DuckDB file: a writer thread, a pool of reading ones, chats in use in memory.

Knows rows and owners, not prompts or answers. A method returns when its change is on disk. What a caller may see is
decided here, once: every read takes the user's id, and what is not theirs is `NotFound`.
"""

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import duckdb

from chatlab.errors import NotFound
from chatlab.messages import LIVE, CacheLookup, Chat, Feedback, Note, Preset, Problem, Turn
from chatlab.store.answers import (
    DELETE_ENTRIES_OF_CHAT,
    DELETE_LOOKUPS_OF_CHAT,
    SELECT_LOOKUP,
    AnswerRows,
    lookup_from,
)
from chatlab.store.browse import SearchHit, hit_from, list_query, search_query, select_chats
from chatlab.store.comparisons import DELETE_VOTES_OF_CHAT, VoteRows
from chatlab.store.insights import InsightRows
from chatlab.store.lock import DataDirLock
from chatlab.store.migrate import migrate, migrations
from chatlab.store.recent import Conversation, RecentChats
from chatlab.store.rows import (
    CHAT_COLUMNS,
    NOTE_COLUMNS,
    PRESET_COLUMNS,
    TURN_COLUMNS,
    Page,
    chat_from,
    chat_row,
    cursor_of,
    from_db_time,
    note_from,
    note_row,
    place_of,
    preset_from,
    preset_row,
    problem_json,
    to_db_time,
    turn_from,
    turn_row,
)
from chatlab.store.statements import CHAT_IS_THERE, Row, Statement
from chatlab.store.writer import Change, Condition, Outdated, Writer

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
INSERT_WHOLE_TURN = Statement("insert", "turns", TURN_COLUMNS)
UPDATE_ANSWER = Statement("update", "turns", ("turn_id", *_ANSWER))
UPDATE_PARTIAL = Statement("update", "turns", ("turn_id", "assistant_message", "status"))
PIN_TURN = Statement("update", "turns", ("turn_id", "pinned"))
FAIL_TURN = Statement("update", "turns", ("turn_id", "status", "error", "finished_at"))
DELETE_CHAT = Statement("delete", "chats", ("chat_id",))
DELETE_TURNS = Statement("delete", "turns", ("chat_id",))
DELETE_FEEDBACK = Statement("delete", "feedback", ("chat_id",))
UPSERT_FEEDBACK = Statement("upsert", "feedback", _FEEDBACK_COLUMNS)
INSERT_HIDDEN_CHAT = Statement("insert", "chats", (*CHAT_COLUMNS, "discarded_at"))
DISCARD_CHAT = Statement("update", "chats", ("chat_id", "discarded_at"))
UPSERT_NOTE = Statement("upsert", "notes", NOTE_COLUMNS)
DELETE_NOTE = Statement("delete", "notes", ("note_id",))
DELETE_NOTES = Statement("delete", "notes", ("chat_id",))
UPSERT_GATE = Statement("upsert", "model_gates", ("model", "passed", "measured", "created_at"))
UPSERT_PRESET = Statement("upsert", "presets", PRESET_COLUMNS)
DELETE_PRESET = Statement("delete", "presets", ("preset_id",))

OF_A_CHAT = (
    DELETE_TURNS,
    DELETE_FEEDBACK,
    DELETE_NOTES,
    DELETE_ENTRIES_OF_CHAT,
    DELETE_LOOKUPS_OF_CHAT,
    DELETE_VOTES_OF_CHAT,
    DELETE_CHAT,
)

_TURN_VALUES = ", ".join(f"turns.{name}" for name in TURN_COLUMNS)
_WITHOUT_RECIPE = ", ".join("'[]' AS prompt" if name == "prompt" else f"turns.{name}" for name in TURN_COLUMNS)
_VERDICT = "rating, reason, feedback.created_at"
_WITH_FEEDBACK = "FROM turns LEFT JOIN feedback ON feedback.turn_id = turns.turn_id AND feedback.{key} = $1"
SELECT_TURN = f"""
    SELECT {_TURN_VALUES}, {_VERDICT} {_WITH_FEEDBACK.format(key="turn_id")} WHERE turns.turn_id = $1
    AND turns.chat_id NOT IN (SELECT chat_id FROM chats WHERE discarded_at IS NOT NULL)
"""
SELECT_TURNS = f"""
    SELECT {_WITHOUT_RECIPE}, {_VERDICT} {_WITH_FEEDBACK.format(key="chat_id")} WHERE turns.chat_id = $1
    ORDER BY turns.created_at
"""
SELECT_NOTES = f"SELECT {', '.join(NOTE_COLUMNS)} FROM notes WHERE chat_id = $1 ORDER BY created_at"
NOTE_IS_AS_KNOWN = "SELECT count(*) = 1 FROM notes WHERE note_id = $1 AND revision = $2"
NOTHING_IS_NOTED = (
    "SELECT count(*) = 0 FROM notes WHERE chat_id = $1 AND source_hash = $2 AND NOT list_contains($3, note_id)"
)
SELECT_CHAT_IDS = "SELECT chat_id FROM chats WHERE user_id = $1 AND discarded_at IS NULL ORDER BY created_at, chat_id"
SELECT_PRESETS = f"SELECT {', '.join(PRESET_COLUMNS)} FROM presets WHERE user_id = $1"


class DuckDBStore:
    """The store of one data dir, open between `__enter__` and `__exit__`.

    Attributes:
        answers: Of the cache.
        insights: Turns summed up.
        votes: On answers side by side.

    Raises:
        DataDirHeld: Another process has the data dir (`__enter__`).
        ConfigError: The data was written by a newer chatlab (`__enter__`).
    """

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._recent = RecentChats()
        self._resources = ExitStack()
        self._local = threading.local()
        self.answers = AnswerRows(self._read, self._write)
        self.insights = InsightRows(self._read)
        self.votes = VoteRows(self._read, self._write)

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

    async def chats(
        self,
        user_id: str,
        limit: int,
        cursor: str | None = None,
        q: str | None = None,
        archived: bool | None = None,
        pinned: bool | None = None,
    ) -> Page:
        """A user's chats, newest first.

        Args:
            user_id: Whose.
            limit: Most chats of the page.
            cursor: `next_cursor` of the page before.
            q: Only chats with this text in the title or a message, whatever its case.
            archived: Only chats that are archived, or are not; None is both.
            pinned: Only chats that are pinned, or are not; None is both.

        Raises:
            InvalidInput: The cursor is none of ours.
        """
        place = None if cursor is None else place_of(cursor)
        sql, values = list_query(user_id, limit + 1, place, q, archived, pinned)
        rows = await self._read(lambda db: db.execute(sql, values).fetchall())
        chats = tuple(chat_from(row) for row in rows)
        return Page(chats[:limit], cursor_of(chats[limit - 1]) if len(chats) > limit else None)

    async def chat_ids(self) -> set[str]:
        """Every chat of every user, the discarded ones, too."""
        rows = await self._read(lambda db: db.execute("SELECT chat_id FROM chats").fetchall())
        return {chat_id for (chat_id,) in rows}

    async def search(self, user_id: str, q: str, limit: int, archived: bool | None = None) -> tuple[SearchHit, ...]:
        """A user's chats with this text, newest first, each with where it is."""
        sql, values = search_query(user_id, q, limit, archived)
        return await self._read(
            lambda db: tuple(hit_from(row, q) for row in db.execute(sql, values).fetchall())  # long texts: off the loop
        )

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
            *_deletion(chat_id),
            committed=lambda: self._recent.change(chat_id, lambda known: None),
        )

    async def discard_chat(self, chat_id: str, at: datetime) -> None:
        """Hide a chat and everything that belongs to it until it is restored or purged."""
        await self._write(
            chat_id,
            (DISCARD_CHAT, (chat_id, to_db_time(at))),
            committed=lambda: self._recent.change(chat_id, lambda known: None),
        )

    async def restore_chat(self, user_id: str, chat_id: str) -> None:
        """Show a discarded chat again.

        Raises:
            NotFound: There is no such discarded chat of this user.
        """
        sql = "SELECT chat_id FROM chats WHERE chat_id = $1 AND user_id = $2 AND discarded_at IS NOT NULL"
        if not await self._read(lambda db: db.execute(sql, [chat_id, user_id]).fetchall()):
            raise NotFound("chat", chat_id)
        await self._write(
            chat_id,
            (DISCARD_CHAT, (chat_id, None)),
            committed=lambda: self._recent.change(chat_id, lambda known: None),
        )

    # Chats from elsewhere

    async def add_hidden(self, conversations: Sequence[Conversation], at: datetime) -> None:
        """Store new chats with all that belongs to them, all or none, out of sight until `show` is called for them.

        A process that ends before leaves them to `purge_discarded`.
        """
        rows: list[tuple[Statement, Row]] = []
        for known in conversations:
            rows.append((INSERT_HIDDEN_CHAT, (*chat_row(known.chat), to_db_time(at))))
            rows += [(INSERT_WHOLE_TURN, turn_row(turn)) for turn in known.turns]
            rows += [(UPSERT_NOTE, note_row(note)) for note in known.notes]
            rows += [(UPSERT_FEEDBACK, _feedback_row(turn)) for turn in known.turns if turn.feedback is not None]
        await self._write(conversations[0].chat.chat_id, *rows)

    async def show(self, chat_ids: Sequence[str]) -> None:
        """Bring hidden chats into sight, all in one commit."""
        if chat_ids:
            await self._write(chat_ids[0], *((DISCARD_CHAT, (chat_id, None)) for chat_id in chat_ids))

    async def drop(self, chat_ids: Sequence[str]) -> None:
        """Delete hidden chats and everything that belongs to them, all in one commit."""
        if chat_ids:
            await self._write(chat_ids[0], *(row for chat_id in chat_ids for row in _deletion(chat_id)))

    def whole_chats(
        self, user_id: str, chat_id: str | None = None
    ) -> Iterator[tuple[Conversation, tuple[CacheLookup, ...]]]:
        """A user's chats with what the cache did for their turns, or one of them; the oldest first. Blocks.

        They do not count as used: a chat that is in use stays in memory.
        """
        found = self._cursor().execute(SELECT_CHAT_IDS, [user_id]).fetchall()
        for (each,) in found:
            if chat_id in (None, each) and (known := self._fetch(self._cursor(), each)) is not None:
                lookups = self._cursor().execute(f"{SELECT_LOOKUP} WHERE chat_id = $1", [each]).fetchall()
                yield known, tuple(lookup_from(row) for row in lookups)

    # Presets

    async def presets(self, user_id: str) -> tuple[Preset, ...]:
        """A user's presets by name."""
        rows = await self._read(lambda db: db.execute(SELECT_PRESETS, [user_id]).fetchall())
        return tuple(sorted(map(preset_from, rows), key=lambda preset: (preset.name.casefold(), preset.name)))

    async def save_preset(self, preset: Preset) -> None:
        """Store a preset; one with the same id is replaced."""
        await self._write(preset.preset_id, (UPSERT_PRESET, preset_row(preset)))

    async def delete_preset(self, preset_id: str) -> None:
        """Delete a preset."""
        await self._write(preset_id, (DELETE_PRESET, (preset_id,)))

    # Turns

    async def add_turn(self, turn: Turn) -> None:
        """Store a new turn, which may have its answer already."""
        statement = INSERT_TURN if turn.live else INSERT_WHOLE_TURN
        await self._write(
            turn.chat_id,
            (statement, _pick(statement.columns, TURN_COLUMNS, turn_row(turn))),
            committed=lambda: self._recent.change(turn.chat_id, lambda known: known.with_turn(turn)),
        )

    async def turn(self, user_id: str, turn_id: str) -> Turn:
        """One turn.

        Raises:
            NotFound: There is no such turn of this user.
        """
        rows = await self._read(lambda db: db.execute(SELECT_TURN, [turn_id]).fetchall())
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
            committed=lambda: self._recent.change(turn.chat_id, lambda known: known.finished(turn)),
        )

    async def pin_turn(self, turn: Turn, pinned: bool) -> None:
        """Store whether a turn is pinned."""
        await self._write(
            turn.chat_id,
            (PIN_TURN, (turn.turn_id, pinned)),
            committed=lambda: self._recent.change(
                turn.chat_id,
                lambda known: known.changed(turn.turn_id, lambda begun: replace(begun, pinned=pinned)),
            ),
        )

    async def rate(self, turn: Turn, rating: int, reason: str | None, at: datetime) -> None:
        """Store a person's verdict on a turn; a later one replaces it."""
        row = (turn.turn_id, turn.chat_id, turn.user_id, to_db_time(at), rating, reason)
        feedback = Feedback(rating, reason, at)
        await self._write(
            turn.chat_id,
            (UPSERT_FEEDBACK, row),
            committed=lambda: self._recent.change(
                turn.chat_id, lambda known: known.changed(turn.turn_id, lambda begun: replace(begun, feedback=feedback))
            ),
        )

    # Notes

    async def commit_note(self, note: Note, instead_of: Sequence[Note] = ()) -> bool:
        """Store a note in the place of others (or of its own last revision), if they still are as they were known.

        Returns:
            Whether it was stored: not if one of them changed or went meanwhile, if another note stands for the same
            turns, or if the chat is gone. Then nothing is changed.
        """
        known_ids = [each.note_id for each in instead_of]
        conditions = [
            Condition(CHAT_IS_THERE, [note.chat_id]),
            Condition(NOTHING_IS_NOTED, [note.chat_id, note.source_hash, known_ids]),
            *(Condition(NOTE_IS_AS_KNOWN, [each.note_id, each.revision]) for each in instead_of),
        ]
        rows = [(DELETE_NOTE, (note_id,)) for note_id in known_ids if note_id != note.note_id]
        try:
            await self._write(
                note.chat_id,
                *rows,
                (UPSERT_NOTE, note_row(note)),
                conditions=conditions,
                committed=lambda: self._recent.change(note.chat_id, lambda known: known.noted(note, instead_of)),
            )
        except Outdated:
            return False
        return True

    async def gate(self, model: str) -> bool | None:
        """Whether a model passed its gate; None if that was not measured."""
        rows = await self._read(
            lambda db: db.execute("SELECT passed FROM model_gates WHERE model = $1", [model]).fetchall()
        )
        return rows[0][0] if rows else None

    async def save_gate(self, model: str, passed: bool, measured: str, at: datetime) -> None:
        """Store whether a model passed its gate, and the figures as JSON."""
        await self._write(model, (UPSERT_GATE, (model, passed, measured, to_db_time(at))))

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
        self._write_now(changes)
        return len(changes)

    def purge_discarded(self) -> int:
        """Delete the chats that an earlier process discarded and did not come to delete. Blocks.

        Returns:
            How many there were.
        """
        rows = self._cursor().execute("SELECT chat_id FROM chats WHERE discarded_at IS NOT NULL").fetchall()
        self._write_now([Change(chat_id, _deletion(chat_id)) for (chat_id,) in rows])
        return len(rows)

    def all_conversations(self) -> Iterator[Conversation]:
        """Every user's chats with their turns, by the chats' ids, without those discarded. Blocks."""
        rows = (
            self._cursor().execute("SELECT chat_id FROM chats WHERE discarded_at IS NULL ORDER BY chat_id").fetchall()
        )
        for (chat_id,) in rows:
            if (found := self._load(self._cursor(), chat_id)) is not None:
                yield found

    def all_lookups(self) -> list[CacheLookup]:
        """What the cache did for every turn, oldest first. Blocks."""
        rows = self._cursor().execute(f"{SELECT_LOOKUP} ORDER BY created_at").fetchall()
        return [*map(lookup_from, rows)]

    def latest_time(self) -> datetime | None:
        """The latest time stored; new times must be later. Blocks."""
        row = (
            self._cursor()
            .execute(
                "SELECT greatest((SELECT max(updated_at) FROM chats), "
                "(SELECT max(coalesce(finished_at, created_at)) FROM turns), (SELECT max(updated_at) FROM notes))"
            )
            .fetchone()
        )
        return from_db_time(row[0]) if row and row[0] else None

    def ping(self) -> None:
        """Raise if the store cannot answer. Blocks."""
        self._cursor().execute("SELECT 1").fetchone()

    def _load(self, cursor: duckdb.DuckDBPyConnection, chat_id: str) -> Conversation | None:
        token = self._recent.loading(chat_id)
        conversation = self._fetch(cursor, chat_id)
        self._recent.loaded(chat_id, token, conversation)
        return conversation

    def _fetch(self, cursor: duckdb.DuckDBPyConnection, chat_id: str) -> Conversation | None:
        rows = cursor.execute(select_chats("chat_id = $1"), [chat_id]).fetchall()
        if not rows:
            return None
        turns = cursor.execute(SELECT_TURNS, [chat_id]).fetchall()
        notes = cursor.execute(SELECT_NOTES, [chat_id]).fetchall()
        return Conversation(
            chat_from(rows[0]), tuple(turn_from(row) for row in turns), tuple(note_from(row) for row in notes)
        )

    async def _write(
        self,
        key: str,
        *rows: tuple[Statement, Row],
        conditions: Sequence[Condition] = (),
        committed: Callable[[], None] = lambda: None,
    ) -> None:
        await asyncio.wrap_future(self._writer.submit(Change(key, rows, conditions, committed)))

    def _write_now(self, changes: Sequence[Change]) -> None:
        for done in [self._writer.submit(change) for change in changes]:
            done.result()

    async def _read(self, query: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._readers, lambda: query(self._cursor()))

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        """This thread's cursor: a connection shared by threads raises."""
        if not hasattr(self._local, "cursor"):
            self._local.cursor = self._connection.cursor()
        return self._local.cursor


def _deletion(chat_id: str) -> list[tuple[Statement, Row]]:
    return [(statement, (chat_id,)) for statement in OF_A_CHAT]


def _feedback_row(turn: Turn) -> Row:
    assert turn.feedback is not None
    at = to_db_time(turn.finished_at or turn.created_at)
    return (turn.turn_id, turn.chat_id, turn.user_id, at, turn.feedback.rating, turn.feedback.reason)


def _pick(wanted: Sequence[str], columns: Sequence[str], row: Row) -> Row:
    """The wanted columns of a row."""
    values = dict(zip(columns, row, strict=True))
    return tuple(values[name] for name in wanted)
