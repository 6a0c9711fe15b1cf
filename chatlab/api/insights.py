"""The REST route of a person's traffic by day."""

from datetime import date
from typing import Annotated, Self

from fastapi import APIRouter, Query

from chatlab.api.cache import MAX_DAYS
from chatlab.api.identity import Caller
from chatlab.api.parameters import problems
from chatlab.api.problems import problem_response, route_class
from chatlab.api.schemas import Answer
from chatlab.clock import last_days, utc_now
from chatlab.settings import Settings
from chatlab.store.insights import Figures, InsightRows, Insights

MAX_OFFSET_MINUTES = 15 * 60


class PercentilesBody(Answer):
    """Of waiting times, in milliseconds."""

    p50: float
    p95: float


class FiguresBody(Answer):
    """Some answers, summed up; times are null where none was measured."""

    answers: int
    failed: int
    stopped: int
    lookups: int
    hits: int
    first_ms: PercentilesBody | None
    total_ms: PercentilesBody | None
    tokens_in: int
    tokens_out: int
    tokens_saved: int
    up: int
    down: int


class DayFiguresBody(FiguresBody):
    """Those of a day."""

    day: date

    @classmethod
    def at(cls, day: date, figures: Figures) -> Self:
        """From the package's values."""
        return cls(day=day, **FiguresBody.model_validate(figures).model_dump())


class InsightsBody(Answer):
    """A person's answers over the last days; `days` has those with answers, oldest first."""

    total: FiguresBody
    days: list[DayFiguresBody]
    sources: dict[str, int]
    models: dict[str, int]
    strategies: dict[str, int]

    @classmethod
    def of(cls, known: Insights) -> Self:
        """From the package's value."""
        return cls(
            total=FiguresBody.model_validate(known.total),
            days=[DayFiguresBody.at(day, figures) for day, figures in known.days.items()],
            sources={**known.by("source")},
            models={**known.by("model")},
            strategies={**known.by("strategy")},
        )


def insights_router(rows: InsightRows, settings: Settings) -> APIRouter:
    """The route over a store's sums."""
    router = APIRouter(route_class=route_class(problem_response, settings.max_body_bytes), tags=["insights"])

    @router.get("/insights/statistics", responses=problems(422))
    async def get_insights(
        user_id: Caller,
        days: Annotated[int, Query(ge=1, le=MAX_DAYS)] = 30,
        utcOffsetMinutes: Annotated[int, Query(ge=-MAX_OFFSET_MINUTES, le=MAX_OFFSET_MINUTES)] = 0,
    ) -> InsightsBody:
        """The caller's answers by day, today the last one: traffic, waiting times, tokens, cache and feedback."""
        begin, _ = last_days(utc_now(), days, utcOffsetMinutes)
        return InsightsBody.of(await rows.since(user_id, begin, utcOffsetMinutes))

    return router
