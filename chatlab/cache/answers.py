"""The answer cache of a process: looks questions up, stores answers, lets them go.

    look up   partition and exact key -> exact tier -> embedding -> context -> nearest entries -> decision
    offer     admission -> entry stored -> its vector -> room made

Knows turns, not how they are answered. Whatever fails is counted and makes a miss: the model answers. Belongs to one
event loop.
"""

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from chatlab.cache.admission import not_stored_because, time_to_live
from chatlab.cache.bound import shipped
from chatlab.cache.context import needs_context
from chatlab.cache.decision import CANDIDATES, best, judge
from chatlab.cache.evidence import Question
from chatlab.cache.key import CALIBRATION_VERSION, digest, history_key
from chatlab.cache.lookup import Ask, Lookup
from chatlab.cache.questions import Questions
from chatlab.cache.reading import MAX_CHARS, language_of, normalised
from chatlab.cache.verifier import calibrated_for
from chatlab.embedding import Embedder
from chatlab.errors import ModelUnavailable, VectorsUnavailable
from chatlab.messages import CacheEntry, Message, Turn
from chatlab.store import Store
from chatlab.telemetry import Metrics
from chatlab.vectors import Vectors

SECONDS = 5.0  # a turn waits no longer for the cache
LOADING_SECONDS = 2.0  # nor longer for its embedder to be loaded
KNOWN_QUESTIONS = 300  # whose vectors are kept in memory
KNOWN_USERS = 10_000  # whose stored answers are counted
BEFORE = 8  # earlier questions of a chat that are compared with a new one
ROOM_EVERY = 50  # answers stored, after which room is made
ROOM_SHARE = 0.02  # of the entries, that go when there are too many

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """What may be stored; see the settings of the same names."""

    max_error: float = 0.05
    max_entries: int = 100_000
    max_temperature: float = 1.0
    ttl: timedelta = timedelta(days=30)
    writes_an_hour: int = 1_000  # of one user


