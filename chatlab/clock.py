"""The time of day, strictly increasing: two turns never share a time, also when the system's clock goes back.

And which days the last ones are.
"""

import threading
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

TICK = timedelta(microseconds=1)


def utc_now() -> datetime:
    """The system's time."""
    return datetime.now(UTC)


def last_days(now: datetime, n: int, utc_offset_minutes: int = 0) -> tuple[datetime, tuple[date, ...]]:
    """The beginning of the first of `n` days, and these days; the last one is today, at this offset from UTC."""
    offset = timedelta(minutes=utc_offset_minutes)
    today = (now.astimezone(UTC) + offset).date()
    days = tuple(today - timedelta(days=i) for i in reversed(range(n)))
    return datetime(days[0].year, days[0].month, days[0].day, tzinfo=UTC) - offset, days


class Clock:
    """UTC times at microsecond resolution, each later than the one before.

    Args:
        floor: The latest time already in use; what the clock gives is later.
        now: The clock underneath.
    """

    def __init__(self, floor: datetime | None = None, now: Callable[[], datetime] = utc_now) -> None:
        self._last = floor or datetime.min.replace(tzinfo=UTC)
        self._now = now
        self._lock = threading.Lock()  # guards _last

    def __call__(self) -> datetime:
        """The present, or the smallest time after the last one given."""
        with self._lock:
            self._last = max(self._now(), self._last + TICK)
            return self._last
