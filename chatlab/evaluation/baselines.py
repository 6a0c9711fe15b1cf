"""The peer that every strategy is compared with: lexical retrieval of single utterances, and no tail.

BM25 (Robertson and Zaragoza 2009) with k1 1.2 and b 0.75, without stop words and stemming, plus half the score of each
direct neighbour in the same session. Utterances are taken best first while they fit the budget, and stand in the order
of the conversation, each with its date, in one block before the question.
"""

import math
from collections import Counter as Tally
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatlab.errors import FieldError, PromptTooLong
from chatlab.evaluation.dialogues import Utterance
from chatlab.evaluation.metrics import content_words, words
from chatlab.history.budget import Counter
from chatlab.history.inert import make_inert
from chatlab.messages import Message

K1, B = 1.2, 0.75
NEIGHBOUR_SHARE = 0.5
BLOCK = "<earlier_messages>\n{lines}\n</earlier_messages>\n\n{question}"

Scores = NDArray[np.float64]


class BM25:
    """An index of texts given as lists of words."""

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self._n = len(texts)
        lengths = np.array([len(text) for text in texts], float)
        self._norms = K1 * (1 - B + B * lengths / max(lengths.mean(), 1e-9))
        places: dict[str, list[tuple[int, int]]] = {}
        for i, text in enumerate(texts):
            for word, count in Tally(text).items():
                places.setdefault(word, []).append((i, count))
        self._places = {
            word: (np.array([i for i, _ in found]), np.array([count for _, count in found], float))
            for word, found in places.items()
        }

    def scores(self, query: Sequence[str]) -> Scores:
        """One score a text, 0 where no word of the query is."""
        found = np.zeros(self._n)
        for word in set(query) & self._places.keys():
            where, counts = self._places[word]
            weight = math.log(1 + (self._n - len(where) + 0.5) / (len(where) + 0.5))
            found[where] += weight * counts * (K1 + 1) / (counts + self._norms[where])
        return found


def with_neighbours(scores: Scores, sessions: NDArray[np.int64], share: float = NEIGHBOUR_SHARE) -> Scores:
    """Scores with a share of those of the utterances before and after, of the same session."""
    same = sessions[1:] == sessions[:-1]
    found = scores.copy()
    found[1:] += share * scores[:-1] * same
    found[:-1] += share * scores[1:] * same
    return found


@dataclass(frozen=True, slots=True)
class BM25Prompt:
    """A prompt of the peer and its exact tokens."""

    messages: tuple[Message, ...]
    tokens: int


class BM25Peer:
    """Prompts about one conversation.

    Args:
        utterances: Of the turns before the question.
        counter: An engine.
        system_prompt: Kept, as everywhere.
    """

    def __init__(self, utterances: Sequence[Utterance], counter: Counter, system_prompt: str | None = None) -> None:
        self._counter = counter
        self._system: list[Message] = []
        if system_prompt:
            self._system = [{"role": "system", "content": make_inert(system_prompt, counter.facts)}]
        self._lines = [make_inert(f"[{_date(each)}] {each.content}", counter.facts) for each in utterances]
        self._index = BM25([words(line) for line in self._lines]) if self._lines else None
        self._sessions = np.array([each.session for each in utterances], np.int64)
        base = self._count_user("x")
        # What a line adds to a prompt: nearly additive, and the whole is counted in the end.
        self._costs = [self._count_user(f"x\n{line}") - base for line in self._lines]

    def prompt(self, question: str, budget: int) -> BM25Prompt:
        """The prompt of a question, within the budget.

        Raises:
            PromptTooLong: Not even the question fits.
        """
        question = make_inert(question, self._counter.facts)
        messages = self._messages([], question)
        tokens = self._counter.count(messages)
        if tokens > budget:
            raise PromptTooLong(FieldError("history.budgetTokens", f"the question takes {tokens} of {budget} tokens"))
        chosen = self._chosen(question, budget - tokens)
        while chosen:
            tried = self._messages(sorted(chosen), question)
            if (n := self._counter.count(tried)) <= budget:
                messages, tokens = tried, n
                break
            chosen.pop()  # the worst
        return BM25Prompt(tuple(messages), tokens)

    def _chosen(self, question: str, room: int) -> list[int]:
        """Places of utterances, best first."""
        if self._index is None:
            return []
        scores = with_neighbours(self._index.scores(content_words(question)), self._sessions)
        left = room - (self._count_user(BLOCK.format(lines="", question="x")) - self._count_user("x"))
        least = min(self._costs)
        chosen: list[int] = []
        for i in np.argsort(-scores, kind="stable").tolist():
            if left < least:
                break
            if self._costs[i] <= left:
                left -= self._costs[i]
                chosen.append(i)
        return chosen

    def _messages(self, chosen: Sequence[int], question: str) -> list[Message]:
        lines = "\n".join(self._lines[i] for i in chosen)
        text = BLOCK.format(lines=lines, question=question) if chosen else question
        return [*self._system, {"role": "user", "content": text}]

    def _count_user(self, text: str) -> int:
        return self._counter.count([*self._system, {"role": "user", "content": text}])


def _date(utterance: Utterance) -> str:
    return f"{utterance.said_at.day} {utterance.said_at:%B %Y, %H:%M}"
