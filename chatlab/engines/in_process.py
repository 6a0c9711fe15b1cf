"""What engines have in common that run a model in this process: the template, the queue, the threads, the readers.

Requests wait here, users taking turns, until a thread of the engine takes them; what the threads produce reaches each
reader on the reader's own event loop.
"""

import asyncio
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, ClassVar

import structlog

from chatlab.engines.base import (
    Chunk,
    EngineLoad,
    Finished,
    GenerationRequest,
    ModelFacts,
    answer_limit,
    check_room,
    default_answer_limit,
)
from chatlab.engines.fair_queue import FairQueue
from chatlab.engines.models import ModelSource
from chatlab.engines.runtime.loading import Described
from chatlab.engines.template import ChatTemplate
from chatlab.engines.text import AnswerText
from chatlab.errors import EngineError
from chatlab.messages import Message, SamplingParams

log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class GenerationJob:
    """A request on its way; chunks go to `out` on the reader's `loop`.

    Attributes:
        user_id: Whose it is.
        prompt_ids: The rendered prompt.
        params: Nothing left open.
        limit: Most tokens of the answer.
        text: The answer.
        context: The asker's: ZeroGPU finds its visitor there.
        cancelled: Set by the reader, read by the threads.
        given_ids: The answer's tokens where it is given, to be scored; `log_likelihoods` are theirs.
    """

    user_id: str
    prompt_ids: list[int]
    params: SamplingParams
    limit: int
    text: AnswerText
    loop: asyncio.AbstractEventLoop
    out: asyncio.Queue[Chunk | BaseException] = field(default_factory=asyncio.Queue)
    context: Context = field(default_factory=copy_context)
    cancelled: bool = False
    given_ids: Sequence[int] = ()
    log_likelihoods: list[float] = field(default_factory=list[float])


class Outbox:
    """What a thread has for its readers: one call to an event loop, however many answers it follows."""

    def __init__(self) -> None:
        self._items: dict[asyncio.AbstractEventLoop, list[tuple[GenerationJob, Chunk | BaseException]]] = {}

    def put(self, job: GenerationJob, item: Chunk | BaseException) -> None:
        """Add an item for a job's reader."""
        self._items.setdefault(job.loop, []).append((job, item))

    def send(self) -> None:
        """Hand everything over; the jobs of a loop that is gone count as cancelled."""
        sent, self._items = self._items, {}
        for loop, items in sent.items():
            try:
                loop.call_soon_threadsafe(_deliver, items)
            except RuntimeError:
                for job, _ in items:
                    job.cancelled = True


def _deliver(items: Sequence[tuple[GenerationJob, Chunk | BaseException]]) -> None:
    for job, item in items:
        job.out.put_nowait(item)


class InProcessEngine(ABC):
    """See `Engine`. A subclass sets itself up and starts `_threads` with `_run`.

    Args:
        source: Where the model came from.
        described: Its tokenizer and what its configuration says.
        device: Where it runs, for people.
        slots: Answers computed at the same time.
    """

    name: ClassVar[str]
    writes_titles: ClassVar[bool] = True

    def __init__(self, source: ModelSource, described: Described, device: str, slots: int) -> None:
        self._tokenizer: Any = described.tokenizer
        self._template = ChatTemplate(described.tokenizer, source.name)
        self._defaults = described.defaults
        self._eos_ids = described.eos_ids
        self._facts = ModelFacts(
            model=source.name,
            engine=self.name,
            device=device,
            context_tokens=described.context_tokens,
            default_max_new_tokens=default_answer_limit(described.context_tokens),
            control_tokens=self._template.control_tokens,
            slots=slots,
            writes_titles=self.writes_titles,
        )
        self._queue: FairQueue[GenerationJob] = FairQueue()
        self._running: set[GenerationJob] = set()
        self._closed = False
        self._wake = threading.Condition()  # guards _queue, _running and _closed
        self._threads: list[threading.Thread] = []

    @property
    def facts(self) -> ModelFacts:
        """The model and its limits."""
        return self._facts

    @property
    def load(self) -> EngineLoad:
        """At most `slots` running."""
        with self._wake:
            return EngineLoad(running=len(self._running), waiting=len(self._queue))

    @property
    def alive(self) -> bool:
        """Whether the generation threads run."""
        return not self._closed and all(thread.is_alive() for thread in self._threads)

    def render(self, messages: Sequence[Message]) -> str:
        """The model's chat template, with the prompt for an answer.

        Raises:
            InvalidInput: The template does not take this list.
        """
        return self._template.render(messages)

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered prompt."""
        return self._template.count(messages)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """See `Engine.stream`."""
        job = await asyncio.to_thread(self._job, request, asyncio.get_running_loop())
        async with aclosing(self._chunks(job)) as chunks:
            async for chunk in chunks:
                yield chunk

    async def _chunks(self, job: GenerationJob) -> AsyncGenerator[Chunk]:
        """What a job gives, which is queued now; closing the generator takes it back."""
        with self._wake:
            if not self.alive:
                raise EngineError("the engine is closed")
            self._queue.put(job.user_id, job)
            self._wake.notify()
        try:
            while True:
                item = await job.out.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if isinstance(item, Finished):
                    return
        finally:
            job.cancelled = True
            with self._wake:
                self._queue.remove(job.user_id, job)

    def close(self) -> None:
        """Stop what is running and wait for the threads."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def _job(self, request: GenerationRequest, loop: asyncio.AbstractEventLoop) -> GenerationJob:
        """What is to be done for a request.

        Raises:
            PromptTooLong: Prompt and answer do not fit the context.
        """
        params = request.params.over(self._defaults)
        limit = answer_limit(self._facts, params)
        prompt_ids = self._template.encode(self.render(request.messages))
        check_room(self._facts, len(prompt_ids), limit)
        text = AnswerText(self._tokenizer, self._eos_ids, params.stop or (), limit)
        return GenerationJob(request.user_id, prompt_ids, params, limit, text, loop)

    @abstractmethod
    def _work(self) -> None:
        """Compute answers until closed; runs in each thread."""

    def _run(self) -> None:
        """A thread: its work, and if that ends before it should, an end for everybody who waits."""
        failure = EngineError("the engine was closed")
        try:
            self._work()
        except Exception as error:  # a defect of ours: what the model raises ends one answer only
            log.exception("the generation thread failed; the engine must be started again")
            failure = EngineError(f"the engine failed: {type(error).__name__}: {error}")
        outbox = Outbox()
        with self._wake:
            self._closed = True
            while self._queue:
                outbox.put(self._queue.take(), failure)
            for job in self._running:
                outbox.put(job, failure)
            self._running.clear()
        outbox.send()
