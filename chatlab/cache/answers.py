"""The answer cache of a process: looks questions up, and learns which answers served them.

    look up   partition and exact key -> exact tier -> embedding -> context -> nearest entries -> decision
    offer     admission -> entry stored -> its vector -> room made                                       `StoredAnswers`
    learn     two answers compared, or a person's word -> a label -> the threshold of the next lookups

Knows turns, not how they are answered. Whatever fails is counted and makes a miss: the model answers. Belongs to one
event loop.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import structlog

from chatlab.cache.admission import answers_the_question, time_to_live
from chatlab.cache.comparator import shipped
from chatlab.cache.context import needs_context
from chatlab.cache.curve import Calibrated, curve_of_log, labels_of_log
from chatlab.cache.decision import CANDIDATES, Judgement, Verifier, best, closest, judge
from chatlab.cache.evidence import Question
from chatlab.cache.key import CALIBRATION_VERSION, digest, history_key
from chatlab.cache.labels import Labels
from chatlab.cache.lookup import Ask, Lookup
from chatlab.cache.reading import MAX_CHARS, language_of, normalised, read
from chatlab.cache.recalibration import Recalibration
from chatlab.cache.statistics import CacheStatistics, statistics
from chatlab.cache.stored import CacheLimits, StoredAnswers
from chatlab.embedding import Embedder
from chatlab.messages import CacheEntry, CacheLookup, LabelSource, Message, Similar, Turn
from chatlab.store import Store
from chatlab.telemetry import Metrics
from chatlab.vectors import Vectors

SECONDS = 5.0  # a turn waits no longer for the cache
LOADING_SECONDS = 2.0  # nor longer for its embedder to be loaded
BEFORE = 8  # earlier questions of a chat that are compared with a new one
SIMILAR = 0.2  # score from which on a person may be asked whether an answer will do

log = structlog.get_logger(__name__)


class AnswerCache(StoredAnswers):
    """Stored answers, of one process.

    Args:
        store: Of the entries.
        embedder: Of their questions.
        vectors: Of the questions, by bucket.
        metrics: Told of faults.
        clock: Later than everything stored.
        limits: What is promised, and what may be stored.
        verifier: Judges candidates instead of the shipped one.
        chance: Gives numbers in [0, 1); draws the hits that are audited.

    Attributes:
        patience_seconds: That a turn waits for the cache.
    """

    patience_seconds = SECONDS

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        vectors: Vectors,
        metrics: Metrics,
        clock: Callable[[], datetime],
        limits: CacheLimits,
        verifier: Verifier | None = None,
        chance: Callable[[], float] = random.random,
    ) -> None:
        super().__init__(store, embedder, vectors, metrics, clock, limits)
        self._embedder = embedder
        self._chance = chance
        self._labels = Labels(store.answers, self._questions, limits.max_error, verifier)
        self._verifier = verifier
        self._asked: dict[str, Lookup] = {}  # by turn, lookups that a person may judge, until they are stored
        self._under_way: dict[str, asyncio.Future[CacheEntry | None]] = {}  # by entry id

    # Looking up

    async def look_up(self, ask: Ask) -> Lookup:
        """What is stored for a question. Never raises: whatever fails is a miss that says so."""
        if ask.scope == "off":
            return Lookup(ask, "bypass" if ask.bypass else "off")
        started = time.perf_counter()
        lookup = Lookup(ask, "bypass" if ask.bypass else "miss")

        async def find() -> None:
            async with asyncio.timeout(self.patience_seconds):
                await self._find(lookup)
                if not ask.bypass and not ask.peek:
                    await self._labels.asked(lookup.tier == "exact")

        if not await self._guarded("look up", find):
            lookup.outcome, lookup.entry, lookup.following = "bypass" if ask.bypass else "miss", None, None
            lookup.reason, lookup.similar = "the cache does not answer", None
        elif lookup.entry is not None and self._limits.shadow:
            lookup.withhold()
        if self._limits.shadow:
            lookup.following = lookup.similar = None
        lookup.ms = round(1e3 * (time.perf_counter() - started), 3)
        return lookup

    async def _find(self, lookup: Lookup) -> None:
        ask = lookup.ask
        if (ask.params.temperature or 0.0) > self._limits.max_temperature:
            lookup.reason = "the temperature is above the limit of what is stored"
            return
        # 1. The exact tier: the same words after the same conversation. An answer is stored as this, too: what was
        # said before may have had its part in it.
        lookup.bucket = bucket_of(ask, self._embedder.name)
        lookup.entry_id = entry_id_of(ask, lookup.bucket)
        lookup.indexed = await self._exact(lookup, lookup.entry_id)
        if ask.bypass:
            lookup.reason = "a new answer was asked for"
            return
        if lookup.entry is not None:
            return
        lookup.following = self._under_way.get(lookup.entry_id)
        # 2. What the words alone need: without the embedder only a first question is known to stand alone.
        if not self._semantic:
            lookup.reason = f"the embedder {self._embedder.name} has no calibration"
            return
        if not self._embedder.loaded and not await self._worth_loading(lookup):
            return
        lookup.question, *before = await self._questions.get([ask.question, *_asked_before(ask.path)])
        bucket = lookup.bucket
        if ask.path:
            vectors = [each.embedded.vector for each in before]
            said = [turn.user_message for turn in ask.path]  # all of it: "Always answer in French" does not grow old
            if not needs_context(ask.question, lookup.question.embedded.vector, vectors, said):
                bucket = _bucket(ask, self._embedder.name, history="")
                await self._exact(lookup, entry_id_of(ask, bucket))
        # 3. The semantic tier.
        if lookup.entry is None and lookup.following is None:
            await self._near(lookup, bucket, lookup.question)

    async def _exact(self, lookup: Lookup, entry_id: str) -> bool:
        """Serve an entry if it is there and still may; whether it is there."""
        entry = (await self._rows.entries([entry_id])).get(entry_id)
        if entry is not None and not lookup.ask.bypass and self._current(entry, lookup.ask):
            lookup.serve(entry)
            lookup.following = None
        return entry is not None

    def _current(self, entry: CacheEntry, ask: Ask) -> bool:
        """Whether an entry is young enough for a question, which may be about now where the entry's was not."""
        now = self._clock()
        return entry.expires_at > now and entry.created_at + time_to_live(ask.question, self._limits.ttl) > now

    async def _worth_loading(self, lookup: Lookup) -> bool:
        """Whether there is anything to compare with, and the embedder is there before long."""
        if not await self._rows.count():
            lookup.reason = "nothing is stored"
            return False
        loading = asyncio.ensure_future(self._embedder.embed_tokens([lookup.ask.question[:MAX_CHARS]]))
        await asyncio.wait([loading], timeout=LOADING_SECONDS)
        if not loading.done():
            loading.add_done_callback(_heard)
            lookup.reason = "the embedder is being loaded"
            return False
        loading.result()
        return True

    async def _near(self, lookup: Lookup, bucket: str, question: Question) -> None:
        lookup.threshold = threshold = await self._labels.threshold()
        similarities = await self._vectors.nearest(bucket, question.embedded.vector, CANDIDATES)
        nearest = sorted(similarities, key=lambda entry_id: -similarities[entry_id])[:CANDIDATES]
        entries = await self._rows.entries(nearest)
        candidates = [entries[each] for each in nearest if each in entries and self._current(entries[each], lookup.ask)]
        if not candidates:
            await self._check()
            lookup.reason = "nothing stored is near"
            return
        readings = await asyncio.to_thread(lambda: [read(entry.question[:MAX_CHARS]) for entry in candidates])
        cosines = [similarities[entry.entry_id] for entry in candidates]
        candidates = [candidates[place] for place in closest(question, readings, cosines)]
        questions = await self._questions.get([entry.question for entry in candidates])
        found = best(await asyncio.to_thread(judge, question, questions, self._verifier))
        if found is None:
            return
        lookup.nearest, lookup.matched = found, candidates[found.place]
        if found.score >= threshold:
            lookup.serve_matched(f"score {found.score:.2f} of at least {threshold:.2f}")
        elif found.guard is not None:
            lookup.reason = f"{found.guard} differs from the nearest"
        elif threshold > 1:
            lookup.reason = (
                "by what is known so far, it cannot be shown that few enough answers to other words would be wrong"
            )
        else:
            lookup.reason = f"score {found.score:.2f} is below {threshold:.2f}"
        own = lookup.matched.user_id == lookup.ask.user_id and lookup.ask.chat_id
        if lookup.entry is None and found.score >= SIMILAR and own and self._limits.similar:
            lookup.similar = _similar(lookup.matched, found)

    # One answer for those who ask the same at once

    def lead(self, lookup: Lookup) -> None:
        """Let others that ask the same wait for this one's answer, unless one that began meanwhile is to be waited for.

        And let a person judge what is similar, till the end.
        """
        if lookup.similar is not None and lookup.ask.chat_id:
            self._asked[lookup.ask.turn_id] = lookup
        shared = lookup.ask.scope == "user" or not lookup.ask.path
        if lookup.entry_id is None or not shared or lookup.ask.bypass or lookup.following is not None:
            return
        if not self._limits.shadow:
            lookup.following = self._under_way.get(lookup.entry_id)
        if lookup.following is None:
            lookup.leading = asyncio.get_running_loop().create_future()
            self._under_way[lookup.entry_id] = lookup.leading

    def ended(self, lookup: Lookup, entry: CacheEntry | None) -> None:
        """Tell those who wait what was stored."""
        if lookup.leading is None or lookup.entry_id is None:
            return
        if self._under_way.get(lookup.entry_id) is lookup.leading:
            del self._under_way[lookup.entry_id]
        if not lookup.leading.done():
            lookup.leading.set_result(entry)

    # What is known of hits and misses

    def to_audit(self, lookup: Lookup) -> bool:
        """Whether the model is to answer what was served, too: a share of what was served by meaning, drawn at random.

        What people say of answers is biased; what is drawn is not.
        """
        return (
            lookup.outcome == "hit"
            and lookup.nearest is not None
            and not lookup.taken
            and self._chance() < self._limits.audit_share
        )

    async def learn(self, lookup: Lookup, turn: Turn) -> None:
        """Compare the model's answer with the stored one that was not served. Never raises."""
        if lookup.outcome == "miss" and not lookup.taken and answers_the_question(turn):
            await self._compare(lookup, turn.assistant_message or "", "audit" if lookup.shadow else "miss")

    async def audited(self, lookup: Lookup, turn: Turn) -> CacheEntry | None:
        """Compare the model's answer with the stored one that was served. Never raises.

        Returns:
            Where they differ, the model's as stored: it is what serves the same question from then on.
        """
        if not answers_the_question(turn):  # a refusal says nothing of what was served
            return None
        await self._compare(lookup, turn.assistant_message or "", "audit", 1 / self._limits.audit_share)
        if lookup.label is None or lookup.label.same:
            return None
        kept = await self.offer(lookup, turn)
        await self._guarded("note", lambda: self._rows.renewed(lookup.ask.turn_id, kept is not None))
        return kept

    async def _compare(self, lookup: Lookup, answer: str, source: LabelSource, weight: float = 1.0) -> None:
        await self._guarded("compare", lambda: self._labels.compare(lookup, answer, source, weight))

    def similar_to(self, turn_id: str) -> Similar | None:
        """What a person may still judge of a turn under way."""
        lookup = self._asked.get(turn_id)
        return lookup.similar if lookup is not None and lookup.label is None else None

    async def person_says(self, turn: Turn, same: bool) -> bool:
        """Take a person's word on whether the stored answer serves a turn's question; whether there is one.

        Never raises. Where the turn is under way and the answer will do, `lookup.taken` says so to whoever answers it.
        """
        if (lookup := self._asked.get(turn.turn_id)) is not None:
            lookup.taken = same
            return await self._guarded("learn", lambda: self._labels.person_says(lookup, same))
        known: list[CacheLookup] = []

        async def learn() -> None:
            found = await self._rows.lookup(turn.turn_id)
            if found is not None and (found.outcome == "hit" or (found.score or 0.0) >= SIMILAR):
                known.append(found)
                await self._labels.person_said(found, same)

        return await self._guarded("learn", learn) and bool(known)

    async def recalibration(self) -> Recalibration:
        """What is known by now of the threshold."""
        return await self._labels.recalibration()

    async def statistics(self, since: datetime, user_id: str | None = None) -> CacheStatistics:
        """What was done from a time on, for a user or for all."""
        return await asyncio.to_thread(statistics, await self._rows.since(since, user_id), shipped())

    async def calibration(self) -> Calibrated:
        """The threshold in force, and what the labels that it rests on say of every other one."""
        log = await self._labels.log()
        curve, labels = await asyncio.to_thread(lambda: (curve_of_log(log, shipped()), labels_of_log(log)))
        recalibration = await self._labels.recalibration()
        return Calibrated(self._limits.max_error, recalibration.threshold, recalibration.n_labels, curve, labels)

    async def recalibrate(self) -> Calibrated:
        """Find the threshold anew, by what labels are stored now; it holds for the next lookups."""
        await self._labels.renew()
        return await self.calibration()

    # Keeping count, letting go

    async def note(self, lookup: Lookup) -> None:
        """Store what was looked up, and that an entry was served. Never raises."""

        async def write() -> None:
            label = lookup.label
            await self._rows.save_lookup(lookup.record(self._clock(), self._labels.verifier))
            lookup.noted = True
            if lookup.label is not None and lookup.label is not label:  # learnt meanwhile
                await self._rows.label(lookup.ask.turn_id, lookup.label.same, lookup.label.weight, lookup.label.source)
            if lookup.entry is not None:
                await self._rows.count_hit(lookup.entry)

        if lookup.ask.scope != "off":
            await self._guarded("note", write)
        self._asked.pop(lookup.ask.turn_id, None)  # from here on the stored one is judged

    async def looked_up(self, turn: Turn) -> tuple[CacheLookup | None, CacheEntry | None]:
        """What was noted of a turn's lookup, and the entry that served it while it is stored. Never raises."""
        known: list[CacheLookup] = []
        entries: dict[str, CacheEntry] = {}

        async def find() -> None:
            if (found := await self._rows.lookup(turn.turn_id)) is not None:
                known.append(found)
                if found.outcome == "hit" and found.entry_id is not None:
                    entries.update(await self._rows.entries([found.entry_id]))

        if turn.provenance.cache.outcome != "off":
            await self._guarded("read a lookup", find)
        return next(iter(known), None), next(iter(entries.values()), None)

    async def rated(self, turn: Turn, rating: int) -> None:
        """Learn from a thumb on an answer; a thumbs-down deletes the entry that it was served, or that is from it.

        Never raises.
        """
        if turn.source == "cache":
            await self.person_says(turn, rating > 0)

        if rating < 0:
            await self.evict(turn)


