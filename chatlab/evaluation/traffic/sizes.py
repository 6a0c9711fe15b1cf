"""How many tokens prompts have: each message counted once, a prompt is what its messages add.

Where a template writes each message by itself, as ChatML does, this is exact; the differences to whole prompts that
were rendered and counted are kept, so that what is said of them is true of any template.
"""

from collections.abc import Sequence

from chatlab.engines.base import ModelFacts
from chatlab.history.budget import Counter
from chatlab.messages import Message, Role


class MessageSizes:
    """Counts prompts like an engine, by the tokens that each message adds.

    Args:
        counter: Renders and counts whole prompts.
    """

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._sizes: dict[int, int] = {}  # by the hash of role and text
        self._empty = {has_system: self._skeleton(has_system, 0) for has_system in (False, True)}
        self._turn = self._skeleton(False, 1) - self._empty[False]
        self.largest_error = 0
        self.n_checked = 0

    @property
    def facts(self) -> ModelFacts:
        """The model and its limits."""
        return self._counter.facts

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered prompt: turns of two messages and a question, perhaps after a system prompt."""
        has_system = messages[0]["role"] == "system"
        n_turns = (len(messages) - has_system - 1) // 2
        total = self._empty[has_system] + n_turns * self._turn
        return total + sum(self.of(message["role"], message["content"]) for message in messages)

    def of(self, role: Role, text: str) -> int:
        """Tokens that a text adds to an empty message."""
        key = hash((role, text))
        if (known := self._sizes.get(key)) is None:
            known = self._sizes[key] = self._counted(role, text)
        return known

    def of_answer(self, text: str) -> int:
        """Tokens of a text that a model wrote."""
        return self.of("assistant", text)

    def check(self, messages: Sequence[Message]) -> None:
        """Hold a prompt's count against that of the whole."""
        self.n_checked += 1
        self.largest_error = max(self.largest_error, abs(self.count(messages) - self._counter.count(messages)))

    def _counted(self, role: Role, text: str) -> int:
        message: Message = {"role": role, "content": text}
        if role == "user":
            return self._counter.count([message]) - self._empty[False]
        if role == "system":
            return self._counter.count([message, _empty("user")]) - self._empty[True]
        return self._counter.count([_empty("user"), message, _empty("user")]) - self._skeleton(False, 1)

    def _skeleton(self, has_system: bool, n_turns: int) -> int:
        """Tokens of a prompt of empty messages."""
        messages = [_empty("system")] * has_system + [_empty("user"), _empty("assistant")] * n_turns
        return self._counter.count([*messages, _empty("user")])


def _empty(role: Role) -> Message:
    return {"role": role, "content": ""}
