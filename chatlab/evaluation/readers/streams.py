"""Streams of questions in the order they were asked: `question, answer_key`, perhaps `user`, `kind` and `history`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from chatlab.errors import ConfigError
from chatlab.evaluation.readers.records import messages_of, read_entries
from chatlab.evaluation.workload import Asked


def read_stream(file: Path) -> list[Asked]:
    """The questions of a .csv or .jsonl file, gzipped or not, in its order.

    Raises:
        ConfigError: It cannot be read; names the entry and what is missing.
    """
    return [_asked(entry, where) for where, entry in read_entries(file)]


def _asked(entry: Mapping[str, Any], where: str) -> Asked:
    found: list[str] = []
    for name in ("question", "answer_key"):
        value = entry.get(name)
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.strip():
            raise ConfigError(f"{where}: needs {name}; it has {', '.join(map(str, entry))}")
        found.append(value)
    question, answer_key = found
    history = entry.get("history") or []
    if not isinstance(history, list):
        raise ConfigError(f"{where}: history must be a list of messages")
    if history:  # the question completes it
        history = messages_of([*history, {"role": "user", "content": question}], f"{where}: history")[:-1]
    user, kind = (entry.get(name) for name in ("user", "kind"))
    return Asked(
        question, answer_key, "" if user is None else str(user), tuple(history), None if not kind else str(kind)
    )
