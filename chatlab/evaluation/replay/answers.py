"""The answer cache of a replay: the real one, over a store of its own, told by the log what cannot be known again.

That is whether an answer served a question, where the log has that label; whether a hit was audited; and, where a
configuration leaves the threshold as it was, the threshold.
"""

import random
import tempfile
from collections.abc import Awaitable, Callable, Generator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from chatlab.cache.answers import AnswerCache
from chatlab.cache.comparator import Answered, agree, opening
from chatlab.cache.decision import Verifier
from chatlab.cache.labels import Labels
from chatlab.cache.lookup import Lookup
from chatlab.cache.recalibration import Label
from chatlab.cache.stored import CacheLimits
from chatlab.clock import Clock
from chatlab.cross_encoder import CrossEncoderVerifier
from chatlab.embedding import Embedder
from chatlab.evaluation.replay.configuration import Configuration
from chatlab.evaluation.replay.log import Logged
from chatlab.messages import UNKNOWN_TIME, CacheLookup, LabelSource
from chatlab.store import Store
from chatlab.telemetry import Metrics
from chatlab.vectors import QUESTIONS, Vectors
from chatlab.wiring import cache_limits

PATIENCE_SECONDS = 600.0  # nobody waits for a replay


class ToldLabels(Labels):
    """Labels of a replay.

    Attributes:
        threshold_then: In force when the turn at hand was asked; None finds it from the labels learnt so far.
        logged: The turn at hand.
        answer_known: Whether the answer that is compared is the model's own to this turn.
    """

    threshold_then: float | None = None
    logged: Logged | None = None
    answer_known: bool = True

    async def threshold(self) -> float:
        """As it was, or as it is by now."""
        found = await super().threshold()
        return found if self.threshold_then is None else self.threshold_then

    async def compare(self, lookup: Lookup, answer: str, source: LabelSource, weight: float = 1.0) -> None:
        """Learn what the log knows of the same two questions; else compare, where both answers are known."""
        known = self.known(lookup)
        if known is None or known.label_source == "person" or known.outcome == "shadow":
            if self.answer_known:
                await super().compare(lookup, answer, source, weight)
        elif known.same is not None and lookup.label is None and lookup.nearest is not None:
            label_weight, label_source = known.label_weight or 1.0, known.label_source or source
            await self.learn(lookup, Label(lookup.nearest.score, known.same, label_weight, label_source))

    def known(self, lookup: Lookup) -> CacheLookup | None:
        """What the log has of a lookup that found the same entry by its meaning."""
        known = self.logged and self.logged.lookup
        same = lookup.matched is not None and known is not None and known.entry_id == lookup.matched.entry_id
        return known if same and lookup.nearest is not None else None

    async def says_the_same(self, lookup: Lookup, answer: str) -> bool | None:
        """Whether the answer that is served says what the model said; None if nothing is served."""
        if lookup.entry is None:
            return None
        texts = [lookup.ask.question, lookup.entry.question, opening(answer), opening(lookup.entry.answer)]
        asked, before, ours, theirs = await self._questions.get(texts)
        return agree(Answered(asked, ours), Answered(before, theirs))

    async def count_stray(self, stray: CacheLookup) -> None:
        """Take in what is known of a lookup whose question is not in the log."""
        recalibration = await self.recalibration()
        if stray.outcome != "bypass":
            recalibration.asked(stray.tier == "exact")
        if stray.same is not None and stray.tier != "exact" and stray.score:
            source = stray.label_source or "miss"
            recalibration.learn(Label(stray.score, stray.same, stray.label_weight or 1.0, source))


class ReplayedAnswers(AnswerCache):
    """The cache of one configuration.

    Args:
        store: Its own.
        embedder: Of questions; may be shared.
        vectors: Its own.
        clock: The log's time.
        limits: Of the configuration.
        verifier: Instead of the shipped one.
        chance: Draws audits that the log does not know.

    Attributes:
        told: Its labels.
        embedder: Its name; `verifier` is the other's.
        n_faults: How often something did not work: then decisions are not those of the log.
    """

    patience_seconds = PATIENCE_SECONDS

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        vectors: Vectors,
        clock: Callable[[], datetime],
        limits: CacheLimits,
        verifier: Verifier | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(store, embedder, vectors, Metrics(), clock, limits, verifier, chance)
        self.told = ToldLabels(store.answers, self._questions, limits.max_error, verifier)
        self._labels = self.told
        self.verifier = self.told.verifier
        self.embedder = embedder.name
        self.n_faults = 0

    def may_audit(self, lookup: Lookup, logged: Logged) -> bool:
        """Whether the model's answer to a served question is known, and to be compared: as the log drew, or anew."""
        known = self.told.known(lookup)
        if known is not None and known.outcome == "hit":
            audited = known.label_source == "audit" or known.renewed is not None  # or a person spoke after the audit
            return audited and lookup.outcome == "hit"
        return logged.by_model and self.to_audit(lookup)

    async def _guarded(self, what: str, work: Callable[[], Awaitable[Any]]) -> bool:
        worked = await super()._guarded(what, work)
        self.n_faults += not worked
        return worked


class LogTime:
    """The time of what is replayed: set from outside, and strictly increasing between."""

    def __init__(self) -> None:
        self.at = UNKNOWN_TIME
        self.clock = Clock(now=lambda: self.at)


@contextmanager
def open_answers(
    configuration: Configuration, embedder: Embedder, seed: int
) -> Generator[tuple[ReplayedAnswers, LogTime, Store]]:
    """An empty cache as the configuration has it, in a temporary folder; and its time and its store."""
    settings, time = configuration.settings, LogTime()
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="chatlab-replay-")))
        store = opened.enter_context(Store(folder / "data"))
        vectors = Vectors(str(folder / "vectors"), embedder.name, QUESTIONS)
        opened.callback(vectors.close)
        verifier = CrossEncoderVerifier(settings.cache_verifier) if settings.cache_verifier else None
        if verifier is not None:
            opened.callback(verifier.close)
        chance = random.Random(seed).random
        limits = cache_limits(settings)
        yield ReplayedAnswers(store, embedder, vectors, time.clock, limits, verifier, chance), time, store
