"""The prompts of an export's chats, added up: exactly where that is quick, of a random sample of chats elsewhere.

`direct` and `truncate` are made for every question. For notes many texts are read and compared, so `summarize` and
`hybrid` are made for the chats that grow too long for a budget only up to a number of questions, drawn at random; the
others count by these. A chat that always fits is sent whole by every strategy: that is exact.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass

import numpy as np
from numpy.typing import NDArray

from chatlab.evaluation import bootstrap
from chatlab.evaluation.bootstrap import Estimate
from chatlab.evaluation.traffic.requests import Request, Requests
from chatlab.evaluation.traffic.state import State
from chatlab.evaluation.traffic.strategies import STRATEGIES, Strategies
from chatlab.history.notes import NOTING
from chatlab.messages import StrategyName

MOST_NOTED = 1_000  # questions of chats with notes, a strategy and budget, more or less
SAVED_TURNS = 200  # questions between two saves
TOGETHER = 200  # chats counted between two looks at the clock

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ChatSent:
    """What was sent for the questions of a chat.

    Attributes:
        turns: Questions.
        whole: Tokens of all conversations whole.
        past: Past turns with an answer, of all questions together.
        tokens: Sent.
        dropped: Of the past turns, those left out.
        turns_dropped: Questions with one left out.
        noted: Past turns for which notes stood.
        quoted: Past turns that were found again.
        refused: Questions without a prompt.
    """

    turns: int
    whole: int
    past: int
    tokens: int
    dropped: int = 0
    turns_dropped: int = 0
    noted: int = 0
    quoted: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class PromptCell:
    """A strategy at a budget.

    Attributes:
        chats: What was measured, with the weight of each: 1 but for those that stand for others.
        n_turns: Questions of the export.
        n_measured: Of these, those whose prompts were made, or are known to be whole.
    """

    strategy: StrategyName
    budget: int
    chats: Sequence[tuple[ChatSent, float]]
    n_turns: int
    n_measured: int

    def total(self, name: str) -> float:
        """Of a figure, over the whole export."""
        return float(self._values(name).sum())

    def share(self, name: str, of: str, seed: int) -> Estimate | None:
        """Of two figures, with its interval over chats."""
        return bootstrap.ratio(self._values(name), self._values(of), seed)

    def _values(self, name: str) -> Floats:
        return np.array([weight * getattr(sent, name) for sent, weight in self.chats], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Of each request, (n,): its whole conversation as a prompt, and its answer."""

    prompts: NDArray[np.int64]
    answers: NDArray[np.int64]


class PromptStudy:
    """Makes and adds up the prompts of an export.

    Args:
        requests: Of it.
        strategies: Make prompts.
        state: Where sums are kept.
    """

    def __init__(self, requests: Requests, strategies: Strategies, state: State) -> None:
        self._requests = requests
        self._strategies = strategies
        self._state = state
        self._by_chat: list[list[int]] = [[] for _ in requests.chats]
        for place, request in enumerate(requests.asked):
            self._by_chat[request.chat].append(place)

    def tokens(self, progress: Callable[[int, int], None]) -> Tokens:
        """Count everything that was said."""
        found = self._state.arrays("tokens")
        n = len(self._requests.asked)
        if found is None:
            prompts, answers = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
            for chat, places in enumerate(self._by_chat):
                counted = self._strategies.tokens_of(self._requests.chats[chat], self._of(chat))
                for place, (prompt, answer) in zip(places, counted, strict=True):
                    prompts[place], answers[place] = prompt, answer
                if chat % TOGETHER == 0:
                    progress(chat, len(self._by_chat))
            found = {"prompts": prompts, "answers": answers}
            self._state.save_arrays("tokens", **found)
        progress(1, 1)
        return Tokens(found["prompts"], found["answers"])

    async def run(self, tokens: Tokens, progress: Callable[[int, int], None]) -> list[PromptCell]:
        """All strategies at all budgets."""
        asked: list[tuple[StrategyName, int]] = [
            (strategy, budget) for budget in self._strategies.budgets for strategy in STRATEGIES
        ]
        cells: list[PromptCell] = []
        for i, (strategy, budget) in enumerate(asked):
            cells.append(
                await self._cell(
                    strategy,
                    budget,
                    tokens,
                    lambda done, of, i=i: progress(int(1e3 * (i + done / of)), int(1e3 * len(asked))),
                )
            )
        progress(1, 1)
        return cells

    async def _cell(
        self, strategy: StrategyName, budget: int, tokens: Tokens, progress: Callable[[int, int], None]
    ) -> PromptCell:
        chats = [chat for chat, places in enumerate(self._by_chat) if places]
        grows = [c for c in chats if self._strategies.grows(self._requests.chats[c], self._of(c), strategy, budget)]
        fit = [*({*chats} - {*grows})]
        chosen = grows if strategy not in NOTING else self._sampled(grows)
        name = f"sent-{strategy}-{budget}"
        known: dict[str, list[int]] = self._state.json(name) or {}
        unsaved = 0
        for n, chat in enumerate(chosen):
            progress(n, len(chosen))
            if str(chat) in known:
                continue
            known[str(chat)] = [*astuple(await self._chat(chat, strategy, budget, tokens))]
            unsaved += len(self._by_chat[chat])
            if unsaved >= SAVED_TURNS:
                self._state.save_json(name, known)
                unsaved = 0
        if unsaved:
            self._state.save_json(name, known)
        n_grow, n_chosen = (sum(len(self._by_chat[chat]) for chat in each) for each in (grows, chosen))
        weight = n_grow / n_chosen if n_chosen else 1.0
        measured = [(self._whole(chat, tokens), 1.0) for chat in fit]
        measured += [(ChatSent(*known[str(chat)]), weight) for chat in chosen]
        n_turns = len(self._requests.asked)
        return PromptCell(strategy, budget, measured, n_turns, n_turns - n_grow + n_chosen)

    def _sampled(self, chats: Sequence[int]) -> list[int]:
        """Chats in random order, up to the most questions."""
        found: list[int] = []
        n = 0
        for chat in random.Random(0).sample(chats, len(chats)):
            if n >= MOST_NOTED:
                break
            found.append(chat)
            n += len(self._by_chat[chat])
        return found

    async def _chat(self, chat: int, strategy: StrategyName, budget: int, tokens: Tokens) -> ChatSent:
        sent = await self._strategies.sent(self._requests.chats[chat], self._of(chat), strategy, budget)
        whole = self._whole(chat, tokens)
        return ChatSent(
            turns=whole.turns,
            whole=whole.whole,
            past=whole.past,
            tokens=sum(each.tokens for each in sent),
            dropped=sum(each.dropped for each in sent),
            turns_dropped=sum(each.dropped > 0 for each in sent),
            noted=sum(each.noted for each in sent),
            quoted=sum(each.quoted for each in sent),
            refused=sum(each.refused for each in sent),
        )

    def _whole(self, chat: int, tokens: Tokens) -> ChatSent:
        places = self._by_chat[chat]
        whole = int(tokens.prompts[places].sum())
        return ChatSent(len(places), whole, self._past(chat), whole)

    def _past(self, chat: int) -> int:
        """Past turns with an answer, of all questions of a chat together."""
        before: dict[int, int] = {}
        for place in self._by_chat[chat]:
            parent = self._requests.asked[place].before
            before[place] = 0 if parent is None else before[parent] + bool(self._requests.asked[parent].answer)
        return sum(before.values())

    def _of(self, chat: int) -> list[Request]:
        return [self._requests.asked[place] for place in self._by_chat[chat]]
