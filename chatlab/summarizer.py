"""Asks the model for a summary of turns while nobody else is answered, and says whether it may be used."""

from collections.abc import Sequence
from dataclasses import dataclass

from chatlab.aside import answer_aside, nobody_is_answered
from chatlab.engines.base import Engine, GenerationRequest
from chatlab.history.abstract import flaw, instruction
from chatlab.messages import SamplingParams, Turn

TOKENS_PER_WORD = 1.5
LEEWAY = 2  # times the tokens asked for, until it is cut off


@dataclass(frozen=True, slots=True)
class Summary:
    """What the model wrote, and why it may not be used; None if nothing is wrong with it."""

    text: str
    flaw: str | None


async def summarize(engine: Engine, turns: Sequence[Turn], tokens: int, user_id: str) -> Summary:
    """Ask for a summary, greedily.

    Args:
        engine: Of the model.
        turns: What it is of.
        tokens: That it should have at most.
        user_id: Whose turns they are.

    Raises:
        ChatlabError: The engine failed.
    """
    params = SamplingParams(temperature=0.0, max_new_tokens=LEEWAY * tokens)
    asked = instruction(turns, int(tokens / TOKENS_PER_WORD), engine.facts)
    answer = await answer_aside(engine, GenerationRequest(asked, params, user_id), nobody_is_answered)
    return Summary(answer.text, flaw(answer.text, answer.reason, turns))
