"""Vectors in LanceDB: the one file that talks to it. Today the passages of turns, by chat.

Knows vectors and what they stand for, not the texts, which stay in the store. Writes are collected, since each one
makes a file; what is not written yet is found all the same. LanceDB's distances become similarities here. Everything
that can go wrong is `VectorsUnavailable`: whoever asks does without.

Belongs to one event loop.
"""

import asyncio
import contextlib
import hashlib
import os
import re
from collections.abc import AsyncGenerator, Callable, Collection, Coroutine, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from chatlab.errors import VectorsUnavailable
from chatlab.messages import PassageRef

WRITE_ROWS, WRITE_SECONDS = 64, 1.0  # collected before they are written, whichever is first
MAX_WAITING = 5_000  # rows that cannot be written
# After so many writes, their files are merged, no more often than so: 2,000 single rows make a search 17 times slower.
TIDY_WRITES, TIDY_SECONDS = 20, 10.0
KEEP_VERSIONS = timedelta(minutes=10)  # of the table, for searches under way
NOTHING_OLDER = timedelta(milliseconds=1)  # LanceDB warns of less
PREFIX = "passages_"

Vector = NDArray[np.float32]

log = structlog.get_logger(__name__)


class Vectors:
    """The vectors of one embedder.

    Args:
        uri: A folder, or the address of object storage; made on the first write.
        embedder: Its name: vectors of another one are of no use, and dropped.
    """

    def __init__(self, uri: str, embedder: str) -> None:
        self._uri = uri
        self._name = PREFIX + hashlib.sha256(embedder.encode()).hexdigest()[:16]
        self._database: Any = None  # lancedb's, untyped
        self._table: Any = None
        self._waiting: list[tuple[str, PassageRef, Vector]] = []  # rows to be written: chat, passage, vector
        self._unwritten = False  # whether writing failed the last time
        self._known = False  # whether there was a table
        self._opening = asyncio.Lock()  # guards _database and _table while they are opened
        self._writing = asyncio.Lock()  # guards the table's versions: one write, merge or delete at a time
        self._timer: asyncio.TimerHandle | None = None
        self._tidying: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._n_writes = 0
        self.n_faults = 0  # since the start: what was here before one may be gone

    @property
    def made(self) -> bool:
        """Whether anything was ever written here."""
        return "://" in self._uri or os.path.isdir(self._uri)

    async def add(self, chat_id: str, passages: Sequence[PassageRef], vectors: Vector) -> None:
        """Add passages of a chat.

        Args:
            chat_id: The chat.
            passages: What the vectors stand for.
            vectors: (n, dim) float32, unit norm.

        Raises:
            VectorsUnavailable: They cannot be written.
        """
        if len(self._waiting) > MAX_WAITING:  # they could not be written for long
            await self.flush()
        self._waiting += zip([chat_id] * len(passages), passages, vectors, strict=True)
        if len(self._waiting) >= WRITE_ROWS:
            await self.flush()
        elif self._timer is None:
            self._timer = self._later(WRITE_SECONDS, self._flush_waiting)

    async def nearest(self, chat_id: str, vector: Vector, limit: int) -> dict[str, float]:
        """The passages of a chat that are nearest to a vector, by key, and the cosines between, in [-1, 1].

        Args:
            chat_id: The chat.
            vector: (dim,) float32, unit norm.
            limit: Most passages.

        Raises:
            VectorsUnavailable: LanceDB does not answer.
        """
        if self._unwritten:
            await self.flush()
        waiting = {passage.key: float(row @ vector) for chat, passage, row in self._waiting if chat == chat_id}
        try:
            return await self._search(chat_id, vector, limit) | waiting
        except VectorsUnavailable:  # perhaps the version that it read was tidied away meanwhile
            return await self._search(chat_id, vector, limit) | waiting

    async def passages(self, chat_id: str) -> set[str]:
        """The keys of what is here of a chat.

        Raises:
            VectorsUnavailable: LanceDB does not answer.
        """
        found = {passage.key for chat, passage, _ in self._waiting if chat == chat_id}
        async with self._faults("read"):
            if (table := await self._opened()) is not None:
                rows = await table.query().where(_is(chat_id)).select(["passage"]).to_arrow()
                found.update(rows["passage"].to_pylist())
        return found

    async def delete_chat(self, chat_id: str) -> None:
        """Delete all of a chat, from the disk, too.

        Raises:
            VectorsUnavailable: They cannot be deleted.
        """
        self._waiting = [row for row in self._waiting if row[0] != chat_id]
        async with self._writing, self._faults("delete"):
            if (table := await self._opened()) is not None and await table.count_rows(_is(chat_id)):
                await self._keep(f"NOT ({_is(chat_id)})")

    async def keep_only(self, chat_ids: Collection[str]) -> int:
        """Delete what is of other chats: those whose deletion was interrupted. Gives how many there were.

        Raises:
            VectorsUnavailable: LanceDB does not answer.
        """
        async with self._writing, self._faults("sweep"):
            if (table := await self._opened()) is None:
                return 0
            stored = await table.query().select(["chat_id"]).to_arrow()
            gone = set(stored["chat_id"].unique().to_pylist()) - set(chat_ids)
            if gone:
                await self._keep(" AND ".join(f"NOT ({_is(chat_id)})" for chat_id in gone))
            return len(gone)

    async def _keep(self, condition: str) -> None:
        """Write anew the rows that fulfil a condition: LanceDB leaves deleted ones in files that have few of them."""
        kept = await self._table.query().where(condition).to_arrow()
        self._table = await self._made(kept.schema, kept, "overwrite")
        await asyncio.sleep(2 * NOTHING_OLDER.total_seconds())
        await self._tidy(self._table, NOTHING_OLDER)

    async def flush(self) -> None:
        """Write what was added; goes on when its caller is cancelled, since LanceDB does, too.

        Raises:
            VectorsUnavailable: It cannot be written; it is tried again with the next write or search.
        """
        await asyncio.shield(self._begun(self._write()))

    async def _write(self) -> None:
        async with self._writing:
            rows = [*self._waiting]
            if not rows:
                return
            self._unwritten = True
            async with self._faults("write"):
                data = _arrow(rows)
                if (table := await self._opened()) is None:
                    self._table = await self._made(data.schema, data, "create")
                else:
                    await table.add(data)
                self._unwritten = False
                written = {id(row) for row in rows}
                self._waiting = [row for row in self._waiting if id(row) not in written]
                self._n_writes += 1
                if self._n_writes >= TIDY_WRITES and self._tidying is None:
                    self._tidying = self._later(TIDY_SECONDS, self._tidy_up)

    def close(self) -> None:
        """Let go. What is not written is lost: its texts are embedded again when they are missed."""
        for timer in (self._timer, self._tidying):
            if timer is not None:
                timer.cancel()
        if self._database is not None:
            self._database.close()
        self._database = self._table = None

    def _later(self, seconds: float, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.TimerHandle:
        """Do something by and by; that it failed, the next search says."""

        async def quietly() -> None:
            with contextlib.suppress(VectorsUnavailable):
                await work()

        return asyncio.get_running_loop().call_later(seconds, lambda: self._begun(quietly()))

    def _begun(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name="vectors")
        self._background.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled():
            task.exception()  # heard by whoever waits, if anybody still does

    async def _flush_waiting(self) -> None:
        self._timer = None
        await self.flush()

    async def _tidy_up(self) -> None:
        self._tidying = None
        async with self._writing, self._faults("tidy"):
            if (table := await self._opened()) is not None:
                await self._tidy(table, KEEP_VERSIONS)

    async def _search(self, chat_id: str, vector: Vector, limit: int) -> dict[str, float]:
        async with self._faults("search"):
            if (table := await self._opened()) is None:
                if self._known:
                    raise FileNotFoundError("its table is gone")
                return {}
            query = table.query().where(_is(chat_id)).nearest_to(vector).distance_type("dot")
            rows = await query.select(["passage", "_distance"]).limit(limit).to_arrow()
            return await asyncio.to_thread(_similarities, rows)

    async def _opened(self) -> Any:
        """The table; None before the first write, and where somebody removed it."""
        async with self._opening:
            if self._table is None and self.made:
                if self._database is None:
                    self._database = await _connect(self._uri)
                names = (await self._database.list_tables()).tables
                for other in names:
                    if re.fullmatch(PREFIX + "[0-9a-f]{16}", other) and other != self._name:
                        await self._database.drop_table(other)
                if self._name in names:
                    self._table = await self._database.open_table(self._name)
                    self._known = True
            return self._table

    async def _made(self, schema: Any, data: Any, mode: str) -> Any:
        from lancedb.index import BTree

        if self._database is None:
            self._database = await _connect(self._uri)
        table = await self._database.create_table(self._name, data, schema=schema, mode=mode)
        await table.create_index("chat_id", config=BTree())  # without it, a filter reads every row
        self._known = True
        return table

    async def _tidy(self, table: Any, keep: timedelta) -> None:
        """Merge files, bring the index up to date, drop old versions."""
        await table.optimize(cleanup_older_than=keep)
        self._n_writes = 0

    @asynccontextmanager
    async def _faults(self, what: str) -> AsyncGenerator[None]:
        """Whatever LanceDB raises, as ours; the table is opened anew the next time."""
        try:
            yield
        except ImportError as error:
            self.n_faults += 1
            raise VectorsUnavailable("the package lancedb is not installed") from error
        except Exception as error:  # LanceDB raises RuntimeError, ValueError, OSError and errors of its own
            self._table = None
            self.n_faults += 1
            line = (str(error) or repr(error)).splitlines()[0][:200]
            log.warning("LanceDB fails", uri=self._uri, operation=what, reason=line)
            raise VectorsUnavailable(f"LanceDB cannot {what}") from error


async def _connect(uri: str) -> Any:
    import lancedb

    return await lancedb.connect_async(uri)


def _is(chat_id: str) -> str:
    quoted = chat_id.replace("'", "''")
    return f"chat_id = '{quoted}'"


def _similarities(rows: Any) -> dict[str, float]:
    similarities = 1.0 - rows["_distance"].to_numpy()  # "dot" is 1 - the product
    return dict(zip(rows["passage"].to_pylist(), similarities.tolist(), strict=True))


def _arrow(rows: Sequence[tuple[str, PassageRef, Vector]]) -> Any:
    import pyarrow as pa

    dim = len(rows[0][2])
    flat = np.concatenate([vector for _, _, vector in rows])
    return pa.table(
        {
            "chat_id": [chat_id for chat_id, _, _ in rows],
            "passage": [passage.key for _, passage, _ in rows],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dim),
        }
    )
