"""Set-based SQL: one statement writes any number of rows. The same text runs on DuckDB and PostgreSQL.

A few rows are sent as VALUES, many as one list a column: measured on DuckDB 2.0, VALUES is faster for up to about
four rows, and with lists the time hardly grows with the rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Row = tuple[Any, ...]
MAX_VALUES_ROWS = 4

CHAT_IS_THERE = "SELECT count(*) = 1 FROM chats WHERE chat_id = $1"
SQL_TYPES = {
    "created_at": "TIMESTAMP",
    "updated_at": "TIMESTAMP",
    "finished_at": "TIMESTAMP",
    "discarded_at": "TIMESTAMP",
    "pinned": "BOOLEAN",
    "archived": "BOOLEAN",
    "rating": "INTEGER",
    "tokens_before": "INTEGER",
    "tokens_after": "INTEGER",
    "prompt_version": "INTEGER",
    "latency_ms": "DOUBLE PRECISION",
    "revision": "INTEGER",
    "passed": "BOOLEAN",
    "expires_at": "TIMESTAMP",
    "hits": "INTEGER",
    "saved_tokens": "INTEGER",
    "cost_ms": "DOUBLE PRECISION",
    "saved_ms": "DOUBLE PRECISION",
    "lookup_ms": "DOUBLE PRECISION",
    "similarity": "DOUBLE PRECISION",
    "score": "DOUBLE PRECISION",
    "threshold": "DOUBLE PRECISION",
    "own": "BOOLEAN",
    "same": "BOOLEAN",
    "renewed": "BOOLEAN",
    "label_weight": "DOUBLE PRECISION",
    "winner": "INTEGER",
}


@dataclass(frozen=True, slots=True)
class Statement:
    """A change of a table; rows have the values of `columns`.

    `insert` fills `columns`, `upsert` replaces what has the same first column, `update` and `delete` find rows by it.
    """

    kind: Literal["insert", "upsert", "update", "delete"]
    table: str
    columns: tuple[str, ...]

    def render(self, rows: Sequence[Row]) -> tuple[str, list[Any]]:
        """SQL and parameters for these rows."""
        names, key = ", ".join(self.columns), self.columns[0]
        if self.kind == "update" and len(rows) == 1:  # found by the index, half the time of a join
            changes = ", ".join(f"{name} = ${i}" for i, name in enumerate(self.columns[1:], 2))
            return f"UPDATE {self.table} SET {changes} WHERE {key} = $1", list(rows[0])
        source, parameters = self._source(rows)
        match self.kind:
            case "insert":
                return f"INSERT INTO {self.table} ({names}) {source}", parameters
            case "upsert":
                changes = ", ".join(f"{name} = excluded.{name}" for name in self.columns[1:])
                conflict = f"ON CONFLICT ({key}) DO UPDATE SET {changes}"
                return f"INSERT INTO {self.table} ({names}) {source} {conflict}", parameters
            case "update":
                changes = ", ".join(f"{name} = v.{name}" for name in self.columns[1:])
                where = f"WHERE {self.table}.{key} = v.{key}"
                return f"UPDATE {self.table} SET {changes} FROM ({source}) v({names}) {where}", parameters
            case "delete":
                return f"DELETE FROM {self.table} WHERE {key} IN ({source})", parameters

    def _source(self, rows: Sequence[Row]) -> tuple[str, list[Any]]:
        types = [SQL_TYPES.get(name, "TEXT") for name in self.columns]
        if len(rows) > MAX_VALUES_ROWS:
            lists = ", ".join(f"unnest(${i}::{sql_type}[])" for i, sql_type in enumerate(types, 1))
            return f"SELECT {lists}", [list(column) for column in zip(*rows, strict=True)]
        width = len(self.columns)
        marks = [
            f"({', '.join(f'${at * width + i}::{sql_type}' for i, sql_type in enumerate(types, 1))})"
            for at in range(len(rows))
        ]
        return f"VALUES {', '.join(marks)}", [value for row in rows for value in row]
