"""Transformers' continuous batching: requests join a running batch; blocks of earlier prompts are used again."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.contenders.contender import Job, Progress, Setup, Timeline, Unavailable, now
from benchmarks.contenders.generate import load_model

KV_TOKENS = 32_768  # left to itself it takes most of the machine's memory
SECONDS_TO_CANCEL = 0.2  # a step; nothing is told of a cancelled request
PAGE_TOKENS_CPU, PAGE_TOKENS_GPU = 32, 256  # 256 is its default; slower on a CPU


def make(setup: Setup) -> "ContinuousBatching":
    """The model with its manager, started."""
    page_tokens = PAGE_TOKENS_GPU if setup.device.startswith("cuda") else PAGE_TOKENS_CPU
    manager: Any = load_model(setup).init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=1),
        continuous_batching_config=ContinuousBatchingConfig(page_size=page_tokens, num_blocks=KV_TOKENS // page_tokens),
    )
    manager.start()
    return ContinuousBatching(manager)


@dataclass(slots=True)
class _Running:
    request_id: str
    timeline: Timeline
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: str | None = None


class ContinuousBatching:
    """See `Contender`. The model's own end is ignored."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._numbers = itertools.count()
        self._runner = asyncio.Runner()  # one loop for all runs: the manager may call it after a run has ended

    def run(self, jobs: Sequence[Job], enough: int) -> list[Timeline]:
        """One request a job."""
        return self._runner.run(self._run(jobs, Progress(len(jobs), enough)))

    def close(self) -> None:
        """End its thread."""
        self._manager.stop(block=True, timeout=5)
        self._runner.close()

    async def _run(self, jobs: Sequence[Job], progress: Progress) -> list[Timeline]:
        first = self._ask(jobs[0], progress)
        running = [first]
        for job in jobs[1:]:
            while len(first.timeline.token_at) < job.after_tokens and not first.done.is_set():
                await asyncio.sleep(0.001)
            running.append(self._ask(job, progress))
        for each in running:
            while not each.done.is_set() and not progress.done:
                if (fatal := self._manager.background_thread_status.fatal_error) is not None:
                    raise Unavailable(f"its thread ended: {fatal}")
                await asyncio.sleep(0.01)
            if each.error:
                raise Unavailable(each.error)
        for each in running:
            if not each.done.is_set():
                self._manager.cancel_request(each.request_id)
        await asyncio.sleep(SECONDS_TO_CANCEL)
        return [each.timeline for each in running]

    def _ask(self, job: Job, progress: Progress) -> _Running:
        request_id = f"job-{next(self._numbers)}"
        running = _Running(request_id, Timeline(now(), [], []))

        def take(output: Any) -> None:
            if (n_new := len(output.generated_tokens) - len(running.timeline.token_at)) and not progress.done:
                progress.tokens(running.timeline, n_new)
            if output.is_finished():
                running.timeline.answer = output.generated_tokens
                running.error = output.error
                running.done.set()

        self._manager.register_result_handler(request_id, take)
        self._manager.add_request(
            job.token_ids, request_id=request_id, max_new_tokens=job.max_new_tokens, streaming=True, eos_token_id=-1
        )
        return running