def _heard(done: asyncio.Future[Any]) -> None:
    """Whatever became of it, the next one who asks will see."""
    if not done.cancelled():
        done.exception()


def bucket_of(ask: Ask, embedder: str) -> str:
    """Where the answer to a question is stored: its conversation must be equal, too."""
    return _bucket(ask, embedder, history_key([message for turn in ask.path for message in _messages(turn)]))


def entry_id_of(ask: Ask, bucket: str) -> str:
    """Of the answer to a question in a bucket."""
    return digest(bucket, normalised(ask.question))


def _bucket(ask: Ask, embedder: str, history: str) -> str:
    """All that must be equal beside the words of the question."""
    return digest(
        CALIBRATION_VERSION,
        ask.scope,
        ask.user_id if ask.scope == "user" else None,
        ask.model,
        ask.system_prompt,
        [ask.params.temperature, ask.params.top_p, ask.params.top_k, ask.params.max_new_tokens],
        [ask.params.stop, ask.params.seed, ask.params.repetition_penalty],
        language_of(ask.question),
        embedder,
        history,
        [ask.history.strategy, ask.history.budget_tokens] if history and ask.history else None,
    )


def _similar(entry: CacheEntry, found: Judgement) -> Similar:
    return Similar(entry.question, entry.answer, round(found.similarity, 4), round(found.score, 4))


def _messages(turn: Turn) -> list[Message]:
    return [
        Message(role="user", content=turn.user_message),
        Message(role="assistant", content=turn.assistant_message or ""),
    ]


def _asked_before(path: Sequence[Turn]) -> list[str]:
    return [turn.user_message for turn in path[-BEFORE:]]
