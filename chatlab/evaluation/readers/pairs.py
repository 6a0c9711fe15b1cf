"""Labelled pairs for the cache: of questions (`a, b, label`), and of conversations whose last messages are compared."""

import csv
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlab.errors import ConfigError
from chatlab.evaluation.readers.records import parse_lines, read_text
from chatlab.messages import Message

_SIDES = (("a", "b"), ("text_a", "text_b"), ("origin", "similar"))
_TRUE, _FALSE = {"1", "1.0", "true", "yes"}, {"0", "0.0", "false", "no"}
_SHAPES = "a, b, label; text_a, text_b, label; or origin, similar"


@dataclass(frozen=True, slots=True)
class LabelledPair:
    """Two questions; `same` if one answer serves both.

    Attributes:
        pair_id: As the file has it, else its place from 0.
    """

    pair_id: str
    a: str
    b: str
    same: bool
    category: str | None = None


@dataclass(frozen=True, slots=True)
class ConversationPair:
    """Two conversations that end in a user's message; `same` if one answer serves both."""

    pair_id: str
    a: tuple[Message, ...]
    b: tuple[Message, ...]
    same: bool
    category: str | None = None


def read_pairs(file: Path) -> list[LabelledPair]:
    """The pairs of a .csv or .jsonl file, gzipped or not, in its order.

    Raises:
        ConfigError: It cannot be read; names the entry and what is missing.
    """
    return [_pair(entry, i, where) for i, (where, entry) in enumerate(_entries(file))]


def read_conversations(file: Path) -> list[ConversationPair]:
    """The pairs of a .jsonl file, gzipped or not, in its order.

    Raises:
        ConfigError: It cannot be read; names the entry and what is missing.
    """
    return [_conversations(entry, i, where) for i, (where, entry) in enumerate(_entries(file))]


def _entries(file: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each entry with where it is."""
    name = file.name.removesuffix(".gz")
    if not name.endswith((".csv", ".jsonl")):
        raise ConfigError(f"{file}: must end in .csv, .csv.gz, .jsonl or .jsonl.gz")
    text = read_text(file)
    if name.endswith(".csv"):
        reader = csv.DictReader(io.StringIO(text, newline=""))
        found: list[tuple[str, Any]] = [(f"{file}: line {reader.line_num}", entry) for entry in reader]
    else:
        found = [(f"{file}: line {number}", entry) for number, entry in parse_lines(file, text)]
    if not found:
        raise ConfigError(f"{file}: has no entries")
    for where, entry in found:
        if not isinstance(entry, dict):
            raise ConfigError(f"{where}: must be an object")
        yield where, entry


def _pair(entry: Mapping[str, Any], place: int, where: str) -> LabelledPair:
    for a, b in _SIDES:
        if a in entry and b in entry:
            break
    else:
        raise ConfigError(f"{where}: needs {_SHAPES}; it has {', '.join(map(str, entry))}")
    for side in (a, b):
        if not isinstance(entry[side], str):
            raise ConfigError(f"{where}: {side} must be text")
    same = True if a == "origin" and "label" not in entry and "same_answer" not in entry else _same(entry, where)
    return LabelledPair(_id(entry, place), entry[a], entry[b], same, _category(entry))


def _conversations(entry: Mapping[str, Any], place: int, where: str) -> ConversationPair:
    sides = [_messages(entry.get(side), f"{where}: {side}") for side in ("a", "b")]
    return ConversationPair(_id(entry, place), sides[0], sides[1], _same(entry, where), _category(entry))


def _messages(found: Any, where: str) -> tuple[Message, ...]:
    if not isinstance(found, list) or not found:
        raise ConfigError(f"{where} must be a list of messages that ends in a user's")
    messages: list[Message] = []
    for message in found:
        match message:
            case {"role": "system" | "user" | "assistant" as role, "content": str() as content}:
                messages.append(Message(role=role, content=content))
            case _:
                raise ConfigError(f"{where}: a message needs role (system, user or assistant) and content (text)")
    if messages[-1]["role"] != "user":
        raise ConfigError(f"{where} must end in a user's message")
    return tuple(messages)


def _same(entry: Mapping[str, Any], where: str) -> bool:
    found = entry.get("label", entry.get("same_answer"))
    if isinstance(found, bool):
        return found
    text = str(found).strip().lower()
    if text not in _TRUE | _FALSE:
        raise ConfigError(f"{where}: label (or same_answer) must be 1 or 0, it is {found!r}")
    return text in _TRUE


def _category(entry: Mapping[str, Any]) -> str | None:
    return str(entry["category"]) if entry.get("category") not in (None, "") else None


def _id(entry: Mapping[str, Any], place: int) -> str:
    return str(entry["id"]) if entry.get("id") not in (None, "") else str(place)
