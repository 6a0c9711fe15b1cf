"""Asks the model what a served answer would have been, while nobody else is answered: whether the cache was right.

Nothing depends on it: what fails is no label. Knows prompts and the engine, not what becomes of an answer.
"""

from collections.abc import Awaitable, Callable

import structlog

from chatlab.aside import Answered, answer_aside, nobody_is_answered
from chatlab.engines.base import Engine, GenerationRequest
from chatlab.errors import ChatlabError
from chatlab.telemetry import Metrics

log = structlog.get_logger(__name__)

Request = Callable[[], Awaitable[GenerationRequest]]


class Auditor:
    """Answers that nobody asked for.

    Args:
        engine: That answers.
        metrics: Told of faults.
    """

    def __init__(self, engine: Engine, metrics: Metrics) -> None:
        self._engine = engine
        self._metrics = metrics

    async def ask(self, request: Request, learn: Callable[[str], Awaitable[None]]) -> None:
        """Hand a whole answer of the model's on. Never raises.

        Args:
            request: Makes what the model would have been asked.
            learn: Told the answer; not told of one that was cut.
        """
        try:
            answer: Answered = await answer_aside(self._engine, await request(), nobody_is_answered)
        except ChatlabError as error:
            self._metrics.fault("audit")
            log.warning("a served answer could not be audited", reason=str(error))
            return
        if answer.reason == "stop" and answer.text.strip():
            await learn(answer.text)
