"""Turns under way in this process: a bounded number, one a chat, each owned by the server and not by a connection.

Knows turn ids and coroutines, not prompts or engines. Belongs to one event loop. A finished turn's events stay for a
while, so that a client that lost its connection can resume exactly.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from chatlab.errors import ChatBusy, QueueFull
from chatlab.jobs.events import EventLog

KEPT_EVENTS = 100_000  # of finished turns, which can still be resumed one by one
RETRY_AFTER_SECONDS = 5


@dataclass(eq=False, slots=True)
class Job:
    """One turn under way.

    Attributes:
        stop_asked: A person asked for the end; without it a cancelled job was interrupted by a shutdown.
        closing: Set by the work when it has only its end left to store; it is no longer cancelled then.
        ended: Set when the work is over, whatever its outcome.
    """

    user_id: str
    chat_id: str
    turn_id: str
    log: EventLog = field(default_factory=EventLog)
    task: asyncio.Task[None] | None = None
    stop_asked: bool = False
    closing: bool = False
    entered: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    async def cancel(self) -> None:
        """Interrupt the work and wait until it is over; a held place is waited for."""
        if self.task is not None:
            await self.entered.wait()  # a task cancelled before its first step would never clean up
            if not self.closing:
                self.task.cancel()
        await self.ended.wait()


class LocalJobs:
    """The jobs of one process.

    Args:
        limit: Most jobs at the same time.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._by_chat: dict[str, Job] = {}
        self._by_turn: dict[str, Job] = {}
        self._finished: OrderedDict[str, Job] = OrderedDict()
        self._n_kept = 0
        self._asides: set[asyncio.Task[None]] = set()
        self._extra = 0  # slots taken without a turn
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether everything is to end."""
        return self._closed

    @property
    def n_live(self) -> int:
        """Jobs under way."""
        return len(self._by_turn) + self._extra

    def reserve(self, user_id: str, chat_id: str, turn_id: str) -> Job:
        """Take the chat's place and one of the process's.

        Every reservation ends in `start` or `release`.

        Raises:
            ChatBusy: The chat has a turn under way.
            QueueFull: The limit is reached.
        """
        if chat_id in self._by_chat:
            raise ChatBusy(chat_id, self._by_chat[chat_id].turn_id)
        self._check_room()
        job = Job(user_id, chat_id, turn_id)
        self._by_chat[chat_id] = self._by_turn[turn_id] = job
        return job

    def start(self, job: Job, work: Callable[[Job], Awaitable[None]]) -> None:
        """Run a reserved job to its end, whoever listens."""

        async def run() -> None:
            job.entered.set()
            if job.stop_asked or self._closed:  # while its place was held and nothing ran yet
                assert job.task is not None
                job.task.cancel()
            try:
                await work(job)
            finally:
                self.release(job)

        job.task = asyncio.get_running_loop().create_task(run(), name=f"turn {job.turn_id}")

    def release(self, job: Job) -> None:
        """Give the places back; its events stay for a while if it got to its end."""
        self._by_chat.pop(job.chat_id, None)
        self._by_turn.pop(job.turn_id, None)
        if job.log.ended:
            self._finished[job.turn_id] = job
            self._n_kept += len(job.log)
            while self._n_kept > KEPT_EVENTS:
                _, oldest = self._finished.popitem(last=False)
                self._n_kept -= len(oldest.log)
        job.ended.set()

    def take_slot(self) -> None:
        """Take a place for work without a turn; give it back with `free_slot`.

        Raises:
            QueueFull: The limit is reached.
        """
        self._check_room()
        self._extra += 1

    def free_slot(self) -> None:
        """Give back what `take_slot` took."""
        self._extra -= 1

    def aside(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run work beside the turns, which takes no place, until it ends or everything is closed."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._asides.add(task)
        task.add_done_callback(self._asides.discard)
        if self._closed:
            task.cancel()
        return task

    def find(self, user_id: str, turn_id: str) -> Job | None:
        """A user's job that is under way or lately finished."""
        job = self._by_turn.get(turn_id) or self._finished.get(turn_id)
        return job if job is not None and job.user_id == user_id else None

    def of_chat(self, chat_id: str) -> Job | None:
        """The chat's job under way."""
        return self._by_chat.get(chat_id)

    def hold(self, chat_id: str) -> Job:
        """Keep a chat's place free of turns until `release`; it must be free now."""
        assert chat_id not in self._by_chat
        job = self._by_chat[chat_id] = Job("", chat_id, "")
        return job

    async def stop(self, job: Job) -> None:
        """End a job as a person asked, and wait until it has ended; idempotent."""
        job.stop_asked = True
        await job.cancel()

    def forget(self, chat_id: str) -> None:
        """Drop the kept events of a chat."""
        for turn_id in [turn_id for turn_id, job in self._finished.items() if job.chat_id == chat_id]:
            self._n_kept -= len(self._finished.pop(turn_id).log)

    async def close(self) -> None:
        """Interrupt everything under way and wait for it; nothing new is taken."""
        self._closed = True
        await asyncio.gather(*(job.cancel() for job in [*self._by_turn.values()]))
        asides = [*self._asides]  # after the turns, whose ends begin some
        for task in asides:
            task.cancel()
        await asyncio.gather(*asides, return_exceptions=True)

    def _check_room(self) -> None:
        if self._closed or self.n_live >= self._limit:
            raise QueueFull(self._limit, RETRY_AFTER_SECONDS)
