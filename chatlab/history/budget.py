"""How many tokens a prompt may have, what its messages take of them, and cutting one text down to what is left.

Counts are those of the rendered chat template. What a message adds to a prompt is counted once and remembered; where a
template makes it depend on what stands around it, the count of the whole prompt, which is always made, decides.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

from chatlab.engines.base import ModelFacts, answer_limit
from chatlab.errors import FieldError, PromptTooLong
from chatlab.messages import Message, SamplingParams, Turn

MARKER = "\n\n[… cut: {n:,} characters …]\n\n"
MAX_REMEMBERED = 200_000
CHARS_PER_TOKEN = 3.0  # where a count would ask another server or be an estimate itself; rather too few


class Counter(Protocol):
    """The part of an engine that history needs."""

    @property
    def facts(self) -> ModelFacts:
        """The model and its limits."""
        ...

    def count(self, messages: Sequence[Message]) -> int:
        """Exact tokens of the rendered prompt."""
        ...


class TokenCounts:
    """What messages add to a prompt, each counted once. Safe to use from any thread."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._known: OrderedDict[int, int] = OrderedDict()  # by the hash of the texts; the model never changes

    def of_turn(self, question: str, answer: str, inert: Callable[[str], str]) -> int:
        """Tokens of a turn in the history.

        Args:
            question: The user's message, as stored.
            answer: The assistant's.
            inert: Makes a text what the prompt carries.
        """

        def counted() -> int:
            turn: list[Message] = [_said(inert(question)), {"role": "assistant", "content": inert(answer)}]
            return self._counter.count([*turn, _said("?")]) - self._of_alone("?")

        return self._remembered(hash((question, answer)), counted)

    def of_line(self, line: str) -> int:
        """Tokens of a line within a message, its line break included."""
        if self._counter.facts.counting != "here":
            return _estimate(len(line))
        return self._remembered(
            hash(line), lambda: self._counter.count([_said(f"x{line}\nx")]) - self._of_alone("x\nx")
        )

    def _of_alone(self, text: str) -> int:
        """Tokens of a prompt that is one short message."""
        return self._remembered(hash(("alone", text, "")), lambda: self._counter.count([_said(text)]))

    def _remembered(self, key: int, counted: Callable[[], int]) -> int:
        if (tokens := self._known.get(key)) is None:
            tokens = self._known[key] = counted()
            if len(self._known) > MAX_REMEMBERED:
                self._known.popitem(last=False)
        return tokens


def estimated(turn: Turn) -> int:
    """Tokens of a turn in the history, roughly, without counting."""
    return _estimate(len(turn.user_message) + len(turn.assistant_message or ""))


def _estimate(chars: int) -> int:
    return int(chars / CHARS_PER_TOKEN) + 2


def _said(text: str) -> Message:
    return {"role": "user", "content": text}


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
