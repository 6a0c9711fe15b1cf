"""What may be stored, and for how long."""

import re
from collections.abc import Sequence
from datetime import timedelta

from chatlab.cache.personal import personal_data
from chatlab.messages import CacheScope, SamplingParams, Turn

MAX_CHARS = 100_000  # of an answer
TIME_SENSITIVE = timedelta(minutes=5)
OWN_MEMORY = ("pinned", "summary", "retrieved")  # parts of a prompt that hold what a person said elsewhere

_TIME = re.compile(
    r"\b(?:today|tonight|now|currently|right now|at the moment|this (?:week|month|year|morning|evening|weekend)|"
    r"yesterday|tomorrow|latest|newest|recent|recently|breaking|news|weather|forecast|stock price|share price|"
    r"exchange rate|score|standings|open now|what time|what day|date is it|still)\b",
    re.IGNORECASE,
)
_REFUSAL = re.compile(
    r"\s*(?:i['’]?m sorry|i am sorry|sorry,|i apologi[sz]e|unfortunately, i|i can(?:no|['’])t|i am unable|"
    r"i['’]m unable|"
    r"i am not able|i['’]m not able|i won['’]t|as an ai|as a language model|i do not have (?:access|the ability)|"
    r"i don['’]t have (?:access|the ability))",
    re.IGNORECASE,
)


def not_stored_because(
    turn: Turn, scope: CacheScope, params: SamplingParams, max_temperature: float, alone: bool
) -> str | None:
    """Why a turn's answer may not serve again, in words; None if it may.

    Args:
        turn: Ended, with its provenance.
        scope: Whose questions it would serve.
        params: It was sampled with.
        max_temperature: Above which answers are not stored.
        alone: Whether it was asked without a conversation before.
    """
    answer = turn.assistant_message or ""
    prompt = turn.provenance.prompt
    kinds = {part.kind for part in prompt.parts} if prompt else set[str]()
    if (flaw := _flaw(turn)) is not None:
        return flaw
    if (params.temperature or 0.0) > max_temperature:
        return "the temperature is above the limit"
    if kinds & {*OWN_MEMORY}:
        return "the answer is built on notes, pinned or retrieved turns"
    if prompt is not None and (prompt.dropped_turn_ids or prompt.fault is not None):
        return "the model did not see the whole conversation"
    if scope == "global":
        return _not_shared_because([turn.user_message, answer], alone)
    return None


def answers_the_question(turn: Turn) -> bool:
    """Whether a turn has a whole answer, and not a refusal."""
    return _flaw(turn) is None


def _flaw(turn: Turn) -> str | None:
    answer = turn.assistant_message or ""
    if turn.status != "done" or turn.error is not None:
        return f"the answer is {turn.status}"
    if turn.finish_reason != "stop":
        return "the answer was cut"
    if not answer.strip() or len(answer) > MAX_CHARS:
        return "the answer is empty or too long"
    return "the answer is a refusal" if _REFUSAL.match(answer) else None


def _not_shared_because(texts: Sequence[str], alone: bool) -> str | None:
    if not alone:
        return "the answer was given within a conversation"
    found = next(filter(None, map(personal_data, texts)), None)
    return f"it holds personal data: {found}" if found else None


def time_to_live(question: str, usual: timedelta) -> timedelta:
    """For how long an answer may serve."""
    return min(usual, TIME_SENSITIVE) if _TIME.search(question) else usual
