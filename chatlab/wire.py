"""Names in JSON: camelCase outside (`turnIDs`, `topP`), snake_case inside; and values as the JSON of their fields."""

import re
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

_INITIALS = {"id": "ID", "ids": "IDs"}
_WORD = re.compile(r"IDs?(?![a-z])|[A-Z]")


@cache
def camel(name: str) -> str:
    """`turn_ids` as `turnIDs`, `top_p` as `topP`."""
    first, *rest = name.split("_")
    return first + "".join(_INITIALS.get(word, word.capitalize()) for word in rest)


@cache
def snake(name: str) -> str:
    """`turnIDs` as `turn_ids`, `topP` as `top_p`."""
    return _WORD.sub(lambda word: "_" + word.group().lower(), name)


def time_text(time: datetime) -> str:
    """A time in ISO 8601, in UTC."""
    return time.astimezone(UTC).isoformat().removesuffix("+00:00") + "Z"


def to_wire(value: Any) -> Any:
    """A dataclass, and what is in it, as JSON values."""
    if is_dataclass(value):
        return {camel(each.name): to_wire(getattr(value, each.name)) for each in fields(value)}
    if isinstance(value, tuple | list):
        return [to_wire(each) for each in value]
    return time_text(value) if isinstance(value, datetime) else value


def from_wire(value: Any) -> Any:
    """JSON values with the names of dataclass fields; only for values whose keys are all such names."""
    if isinstance(value, dict):
        return {snake(key): from_wire(each) for key, each in value.items()}
    return [from_wire(each) for each in value] if isinstance(value, list) else value
