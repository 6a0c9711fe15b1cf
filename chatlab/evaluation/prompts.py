"""One prompt by the name of a strategy: the builder's own, or a peer's."""

import inspect
import time
from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol, cast, get_args

from chatlab.errors import ConfigError, PromptTooLong
from chatlab.evaluation.baselines import BM25Peer
from chatlab.evaluation.dialogues import Dialogue
from chatlab.history import Prompt, PromptInput
from chatlab.history.prompt import Counter
from chatlab.messages import HistoryChoice, Message, SamplingParams, StrategyName, Turn

PEER = "bm25"
ANSWER_TOKENS = 256  # kept free in the window

STRATEGIES: tuple[str, ...] = (*get_args(StrategyName), PEER)


class Builder(Protocol):
    """`chatlab.history.PromptBuilder`."""

    def build(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> Prompt | Awaitable[Prompt]:
        """The prompt for a question."""
        ...


@dataclass(frozen=True, slots=True)
class Made:
    """A prompt as sent.

    Attributes:
        messages: The list.
        claimed_tokens: What its provenance says.
        seconds: How long it took to build.
    """

    messages: tuple[Message, ...]
    claimed_tokens: int
    seconds: float


class PromptMaker:
    """Makes prompts for the turns and questions of dialogues.

    Args:
        counter: The engine.
        builder: Of the same engine.
    """

    def __init__(self, counter: Counter, builder: Builder) -> None:
        self.counter = counter
        self._builder = builder
        self._peers: dict[tuple[str, int], BM25Peer] = {}

    @property
    def window(self) -> int:
        """The largest budget that leaves room for an answer."""
        return self.counter.facts.context_tokens - self.answer_tokens

    @property
    def answer_tokens(self) -> int:
        """Kept free for the answer."""
        return min(ANSWER_TOKENS, self.counter.facts.context_tokens // 4)

    async def make(
        self, strategy: str, budget: int, dialogue: Dialogue, path: Sequence[Turn], question: str, notes: str = ""
    ) -> Made | None:
        """The prompt of a question asked after some turns of a dialogue.

        Args:
            strategy: One of STRATEGIES.
            budget: In tokens.
            dialogue: Whose turns they are.
            path: The turns before the question.
            question: The user's message.
            notes: Put into the system prompt.

        Returns:
            None where the strategy refuses.
        """
        system = "\n\n".join(filter(None, (dialogue.system_prompt, notes))) or None
        budget = min(budget, self.window)
        try:
            if strategy == PEER:
                peer = self._peer(dialogue, len(path))
                begun = time.perf_counter()
                found = peer.prompt(question, budget)
                return Made(found.messages, found.tokens, time.perf_counter() - begun)
            given = _given(system, path, question, f"{dialogue.sample_id}:asked", dialogue.sample_id)
            choice = HistoryChoice(cast("StrategyName", strategy), budget)
            begun = time.perf_counter()
            prompt = await _built(self._builder, given, choice, SamplingParams(max_new_tokens=self.answer_tokens))
            return Made(prompt.messages, prompt.provenance.prompt_tokens, time.perf_counter() - begun)
        except PromptTooLong:
            return None

    def _peer(self, dialogue: Dialogue, n_turns: int) -> BM25Peer:
        key = (dialogue.sample_id, n_turns)
        if key not in self._peers:
            before = [each for each in dialogue.utterances if each.turn_index < n_turns]
            self._peers[key] = BM25Peer(before, self.counter, dialogue.system_prompt)
        return self._peers[key]


def check_strategies(names: Sequence[str]) -> None:
    """Raise ConfigError for a name that is none."""
    for name in names:
        if name not in STRATEGIES:
            raise ConfigError(f"--strategies: {name!r} is none of {', '.join(STRATEGIES)}")


async def _built(builder: Builder, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> Prompt:
    """From builders that wait for a search and from those that have nothing to wait for."""
    made = builder.build(given, choice, params)
    return await made if inspect.isawaitable(made) else made


def _given(system: str | None, path: Sequence[Turn], question: str, turn_id: str, chat_id: str) -> PromptInput:
    chat: dict[str, Any] = {"chat_id": chat_id} if "chat_id" in {each.name for each in fields(PromptInput)} else {}
    return PromptInput(system, path, question, turn_id, **chat)
