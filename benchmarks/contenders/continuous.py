"""Transformers' continuous batching: requests join a running batch; blocks of earlier prompts are used again."""

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from transformers import ContinuousBatchingConfig, GenerationConfig

from benchmarks.contenders.contender import Job, Setup, Timeline, Unavailable, now
from benchmarks.contenders.generate import load_model

CPU_PAGE_TOKENS = 32  # the default of 256 makes it slower there
CPU_PAGES = 640  # 20,480 tokens; left to itself it takes most of the machine's memory


def make(setup: Setup) -> "ContinuousBatching":
    """The model with its manager, started."""
    sizes = {} if setup.device.startswith("cuda") else {"page_size": CPU_PAGE_TOKENS, "num_blocks": CPU_PAGES}
    manager: Any = load_model(setup).init_continuous_batching(
        generation_config=GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0, max_new_tokens=1),
        continuous_batching_config=ContinuousBatchingConfig(**sizes),
    )
    manager.start()
    return ContinuousBatching(manager)


@dataclass(slots=True)
class _Running:
    timeline: Timeline
    done: asyncio.Event = field(default_factory=asyncio.Event)
    error: str | None = None


class ContinuousBatching:
    """See `Contender`. The model's own end is ignored."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._numbers = itertools.count()

    def run(self, jobs: Sequence[Job]) -> list[Timeline]:
        """One request a job."""
        return asyncio.run(self._run(jobs))

    def close(self) -> None:
        """End its thread."""
        self._manager.stop(block=True, timeout=5)

    async def _run(self, jobs: Sequence[Job]) -> list[Timeline]:
        first = self._ask(jobs[0])
        running = [first]
        for job in jobs[1:]:
            while len(first.timeline.token_at) < job.after_tokens and not first.done.is_set():
                await asyncio.sleep(0.001)
            running.append(self._ask(job))
        for each in running:
            while not each.done.is_set():
                if (fatal := self._manager.background_thread_status.fatal_error) is not None:
                    raise Unavailable(f"its thread ended: {fatal}")
                await asyncio.wait([asyncio.create_task(each.done.wait())], timeout=1.0)
            if each.error:
                raise Unavailable(each.error)
        return [each.timeline for each in running]

    def _ask(self, job: Job) -> _Running:
        request_id = f"job-{next(self._numbers)}"
        running = _Running(Timeline(now(), [], []))

        def take(output: Any) -> None:
            new = len(output.generated_tokens) - len(running.timeline.token_at)
            running.timeline.token_at += [now()] * new
            if output.is_finished():
                running.timeline.answer = output.generated_tokens
                running.error = output.error
                running.done.set()

        self._manager.register_result_handler(request_id, take)
        self._manager.add_request(
            job.token_ids, request_id=request_id, max_new_tokens=job.max_new_tokens, streaming=True, eos_token_id=-1
        )
        return running
