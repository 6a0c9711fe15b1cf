"""How many tokens a prompt may have, and cutting one text down to what is left.

Counts are those of the rendered chat template, so no margin for error is needed.
"""

from collections.abc import Callable

from chatlab.engines.base import ModelFacts, answer_limit
from chatlab.errors import FieldError, PromptTooLong
from chatlab.messages import SamplingParams

MARKER = "\n\n[… cut: {n:,} characters …]\n\n"


def prompt_budget(facts: ModelFacts, params: SamplingParams, asked_tokens: int | None) -> int:
    """Tokens that the prompt may have: the window less the answer, and no more than asked for.

    Raises:
        PromptTooLong: The answer's limit leaves no room for a prompt.
    """
    room = facts.context_tokens - answer_limit(facts, params)
    if room < 1:
        raise PromptTooLong(
            FieldError(
                "params.maxNewTokens",
                f"{params.max_new_tokens} answer tokens leave no room in a window of {facts.context_tokens}",
            )
        )
    return room if asked_tokens is None else min(room, asked_tokens)


def cut_middle(text: str, fits: Callable[[str], bool]) -> str | None:
    """The text with its middle replaced by a visible marker, as long as `fits` allows.

    Returns:
        None when not even the marker with one character each side fits.
    """
    low, high, best = 1, len(text) // 2, None  # characters kept on each side
    while low <= high:
        keep = (low + high) // 2
        shorter = text[:keep] + MARKER.format(n=len(text) - 2 * keep) + text[len(text) - keep :]
        if fits(shorter):
            best, low = shorter, keep + 1
        else:
            high = keep - 1
    return best
