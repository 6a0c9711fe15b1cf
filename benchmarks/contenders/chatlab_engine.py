"""Our engine, asked with messages as the rest of chatlab asks it: its times contain template and tokenizer."""

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Any

from benchmarks.contenders.contender import Job, Progress, Setup, Timeline, now
from chatlab.engines.base import Engine, GenerationRequest, Piece
from chatlab.messages import SamplingParams
from chatlab.wiring import make_engine


def make(setup: Setup) -> "ChatlabEngine":
    """The engine that the settings name."""
    return ChatlabEngine(make_engine(setup.settings))


class ChatlabEngine:
    """See `Contender`. The model's own end is ignored."""

    def __init__(self, engine: Engine) -> None:
        self._engine: Any = engine
        self._engine._eos_ids = frozenset[int]()  # noqa: SLF001 - no request can ask for it, and none should

    def run(self, jobs: Sequence[Job], enough: int) -> list[Timeline]:
        """One stream a job."""
        return asyncio.run(self._run(jobs, Progress(len(jobs), enough)))

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()

    async def _run(self, jobs: Sequence[Job], progress: Progress) -> list[Timeline]:
        moments = {job.after_tokens: asyncio.Event() for job in jobs}
        moments[0].set()
        return [*await asyncio.gather(*(self._stream(job, progress, moments, job is jobs[0]) for job in jobs))]

    async def _stream(
        self, job: Job, progress: Progress, moments: dict[int, asyncio.Event], is_first: bool
    ) -> Timeline:
        await moments[job.after_tokens].wait()
        params = SamplingParams(temperature=0.0, max_new_tokens=job.max_new_tokens)
        text: list[str] = []
        timeline = Timeline(now(), [], "")
        async with aclosing(self._engine.stream(GenerationRequest(job.messages, params, job.user_id))) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, Piece) and chunk.tokens:
                    progress.tokens(timeline, chunk.tokens)
                    if is_first and (moment := moments.get(len(timeline.token_at))):
                        moment.set()
                if isinstance(chunk, Piece):
                    text.append(chunk.text)
                if progress.done:
                    break
        for moment in moments.values() if is_first else ():
            moment.set()  # it ended early
        timeline.answer = "".join(text)
        return timeline
