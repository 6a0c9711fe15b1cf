"""Numbered migrations, applied in order, each in its own transaction. Append-only: a released file never changes."""

from dataclasses import dataclass
from pathlib import Path

import duckdb

from chatlab.errors import ConfigError

FOLDER = Path(__file__).parent / "migrations"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    number: int
    name: str
    sql: str


def migrations() -> list[Migration]:
    """All steps, first to last."""
    return [Migration(int(file.name[:4]), file.stem, file.read_text()) for file in sorted(FOLDER.glob("*.sql"))]


def migrate(connection: duckdb.DuckDBPyConnection, steps: list[Migration]) -> None:
    """Bring the schema up to date.

    Raises:
        ConfigError: The data dir was written by a newer chatlab.
    """
    connection.execute("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)")
    done: set[int] = {row[0] for row in connection.execute("SELECT number FROM migrations").fetchall()}
    if unknown := done - {step.number for step in steps}:
        raise ConfigError(
            f"CHATLAB_DATA_DIR: the data was written by a newer chatlab (migration {max(unknown)}): update chatlab"
        )
    for step in steps:
        if step.number not in done:
            connection.execute("BEGIN")
            connection.execute(step.sql)
            connection.execute("INSERT INTO migrations VALUES ($1, $2)", [step.number, step.name])
            connection.execute("COMMIT")
