"""JSON values of somebody else's file, checked: each is what it must be, or the error names its place."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from chatlab.exchange.faults import fault, kind_of

JsonObject = Mapping[str, Any]

MILLISECONDS_FROM = 1e11  # seconds until the year 5138
NANOSECONDS_FROM = 1e16
MAX_ID_CHARS = 400
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
NO_TEXT = "characters that are no text (NUL)"


def an_object(value: object, place: str) -> JsonObject:
    """The value, which must be an object."""
    if not isinstance(value, dict):
        raise fault(place, f"must be an object, got {kind_of(value)}")
    return value


def a_list(value: object, place: str) -> Sequence[Any]:
    """The value, which must be a list."""
    if not isinstance(value, list):
        raise fault(place, f"must be a list, got {kind_of(value)}")
    return value


def a_text(value: object, place: str, left_out: Counter[str]) -> str:
    """The value, which must be a text; what cannot be stored in it is marked by U+FFFD and counted."""
    if not isinstance(value, str):
        raise fault(place, f"must be a text, got {kind_of(value)}")
    if "\x00" in value:
        left_out[NO_TEXT] += value.count("\x00")
        value = value.replace("\x00", "\ufffd")
    return value


def text_or_none(value: object, place: str, left_out: Counter[str]) -> str | None:
    """The value, which must be a text or null."""
    return None if value is None else a_text(value, place, left_out)


def an_id(value: object, place: str) -> str:
    """The value, which must be a text or a whole number that names something."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value) if abs(value) < 10**30 else None
    if not isinstance(value, str) or not 0 < len(value) <= MAX_ID_CHARS or "\x00" in value:
        raise fault(place, f"must be an id, a text of 1 to {MAX_ID_CHARS} characters, got {kind_of(value)}")
    return value


def id_or_none(value: object, place: str) -> str | None:
    """The value, which must be an id; null and the empty text are none."""
    return None if value is None or value == "" else an_id(value, place)


def time_or_none(value: object, place: str) -> datetime | None:
    """The value, which must be null, seconds (or milli- or nanoseconds) since 1970, or a text in ISO 8601."""
    try:
        if value is None or value == "":
            return None
        if isinstance(value, str):
            time = datetime.fromisoformat(value)
            return time.replace(tzinfo=UTC) if time.tzinfo is None else time.astimezone(UTC)
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            return _from_number(float(value))
    except (ValueError, OverflowError):
        pass
    raise fault(place, "must be a time: seconds since 1970, or a text like 2026-01-31T12:00:00Z")


def _from_number(number: float) -> datetime:
    if not math.isfinite(number):
        raise ValueError
    if abs(number) >= NANOSECONDS_FROM:
        number /= 1e9
    elif abs(number) >= MILLISECONDS_FROM:
        number /= 1e3
    return EPOCH + timedelta(seconds=number)


def last_of(times: Sequence[datetime | None]) -> datetime | None:
    """The latest of the times that are known."""
    return max((time for time in times if time is not None), default=None)
