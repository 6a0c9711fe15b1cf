"""Asks the model what a served answer would have been, while nobody else is answered: whether the cache was right.

Nothing depends on it: what fails is no label. Knows prompts and the engine, not what becomes of an answer.
"""

import time
from collections.abc import Awaitable, Callable
from dataclasses import replace

import structlog

from chatlab.aside import Answered, answer_aside, nobody_is_answered
from chatlab.engines.base import Engine, GenerationRequest
from chatlab.errors import ChatlabError, InvalidInput
from chatlab.messages import PromptProvenance, Timing, Turn, Usage
from chatlab.telemetry import Metrics

log = structlog.get_logger(__name__)

# Makes what the model would have been asked, and how that was put together.
Request = Callable[[], Awaitable[tuple[GenerationRequest, PromptProvenance | None]]]
Learn = Callable[[Turn], Awaitable[None]]


class Auditor:
    """Answers that nobody asked for.

    Args:
        engine: That answers.
        metrics: Told of faults.
    """

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics

    async def ask(self, turn: Turn, request: Request, learn: Learn) -> None:
        """Have a served turn answered, too. Never raises.

        Args:
            turn: As it was served.
            request: Makes what the model would have been asked.
            learn: Given the turn as if the model had answered it; not given an answer that was cut.
        """
        began = time.perf_counter()
        try:
            asked, prompt = await request()
            answer: Answered = await answer_aside(self._engine, asked, nobody_is_answered)
        except InvalidInput:  # what is served needs no prompt, and this one does not fit
            return
        except Exception as error:
            self._metrics.fault("audit")
            log.warning(
                "a served answer could not be audited", reason=str(error), exc_info=not isinstance(error, ChatlabError)
            )
            return
        if answer.reason == "stop" and answer.text.strip():
            usage = Usage(prompt_tokens=prompt and prompt.prompt_tokens)
            timing = Timing(total_ms=1e3 * (time.perf_counter() - began))
            provenance = replace(turn.provenance, prompt=prompt, usage=usage, timing=timing)
            await learn(replace(turn, assistant_message=answer.text, source="model", provenance=provenance))
