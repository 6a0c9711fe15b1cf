"""The engine for a model behind another server: anything that speaks OpenAI's chat completions.

Owns the requests under way and their order: so many at a time, users taking turns. They run on an event loop of their
own, with the connections, whatever loops the callers have. A request is repeated, with growing pauses, only while
nothing of its answer has come out. What the server counts at the end replaces what was counted here.

Written on an HTTP client that reads server-sent events, not on the `openai` package: that takes 75 µs of CPU for an
event where this takes 7, repeats requests by rules of its own, and would be one more dependency of every installation.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import structlog

from chatlab.engines.base import (
    Chunk,
    Counting,
    EngineLoad,
    Finished,
    GenerationRequest,
    ModelFacts,
    Started,
    answer_limit,
    check_room,
    default_answer_limit,
)
from chatlab.engines.fair_queue import FairQueue
from chatlab.engines.remote.answer import Answer
from chatlab.engines.remote.dialect import Dialect
from chatlab.engines.remote.loop_thread import LoopThread
from chatlab.engines.remote.model import check_address, find_remote_model
from chatlab.engines.remote.server import Patience, RemoteServer, ServerRefusal, ServerUnreachable
from chatlab.engines.remote.tokenizer import Estimate, RemoteTokenizer, Tokenizer
from chatlab.engines.template import load_template
from chatlab.errors import ChatlabError, EngineError
from chatlab.messages import Message

ATTEMPTS = 4  # the first included
REPEATED = frozenset({429, 502, 503, 504})
MAX_PAUSE_SECONDS = 8.0
CHECK_SECONDS = 2.0  # how old the knowledge may be that the server answers
RUN_SECONDS = 300.0  # what is run has limits of its own, far below
CLOSE_SECONDS = 5.0
SPARE_CONNECTIONS = 8  # for counts and checks, beside the answers
DEFAULT_CONTEXT_TOKENS = 4_096  # where neither the settings nor the server say

T = TypeVar("T")
log = structlog.get_logger(__name__)


@dataclass(eq=False, slots=True)
class _Job:
    """A request on its way; chunks go to `out` on the reader's `loop`."""

    request: GenerationRequest
    prompt_tokens: int
    limit: int
    loop: asyncio.AbstractEventLoop
    out: asyncio.Queue[Chunk | Exception] = field(default_factory=asyncio.Queue)

    def post(self, item: Chunk | Exception) -> None:
        with suppress(RuntimeError):  # the reader's loop is gone, and the reader with it
            self.loop.call_soon_threadsafe(self.out.put_nowait, item)


