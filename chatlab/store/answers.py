"""The rows of the answer cache: entries, and what was looked up. Who may be served what is decided elsewhere."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, fields
from datetime import datetime
from typing import Any, Protocol, TypeVar

import duckdb

from chatlab.messages import CacheEntry, CacheLookup, LabelSource
from chatlab.store.browse import Query
from chatlab.store.rows import cursor_at, from_db_time, place_of, to_db_time
from chatlab.store.statements import CHAT_IS_THERE, Row, Statement
from chatlab.store.writer import Condition, Outdated

T = TypeVar("T")

ENTRY_COLUMNS = tuple(each.name for each in fields(CacheEntry))
LOOKUP_COLUMNS = tuple(each.name for each in fields(CacheLookup))

UPSERT_ENTRY = Statement("upsert", "cache_entries", ENTRY_COLUMNS)
COUNT_HIT = Statement("update", "cache_entries", ("entry_id", "hits"))
DELETE_ENTRY = Statement("delete", "cache_entries", ("entry_id",))
DELETE_ENTRIES_OF_CHAT = Statement("delete", "cache_entries", ("chat_id",))
INSERT_LOOKUP = Statement("insert", "cache_lookups", LOOKUP_COLUMNS)
LABEL_LOOKUP = Statement("update", "cache_lookups", ("turn_id", "same", "label_weight", "label_source"))
RENEW_LOOKUP = Statement("update", "cache_lookups", ("turn_id", "renewed"))
DELETE_LOOKUP = Statement("delete", "cache_lookups", ("turn_id",))
DELETE_LOOKUPS_OF_CHAT = Statement("delete", "cache_lookups", ("chat_id",))

SELECT_ENTRY = f"SELECT {', '.join(ENTRY_COLUMNS)} FROM cache_entries"
ENTRIES_OF_CHAT = "SELECT entry_id FROM cache_entries WHERE chat_id = $1"
SELECT_LOOKUP = f"SELECT {', '.join(LOOKUP_COLUMNS)} FROM cache_lookups"
OLD_LOOKUPS_OF_NO_CHAT = "SELECT turn_id FROM cache_lookups WHERE chat_id = '' AND created_at < $1"
# What an entry is worth: the seconds it saved and will, by its age; the least goes first.
LEAST_WORTH = """
    SELECT entry_id FROM cache_entries
    ORDER BY cost_ms * (hits + 1) / (1 + greatest(0, extract(epoch FROM ($1 - created_at)))) LIMIT $2
