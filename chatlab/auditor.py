"""Asks the model what a served answer would have been, while nobody else is answered: whether the cache was right.

Nothing depends on it: what fails is no label. Knows prompts and the engine, not what becomes of an answer.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from chatlab.aside import Answered, answer_aside, nobody_is_answered
from chatlab.engines.base import Engine, GenerationRequest
from chatlab.errors import ChatlabError
from chatlab.messages import PromptProvenance, Timing, Turn, Usage
from chatlab.telemetry import Metrics

log = structlog.get_logger(__name__)

Request = Callable[[], Awaitable[GenerationRequest]]


def as_answered(turn: Turn, answer: str, ms: float, prompt: PromptProvenance | None) -> Turn:
    """A served turn as if the model had answered it."""
    usage = Usage(prompt_tokens=prompt and prompt.prompt_tokens)
    provenance = replace(turn.provenance, prompt=prompt, usage=usage, timing=Timing(total_ms=ms))
    return replace(turn, assistant_message=answer, source="model", provenance=provenance)


class Auditor:
    """Answers that nobody asked for.

    Args:
        engine: That answers.
        metrics: Told of faults.
    """

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics

    async def ask(self, request: Request, learn: Callable[[str, float], Awaitable[None]]) -> None:
        """Hand a whole answer of the model's on. Never raises.

        Args:
            request: Makes what the model would have been asked.
            learn: Told the answer, and how many ms it took; not told of one that was cut.
        """
        began = time.perf_counter()
        try:
            answer: Answered = await answer_aside(self._engine, await request(), nobody_is_answered)
        except ChatlabError as error:
            self._metrics.fault("audit")
            log.warning("a served answer could not be audited", reason=str(error))
            return
        if answer.reason == "stop" and answer.text.strip():
            await learn(answer.text, 1e3 * (time.perf_counter() - began))
