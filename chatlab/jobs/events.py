"""The events of one turn, kept so that any number of readers can follow from any place.

Belongs to one event loop. Ids count from 1 without a gap; the last event is the only end.
"""

import asyncio
from collections.abc import AsyncGenerator

from chatlab.messages import DeltaEvent, Event, EventBody, RestartEvent


class EventLog:
    """Append-only until the last event."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._text: list[str] = []
        self._readers: set[asyncio.Future[None]] = set()

    def __len__(self) -> int:
        """Events so far."""
        return len(self._events)

    @property
    def ended(self) -> bool:
        """Whether the last event is here."""
        return bool(self._events) and self._events[-1].last

    @property
    def end(self) -> EventBody | None:
        """The last event, once it is here."""
        return self._events[-1].body if self.ended else None

    @property
    def text(self) -> str:
        """The answer so far."""
        return "".join(self._text)

    def append(self, body: EventBody) -> Event:
        """Add an event and wake the readers."""
        assert not self.ended, "nothing follows the last event"
        event = Event(len(self._events) + 1, body)
        self._events.append(event)
        if isinstance(body, DeltaEvent):
            self._text.append(body.text)
        elif isinstance(body, RestartEvent):
            self._text.clear()
        for reader in self._readers:
            if not reader.done():
                reader.set_result(None)
        return event

    async def read(self, after: int = 0) -> AsyncGenerator[list[Event]]:
        """Events with an id above `after`, as they come, to the end; a reader that is behind gets several at once."""
        place = max(after, 0)
        while True:
            if fresh := self._events[place:]:
                place += len(fresh)
                yield fresh  # more may come meanwhile
                continue
            if self.ended:
                return
            reader = asyncio.get_running_loop().create_future()
            self._readers.add(reader)
            try:
                await reader
            finally:
                self._readers.discard(reader)
