"""What is done after a turn for the next one: its prompt's beginning computed, the turn made findable.

Nobody waits for it and nothing depends on it: what fails is counted, and done without. Belongs to one event loop.
"""

import asyncio
from dataclasses import dataclass, replace

import structlog

from chatlab.engines.base import Engine, GenerationRequest
from chatlab.errors import InvalidInput, ModelUnavailable, VectorsUnavailable
from chatlab.history import PromptBuilder, PromptInput, Recall
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
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by chat
        self._swept = False

    @property
    def idle(self) -> bool:
        """Whether all is done."""
        return not self._tasks

    def begin(self, ended: Ended) -> None:
        """Prepare what follows a turn, after what is being prepared in its chat already."""
        chat_id = ended.turn.chat_id
        self._next[chat_id] = ended
        if chat_id not in self._tasks:
            task = self._tasks[chat_id] = self._jobs.aside(self._prepare(chat_id), f"prepare {chat_id}")
            task.add_done_callback(lambda _: self._tasks.pop(chat_id, None))

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

    async def _prepare(self, chat_id: str) -> None:
        while (ended := self._next.pop(chat_id, None)) is not None:
            given = replace(ended.given, path=(*ended.given.path, ended.turn))
            if self._engine.facts.counting == "here":  # else what could be kept is elsewhere
                await self._warm(ended, given)
            await self._make_findable(ended, given)

    async def _warm(self, ended: Ended, given: PromptInput) -> None:
        """Have the next prompt's beginning computed."""
        try:
            begins = await self._prompts.upcoming(given, ended.choice, ended.params)
        except InvalidInput:  # the next question will be told
            return
        self._engine.warm(GenerationRequest(begins, ended.params, ended.turn.user_id))

    async def _make_findable(self, ended: Ended, given: PromptInput) -> None:
        """Keep what evicted turns are found by, where they are looked for."""
        try:
            if not self._swept:
                self._swept = True
                await self._recall.sweep(await self._store.chat_ids())
            if ended.choice.strategy == "hybrid":
                await self._recall.index(ended.turn.chat_id, given.path)
        except (VectorsUnavailable, ModelUnavailable) as error:
            self._fault("turns could not be made findable", ended.turn.chat_id, error)

    def _fault(self, what: str, chat_id: str, error: Exception) -> None:
        self._metrics.fault("recall")
        log.warning(what, chat_id=chat_id, reason=str(error))