"""


@dataclass(frozen=True, slots=True)
class EntryPage:
    """Some entries of a user, and where the next ones begin; `next_cursor` None is the end.

    Attributes:
        n: That there are in all, and were found.
    """

    entries: tuple[CacheEntry, ...]
    next_cursor: str | None
    n: int


class Read(Protocol):
    """Runs a query beside the event loop."""

    async def __call__(self, query: Callable[[duckdb.DuckDBPyConnection], T]) -> T:
        """What the query gives."""
        ...


class Write(Protocol):
    """Writes rows, all or none; returns when they are on disk."""

    async def __call__(self, key: str, *rows: tuple[Statement, Row], conditions: Sequence[Condition] = ()) -> None:
        """Raise Outdated where a condition does not hold."""
        ...


class AnswerRows:
    """The cache's part of a store.

    Args:
        read: Of the store.
        write: Of the store.
    """

    def __init__(self, read: Read, write: Write) -> None:
        self._read = read
        self._write = write

    async def entries(self, entry_ids: Sequence[str]) -> dict[str, CacheEntry]:
        """Those of these that there are."""
        if not entry_ids:
            return {}
        rows = await self._read(lambda db: db.execute(select_entries(len(entry_ids)), [*entry_ids]).fetchall())
        return {entry.entry_id: entry for entry in map(entry_from, rows)}

    async def of_user(self, user_id: str, limit: int, cursor: str | None = None, q: str | None = None) -> EntryPage:
        """The entries that are from a user, newest first; `q` is in the question or the answer.

        Raises:
            InvalidInput: The cursor is none of ours.
        """
        query = Query()
        where = f"user_id = {query.value(user_id)}"
        if q:
            where += f" AND {query.contains(q, 'question', 'answer')}"
        count, counted = f"SELECT count(*) FROM cache_entries WHERE {where}", [*query.values]
        if cursor is not None:
            at, entry_id = place_of(cursor)
            where += f" AND (created_at, entry_id) < ({query.value(at)}, {query.value(entry_id)})"
        sql = f"{SELECT_ENTRY} WHERE {where} ORDER BY created_at DESC, entry_id DESC LIMIT {limit + 1:d}"

        def both(db: duckdb.DuckDBPyConnection) -> tuple[list[Any], list[Any]]:
            return db.execute(sql, query.values).fetchall(), db.execute(count, counted).fetchall()

        rows, n = await self._read(both)
        found = [*map(entry_from, rows[:limit])]
        after = cursor_at(found[-1].created_at, found[-1].entry_id) if len(rows) > limit else None
        return EntryPage(tuple(found), after, n[0][0])

    async def ids_of_user(self, user_id: str) -> list[str]:
        """The ids of the entries that are from a user."""
        return await self._ids("SELECT entry_id FROM cache_entries WHERE user_id = $1", [user_id])

    async def save(self, entry: CacheEntry) -> bool:
        """Store an answer unless its chat is gone; one with the same id is replaced. Whether it was stored."""
        conditions = [Condition(CHAT_IS_THERE, [entry.chat_id])] if entry.chat_id else []
        try:
            await self._write(entry.chat_id, (UPSERT_ENTRY, entry_row(entry)), conditions=conditions)
        except Outdated:
            return False
        return True

    async def count_hit(self, entry: CacheEntry) -> None:
        """Store that an entry was served once more."""
        await self._write(entry.entry_id, (COUNT_HIT, (entry.entry_id, entry.hits + 1)))

    async def delete(self, entry_ids: Sequence[str]) -> None:
        """Delete entries, all in one commit."""
        if entry_ids:
            await self._write(entry_ids[0], *((DELETE_ENTRY, (entry_id,)) for entry_id in entry_ids))

    async def ids(self) -> set[str]:
        """Of all entries."""
        return {*await self._ids("SELECT entry_id FROM cache_entries", [])}

    async def expired(self, now: datetime) -> list[str]:
        """The ids of the entries whose time is over."""
        return await self._ids("SELECT entry_id FROM cache_entries WHERE expires_at <= $1", [to_db_time(now)])

    async def of_chat(self, chat_id: str) -> list[str]:
        """The ids of the entries that are from a chat."""
        return await self._ids(ENTRIES_OF_CHAT, [chat_id])

    async def count(self) -> int:
        """How many there are."""
        rows = await self._read(lambda db: db.execute("SELECT count(*) FROM cache_entries").fetchall())
        return rows[0][0]

    async def ids_before(self, at: datetime) -> list[str]:
        """Of the entries from before a time."""
        return await self._ids("SELECT entry_id FROM cache_entries WHERE created_at < $1", [to_db_time(at)])

    async def least_worth(self, n: int, now: datetime) -> list[str]:
        """The ids of those that are to go first."""
        return await self._ids(LEAST_WORTH, [to_db_time(now), n])

    async def save_lookup(self, lookup: CacheLookup) -> None:
        """Store what the cache did for a turn, unless its chat is gone."""
        conditions = [Condition(CHAT_IS_THERE, [lookup.chat_id])] if lookup.chat_id else []
        with contextlib.suppress(Outdated):
            await self._write(lookup.chat_id, (INSERT_LOOKUP, lookup_row(lookup)), conditions=conditions)

    async def label(self, turn_id: str, same: bool, weight: float, source: LabelSource) -> None:
        """Store whether the entry of a lookup serves its question."""
        await self._write(turn_id, (LABEL_LOOKUP, (turn_id, same, weight, source)))

    async def renewed(self, turn_id: str, kept: bool) -> None:
        """Store whether what the model said in an audit of a lookup took the place of what was served."""
        await self._write(turn_id, (RENEW_LOOKUP, (turn_id, kept)))

    async def lookup(self, turn_id: str) -> CacheLookup | None:
        """What the cache did for a turn."""
        found = await self._lookups(f"{SELECT_LOOKUP} WHERE turn_id = $1", [turn_id])
        return found[0] if found else None

    async def latest(self, n: int, verifier: str) -> list[CacheLookup]:
        """The latest lookups that a verifier scored, oldest first."""
        sql = f"{SELECT_LOOKUP} WHERE verifier = $1 ORDER BY created_at DESC LIMIT $2"
        return [*reversed(await self._lookups(sql, [verifier, n]))]

    async def since(self, at: datetime, user_id: str | None = None) -> list[CacheLookup]:
        """Lookups from a time on, oldest first, of a user or all."""
        sql, values = f"{SELECT_LOOKUP} WHERE created_at >= $1", [to_db_time(at)]
        if user_id is not None:
            sql, values = f"{sql} AND user_id = $2", [*values, user_id]
        return await self._lookups(f"{sql} ORDER BY created_at", values)

    async def forget_stateless(self, before: datetime) -> None:
        """Delete lookups that belong to no chat, from before a time."""
        if old := await self._ids(OLD_LOOKUPS_OF_NO_CHAT, [to_db_time(before)]):
            await self._write("", *((DELETE_LOOKUP, (turn_id,)) for turn_id in old))

    async def _lookups(self, sql: str, values: Sequence[object]) -> list[CacheLookup]:
        rows = await self._read(lambda db: db.execute(sql, [*values]).fetchall())
        return [*map(lookup_from, rows)]

    async def _ids(self, sql: str, values: Sequence[object]) -> list[str]:
        rows = await self._read(lambda db: db.execute(sql, [*values]).fetchall())
        return [entry_id for (entry_id,) in rows]


def select_entries(n: int) -> str:
    """SQL for the entries with `n` ids."""
    return f"{SELECT_ENTRY} WHERE entry_id IN ({', '.join(f'${i}' for i in range(1, n + 1))})"


def entry_row(entry: CacheEntry) -> Row:
    """In the order of ENTRY_COLUMNS."""
    return _row(entry)


def entry_from(row: Sequence[Any]) -> CacheEntry:
    """From the order of ENTRY_COLUMNS."""
    return CacheEntry(*map(_value, row))


def lookup_row(lookup: CacheLookup) -> Row:
    """In the order of LOOKUP_COLUMNS."""
    return _row(lookup)


def lookup_from(row: Sequence[Any]) -> CacheLookup:
    """From the order of LOOKUP_COLUMNS."""
    return CacheLookup(*map(_value, row))


def _row(value: CacheEntry | CacheLookup) -> Row:
    return tuple(to_db_time(each) if isinstance(each, datetime) else each for each in astuple(value))


def _value(stored: Any) -> Any:
    return from_db_time(stored) if isinstance(stored, datetime) else stored
