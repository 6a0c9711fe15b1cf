"""Labelled pairs for the cache: of questions (`a, b, label`), and of conversations whose last messages are compared."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from chatlab.errors import ConfigError
from chatlab.evaluation.readers.records import messages_of, read_entries
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
    return [_pair(entry, i, where) for i, (where, entry) in enumerate(read_entries(file))]


def read_conversations(file: Path) -> list[ConversationPair]:
    """The pairs of a .jsonl file, gzipped or not, in its order.

    Raises:
        ConfigError: It cannot be read; names the entry and what is missing.
    """
    return [_conversations(entry, i, where) for i, (where, entry) in enumerate(read_entries(file))]


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
    sides = [messages_of(entry.get(side), f"{where}: {side}") for side in ("a", "b")]
    return ConversationPair(_id(entry, place), sides[0], sides[1], _same(entry, where), _category(entry))


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
