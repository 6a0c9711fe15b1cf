"""The texts of running answers, stored as they grow, so that a crash leaves what a person has read.

One task for all turns: their texts go to the store together and share a commit. A fault here costs nothing but the
last moment of text after a crash.
"""

import asyncio

import structlog

from chatlab.jobs.events import EventLog
from chatlab.messages import Turn
from chatlab.store import Store
from chatlab.telemetry import Metrics

INTERVAL_SECONDS = 0.2  # a crash loses no more of an answer than this

log = structlog.get_logger(__name__)


class PartialTexts:
    """Follows running turns of one event loop. A turn is left before its end is stored."""

    def __init__(self, store: Store, metrics: Metrics) -> None:
        self._store = store
        self._metrics = metrics
        self._followed: dict[str, tuple[Turn, EventLog]] = {}
        self._n_saved: dict[str, int] = {}  # events already stored, by turn
        self._task: asyncio.Task[None] | None = None

    def follow(self, turn: Turn, events: EventLog) -> None:
        """Store a turn's text from now on."""
        self._followed[turn.turn_id] = (turn, events)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run(), name="partial texts")

    def leave(self, turn: Turn) -> None:
        """Store no more of a turn; what was handed to the store comes before anything stored after this."""
        self._followed.pop(turn.turn_id, None)
        self._n_saved.pop(turn.turn_id, None)

    async def _run(self) -> None:
        while self._followed:
            await asyncio.sleep(INTERVAL_SECONDS)
            grown = [each for each in self._followed.values() if len(each[1]) > self._n_saved.get(each[0].turn_id, 1)]
            for turn, events in grown:
                self._n_saved[turn.turn_id] = len(events)
            saves = [self._store.save_partial(turn, events.text) for turn, events in grown]
            for outcome in await asyncio.gather(*saves, return_exceptions=True):
                if isinstance(outcome, Exception):
                    self._metrics.fault("partial")
                    log.warning("a partial text was not stored", error=str(outcome))
