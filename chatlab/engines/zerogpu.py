"""The engine for Hugging Face ZeroGPU: the reference engine, with each answer computed in a GPU call of its own.

There the GPU exists only while a function decorated with `spaces.GPU` runs, in a process forked for it. So nothing is
kept between turns, and what crosses the border is plain: the prompt's tokens go in, the answer's tokens come out. All
else (template, counting, stop strings, text) stays in this process, without a GPU. Several answers run at once: the
platform has its own queue, and one visitor who waits in it must not hold up the others.

Durations: a visitor pays with a daily quota (two minutes without an account), and a request for more than is left is
refused. So each call asks for what its prompt and its limit need, and an answer that would take longer is cut off in
time, since a call that overruns is killed with its text.
"""

import time
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from typing import Any, ClassVar, Protocol, TypeVar

import torch

from chatlab.engines.base import Chunk, Finished, Started
from chatlab.engines.models import ModelSource
from chatlab.engines.transformers import GenerationJob, TransformersEngine
from chatlab.errors import ChatlabError, EngineError
from chatlab.messages import SamplingParams

GPU_GIB = 70.0  # as documented for the default size; at the start there is no GPU to ask
SLOTS = 4
# Conservative for a 4B model without compilation, on half of a datacentre GPU. Not measured on the platform.
START_SECONDS = 6.0  # the fork, and moving the weights to the GPU
PREFILL_TOKENS_PER_SECOND = 4_000.0
DECODE_TOKENS_PER_SECOND = 25.0
MIN_SECONDS, MAX_SECONDS = 10, 60  # 60 is what ZeroGPU takes when nothing is said: half of the smallest quota
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


class ZeroGpuEngine(TransformersEngine):
    """See `TransformersEngine`. Must be made in the thread that imported `spaces`, and before the app is launched.

    Args:
        source: Where the model is.
        gpu: `spaces.GPU`.
        device: Where the model is put; on ZeroGPU `cuda`, which `spaces` stands in for until a call has the real one.
        seconds: GPU time to ask for, from the prompt's tokens, the sampling and the limit.
        clock: Seconds that only grow.
    """

    name: ClassVar = "zerogpu"
    spread_over_gpus: ClassVar = False
    writes_titles: ClassVar = False  # each would be a GPU call of its own, from the visitor's quota

    def __init__(
        self,
        source: ModelSource,
        gpu: GpuDecorator,
        device: torch.device,
        seconds: Callable[[list[int], SamplingParams, int], int] = gpu_seconds,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._seconds = seconds
        self._clock = clock
        self._on_gpu = gpu(duration=seconds)(self._compute)
        super().__init__(source, device, kv_cache_bytes=0, slots=SLOTS)

    def _generate(self, job: GenerationJob) -> Iterator[Chunk]:
        prompt_ids, params, limit = self._prepare(job.request)
        yield Started(prompt_tokens=len(prompt_ids), reused_prefix_tokens=0)
        reason = yield from self._pieces(_checked(self._on_gpu(prompt_ids, params, limit)), params, job)
        if reason is not None:
            yield Finished(reason)

    @torch.inference_mode()
    def _compute(self, prompt_ids: list[int], params: SamplingParams, limit: int) -> Generator[int | str]:
        """Runs on the GPU, in another process: yields tokens, or as its last item what went wrong, in words.

        Closing it, which the platform does between two tokens, stops the computation.
        """
        end = self._clock() + self._seconds(prompt_ids, params, limit) - SPARE_SECONDS
        try:
            yield from self._tokens(prompt_ids, params, limit, self._empty_prefix(), lambda: self._clock() > end)
        except ChatlabError as error:  # of any error that crosses the border, only the class would arrive
            yield str(error)


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
