"""What the cache did, from its stored lookups: hits, errors with their interval, what was saved and what it cost.

Of answers served by meaning, a random share is audited: their error is estimated from these alone, less what the
comparison itself gets wrong, since what people rate is no sample. Knows neither questions nor answers.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from math import sqrt

import numpy as np

from chatlab.cache.recalibration import Comparator
from chatlab.messages import CacheLookup, CacheScope

Z = 1.96  # of a 95 % interval


@dataclass(frozen=True, slots=True)
class Share:
    """A share and its 95 % interval (Wilson 1927); None where there is nothing to estimate it from.

    Attributes:
        n: What it was estimated from; with weights, as many as would say as much.
    """

    value: float | None
    low: float
    high: float
    n: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the cache did for some lookups.

    Attributes:
        lookups: In which the cache was asked; bypasses are not.
        exact: Hits by the same words.
        semantic: Hits by meaning.
        shadow: What would have been a hit; in no other number but `precision` and `saved_*`.
        hit_rate: Of lookups, those served.
        precision: Of what is served by meaning, those that the audits find right.
        refused: Lookups whose nearest entry a guard refused, by the guard.
        saved_tokens: Not computed, prompts and answers.
        saved_seconds: By hits, less what all lookups took.
        lookup_ms_p50: Of a lookup; `lookup_ms_p95` the same.
        break_even: Hit rate from which on lookups take less than hits save; None before the first hit.
    """

    lookups: int
    exact: int
    semantic: int
    shadow: int
    hit_rate: Share
    precision: Share
    refused: Mapping[str, int]
    saved_tokens: int
    saved_seconds: float
    lookup_ms_p50: float
    lookup_ms_p95: float
    break_even: float | None


@dataclass(frozen=True, slots=True)
class Leaks:
    """What the scope `global` adds over `user`, and what it risks.

    Attributes:
        hits: In the scope `global`.
        from_others: Of these, served from what another user was answered: with `user` they would have been computed.
        share: The same as a share.
        personal_at_most: Of `from_others`, how many may hold personal data that the checks did not see: times the upper
            end of the checks' error (none of 200 seeded texts missed, so at most 1.5 %).
    """

    hits: int
    from_others: int
    share: Share
    personal_at_most: float


@dataclass(frozen=True, slots=True)
class Day:
    """A day's lookups, hits, and the share of wrong answers among those audited."""

    day: date
    lookups: int
    hits: int
    wrong: Share


@dataclass(frozen=True, slots=True)
class CacheStatistics:
    """The cache over a stretch of time; `by_scope` has the scopes that were used."""

    total: Traffic
    by_scope: Mapping[CacheScope, Traffic]
    days: Sequence[Day]
    leaks: Leaks


CHECK_ERROR = 3 / 200  # the rule of three: none of 200 seeded texts with personal data passes


def statistics(lookups: Sequence[CacheLookup], comparator: Comparator) -> CacheStatistics:
    """Sum up.

    Args:
        lookups: Any number, oldest first.
        comparator: Errors of the comparison that audits rest on.
    """
    by_scope: dict[CacheScope, list[CacheLookup]] = defaultdict(list)
    by_day: dict[date, list[CacheLookup]] = defaultdict(list)
    for each in lookups:
        by_scope[each.scope].append(each)
        by_day[each.created_at.date()].append(each)
    shared = [each for each in by_scope["global"] if each.outcome == "hit"] if "global" in by_scope else []
    others = sum(each.own is False for each in shared)
    return CacheStatistics(
        total=_traffic(lookups, comparator),
        by_scope={scope: _traffic(those, comparator) for scope, those in by_scope.items()},
        days=[
            Day(day, _n(those, _asked), _n(those, _served), _complement(_precision(those, comparator)))
            for day, those in sorted(by_day.items())
        ],
        leaks=Leaks(len(shared), others, share_of(others, len(shared)), CHECK_ERROR * others),
    )


def share_of(k: float, n: float) -> Share:
    """`k` of `n`, with Wilson's interval."""
    if n <= 0:
        return Share(None, 0.0, 1.0, 0.0)
    p = min(max(k / n, 0.0), 1.0)
    middle, spread = p + Z * Z / (2 * n), Z * sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return Share(p, max(0.0, (middle - spread) / (1 + Z * Z / n)), min(1.0, (middle + spread) / (1 + Z * Z / n)), n)


def _traffic(lookups: Sequence[CacheLookup], comparator: Comparator) -> Traffic:
    asked = [each for each in lookups if _asked(each)]
    saving = [each for each in asked if each.outcome in ("hit", "shadow")]
    ms = np.array([each.lookup_ms for each in asked]) if asked else np.zeros(1)
    n_hits = _n(asked, _served)
    spent = float(ms.sum()) if asked else 0.0
    saved = sum(each.saved_ms + each.lookup_ms for each in saving)  # `saved_ms` is net of the hit's own lookup
    return Traffic(
        lookups=len(asked),
        exact=_n(asked, lambda each: _served(each) and each.tier == "exact"),
        semantic=_n(asked, lambda each: _served(each) and each.tier == "semantic"),
        shadow=_n(asked, lambda each: each.outcome == "shadow"),
        hit_rate=share_of(n_hits, len(asked)),
        precision=_precision(asked, comparator),
        refused=Counter(each.guard for each in asked if each.guard is not None and each.outcome == "miss"),
        saved_tokens=sum(each.saved_tokens for each in saving),
        saved_seconds=round((saved - spent) / 1e3, 3),
        lookup_ms_p50=float(np.percentile(ms, 50)),
        lookup_ms_p95=float(np.percentile(ms, 95)),
        break_even=(spent / len(asked)) / (saved / len(saving)) if saving and saved else None,
    )


def _precision(lookups: Sequence[CacheLookup], comparator: Comparator) -> Share:
    """Of what is, or would be, served by meaning, those that are right."""
    audited = [
        each
        for each in lookups
        if each.tier == "semantic" and each.outcome in ("hit", "shadow") and each.label_source == "audit"
    ]
    if not audited:
        return Share(None, 0.0, 1.0, 0.0)
    weights = np.array([each.label_weight or 1.0 for each in audited])
    different = np.array([each.same is False for each in audited])
    said, n = float(weights[different].sum()), float(weights.sum())
    wrong = comparator.wrong(said, n) / n
    n_equal = float(n**2 / (weights**2).sum()) * comparator.worth(min(max(wrong, 0.01), 0.99))
    return share_of((1 - wrong) * n_equal, n_equal)


def _complement(share: Share) -> Share:
    return Share(None if share.value is None else 1 - share.value, 1 - share.high, 1 - share.low, share.n)


def _asked(lookup: CacheLookup) -> bool:
    return lookup.outcome != "bypass"


def _served(lookup: CacheLookup) -> bool:
    return lookup.outcome == "hit"


def _n(lookups: Sequence[CacheLookup], what: Callable[[CacheLookup], bool]) -> int:
    return sum(map(what, lookups))
