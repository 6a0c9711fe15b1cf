"""The REST routes of the answer cache: what it did for the caller, and where its threshold stands."""

from datetime import date, datetime
from typing import Annotated, Self

from fastapi import APIRouter, Query

from chatlab.api.identity import Caller
from chatlab.api.parameters import ID, problems
from chatlab.api.problems import problem_response, route_class
from chatlab.api.schemas import Answer
from chatlab.cache.answers import AnswerCache
from chatlab.cache.curve import Calibrated
from chatlab.cache.statistics import CacheStatistics
from chatlab.clock import last_days, utc_now
from chatlab.messages import CacheScope
from chatlab.settings import Settings
from chatlab.store import EntryPage

MAX_DAYS = 3_650
MAX_ENTRIES = 200
MAX_QUERY_CHARS = 1_000


class ShareBody(Answer):
    """A share with its 95 % interval; null where there is nothing to estimate it from."""

    value: float | None
    low: float
    high: float
    n: float


class TrafficBody(Answer):
    """What the cache did for some lookups."""

    lookups: int
    exact: int
    semantic: int
    shadow: int
    hit_rate: ShareBody
    precision: ShareBody
    refused: dict[str, int]
    saved_tokens: int
    saved_seconds: float
    lookup_ms_p50: float
    lookup_ms_p95: float
    break_even: float | None


class DayBody(Answer):
    """A day's lookups, hits, and the share of wrong answers among those audited."""

    day: date
    lookups: int
    hits: int
    wrong: ShareBody


class LeaksBody(Answer):
    """What the scope `global` adds over `user`, and what it risks."""

    hits: int
    from_others: int
    share: ShareBody
    personal_at_most: float


class StatisticsBody(Answer):
    """The cache over the last days, for the caller's lookups."""

    total: TrafficBody
    by_scope: dict[CacheScope, TrafficBody]
    days: list[DayBody]
    leaks: LeaksBody

    @classmethod
    def of(cls, known: CacheStatistics) -> Self:
        """From the package's value."""
        return cls.model_validate(known)


class EntryBody(Answer):
    """A stored answer of the caller's: it was given to them, and may be served again."""

    entry_id: str
    question: str
    answer: str
    chat_id: str
    turn_id: str
    saved_tokens: int
    cost_ms: float
    created_at: datetime
    expires_at: datetime
    hits: int


class EntryPageBody(Answer):
    """Some of the caller's entries, newest first; `n` is how many there are in all, or were found."""

    entries: list[EntryBody]
    next_cursor: str | None
    n: int

    @classmethod
    def of(cls, page: EntryPage) -> Self:
        """From the package's value."""
        return cls.model_validate(page)


class CalibrationBody(Answer):
    """Where the threshold stands; the lists are the curve of the labels of all users, without a word of theirs."""

    max_error: float
    threshold: float
    labels: int
    lookups: float
    worth: float
    thresholds: list[float]
    served: list[float]
    wrong: list[float]

    @classmethod
    def of(cls, known: Calibrated) -> Self:
        """From the package's value."""
        curve = known.curve
        return cls(
            max_error=known.max_error,
            threshold=known.threshold,
            labels=known.n_labels,
            lookups=curve.lookups,
            worth=curve.worth,
            thresholds=curve.thresholds.tolist(),
            served=curve.served.tolist(),
            wrong=curve.wrong.tolist(),
        )


def cache_router(answers: AnswerCache, settings: Settings) -> APIRouter:
    """The routes over the cache."""
    router = APIRouter(route_class=route_class(problem_response, settings.max_body_bytes), tags=["cache"])

    @router.get("/cache/statistics", responses=problems(422))
    async def get_statistics(user_id: Caller, days: Annotated[int, Query(ge=1, le=MAX_DAYS)] = 30) -> StatisticsBody:
        """What the cache did for the caller in the last days, today too."""
        begin, _ = last_days(utc_now(), days)
        return StatisticsBody.of(await answers.statistics(begin, user_id))

    @router.get("/cache/calibration", responses=problems(422))
    async def get_calibration(user_id: Caller) -> CalibrationBody:
        """The threshold in force, and what the labels say of every other one."""
        return CalibrationBody.of(await answers.calibration())

    @router.post("/cache/calibration", responses=problems(422))
    async def recalibrate(user_id: Caller) -> CalibrationBody:
        """Find the threshold anew, by what labels are stored now."""
        return CalibrationBody.of(await answers.recalibrate())

    @router.get("/cache/entries", responses=problems(422))
    async def get_entries(
        user_id: Caller,
        limit: Annotated[int, Query(ge=1, le=MAX_ENTRIES)] = 50,
        cursor: Annotated[str | None, Query(max_length=200)] = None,
        q: Annotated[str | None, Query(max_length=MAX_QUERY_CHARS)] = None,
    ) -> EntryPageBody:
        """The stored answers that are from the caller, newest first; `q` searches questions and answers."""
        return EntryPageBody.of(await answers.entries(user_id, limit, cursor, q))

    @router.delete("/cache/entries", status_code=204, responses=problems(422))
    async def delete_entries(user_id: Caller) -> None:
        """Evict every stored answer that is from the caller."""
        await answers.evict_all(user_id)

    @router.delete("/cache/entries/{entryID}", status_code=204, responses=problems(404, 422))
    async def delete_entry(user_id: Caller, entryID: ID) -> None:
        """Evict a stored answer that is from the caller: the same question is computed again."""
        await answers.evict_entry(user_id, entryID)

    return router
