"""What is done after a turn for the next one: notes written, its prompt's beginning computed, the turn made findable.

Nobody waits for it and nothing depends on it: what fails is counted, and done without. Belongs to one event loop.
"""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from chatlab.engines.base import Engine, GenerationRequest
from chatlab.errors import InvalidInput, ModelUnavailable, NotFound, VectorsUnavailable
from chatlab.history import NOTING, PromptBuilder, Recall, recalls
from chatlab.jobs import Jobs
from chatlab.notekeeper import Ended, NoteKeeper
from chatlab.store import Store
from chatlab.telemetry import Metrics

log = structlog.get_logger(__name__)


class Preparation:
    """Prepares the next turn of chats, one of a chat at a time.

    Args:
        prompts: The builder of prompts.
        engine: Its engine.
        recall: Finds evicted turns.
        notes: Writes notes of turns.
        store: Of all chats.
        jobs: Of this process.
        metrics: Told of faults.
    """

    def __init__(
        self,
        prompts: PromptBuilder,
        engine: Engine,
        recall: Recall,
        notes: NoteKeeper,
        store: Store,
        jobs: Jobs,
        metrics: Metrics,
    ) -> None:
        self._prompts = prompts
        self._engine = engine
        self._recall = recall
        self._notes = notes
        self._store = store
        self._jobs = jobs
        self._metrics = metrics
        self._next: dict[str, Ended] = {}  # by chat, the newest turn whose successor is yet to be prepared
        self._tasks: dict[str, asyncio.Task[None]] = {}  # by chat, what makes its turns findable
        self._improving: dict[str, asyncio.Task[None]] = {}  # by chat, what the model writes
        self._noting: dict[str, asyncio.Event] = {}  # by chat, until the notes that are due are written
        self._n_under_way = 0
        self._swept = False

    @property
    def idle(self) -> bool:
        """Whether all is done."""
        return not self._n_under_way

    def begin(self, ended: Ended) -> None:
        """Prepare what follows a turn: at once its prompt's beginning, the rest after what is under way in its chat."""
        chat_id = ended.turn.chat_id
        if ended.choice.strategy not in NOTING:  # else notes come first
            self._aside(lambda: self._warm(ended), f"warm {chat_id}")
        else:
            self._noting.setdefault(chat_id, asyncio.Event())
        self._next[chat_id] = ended
        if (improving := self._improving.get(chat_id)) is not None:
            improving.cancel()  # what is due comes first
        if chat_id not in self._tasks:
            self._tasks[chat_id] = self._aside(lambda: self._prepare(chat_id), f"prepare {chat_id}")

    async def noted(self, chat_id: str) -> None:
        """Return once the notes are written that the chat's last turn made due; the model may improve them later."""
        if (noting := self._noting.get(chat_id)) is not None:
            await noting.wait()

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

    async def _prepare(self, chat_id: str) -> None:
        """All but warming, which notes decide about, too; the chat's newest turn only."""
        try:
            while (ended := self._next.pop(chat_id, None)) is not None:
                if ended.choice.strategy in NOTING:
                    ended = await self._noted(ended)
                    if chat_id not in self._next:
                        self._end_noting(chat_id)
                    self._aside(lambda ended=ended: self._warm(ended), f"warm {chat_id}")
                await self._make_findable(chat_id, ended)
                if ended.choice.strategy in NOTING and chat_id not in self._next:
                    await self._improve(chat_id, ended)
        finally:
            self._tasks.pop(chat_id, None)
            self._end_noting(chat_id)

    def _end_noting(self, chat_id: str) -> None:
        if (noting := self._noting.pop(chat_id, None)) is not None:
            noting.set()

    async def _noted(self, ended: Ended) -> Ended:
        """Write the notes that are due."""
        try:
            return await self._notes.keep(ended)
        except (InvalidInput, NotFound):  # the next question will be told
            return ended
        except Exception:
            self._metrics.fault("notes")
            log.warning("notes could not be written", chat_id=ended.turn.chat_id, exc_info=True)
            return ended

    async def _improve(self, chat_id: str, ended: Ended) -> None:
        """Let the model write until the chat goes on."""
        task = self._improving[chat_id] = asyncio.ensure_future(self._improve_notes(ended))
        try:
            await asyncio.wait([task])
        finally:
            task.cancel()
            del self._improving[chat_id]

    async def _improve_notes(self, ended: Ended) -> None:
        """Let the model write, where it may; what it changes is in the next prompt."""
        try:
            changed = await self._notes.improve(ended)
        except NotFound:
            return
        except Exception:
            self._metrics.fault("notes")
            log.warning("the model could not write notes", chat_id=ended.turn.chat_id, exc_info=True)
            return
        if changed:
            await self._warm(await self._noted(ended))

    async def _warm(self, ended: Ended) -> None:
        """Have the next prompt's beginning computed."""
        if self._engine.facts.counting != "here":  # what could be kept is elsewhere
            return
        try:
            begins = await self._prompts.upcoming(ended.after, ended.choice, ended.params)
        except InvalidInput:  # the next question will be told
            return
        self._engine.warm(GenerationRequest(begins, ended.params, ended.turn.user_id))

    async def _make_findable(self, chat_id: str, ended: Ended) -> None:
        """Keep what evicted turns are found by, where they are looked for."""
        try:
            if not self._swept:
                await self._recall.sweep(self._store.chat_ids)
                self._swept = True
            if recalls(ended.choice.strategy):
                await self._recall.index(chat_id, ended.after.path)
        except (VectorsUnavailable, ModelUnavailable) as error:
            self._fault("turns could not be made findable", chat_id, error)

    def _fault(self, what: str, chat_id: str, error: Exception) -> None:
        self._metrics.fault("recall")
        log.warning(what, chat_id=chat_id, reason=str(error))
