"""How much of a prompt an engine has in memory already, from the tokens alone.

What an engine keeps of a chat: every earlier prompt with the answer to it and, if it is warmed while idle as the server
does it, what the next prompt will begin with: system prompt, pinned turns, the tail with the turn that just ended.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatlab.messages import Message

PROBE = "?"  # stands for a question that is not known

Tokenize = Callable[[str], Sequence[int]]
Tokens = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Reuse:
    """Tokens at the front of one prompt, and how many of them were in memory.

    Attributes:
        prompt: All tokens.
        reusable: Those before the retrieved block and the question, the part that can be in memory.
        cold: In memory from earlier prompts and their answers.
        warmed: In memory when the server warms the next turn's prefix, too.
    """

    prompt: int
    reusable: int
    cold: int
    warmed: int

    @property
    def prefix_reuse(self) -> float:
        """Share of the reusable tokens in memory, warmed."""
        return self._share(self.warmed)

    @property
    def prefix_reuse_cold(self) -> float:
        """The same without warming."""
        return self._share(self.cold)

    @property
    def prompt_reuse(self) -> float:
        """Share of all tokens in memory, without warming."""
        return self.cold / self.prompt

    def _share(self, known: int) -> float:
        return min(known, self.reusable) / self.reusable if self.reusable else 1.0


class ChatMemory:
    """What an engine with room for everything has in memory of one chat.

    Args:
        render: An engine's.
        tokenize: From rendered text to tokens.
    """

    def __init__(self, render: Callable[[Sequence[Message]], str], tokenize: Tokenize) -> None:
        self._render = render
        self._tokenize = tokenize
        self._cold: list[Tokens] = []
        self._warmed: list[Tokens] = []

    def measure(self, messages: Sequence[Message]) -> Reuse | None:
        """How much of a prompt is in memory; None for the first of the chat.

        Args:
            messages: The prompt; the last one is the user's, with what was retrieved.
        """
        if not self._cold:
            return None
        rendered = self._render(messages)
        tokens = self._tokens(rendered)
        cold = longest(tokens, self._cold)
        before = rendered.rfind(messages[-1]["content"].strip())
        # A template that changes the message's words gives no place: then all of the prompt counts.
        reusable = len(tokens) if before < 0 else common_prefix(tokens, self._tokens(rendered[:before]))
        return Reuse(len(tokens), reusable, cold, max(cold, longest(tokens, self._warmed)))

    def remember(self, messages: Sequence[Message], answer: str) -> None:
        """A prompt was answered."""
        self._cold.append(self._tokens(self._render(messages) + answer))

    def warm(self, begins: Sequence[Message]) -> None:
        """The beginning of the next prompt was computed."""
        self._warmed.append(self._tokens(self._render([*begins, {"role": "user", "content": PROBE}])))

    def _tokens(self, text: str) -> Tokens:
        return np.asarray(self._tokenize(text), np.int64)


def common_prefix(one: Tokens, other: Tokens) -> int:
    """How many tokens at the front are equal."""
    n = min(len(one), len(other))
    different = one[:n] != other[:n]
    first = int(different.argmax()) if n else 0
    return first if n and different[first] else n


def longest(tokens: Tokens, kept: Sequence[Tokens]) -> int:
    """The longest prefix that any of the kept lists begins with, too."""
    best = 0
    for each in reversed(kept):
        # Whoever differs at the best place found so far cannot be better.
        if len(each) > best and best < len(tokens) and each[best] == tokens[best]:
            best = max(best, common_prefix(tokens, each))
    return best


class WordTokens:
    """Numbers for words, for engines that have no tokenizer of their own."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}

    def __call__(self, text: str) -> list[int]:
        """A number a word; the same word has the same."""
        return [self._ids.setdefault(word, len(self._ids)) for word in text.split()]
