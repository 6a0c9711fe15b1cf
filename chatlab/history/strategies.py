"""Which of the past turns a prompt keeps: one function a strategy.

A strategy says how many of the newest turns are kept. It is given the count of the prompt with n turns, the number of
turns and the budget; None means that not even the question fits.
"""

from collections.abc import Callable, Mapping

from chatlab.errors import FieldError, PromptTooLong
from chatlab.messages import StrategyName

FEW_TURNS = 32  # most chats are no longer: one count settles them

Strategy = Callable[[Callable[[int], int], int, int], int | None]


def _direct(count: Callable[[int], int], n_turns: int, budget: int) -> int:
    """Everything, or an error."""
    if (tokens := count(n_turns)) > budget:
        raise PromptTooLong(
            FieldError(
                "history.strategy",
                f"'direct' sends the whole conversation, and its {tokens} tokens exceed the budget of {budget}: "
                "use 'truncate', raise history.budgetTokens, or start a new chat",
            )
        )
    return n_turns


def _truncate(count: Callable[[int], int], n_turns: int, budget: int) -> int | None:
    """The newest turns that fit: all, else galloping to the first number that does not, then bisection."""
    if count(min(n_turns, FEW_TURNS)) <= budget:
        if n_turns <= FEW_TURNS:
            return n_turns
        fits, step = FEW_TURNS, FEW_TURNS
    elif count(0) <= budget:
        fits, step = 0, 1
    else:
        return None
    too_many = n_turns + 1
    while fits < n_turns < too_many:
        probe = min(n_turns, fits + step)
        if count(probe) <= budget:
            fits, step = probe, step * 2
        else:
            too_many = probe
    while too_many - fits > 1 and fits < n_turns:
        middle = (fits + too_many) // 2
        if count(middle) <= budget:
            fits = middle
        else:
            too_many = middle
    return fits


STRATEGIES: Mapping[StrategyName, Strategy] = {"direct": _direct, "truncate": _truncate}
