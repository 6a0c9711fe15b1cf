"""Vectors in LanceDB: the one file that talks to it. The passages of turns, by chat, and the questions of the cache.

Knows vectors and the keys of what they stand for, not the texts, which stay in the store. Writes are collected, since
each one makes a file; what is not written yet is found all the same. Large tables get a vector index. LanceDB's
distances become similarities here.
Everything that can go wrong is `VectorsUnavailable`: whoever asks does without.

Belongs to one event loop.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Coroutine, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray

from chatlab.errors import VectorsUnavailable

WRITE_ROWS, WRITE_SECONDS = 64, 1.0  # collected before they are written, whichever is first
MAX_WAITING = 5_000  # rows that cannot be written
# After so many writes, their files are merged, no more often than so, nor for a larger share of the time; but always
# before there are too many: 2,000 single rows make a search 17 times slower.
TIDY_WRITES, TIDY_SECONDS, TIDY_SHARE = 10, 1.0, 0.1
MOST_WRITES = 20
# Without a vector index, a search reads every row of a group: 0.1 s for 6,000. With one it reads those of the nearest
# partitions; of all, so that nothing is missed, where the group is small.
INDEX_ROWS, PARTITION_ROWS, MOST_PARTITIONS = 2_000, 800, 1_024
LARGE_GROUP, PARTITIONS_READ, ALL_PARTITIONS = 2_000, 40, 100_000  # LanceDB itself may add some
KEEP_VERSIONS = timedelta(minutes=10)  # of the table, for searches under way
NOTHING_OLDER = timedelta(milliseconds=1)  # LanceDB warns of less

Vector = NDArray[np.float32]
Row = tuple[str, str, Vector]  # group, key, vector
Known = Callable[[], Awaitable[Collection[str]]]  # groups or keys that something stands for now

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Kind:
    """What a table is of.

    Attributes:
        name: What its name begins with.
        group: The column that is filtered by: only vectors of one group are compared.
        key: The column that names a vector, unique in its group.
    """

    name: str
    group: str
    key: str


PASSAGES = Kind("passages", "chat_id", "passage")
QUESTIONS = Kind("questions", "bucket", "entry")


class Vectors:
    """The vectors of one embedder, of one kind.

    Args:
        uri: A folder, or the address of object storage; made on the first write.
        embedder: Its name: vectors of another one are of no use, and dropped.
        kind: What they are of.
    """

    def __init__(self, uri: str, embedder: str, kind: Kind = PASSAGES) -> None:
        self._uri = uri
        self._kind = kind
        self._name = f"{kind.name}_" + hashlib.sha256(embedder.encode()).hexdigest()[:16]
        self._database: Any = None  # lancedb's, untyped
        self._table: Any = None
        self._waiting: list[Row] = []  # to be written
        self._unwritten = False  # whether writing failed the last time
        self._known = False  # whether there was a table
        self._opening = asyncio.Lock()  # guards _database and _table while they are opened
        self._writing = asyncio.Lock()  # guards the table's versions: one write, merge or delete at a time
        self._timer: asyncio.TimerHandle | None = None
        self._tidying: asyncio.TimerHandle | None = None
        self._background: set[asyncio.Task[None]] = set()
        self._n_writes = self._n_new = 0  # since files were merged, and the rows of them
        self._tidied_seconds = 0.0  # that merging took the last time
        self._partitions = 0  # of the vector index; 0 is none
        self._large: frozenset[str] = frozenset()  # groups when it was last brought up to date
        self.n_faults = 0  # since the start: what was here before one may be gone

    @property
    def made(self) -> bool:
        """Whether anything was ever written here."""
        return "://" in self._uri or os.path.isdir(self._uri)

    async def add(self, group: str, keys: Sequence[str], vectors: Vector) -> None:
        """Add vectors to a group.

        Args:
            group: A chat, or the entries that may serve a question.
            keys: What the vectors stand for.
            vectors: (n, dim) float32, unit norm.

        Raises:
            VectorsUnavailable: They cannot be written.
        """
        if len(self._waiting) > MAX_WAITING:  # they could not be written for long
            await self.flush()
        self._waiting += zip([group] * len(keys), keys, vectors, strict=True)
        if len(self._waiting) >= WRITE_ROWS:
            await self.flush()
        elif self._timer is None:
            self._timer = self._later(WRITE_SECONDS, self._flush_waiting)

    async def nearest(self, group: str, vector: Vector, limit: int) -> dict[str, float]:
        """The keys of a group's vectors that are nearest to one, and the cosines between, in [-1, 1].

        Args:
            group: Whose.
            vector: (dim,) float32, unit norm.
            limit: Most of those on disk; what is not written yet comes on top.

        Raises:
            VectorsUnavailable: LanceDB does not answer.
        """
        if self._unwritten:
            await self.flush()
        waiting = {key: float(row @ vector) for of, key, row in self._waiting if of == group}
        try:
            return await self._search(group, vector, limit) | waiting
        except VectorsUnavailable:  # perhaps the version that it read was tidied away meanwhile
            return await self._search(group, vector, limit) | waiting

    async def keys(self, group: str) -> set[str]:
        """What is here of a group.

        Raises:
            VectorsUnavailable: LanceDB does not answer.
        """
        found = {key for of, key, _ in self._waiting if of == group}
        async with self._faults("read"):
            if (table := await self._opened()) is not None:
                rows = await table.query().where(_in(self._kind.group, [group])).select([self._kind.key]).to_arrow()
                found.update(rows[self._kind.key].to_pylist())
        return found

    async def all_keys(self) -> set[str]:
        """What is here of all groups.

        Raises:
            VectorsUnavailable: LanceDB does not answer.
        """
        found = {key for _, key, _ in self._waiting}
        async with self._faults("read"):
            if (table := await self._opened()) is not None:
                rows = await table.query().select([self._kind.key]).to_arrow()
                found.update(rows[self._kind.key].to_pylist())
        return found

    async def delete_group(self, group: str) -> None:
        """Delete all of a group, from the disk, too.

        Raises:
            VectorsUnavailable: They cannot be deleted.
        """
        self._waiting = [row for row in self._waiting if row[0] != group]
        await self._delete(_in(self._kind.group, [group]))

    async def delete(self, keys: Collection[str]) -> None:
        """Delete these of whatever group, from the disk, too.

        Raises:
            VectorsUnavailable: They cannot be deleted.
        """
        if keys:
            self._waiting = [row for row in self._waiting if row[1] not in keys]
            await self._delete(_in(self._kind.key, keys))

    async def _delete(self, condition: str) -> None:
        async with self._writing, self._faults("delete"):
            if (table := await self._opened()) is not None and await table.count_rows(condition):
                await self._keep(f"NOT ({condition})")

    async def keep_only(self, groups: Known) -> int:
        """Delete what is of other groups: those whose deletion was interrupted. Gives how many there were.

        Args:
            groups: Asked while nothing is written, so that what is added meanwhile is among them.

        Raises:
            VectorsUnavailable: LanceDB does not answer.
        """
        async with self._writing:
            return await self._sweep(self._kind.group, await groups())

    async def keep_only_keys(self, keys: Known) -> int:
        """The same by key."""
        async with self._writing:
            return await self._sweep(self._kind.key, await keys())

    async def _sweep(self, column: str, kept: Collection[str]) -> int:
        async with self._faults("sweep"):
            if (table := await self._opened()) is None:
                return 0
            stored = await table.query().select([column]).to_arrow()
            gone = await asyncio.to_thread(lambda: set(stored[column].unique().to_pylist()) - set(kept))
            if gone:
                await self._keep(f"NOT ({_in(column, gone)})")
            return len(gone)

    async def _keep(self, condition: str) -> None:
        """Write anew the rows that fulfil a condition: LanceDB leaves deleted ones in files that have few of them."""
        kept = await self._table.query().where(condition).to_arrow()
        self._table = await self._made(kept.schema, kept, "overwrite")
        await asyncio.sleep(2 * NOTHING_OLDER.total_seconds())
        await self._merge(self._table, NOTHING_OLDER)
        if len(kept) >= INDEX_ROWS:  # its index is gone
            self._tidy_later()

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
                data = _arrow(self._kind, rows)
                if (table := await self._opened()) is None:
                    self._table = await self._made(data.schema, data, "create")
                else:
                    await table.add(data)
                self._unwritten = False
                written = {id(row) for row in rows}
                self._waiting = [row for row in self._waiting if id(row) not in written]
                self._n_writes, self._n_new = self._n_writes + 1, self._n_new + len(rows)
                if self._n_writes >= MOST_WRITES:
                    await self._tidy(self._table, KEEP_VERSIONS)
                elif self._n_writes >= TIDY_WRITES or self._n_new >= INDEX_ROWS:
                    self._tidy_later()

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

    def _tidy_later(self) -> None:
        if self._tidying is None:
            self._tidying = self._later(max(TIDY_SECONDS, self._tidied_seconds / TIDY_SHARE), self._tidy_up)

    async def _tidy_up(self) -> None:
        self._tidying = None
        await self.tidy()

    async def tidy(self) -> None:
        """Merge the files of many writes, and bring the indices up to date; done by and by of itself.

        Raises:
            VectorsUnavailable: LanceDB does not answer.
        """
        async with self._writing, self._faults("tidy"):
            if (table := await self._opened()) is not None:
                await self._tidy(table, KEEP_VERSIONS)

    async def _search(self, group: str, vector: Vector, limit: int) -> dict[str, float]:
        async with self._faults("search"):
            if (table := await self._opened()) is None:
                if self._known:
                    raise FileNotFoundError("its table is gone")
                return {}
            query = table.query().where(_in(self._kind.group, [group])).nearest_to(vector).distance_type("dot")
            if self._partitions:
                query = query.nprobes(PARTITIONS_READ if group in self._large else ALL_PARTITIONS)
            rows = await query.select([self._kind.key, "_distance"]).limit(limit).to_arrow()
            return _similarities(rows, self._kind.key)

    async def _opened(self) -> Any:
        """The table; None before the first write, and where somebody removed it."""
        async with self._opening:
            if self._table is None and self.made:
                if self._database is None:
                    self._database = await _connect(self._uri)
                names = (await self._database.list_tables()).tables
                for other in names:
                    if re.fullmatch(f"{self._kind.name}_[0-9a-f]{{16}}", other) and other != self._name:
                        await self._database.drop_table(other)
                if self._name in names:
                    table = await self._database.open_table(self._name)
                    await self._measure(table)
                    self._table, self._known = table, True
                    if await self._wanted_partitions(table):
                        self._tidy_later()
            return self._table

    async def _made(self, schema: Any, data: Any, mode: str) -> Any:
        from lancedb.index import BTree

        if self._database is None:
            self._database = await _connect(self._uri)
        table = await self._database.create_table(self._name, data, schema=schema, mode=mode)
        await table.create_index(self._kind.group, config=BTree())  # without it, a filter reads every row
        self._known, self._partitions = True, 0
        return table

    async def _tidy(self, table: Any, keep: timedelta) -> None:
        """Merge files, bring the indices up to date or make the one of vectors, drop old versions."""
        from lancedb.index import IvfFlat

        started = time.monotonic()
        await self._merge(table, keep)
        if partitions := await self._wanted_partitions(table):
            config = IvfFlat(distance_type="dot", num_partitions=partitions)
            for name in await _vector_indices(table):
                await table.drop_index(name)
            await table.create_index("vector", config=config, name=f"vector_{partitions}")
        await self._measure(table)
        self._tidied_seconds = time.monotonic() - started

    async def _merge(self, table: Any, keep: timedelta) -> None:
        await table.optimize(cleanup_older_than=keep)
        self._n_writes = self._n_new = 0

    async def _wanted_partitions(self, table: Any) -> int:
        """How many a new vector index is to have; 0 where the present one, or none, will do."""
        n_rows: int = await table.count_rows()
        wanted = min(n_rows // PARTITION_ROWS, MOST_PARTITIONS)
        return wanted if n_rows >= INDEX_ROWS and wanted >= 2 * self._partitions else 0

    async def _measure(self, table: Any) -> None:
        """See what index there is, and which groups are large."""
        names = await _vector_indices(table)
        self._partitions = int(names[0].rpartition("_")[2]) if names else 0
        if names:
            groups = await table.query().select([self._kind.group]).to_arrow()
            self._large = await asyncio.to_thread(_large, groups[self._kind.group])

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


async def _vector_indices(table: Any) -> list[str]:
    """Their names, which end in the number of their partitions."""
    return [index.name for index in await table.list_indices() if index.columns == ["vector"]]


def _large(groups: Any) -> frozenset[str]:
    counted = groups.value_counts().to_pylist()
    return frozenset(each["values"] for each in counted if each["counts"] > LARGE_GROUP)


def _in(column: str, values: Iterable[str]) -> str:
    listed = ", ".join("'" + value.replace("'", "''") + "'" for value in values)
    return f"{column} IN ({listed})"


def _similarities(rows: Any, key: str) -> dict[str, float]:
    similarities = 1.0 - rows["_distance"].to_numpy()  # "dot" is 1 - the product
    return dict(zip(rows[key].to_pylist(), similarities.tolist(), strict=True))


def _arrow(kind: Kind, rows: Sequence[Row]) -> Any:
    import pyarrow as pa

    dim = len(rows[0][2])
    flat = np.concatenate([vector for _, _, vector in rows])
    return pa.table(
        {
            kind.group: [group for group, _, _ in rows],
            kind.key: [key for _, key, _ in rows],
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(flat, pa.float32()), dim),
        }
    )
