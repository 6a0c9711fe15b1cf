"""One thread writes: what arrives while a commit is under way goes into the next one (group commit).

A unit of work is a `Change`: rows for set-based statements, all in one transaction or not at all. Changes with
different keys may be applied in any order within a batch and their rows share a statement; changes with the same key
are applied in the order they came. A change may name conditions: it is made only if they hold at that moment
(compare and swap).
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import duckdb

from chatlab.store.statements import Row, Statement

MAX_BATCH = 256
FILL_SECONDS = 0.002


class Outdated(Exception):
    """A condition of a change does not hold any more; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Condition:
    """A query that must give `True`.

    Attributes:
        sql: Selects one value.
        parameters: Of the query.
    """

    sql: str
    parameters: Sequence[Any]


@dataclass(frozen=True, slots=True)
class Change:
    """Rows to write together.

    Attributes:
        key: What the change is about (a chat's id).
        rows: What to write, and with which statement.
        conditions: Without which nothing is written.
        committed: Called by the writer after the commit, before `done`; must not fail.
        done: Resolved after the commit, or fails with Outdated where a condition does not hold. Cancelling it changes
            nothing: what was handed over is written.
    """

    key: str
    rows: Sequence[tuple[Statement, Row]]
    conditions: Sequence[Condition] = ()
    committed: Callable[[], None] = lambda: None
    done: Future[None] = field(default_factory=Future[None])


class Writer:
    """The only writer of a connection; closed by its owner after everything handed over is on disk."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._inbox: queue.SimpleQueue[Change | None] = queue.SimpleQueue()
        self._parsed: dict[str, duckdb.Statement] = {}  # a handful: the text depends on statement and shape only
        self._closed = False
        self._lock = threading.Lock()  # guards _closed against a submit after the last item
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)
        self._thread.start()

    def submit(self, change: Change) -> Future[None]:
        """Hand a change over; the future resolves once it is durable.

        Raises:
            RuntimeError: The writer is closed.
        """
        with self._lock:
            if self._closed:
                raise RuntimeError("the store is closed")
            change.done.set_running_or_notify_cancel()  # from here on it cannot be cancelled
            self._inbox.put(change)
        return change.done

    def close(self) -> None:
        """Write what was handed over, then end; idempotent."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._inbox.put(None)
        self._thread.join()

    def _work(self) -> None:
        expected = 1
        while (change := self._inbox.get()) is not None:
            batch = [change]
            ended = self._fill(batch, expected)
            self._commit(batch)
            expected = len(batch)
            if ended:
                return

    def _fill(self, batch: list[Change], expected: int) -> bool:
        """Add what has come to a batch.

        Writers that were served by the last commit come back together: as many as there were are waited for, a
        moment only, so that they share the next commit instead of every other one.

        Returns:
            Whether the writer is to end after this batch.
        """
        deadline = time.perf_counter() + FILL_SECONDS
        while len(batch) < MAX_BATCH:
            wait_seconds = deadline - time.perf_counter() if len(batch) < expected else 0.0
            try:
                change = self._inbox.get(block=wait_seconds > 0, timeout=max(wait_seconds, 0.0))
            except queue.Empty:
                return False
            if change is None:
                return True
            batch.append(change)
        return False

    def _commit(self, batch: Sequence[Change]) -> None:
        """One transaction for the batch; if it fails, one for each change, so that only the culprit fails.

        A change with conditions has one of its own, after what came before it.
        """
        if len(batch) > 1 and any(change.conditions for change in batch):
            for conditional, changes in groupby(batch, lambda change: bool(change.conditions)):
                for part in ([change] for change in changes) if conditional else ([*changes],):
                    self._commit(part)
            return
        try:
            self._apply(batch)
        except Outdated as error:
            batch[0].done.set_exception(error)
        except duckdb.Error as error:
            if len(batch) == 1:
                batch[0].done.set_exception(error)
                return
            for change in batch:
                self._commit([change])
        else:
            for change in batch:
                change.committed()
                change.done.set_result(None)

    def _apply(self, batch: Sequence[Change]) -> None:
        statements = _statements(batch)
        conditions = [condition for change in batch for condition in change.conditions]
        if len(statements) == 1 and not conditions:  # a transaction by itself
            statement, rows = statements[0]
            self._execute(*statement.render(rows))
            return
        self._connection.execute("BEGIN")
        try:
            for condition in conditions:
                row = self._connection.execute(condition.sql, list(condition.parameters)).fetchone()
                if row is None or row[0] is not True:
                    raise Outdated
            for statement, rows in statements:
                self._execute(*statement.render(rows))
            self._connection.execute("COMMIT")
        except (duckdb.Error, Outdated):
            self._rollback()
            raise

    def _execute(self, sql: str, parameters: list[Any]) -> None:
        """Run a statement that was parsed when it first came."""
        if (parsed := self._parsed.get(sql)) is None:
            parsed = self._parsed[sql] = self._connection.extract_statements(sql)[0]
        self._connection.execute(parsed, parameters)

    def _rollback(self) -> None:
        try:
            self._connection.execute("ROLLBACK")
        except duckdb.TransactionException:
            return  # a failed COMMIT has already ended the transaction


def _statements(batch: Sequence[Change]) -> list[tuple[Statement, list[Row]]]:
    """Rows grouped by statement, in rounds: within one round every key occurs once."""
    grouped: list[tuple[Statement, list[Row]]] = []
    current: dict[Statement, list[Row]] = {}
    keys: set[str] = set()
    for change in batch:
        if change.key in keys:
            grouped += current.items()
            current, keys = {}, set()
        keys.add(change.key)
        for statement, row in change.rows:
            current.setdefault(statement, []).append(row)
    return [*grouped, *current.items()]