class AnswerCache:
    """Stored answers, of one process.

    Args:
        store: Of the entries.
        embedder: Of their questions.
        vectors: Of the questions, by bucket.
        metrics: Told of faults.
        clock: Later than everything stored.
        limits: What is promised, and what may be stored.
    """

    def __init__(
        self,
        store: Store,
        embedder: Embedder,
        vectors: Vectors,
        metrics: Metrics,
        clock: Callable[[], datetime],
        limits: CacheLimits,
    ) -> None:
        self._rows = store.answers
        self._embedder = embedder
        self._vectors = vectors
        self._metrics = metrics
        self._clock = clock
        self._limits = limits
        self._threshold = shipped().threshold(limits.max_error)
        self._semantic = calibrated_for(embedder.name)
        self._questions = Questions(embedder, KNOWN_QUESTIONS)
        self._under_way: dict[str, asyncio.Future[CacheEntry | None]] = {}  # by entry id
        self._written: dict[str, deque[datetime]] = {}  # by user, when answers were stored within the last hour
        self._n_stored = 0

    # Looking up

    async def look_up(self, ask: Ask) -> Lookup:
        """What is stored for a question. Never raises: whatever fails is a miss that says so."""
        if ask.scope == "off":
            return Lookup(ask, "bypass" if ask.bypass else "off")
        started = time.perf_counter()
        lookup = Lookup(ask, "bypass" if ask.bypass else "miss")

        async def find() -> None:
            async with asyncio.timeout(SECONDS):
                await self._find(lookup)

        if not await self._guarded("look up", find):
            lookup.outcome, lookup.entry, lookup.following = "bypass" if ask.bypass else "miss", None, None
            lookup.reason = "the cache does not answer"
        lookup.ms = round(1e3 * (time.perf_counter() - started), 3)
        return lookup

    async def _find(self, lookup: Lookup) -> None:
        ask = lookup.ask
        if (ask.params.temperature or 0.0) > self._limits.max_temperature:
            lookup.reason = "the temperature is above the limit of what is stored"
            return
        # 1. The exact tier: the same words after the same conversation. An answer is stored as this, too: what was
        # said before may have had its part in it.
        history = history_key([message for turn in ask.path for message in _messages(turn)])
        lookup.bucket = _bucket(ask, self._embedder.name, history)
        lookup.entry_id = digest(lookup.bucket, normalised(ask.question))
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
            if not needs_context(ask.question, lookup.question.embedded.vector, vectors):
                bucket = _bucket(ask, self._embedder.name, history="")
                await self._exact(lookup, digest(bucket, normalised(ask.question)))
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
        lookup.threshold = self._threshold
        similarities = await self._vectors.nearest(bucket, question.embedded.vector, CANDIDATES)
        nearest = sorted(similarities, key=lambda entry_id: -similarities[entry_id])[:CANDIDATES]
        entries = await self._rows.entries(nearest)
        candidates = [entries[each] for each in nearest if each in entries and self._current(entries[each], lookup.ask)]
        if not candidates:
            lookup.reason = "nothing stored is near"
            return
        questions = await self._questions.get([entry.question for entry in candidates])
        found = best(await asyncio.to_thread(judge, question, questions), self._threshold)
        if found is None:
            return
        lookup.nearest, lookup.matched = found, candidates[found.place]
        if found.score >= self._threshold:
            lookup.outcome, lookup.tier, lookup.entry = "hit", "semantic", lookup.matched
            lookup.reason = f"score {found.score:.2f} of at least {self._threshold:.2f}"
        elif found.guard is not None:
            lookup.reason = f"{found.guard} differs from the nearest"
        else:
            lookup.reason = f"score {found.score:.2f} is below {self._threshold:.2f}"

    # One answer for those who ask the same at once

    def lead(self, lookup: Lookup) -> None:
        """Let others that ask the same wait for this one's answer, until `ended`."""
        shared = lookup.ask.scope == "user" or not lookup.ask.path
        if lookup.entry_id is not None and shared and not lookup.ask.bypass and lookup.following is None:
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

    # Storing

    async def offer(self, lookup: Lookup, turn: Turn) -> CacheEntry | None:
        """Store a turn's answer if it may serve again. Never raises.

        Args:
            lookup: What was found for its question.
            turn: Ended.
        """
        stored: list[CacheEntry] = []

        async def store() -> None:
            entry = await self._admitted(lookup, turn)
            if entry is not None and await self._rows.save(entry):
                stored.append(entry)

        await self._guarded("store", store)
        return stored[0] if stored else None

    async def _admitted(self, lookup: Lookup, turn: Turn) -> CacheEntry | None:
        """The entry that a turn's answer becomes; None if it may not serve again."""
        ask, limits = lookup.ask, self._limits
        if lookup.entry_id is None or lookup.outcome not in ("miss", "bypass"):
            return None
        reason = await asyncio.to_thread(
            not_stored_because, turn, ask.scope, ask.params, limits.max_temperature, alone=not ask.path
        )
        if reason is not None or not self._may_write(ask.user_id):
            log.debug("an answer is not stored", turn_id=turn.turn_id, reason=reason or "too many within an hour")
            return None
        now = self._clock()
        usage = turn.provenance.usage
        return CacheEntry(
            entry_id=lookup.entry_id,
            bucket=lookup.bucket,
            question=ask.question,
            answer=turn.assistant_message or "",
            user_id=ask.user_id,
            chat_id=ask.chat_id,
            turn_id=turn.turn_id,
            saved_tokens=(usage.prompt_tokens or 0) + (usage.completion_tokens or 0),
            cost_ms=turn.provenance.timing.total_ms or 0.0,
            created_at=now,
            expires_at=now + time_to_live(ask.question, limits.ttl),
        )

    async def index(self, lookup: Lookup, entry: CacheEntry) -> None:
        """Make a stored answer findable by the meaning of its question, and room for the next ones. Never raises."""
        if not self._semantic:
            return

        async def add() -> None:
            question = lookup.question or (await self._questions.get([entry.question]))[0]
            if question.embedded.whole and not lookup.indexed:
                await self._vectors.add(entry.bucket, [entry.entry_id], question.embedded.vector[None])
                if not await self._rows.entries([entry.entry_id]):  # its chat went meanwhile
                    await self._vectors.delete([entry.entry_id])
            if not self._n_stored:
                await self._vectors.flush()
                await self._vectors.keep_only_keys(self._rows.ids)  # of deletions that were interrupted
            if self._n_stored % ROOM_EVERY == 0:
                await self._make_room()
            self._n_stored += 1

        await self._guarded("index", add)

    async def _make_room(self) -> None:
        """Delete what may not be served any more, and what is worth least where there is too much."""
        gone = await self._rows.expired(self._clock())
        n_over = await self._rows.count() - len(gone) - self._limits.max_entries
        if n_over > 0:
            n_gone = n_over + int(ROOM_SHARE * self._limits.max_entries)
            gone += await self._rows.least_worth(n_gone, self._clock())
        await self._rows.delete(gone)
        await self._vectors.delete(gone)

    def _may_write(self, user_id: str) -> bool:
        """Whether a user stored less than the limit within the last hour."""
        now = self._clock()
        if len(self._written) > KNOWN_USERS:
            hour_ago = now - timedelta(hours=1)
            self._written = {user: at for user, at in self._written.items() if at and at[-1] > hour_ago}
        written = self._written.setdefault(user_id, deque[datetime]())
        while written and not now - timedelta(hours=1) <= written[0] <= now:  # the clock may have gone back
            written.popleft()
        if len(written) >= self._limits.writes_an_hour:
            return False
        written.append(now)
        return True

    # Keeping count, letting go

    async def note(self, lookup: Lookup) -> None:
        """Store what was looked up, and that an entry was served. Never raises."""

        async def write() -> None:
            await self._rows.save_lookup(lookup.record(self._clock()))
            if lookup.entry is not None:
                await self._rows.count_hit(lookup.entry)

        if lookup.ask.scope != "off":
            await self._guarded("note", write)

    async def evict_answer_of(self, turn: Turn) -> None:
        """Delete the entry that a turn was served, or that is from it. Never raises."""

        async def evict() -> None:
            gone = [
                entry_id for entry_id in await self._rows.of_chat(turn.chat_id) if await self._is_from(entry_id, turn)
            ]
            found = await self._rows.lookup(turn.turn_id)
            if found is not None and found.outcome == "hit" and found.entry_id is not None:
                gone.append(found.entry_id)
            await self._rows.delete(gone)
            await self._vectors.delete(gone)

        await self._guarded("evict", evict)

    async def _is_from(self, entry_id: str, turn: Turn) -> bool:
        found = await self._rows.entries([entry_id])
        return entry_id in found and found[entry_id].turn_id == turn.turn_id

    async def forget(self, chat_id: str) -> None:
        """Delete the entries that are from a chat. Never raises: what is left is deleted after the next start."""

        async def delete() -> None:
            gone = await self._rows.of_chat(chat_id)
            await self._rows.delete(gone)
            await self._vectors.delete(gone)

        await self._guarded("forget", delete)

    async def _guarded(self, what: str, work: Callable[[], Awaitable[Any]]) -> bool:
        """Do something; whether it worked."""
        try:
            await work()
        except (VectorsUnavailable, ModelUnavailable, TimeoutError) as error:
            log.warning("the cache fails", operation=what, reason=str(error) or repr(error))
        except Exception:
            log.warning("the cache fails", operation=what, exc_info=True)
        else:
            return True
        self._metrics.fault("cache")
        return False


def _heard(done: asyncio.Future[Any]) -> None:
    """Whatever became of it, the next one who asks will see."""
    if not done.cancelled():
        done.exception()


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


def _messages(turn: Turn) -> list[Message]:
    return [
        Message(role="user", content=turn.user_message),
        Message(role="assistant", content=turn.assistant_message or ""),
    ]


def _asked_before(path: Sequence[Turn]) -> list[str]:
    return [turn.user_message for turn in path[-BEFORE:]]
