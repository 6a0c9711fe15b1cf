"""The stored answers of a process: taken in, made findable, let go.

Knows what may serve again, not when it does. Whatever fails is counted, and the model answers. Belongs to one event
loop.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from chatlab.cache.admission import not_stored_because, time_to_live
from chatlab.cache.lookup import Lookup
from chatlab.cache.questions import CHUNK, Questions
from chatlab.cache.recalibration import AUDIT_SHARE
from chatlab.cache.verifier import calibrated_for
from chatlab.embedding import Embedder
from chatlab.errors import ModelUnavailable, NotFound, VectorsUnavailable
from chatlab.messages import CacheEntry, Turn
from chatlab.store import EntryPage, Store
from chatlab.telemetry import Metrics
from chatlab.vectors import Vectors

KNOWN_QUESTIONS = 400  # and openings of answers, whose vectors are kept in memory
KNOWN_USERS = 10_000  # whose stored answers are counted
ROOM_EVERY = 50  # answers stored, after which room is made
ROOM_SHARE = 0.02  # of the entries, that go when there are too many
STATELESS = timedelta(days=90)  # that lookups of no chat are kept

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """What may be served and stored; see the settings of the same names."""

    max_error: float = 0.05
    max_entries: int = 100_000
    max_temperature: float = 1.0
    ttl: timedelta = timedelta(days=30)
    writes_an_hour: int = 1_000  # of one user
    audit_share: float = AUDIT_SHARE
    similar: bool = True
    shadow: bool = False


class StoredAnswers:
    """Answers that may serve again.

    Args:
        store: Of the entries.
        embedder: Of their questions.
        vectors: Of the questions, by bucket.
        metrics: Told of faults.
        clock: Later than everything stored.
        limits: What may be served and stored.
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
        self._vectors = vectors
        self._metrics = metrics
        self._clock = clock
        self._limits = limits
        self._semantic = calibrated_for(embedder.name)
        self._questions = Questions(embedder, KNOWN_QUESTIONS)
        self._written: dict[str, deque[datetime]] = {}  # by user, when answers were stored within the last hour
        self._n_stored = 0
        self._began = clock()
        self._sound = False  # whether vectors of what was stored before were seen

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
        if lookup.entry_id is None or turn.source == "cache":
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
                await self._restore()
            if self._n_stored % ROOM_EVERY == 0:
                await self._make_room()
            self._n_stored += 1

        await self._guarded("index", add)

    async def _check(self) -> None:
        """Notice that the vectors of what earlier processes stored are gone.

        Raises:
            VectorsUnavailable: They are; they come back with the next answer that is stored.
        """
        if not self._sound:
            self._sound = bool(await self._vectors.all_keys()) or not await self._rows.ids_before(self._began)
            if not self._sound:
                raise VectorsUnavailable("the vectors of stored answers are gone")

    async def _restore(self) -> None:
        """Embed again the questions of entries without a vector: a process that was killed, a folder that is gone."""
        here = await self._vectors.all_keys()
        lost = [entry_id for entry_id in await self._rows.ids_before(self._began) if entry_id not in here]
        for i in range(0, len(lost), CHUNK):
            entries = [*(await self._rows.entries(lost[i : i + CHUNK])).values()]
            for entry, question in zip(
                entries, await self._questions.get([each.question for each in entries]), strict=True
            ):
                if question.embedded.whole:
                    await self._vectors.add(entry.bucket, [entry.entry_id], question.embedded.vector[None])
        self._sound = True

    async def _make_room(self) -> None:
        """Delete what may not be served any more, and what is worth least where there is too much."""
        gone = await self._rows.expired(self._clock())
        n_over = await self._rows.count() - len(gone) - self._limits.max_entries
        if n_over > 0:
            n_gone = n_over + int(ROOM_SHARE * self._limits.max_entries)
            gone += await self._rows.least_worth(n_gone, self._clock())
        await self._rows.forget_stateless(self._clock() - STATELESS)
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

    async def entries(self, user_id: str, limit: int, cursor: str | None = None, q: str | None = None) -> EntryPage:
        """The entries that are from a user, newest first, whoever they may serve.

        Raises:
            InvalidInput: The cursor is none of ours.
        """
        return await self._rows.of_user(user_id, limit, cursor, q)

    async def evict_entry(self, user_id: str, entry_id: str) -> None:
        """Delete an entry that is from a user.

        Raises:
            NotFound: There is no such entry of theirs.
        """
        found = (await self._rows.entries([entry_id])).get(entry_id)
        if found is None or found.user_id != user_id:
            raise NotFound("entry", entry_id)
        await self._let_go([entry_id])

    async def evict_all(self, user_id: str) -> int:
        """Delete every entry that is from a user; how many there were."""
        gone = await self._rows.ids_of_user(user_id)
        await self._let_go(gone)
        return len(gone)

    async def _let_go(self, entry_ids: Sequence[str]) -> None:
        """Delete entries; a vector that is left behind finds nothing, and goes with the next start."""
        await self._rows.delete(entry_ids)
        await self._guarded("evict", lambda: self._vectors.delete(entry_ids))

    async def evict(self, turn: Turn) -> None:
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
