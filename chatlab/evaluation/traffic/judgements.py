"""What the cache's decision says of a question and stored ones: computed once, kept in the state."""

from collections.abc import Sequence
from dataclasses import astuple
from typing import NamedTuple

from chatlab.cache.decision import CANDIDATES, Judgement, best, closest, judge
from chatlab.evaluation.traffic.state import State
from chatlab.evaluation.traffic.texts import Texts

Key = tuple[int, ...]


class Chosen(NamedTuple):
    """The text that is served, or the nearest that is not, and what is found of it."""

    text: int
    judgement: Judgement


class Judgements:
    """The decision on texts.

    Args:
        texts: Embedded, with neighbours.
        state: Where judgements are kept.

    Attributes:
        n_restored: Requests whose judgements an earlier run left.
    """

    def __init__(self, texts: Texts, state: State) -> None:
        self._texts = texts
        self._state = state
        self._known: dict[Key, Chosen] = {}
        self._new: list[Key] = []
        self._n_parts = 0
        self.n_restored = 0
        while (part := state.json(self._part)) is not None:
            self.n_restored = part["requests"]
            self._known.update((tuple(key), Chosen(text, Judgement(*found))) for key, text, found in part["judged"])
            self._n_parts += 1

    @property
    def _part(self) -> str:
        return f"judged-{self._n_parts:05d}"

    async def of(self, text: int, candidates: Sequence[int]) -> Chosen:
        """The decision on a question, as a live lookup makes it.

        Args:
            text: Asked.
            candidates: Stored, the nearest first; at least one.

        Raises:
            ModelUnavailable: The embedder cannot be loaded.
        """
        key = (text, *candidates)
        if (known := self._known.get(key)) is not None:
            return known
        texts = self._texts
        cosines = [texts.similarity(text, each) for each in candidates]
        readings = [texts.words(each).reading for each in candidates]
        kept = [candidates[i] for i in closest(texts.words(text), readings, cosines)]
        question, *others = await texts.questions([text, *kept])
        found = best(judge(question, others))
        assert found is not None
        chosen = self._known[key] = Chosen(kept[found.place], found)
        self._new.append(key)
        return chosen

    async def ready(self, wanted: Sequence[int]) -> None:
        """Have what is probably looked at for these texts, computed together."""
        near = {each for text in wanted for each in self._texts.neighbours[text, : CANDIDATES + 1].tolist()}
        await self._texts.questions([*near.union(wanted)])

    def save(self, requests: int) -> None:
        """Keep what was judged since the last time, when so many requests are done."""
        if self._new:
            judged = [(key, self._known[key].text, astuple(self._known[key].judgement)) for key in self._new]
            self._state.save_json(self._part, {"requests": requests, "judged": judged})
            self._n_parts += 1
            self._new = []