class OpenAICompatibleEngine:
    """A model of an OpenAI-compatible server.

    Args:
        base_url: Of the server; ends in `/v1` with most.
        api_key: Empty for a server that wants none.
        model: The server's name for it; `auto` takes the only one.
        tokenizer: A Hub id or folder, to count here; empty leaves it to the server, or to an estimate.
        context_tokens: The window; 0 takes the server's word.
        slots: Answers asked for at the same time.
        salt_key: For `cache_salt`; empty sends none.
        patience: How long to wait for what.
        chance: Uniform in [0, 1), for the pauses between attempts.

    Raises:
        ConfigError: Nothing answers there, or not as such a server does; names the variable.
    """

    name: ClassVar = "openai"

    def __init__(
        self,
        base_url: str,
        api_key: str = "",
        model: str = "auto",
        tokenizer: str = "",
        context_tokens: int = 0,
        slots: int = 32,
        salt_key: bytes = b"",
        patience: Patience | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        check_address(base_url)
        template, window = load_template(tokenizer) if tokenizer else (None, None)
        self._patience = patience or Patience()
        self._chance = chance
        self._server = RemoteServer(base_url, api_key, self._patience, slots + SPARE_CONNECTIONS)
        # These belong to the thread's loop; `_load` is replaced there and read anywhere.
        self._queue: FairQueue[_Job] = FairQueue()
        self._tasks: dict[_Job, asyncio.Task[None]] = {}
        self._check: asyncio.Task[None] | None = None
        self._load = EngineLoad(running=0, waiting=0)
        self._closed = self._warned = False
        self._thread = LoopThread(self.name)
        try:
            found = self._run(find_remote_model(self._server, model, count_there=template is None))
        except BaseException:
            self.close()
            raise
        counting: Counting = "here" if template else "remote" if found.route else "estimate"
        remote = RemoteTokenizer(found.route, self._run) if found.route else Estimate()
        self._tokenizer: Tokenizer = template or remote
        window = context_tokens or found.context_tokens or window or DEFAULT_CONTEXT_TOKENS
        self._dialect = Dialect(found.name, found.owner, salt_key)
        self._facts = ModelFacts(
            model=found.name,
            engine=self.name,
            device=self._server.host,
            context_tokens=window,
            default_max_new_tokens=default_answer_limit(window),
            control_tokens=self._tokenizer.control_tokens,
            slots=slots,
            counting=counting,
        )
        log.info("using a server", url=self._server.name, model=found.name, window=window, counting=counting)

    @property
    def facts(self) -> ModelFacts:
        """The model and its limits, as the server told them at the start."""
        return self._facts

    @property
    def load(self) -> EngineLoad:
        """What is asked for and what waits here; not what waits at the server."""
        return self._load

    @property
    def alive(self) -> bool:
        """Whether the server answered when it was last asked; an old answer is renewed in the background."""
        if self._closed:
            return False
        if time.monotonic() - self._server.heard_at > CHECK_SECONDS:
            with suppress(RuntimeError):  # closed meanwhile
                self._thread.call(self._begin_check)
        return self._server.up

    def render(self, messages: Sequence[Message]) -> str:
        """As the tokenizer here or the server renders; a transcript where counts are estimates.

        Raises:
            InvalidInput: The template does not take this list.
            EngineError: The server does not answer.
        """
        return self._tokenizer.render(messages)

    def count(self, messages: Sequence[Message]) -> int:
        """See `facts.counting`."""
        return self._tokenizer.count(messages)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """See `Engine.stream`. What fits is the server's to say where counts are estimates."""
        limit = answer_limit(self._facts, request.params)
        prompt_tokens = await asyncio.to_thread(self.count, request.messages)
        check_room(self._facts, prompt_tokens, limit)
        job = _Job(request, prompt_tokens, limit, asyncio.get_running_loop())
        self._call(self._put, job)
        try:
            while True:
                item = await job.out.get()
                if isinstance(item, Exception):
                    raise item
                yield item
                if isinstance(item, Finished):
                    return
        finally:
            with suppress(EngineError):
                self._call(self._leave, job)

    def warm(self, request: GenerationRequest) -> None:
        """Nothing: the memory is the server's, and so is knowing when it is idle; a request would be in others' way."""

    def close(self) -> None:
        """Break off what is under way and close the connections."""
        if not self._closed:
            self._closed = True
            try:
                with suppress(TimeoutError):  # connections that do not close end with the thread
                    self._thread.run(self._shut(), CLOSE_SECONDS)
            finally:
                self._thread.close()

    # From here on: on the thread's loop.

    def _put(self, job: _Job) -> None:
        self._queue.put(job.request.user_id, job)
        self._start()

    def _leave(self, job: _Job) -> None:
        """The reader wants no more."""
        if (task := self._tasks.get(job)) is not None:
            task.cancel()
        else:
            self._queue.remove(job.request.user_id, job)
            self._start()

    def _start(self) -> None:
        """Begin what there is room for."""
        while self._queue and len(self._tasks) < self._facts.slots:
            job = self._queue.take()
            task = self._tasks[job] = asyncio.create_task(self._answer(job))
            task.add_done_callback(lambda _, job=job: self._ended(job))
        self._load = EngineLoad(running=len(self._tasks), waiting=len(self._queue))

    def _ended(self, job: _Job) -> None:
        del self._tasks[job]
        self._start()

    async def _answer(self, job: _Job) -> None:
        """Hand every chunk of an answer, or what went wrong, to its reader."""
        try:
            job.post(Started(job.prompt_tokens, reused_prefix_tokens=0))
            for chunk in (await self._attempt(job)).end():
                if isinstance(chunk, Finished) and chunk.usage is not None:
                    self._compare(job.prompt_tokens, chunk.usage.prompt_tokens)
                job.post(chunk)
        except ChatlabError as error:
            job.post(error)
        except Exception as error:  # noqa: BLE001 - the boundary of the task: whatever it was ends this answer only
            failed = EngineError(f"{type(error).__name__}: {error}")
            failed.__cause__ = error
            job.post(failed)

    def _compare(self, ours: int, theirs: int | None) -> None:
        """Say once that a tokenizer named in the settings is not the server's: budgets are wrong then."""
        if self._facts.counting == "here" and theirs not in (None, ours) and not self._warned:
            self._warned = True
            log.warning("CHATLAB_OPENAI_TOKENIZER counts other than the server", ours=ours, server=theirs)

    async def _attempt(self, job: _Job) -> Answer:
        """Ask until the answer begins, then take all of it."""
        loop = asyncio.get_running_loop()
        request, answer = job.request, Answer(job.request.params.stop or ())
        begin_by = loop.time() + self._patience.first_token
        attempt = 1
        while True:
            body = self._dialect.body(request.messages, request.params, job.limit, request.user_id)
            try:
                async with asyncio.timeout_at(begin_by) as deadline:
                    await self._take(job, body, answer, deadline)
                return answer
            except TimeoutError:
                if answer.complete:
                    return answer
                raise EngineError(self._silence(answer)) from None
            except ServerUnreachable as error:
                if answer.complete:
                    return answer
                if answer.begun:
                    broken = f"the connection to {self._server.name} broke in the middle of the answer ({error.cause})"
                    raise EngineError(broken) from error
                failed: EngineError = error
            except ServerRefusal as refusal:
                if self._dialect.learn(refusal, body):
                    continue
                if refusal.status not in REPEATED:
                    raise self._dialect.explain(refusal, body) from refusal
                failed = refusal
            pause = self._pause(attempt, failed)
            attempt += 1
            if attempt > ATTEMPTS or loop.time() + pause > begin_by:
                raise failed
            log.warning("asking the server again", attempt=attempt, pause_seconds=round(pause, 2), cause=str(failed))
            await asyncio.sleep(pause)

    async def _take(self, job: _Job, body: object, answer: Answer, deadline: asyncio.Timeout) -> None:
        """One request: its text to the reader as it comes, until the end or a stop string."""
        async with self._server.stream(body) as events:
            async for event in events:
                for piece in answer.take(event):
                    job.post(piece)
                if answer.stopped or job.loop.is_closed():
                    return
                if answer.begun:
                    deadline.reschedule(asyncio.get_running_loop().time() + self._patience.next_token)
        if not answer.complete:
            raise ServerUnreachable(self._server.name, "the stream ended before the answer did")

    def _pause(self, attempt: int, failed: EngineError) -> float:
        """What the server asks for, else twice as long each time, and not the same for all who wait."""
        if isinstance(failed, ServerRefusal) and failed.retry_after_seconds is not None:
            return failed.retry_after_seconds
        longest = min(MAX_PAUSE_SECONDS, self._patience.pause * 2 ** (attempt - 1))
        return longest * (0.5 + self._chance() / 2)

    def _silence(self, answer: Answer) -> str:
        seconds = self._patience.next_token if answer.begun else self._patience.first_token
        what = "fell silent in the middle of the answer" if answer.begun else "did not begin to answer"
        return f"the server at {self._server.name} {what}: nothing within {seconds:g} s"

    def _begin_check(self) -> None:
        if self._check is None or self._check.done():
            self._check = asyncio.create_task(self._server.check())

    async def _shut(self) -> None:
        waiting = [self._queue.take() for _ in range(len(self._queue))]
        running = dict(self._tasks)
        for task in running.values():
            task.cancel()
        await asyncio.gather(*running.values(), return_exceptions=True)
        for job in [*waiting, *running]:
            job.post(EngineError("the engine was closed"))
        await self._server.close()

    # From any thread but the loop's.

    def _call(self, function: Callable[[_Job], None], job: _Job) -> None:
        try:
            self._thread.call(function, job)
        except RuntimeError as error:
            raise EngineError("the engine is closed") from error

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Wait for a coroutine on the thread's loop.

        Raises:
            EngineError: The engine was closed.
        """
        try:
            return self._thread.run(coroutine, RUN_SECONDS)
        except (RuntimeError, TimeoutError, CancelledError) as error:
            raise EngineError(f"the server could not be asked: {error!r}") from error
