"""The time of day, strictly increasing: two turns never share a time, also when the system's clock goes back."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

TICK = timedelta(microseconds=1)


def utc_now() -> datetime:
    """The system's time."""
    return datetime.now(UTC)


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
