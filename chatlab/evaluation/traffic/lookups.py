"""What the answer cache would have done with each question, in order: the decision of a live lookup, without a store.

The story of one question is that of `chatlab.cache.answers`: the exact tier -> whether it needs its conversation -> the
nearest stored ones -> guards, verifier, threshold -> served, or answered as it was and stored. The threshold is the
shipped one: what a cache has on its first day. Several cells, a scope and a bound each, are asked side by side; what
two questions have to do with each other is judged once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.admission import not_stored_because, time_to_live
from chatlab.cache.answers import BEFORE
from chatlab.cache.bound import shipped
from chatlab.cache.context import needs_context
from chatlab.cache.decision import CANDIDATES
from chatlab.cache.reading import language_of
from chatlab.evaluation.traffic.judgements import Judgements
from chatlab.evaluation.traffic.requests import Request, Requests
from chatlab.evaluation.traffic.texts import NEIGHBOURS, Texts
from chatlab.messages import CacheScope, SamplingParams

Outcome = Literal["miss", "exact", "semantic", "anew"]
TOGETHER = 256  # questions looked up between two looks at the clock and the disk
SMALL = 256  # stored questions, up to which all are compared

Bucket = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Found:
    """What a lookup found.

    Attributes:
        outcome: `anew` is a question that no cache is asked: another answer to the same was wanted.
        entry: The place of the request whose answer is served, or of the nearest that is not.
        score: How likely its answer serves, in [0, 1]; 0 where a guard refused.
        similarity: Of the two questions, cosine.
        guard: That refused.
    """

    outcome: Outcome
    entry: int | None = None
    score: float = 0.0
    similarity: float = 0.0
    guard: str | None = None

    @property
    def served(self) -> bool:
        """Whether it was a hit."""
        return self.outcome in ("exact", "semantic")


@dataclass(slots=True)
class _Bucket:
    """Questions whose answers may be looked at together: the newest request of each text."""

    entries: dict[int, int] = field(default_factory=dict[int, int])
    places: NDArray[np.int64] | None = None

    def store(self, text: int, request: int) -> None:
        if text not in self.entries:
            self.places = None
        self.entries[text] = request

    def drop(self, text: int) -> None:
        if self.entries.pop(text, None) is not None:
            self.places = None

    @property
    def texts(self) -> NDArray[np.int64]:
        if self.places is None:
            self.places = np.fromiter(self.entries, dtype=np.int64, count=len(self.entries))
        return self.places


@dataclass(slots=True)
class Cell:
    """One cache: whose answers it serves, and how many of these may be wrong.

    Attributes:
        threshold: Least score that is served.
        found: Of every request so far.
    """

    scope: CacheScope
    max_error: float
    found: list[Found] = field(default_factory=list[Found])
    _exact: dict[tuple[Bucket, str], int] = field(default_factory=dict[tuple[Bucket, str], int])
    _near: dict[Bucket, _Bucket] = field(default_factory=dict[Bucket, _Bucket])

    @property
    def threshold(self) -> float:
        """Least score that is served."""
        return shipped().threshold(self.max_error)

    def stored(self, bucket: Bucket) -> _Bucket:
        """What is stored under a key."""
        return self._near.setdefault(bucket, _Bucket())

    def same_words(self, bucket: Bucket, words: str) -> int | None:
        """The request with these words, if it is stored."""
        return self._exact.get((bucket, words))

    def store(self, bucket: Bucket, words: str, place: int, text: int, replaced: int | None) -> None:
        """Keep an answer.

        Args:
            bucket: All that must be equal beside the words.
            words: Of its question, as they are compared.
            place: Of the request.
            text: Of its question, where it can be found by its meaning; else -1.
            replaced: The text of the answer that was kept for the same words.
        """
        self._exact[bucket, words] = place
        stored = self.stored(bucket)
        if replaced is not None and replaced != text:
            stored.drop(replaced)
        if text >= 0:
            stored.store(text, place)


class Lookups:
    """Looks all questions of an export up.

    Args:
        requests: In order.
        texts: Of all of them, embedded, with neighbours.
        cells: The caches.
        ttl: For how long an answer may serve, where the export has times.
        judgements: Of these texts.
    """

    def __init__(
        self, requests: Requests, texts: Texts, cells: Sequence[Cell], ttl: timedelta, judgements: Judgements
    ) -> None:
        self.cells = cells
        self._requests = requests
        self._texts = texts
        self._ttl = ttl
        self._judgements = judgements
        self._text = [texts.place_of[each.turn.user_message] for each in requests.asked]
        self._storable: dict[tuple[int, str], bool] = {}
        self._languages = [language_of(each.turn.user_message) for each in requests.asked]

    async def run(self, progress: Callable[[int, int], None]) -> None:
        """Ask all questions; `cells` have what was found.

        Raises:
            ModelUnavailable: The embedder cannot be loaded.
        """
        n = len(self._requests.asked)
        for place in range(n):
            if place % TOGETHER == 0:
                progress(place, n)
                self._judgements.save(place)
                if place >= self._judgements.n_restored:
                    await self._judgements.ready(self._text[place : place + TOGETHER])
            await self._look_up(place)
        self._judgements.save(n)
        progress(n, n)

    async def _look_up(self, place: int) -> None:
        request, text = self._requests.asked[place], self._text[place]
        path = self._requests.path(place)
        needed: bool | None = None
        for cell in self.cells:
            if request.anew:
                cell.found.append(Found("anew"))
                self._store(cell, place, path)
                continue
            full = self._bucket(cell, place, request.said)
            entry = self._current(cell.same_words(full, request.same_words), request)
            bucket = full
            if entry is None and path:
                needed = self._needed(place, path) if needed is None else needed
                if not needed:
                    bucket = self._bucket(cell, place, "")
                    entry = self._current(cell.same_words(bucket, request.same_words), request)
            if entry is not None:
                cell.found.append(Found("exact", entry, 1.0, 1.0))
                continue
            found = await self._near(cell, cell.stored(bucket), request, text)
            cell.found.append(found)
            if not found.served:
                self._store(cell, place, path)

    def _needed(self, place: int, path: Sequence[int]) -> bool:
        vectors = self._texts.vectors
        before = [vectors[self._text[each]] for each in path[-BEFORE:]]
        said = [self._requests.asked[each].turn.user_message for each in path]
        return needs_context(self._requests.asked[place].turn.user_message, vectors[self._text[place]], before, said)

    def _bucket(self, cell: Cell, place: int, said: str) -> Bucket:
        head = self._requests.chats[self._requests.asked[place].chat]
        user = head.user_id if cell.scope == "user" else ""
        return user, head.system_prompt or "", self._languages[place], said

    def _current(self, entry: int | None, request: Request) -> int | None:
        """An entry that is young enough to be served."""
        if entry is None or request.at is None:
            return entry
        stored = self._requests.asked[entry]
        if stored.at is None:
            return entry
        age = request.at - stored.at
        least = min(time_to_live(each.turn.user_message, self._ttl) for each in (stored, request))
        return entry if age < least else None

    async def _near(self, cell: Cell, bucket: _Bucket, request: Request, text: int) -> Found:
        candidates = [
            each for each in self._nearest(text, bucket) if self._current(bucket.entries[each], request) is not None
        ]
        if not candidates:
            return Found("miss")
        candidate, judgement = await self._judgements.of(text, candidates)
        served = judgement.score >= cell.threshold
        return Found(
            "semantic" if served else "miss",
            bucket.entries[candidate],
            judgement.score,
            judgement.similarity,
            judgement.guard,
        )

    def _nearest(self, text: int, bucket: _Bucket) -> list[int]:
        """The stored texts that a search would give, the nearest first."""
        entries = bucket.entries
        if not entries:
            return []
        found: list[int] = []
        if len(entries) > SMALL:
            for near in self._texts.neighbours[text].tolist():
                if near in entries:
                    found.append(near)
                    if len(found) == CANDIDATES:
                        return found
            if len(self._texts.texts) <= NEIGHBOURS:
                return found
        places = bucket.texts
        similarities = self._texts.vectors[places] @ self._texts.vectors[text]
        k = min(CANDIDATES, len(places))
        near = np.argpartition(-similarities, k - 1)[:k]
        return places[near[np.argsort(-similarities[near], kind="stable")]].tolist()

    def _store(self, cell: Cell, place: int, path: Sequence[int]) -> None:
        if not self._may_store(place, cell.scope, alone=not path):
            return
        request, text = self._requests.asked[place], self._text[place]
        bucket = self._bucket(cell, place, request.said)
        before = cell.same_words(bucket, request.same_words)
        whole = bool(self._texts.whole[text])  # else it is not seen to its end, and found by its words alone
        replaced = None if before is None else self._text[before]
        cell.store(bucket, request.same_words, place, text if whole else -1, replaced)

    def _may_store(self, place: int, scope: CacheScope, alone: bool) -> bool:
        key = (place, scope)
        if key not in self._storable:
            turn = self._requests.asked[place].turn
            if turn.status == "done" and turn.finish_reason is None:  # exports seldom say how an answer ended
                turn = replace(turn, finish_reason="stop")
            self._storable[key] = not_stored_because(turn, scope, SamplingParams(), 1.0, alone) is None
        return self._storable[key]
