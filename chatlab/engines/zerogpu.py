"""The engine for Hugging Face ZeroGPU: each answer is computed in a GPU call of its own, token after token.

There the GPU exists only while a function decorated with `spaces.GPU` runs, in a process forked for it. So nothing is
kept between turns, and what crosses the border is plain: the prompt's tokens go in, the answer's tokens come out. All
else (template, counting, stop strings, text) stays in this process, without a GPU. Several answers run at once: the
platform has its own queue, and one visitor who waits in it must not hold up the others.

Durations: a visitor pays with a daily quota (two minutes without an account), and a request for more than is left is
refused. So each call asks for what its prompt and its limit need, and an answer that would take longer is cut off in
time, since a call that overruns is killed with its text.
"""

import threading
import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, ClassVar, Protocol, TypeVar

import torch

from chatlab.engines.base import Finished, GenerationRequest, Started
from chatlab.engines.in_process import GenerationJob, InProcessEngine, Outbox
from chatlab.engines.models import ModelSource
from chatlab.engines.runtime.loading import load
from chatlab.engines.runtime.reference import ReferenceRunner
from chatlab.engines.runtime.runner import Feed
from chatlab.engines.runtime.sampling import Sampler, sample
from chatlab.errors import ChatlabError, EngineError
from chatlab.messages import SamplingParams

GPU_GIB = 70.0  # as documented for the default size; at the start there is no GPU to ask
SLOTS = 4
# Conservative for a 4B model without compilation, on half of a datacentre GPU. Not measured on the platform.
START_SECONDS = 6.0  # the fork, and moving the weights to the GPU
PREFILL_TOKENS_PER_SECOND = 4_000.0
DECODE_TOKENS_PER_SECOND = 25.0
MIN_SECONDS, MAX_SECONDS = 10, 60  # 60 is what ZeroGPU takes when nothing is said: half of the smallest quota
PROMPT_TOKENS = 2_048  # of a prompt in one step
SPARE_SECONDS = 2.0  # before the end of a call: its answer stops by itself

Task = TypeVar("Task", bound=Callable[..., Any])


class GpuDecorator(Protocol):
    """`spaces.GPU`: the task runs where the GPU is. Anywhere but on ZeroGPU it is the task itself."""

    def __call__(self, *, duration: Callable[..., int]) -> Callable[[Task], Task]:
        """Decorate a generator function; `duration` takes its arguments and gives seconds."""
        ...


def gpu_seconds(prompt_ids: list[int], params: SamplingParams, limit: int) -> int:
    """Seconds of GPU that an answer of at most `limit` tokens asks for."""
    seconds = START_SECONDS + len(prompt_ids) / PREFILL_TOKENS_PER_SECOND + limit / DECODE_TOKENS_PER_SECOND
    return round(min(max(seconds, MIN_SECONDS), MAX_SECONDS))


class ZeroGpuEngine(InProcessEngine):
    """See `Engine`. Must be made in the thread that imported `spaces`, and before the app is launched.

    Args:
        source: Where the model is.
        gpu: `spaces.GPU`.
        device: Where the model is put; on ZeroGPU `cuda`, which `spaces` stands in for until a call has the real one.
        seconds: GPU time to ask for, from the prompt's tokens, the sampling and the limit.
        clock: Seconds that only grow.
    """

    name: ClassVar[str] = "zerogpu"
    writes_titles: ClassVar[bool] = False  # each would be a GPU call of its own, from the visitor's quota

    def __init__(
        self,
        source: ModelSource,
        gpu: GpuDecorator,
        device: torch.device,
        seconds: Callable[[list[int], SamplingParams, int], int] = gpu_seconds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        described, self._model = load(source, device)
        super().__init__(source, described, str(self._model.device), SLOTS)
        self._seconds = seconds
        self._clock = clock
        self._on_gpu = gpu(duration=seconds)(self._compute)
        self._threads = [threading.Thread(target=self._run, name="generation", daemon=True) for _ in range(SLOTS)]
        for thread in self._threads:
            thread.start()

    def warm(self, request: GenerationRequest) -> None:
        """Nothing: no memory outlives a GPU call, and one would be from the visitor's quota."""

    def _work(self) -> None:
        """One answer after the other."""
        while (job := self._next()) is not None:
            job.context.run(self._answer, job)
            with self._wake:
                self._running.discard(job)

    def _next(self) -> GenerationJob | None:
        """Wait for a request; None when closed."""
        with self._wake:
            while not self._queue and not self._closed:
                self._wake.wait()
            if self._closed:
                return None
            job = self._queue.take()
            self._running.add(job)
            return job

    def _answer(self, job: GenerationJob) -> None:
        """Hand every chunk of an answer, or what went wrong, to its reader."""
        outbox = Outbox()
        outbox.put(job, Started(prompt_tokens=len(job.prompt_ids), reused_prefix_tokens=0))
        outbox.send()
        try:
            with closing(_checked(self._on_gpu(job.prompt_ids, job.params, job.limit))) as tokens:
                for token_id in tokens:
                    if job.cancelled or self._closed:
                        break
                    outbox.put(job, job.text.feed(token_id))
                    outbox.send()
                    if job.text.reason is not None:
                        break
            if job.cancelled or self._closed:
                outbox.put(job, EngineError("the engine was closed"))
            elif job.text.reason is None:  # the GPU's time was up
                outbox.put(job, job.text.cut())
            if job.text.reason is not None:
                outbox.put(job, Finished(job.text.reason))
        except ChatlabError as error:
            outbox.put(job, error)
        outbox.send()

    def _compute(self, prompt_ids: list[int], params: SamplingParams, limit: int) -> Generator[int | str]:
        """Runs on the GPU, in another process: yields tokens, or as its last item what went wrong, in words.

        Closing it, which the platform does between two tokens, stops the computation.
        """
        end = self._clock() + self._seconds(prompt_ids, params, limit) - SPARE_SECONDS
        try:
            yield from self._tokens(prompt_ids, params, limit, end)
        except Exception as error:  # noqa: BLE001 - of any error that crosses the border, only the class would arrive
            yield str(error) if isinstance(error, ChatlabError) else f"{type(error).__name__}: {error}"

    def _tokens(self, prompt_ids: list[int], params: SamplingParams, limit: int, end: float) -> Generator[int]:
        """Token after token until an end token, the limit, or the time."""
        runner = ReferenceRunner(self._model)
        sampler = Sampler(params, prompt_ids)
        state = runner.begin(len(prompt_ids) + limit, None, 0)
        fed, token_ids = 0, [*prompt_ids]
        for _ in range(limit):
            logits = torch.empty(0)
            while fed < len(token_ids):
                if self._clock() > end:
                    return
                part = token_ids[fed : fed + PROMPT_TOKENS]
                logits = runner.step([Feed(state, fed, part, wants_logits=True)])
                fed += len(part)
            token_id = sample(logits, [sampler])[0]
            if token_id is None:
                raise EngineError("the model's logits are not numbers: its weights or its precision are broken")
            yield token_id
            if token_id in self._eos_ids:
                return
            token_ids.append(token_id)


def _checked(items: Generator[int | str]) -> Generator[int]:
    """The tokens of a GPU call; its failures and the platform's refusals (quota, no GPU) as EngineError."""
    try:
        with closing(items):
            for item in items:
                if isinstance(item, str):
                    raise EngineError(item)
                yield item
    except ChatlabError:
        raise
    except Exception as error:
        words = str(getattr(error, "message", None) or error or type(error).__name__)  # gr.Error has `message`
        raise EngineError(f"ZeroGPU: {words}") from error
