"""What is done after a turn for the next one: its prompt's beginning computed, the turn made findable.

Nobody waits for it and nothing depends on it: what fails is counted, and done without. Belongs to one event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from chatlab.engines.base import Engine, GenerationRequest
from chatlab.errors import InvalidInput, ModelUnavailable, VectorsUnavailable
from chatlab.history import PromptBuilder, PromptInput, Recall, recalls
from chatlab.jobs import Jobs
from chatlab.messages import HistoryChoice, SamplingParams, Turn
from chatlab.store import Store
from chatlab.telemetry import Metrics

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Ended:
    """A turn that has ended, and how its prompt was made."""

    turn: Turn
    given: PromptInput
    choice: HistoryChoice
    params: SamplingParams

    @property
    def after(self) -> PromptInput:
        """What the next prompt is made from, but for its question."""
        return replace(self.given, path=(*self.given.path, self.turn))


class Preparation:
    """Prepares the next turn of chats, one of a chat at a time.

    Args:
        prompts: The builder of prompts.
        engine: Its engine.
        recall: Finds evicted turns.
        store: Of all chats.
        jobs: Of this process.
        metrics: Told of faults.
    """

    def __init__(
        self, prompts: PromptBuilder, engine: Engine, recall: Recall, store: Store, jobs: Jobs, metrics: Metrics
    ) -> None:
        self._prompts = prompts
        self._engine = engine
        self._recall = recall
        self._store = store
        self._jobs = jobs
        self._metrics = metrics
        self._next: dict[str, Ended] = {}  # by chat, the newest turn whose successor is yet to be prepared
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by chat, what makes its turns findable
        self._n_under_way = 0
        self._swept = False

    @property
    def idle(self) -> bool:
        """Whether all is done."""
        return not self._n_under_way

    def begin(self, ended: Ended) -> None:
        """Prepare what follows a turn: at once its prompt's beginning, the rest after what is under way in its chat."""
        chat_id = ended.turn.chat_id
        if self._engine.facts.counting == "here":  # else what could be kept is elsewhere
            self._aside(lambda: self._warm(ended), f"warm {chat_id}")
        self._next[chat_id] = ended
        if chat_id not in self._tasks:
            self._tasks[chat_id] = self._aside(lambda: self._make_findable(chat_id), f"index {chat_id}")

    def _aside(self, work: Callable[[], Awaitable[None]], name: str) -> asyncio.Task[None]:
        self._n_under_way += 1
        task = self._jobs.aside(self._guarded(work), name)
        task.add_done_callback(lambda _: setattr(self, "_n_under_way", self._n_under_way - 1))
        return task

    async def _guarded(self, work: Callable[[], Awaitable[None]]) -> None:
        """Whatever fails is noted, and the next turn goes without."""
        try:
            await work()
        except Exception:
            self._metrics.fault("preparation")
            log.warning("a next turn could not be prepared", exc_info=True)

    async def forget(self, chat_id: str) -> None:
        """Delete what is kept of a chat; what cannot be is deleted after the next start."""
        self._next.pop(chat_id, None)
        if (task := self._tasks.get(chat_id)) is not None:
            task.cancel()
            await asyncio.wait([task])
        try:
            await self._recall.forget(chat_id)
        except VectorsUnavailable as error:
            self._fault("a deleted chat's vectors are still there", chat_id, error)

    async def _warm(self, ended: Ended) -> None:
        """Have the next prompt's beginning computed."""
        try:
            begins = await self._prompts.upcoming(ended.after, ended.choice, ended.params)
        except InvalidInput:  # the next question will be told
            return
        self._engine.warm(GenerationRequest(begins, ended.params, ended.turn.user_id))

    async def _make_findable(self, chat_id: str) -> None:
        """Keep what evicted turns are found by, where they are looked for."""
        try:
            while (ended := self._next.pop(chat_id, None)) is not None:
                if not self._swept:
                    await self._recall.sweep(await self._store.chat_ids())
                    self._swept = True
                if recalls(ended.choice.strategy):
                    await self._recall.index(chat_id, ended.after.path)
        except (VectorsUnavailable, ModelUnavailable) as error:
            self._fault("turns could not be made findable", chat_id, error)
        finally:
            self._tasks.pop(chat_id, None)

    def _fault(self, what: str, chat_id: str, error: Exception) -> None:
        self._metrics.fault("recall")
        log.warning(what, chat_id=chat_id, reason=str(error))
