"""A person's turns summed up by day and by what answered them: one query, over their own rows only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

from chatlab.store.answers import Read
from chatlab.store.rows import to_db_time

Property = Literal["source", "model", "strategy"]

_FROM_PROVENANCE = (
    "timing.ttft_ms", "timing.total_ms", "usage.prompt_tokens", "usage.completion_tokens", "usage.saved_tokens",
    "model", "prompt.strategy", "cache.outcome",
)  # fmt: skip
_PATHS = ", ".join(f"'$.{path}'" for path in _FROM_PROVENANCE)
# Every provenance is parsed once, for all that is read of it; a day is the person's, not UTC's.
SUM_UP = f"""
    WITH known AS (
        SELECT CAST(created_at + to_minutes($3) AS DATE) AS day, status, source, rating,
            json_extract_string(provenance, [{_PATHS}]) AS p
        FROM turns LEFT JOIN (SELECT turn_id, rating FROM feedback WHERE user_id = $1) rated
            ON rated.turn_id = turns.turn_id
        WHERE user_id = $1 AND created_at >= $2
            AND chat_id NOT IN (SELECT chat_id FROM chats WHERE discarded_at IS NOT NULL)
    ), flat AS (
        SELECT day, status, source, rating, CAST(p[1] AS DOUBLE) AS first_ms, CAST(p[2] AS DOUBLE) AS total_ms,
            CAST(p[3] AS BIGINT) AS tokens_in, CAST(p[4] AS BIGINT) AS tokens_out, CAST(p[5] AS BIGINT) AS saved,
            p[6] AS model, p[7] AS strategy, p[8] AS outcome
        FROM known
    )
    SELECT grouping(day), grouping(model), day, source, model, strategy, count(*),
        count(*) FILTER (status = 'failed'), count(*) FILTER (status = 'stopped'),
        count(*) FILTER (outcome IN ('hit', 'miss')), count(*) FILTER (outcome = 'hit'),
        quantile_cont(first_ms, [0.5, 0.95]), quantile_cont(total_ms, [0.5, 0.95]),
        coalesce(sum(tokens_in), 0), coalesce(sum(tokens_out), 0), coalesce(sum(saved), 0),
        count(*) FILTER (rating > 0), count(*) FILTER (rating < 0)
    FROM flat GROUP BY GROUPING SETS ((), (day), (source, model, strategy)) ORDER BY day
"""


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Of waiting times, in milliseconds."""

    p50: float
    p95: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Some answers, summed up.

    Attributes:
        answers: All of them; `failed` and `stopped` are among them.
        lookups: For which the answer cache was asked; `hits` are those that it served.
        first_ms: To the first token; None where no answer has a time.
        total_ms: To the end; likewise.
        tokens_in: Of prompts; `tokens_out` of answers; `tokens_saved` of both, by hits.
        up: Thumbs; `down` likewise.
    """

    answers: int
    failed: int
    stopped: int
    lookups: int
    hits: int
    first_ms: Percentiles | None
    total_ms: Percentiles | None
    tokens_in: int
    tokens_out: int
    tokens_saved: int
    up: int
    down: int


@dataclass(frozen=True, slots=True)
class Answered:
    """How many answers had the same source, model and history strategy; None where a turn has none."""

    source: str | None
    model: str | None
    strategy: str | None
    answers: int


@dataclass(frozen=True, slots=True)
class Insights:
    """A person's answers over a stretch of time; `days` has those with answers, oldest first."""

    total: Figures
    days: Mapping[date, Figures]
    answered: Sequence[Answered]

    def by(self, name: Property) -> Mapping[str, int]:
        """Answers by one property, most first; those without it are left out."""
        counted: dict[str, int] = {}
        for each in self.answered:
            if (value := getattr(each, name)) is not None:
                counted[value] = counted.get(value, 0) + each.answers
        return dict(sorted(counted.items(), key=lambda item: (-item[1], item[0])))


class InsightRows:
    """What a store tells of a person's turns.

    Args:
        read: Of the store.
    """

    def __init__(self, read: Read) -> None:
        self._read = read

    async def since(self, user_id: str, at: datetime, utc_offset_minutes: int = 0) -> Insights:
        """Sum up a person's turns from a time on; days are those of their time zone."""
        values = [user_id, to_db_time(at), utc_offset_minutes]
        rows = await self._read(lambda db: db.execute(SUM_UP, values).fetchall())
        days: dict[date, Figures] = {}
        answered: list[Answered] = []
        total = None
        for not_by_day, not_by_kind, day, source, model, strategy, *figures in rows:
            if not not_by_day:
                days[day] = _figures(figures)
            elif not not_by_kind:
                answered.append(Answered(source, model, strategy, figures[0]))
            else:
                total = _figures(figures)
        return Insights(total or _figures([0, 0, 0, 0, 0, None, None, 0, 0, 0, 0, 0]), days, answered)


def _figures(values: Sequence[Any]) -> Figures:
    answers, failed, stopped, lookups, hits, first, total, *rest = values
    return Figures(answers, failed, stopped, lookups, hits, _percentiles(first), _percentiles(total), *map(int, rest))


def _percentiles(values: Sequence[float] | None) -> Percentiles | None:
    return Percentiles(*values) if values else None
