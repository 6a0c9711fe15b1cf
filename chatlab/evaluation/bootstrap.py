"""Intervals by the studentised bootstrap (Efron and Tibshirani 1993, chapter 12) over what was sampled, with a seed.

Each resample is measured in its own standard error, which follows skewed data and few clusters where percentiles of the
resamples fall short: their 95 % hold 87 to 92 % (`python -m chatlab bench coverage`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
CONFIDENCE = 0.95
LEAST_ERROR = 0.25  # of the sample's standard error, that a resample's counts for: of equal values it would be 0
_AT_ONCE = 1_000_000  # picks held in memory

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the interval that holds it at 95 % confidence."""

    value: float
    low: float
    high: float
    n: int

    def as_json(self) -> dict[str, Any]:
        """For a result file."""
        return {"value": self.value, "interval": [self.low, self.high], "n": self.n}


def mean(values: Sequence[float], seed: int, resamples: int = RESAMPLES) -> Estimate | None:
    """The mean; None of no values. For a paired difference give the differences."""
    return ratio(values, np.ones(len(values)), seed, resamples)


def share(answers: Sequence[float]) -> Estimate | None:
    """The share of ones among zeros and ones, each sampled by itself; None of no values. By Wilson's interval (1927).

    A bootstrap of few such values knows few outcomes, and of equal ones a single one.
    """
    n = len(answers)
    if n == 0:
        return None
    value, z = sum(answers) / n, NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    middle, half = value + z**2 / (2 * n), z * sqrt(value * (1 - value) / n + z**2 / (4 * n**2))
    low, high = ((middle + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    return Estimate(value, min(value, low), max(value, high), n)


def ratio(
    numerators: Sequence[float] | Floats,
    denominators: Sequence[float] | Floats,
    seed: int,
    resamples: int = RESAMPLES,
) -> Estimate | None:
    """The ratio of two sums over the same questions, which are resampled together.

    Args:
        numerators: One a question.
        denominators: One a question, in the same order.
        seed: The same seed resamples the same questions.
        resamples: How often.

    Returns:
        None when the denominators' sum is 0, or there are no values.
    """
    above, below = np.asarray(numerators, float), np.asarray(denominators, float)  # (n,)
    n = len(above)
    if n != len(below):
        raise ValueError(f"{n} numerators and {len(below)} denominators")
    if n == 0 or below.sum() == 0:
        return None
    value = float(above.sum() / below.sum())
    error = _error(above, below)
    if not error > 0:  # all alike, or only one
        return Estimate(value, value, value, n)
    generator = np.random.default_rng(seed)
    found: list[Floats] = []
    step = max(1, _AT_ONCE // n)
    for start in range(0, resamples, step):
        picks = generator.integers(0, n, (min(step, resamples - start), n))
        ours, theirs = above[picks], below[picks]  # (step, n)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios = ours.sum(axis=1) / theirs.sum(axis=1)
            found.append((ratios - value) / np.maximum(_errors(ours, theirs), LEAST_ERROR * error))
    away = np.concatenate(found)  # in standard errors
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(away[np.isfinite(away)], [tail, 100 - tail])
    return Estimate(value, value - float(high) * error, value - float(low) * error, n)


def _error(above: Floats, below: Floats) -> float:
    """Standard error of the ratio of sums, by the jackknife: what weighs much pulls the ratio towards itself."""
    n, share = len(above), below / below.sum()
    left = above - above.sum() / below.sum() * below
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.sqrt((n - 1) / n * np.nansum((left / (1 - share)) ** 2)) / abs(below.sum()))


def _errors(above: Floats, below: Floats) -> Floats:
    """Standard errors of ratios of sums, (m,), by their linearisation; of samples (m, n)."""
    n = above.shape[1]
    sums = below.sum(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        left = above - (above.sum(axis=1) / sums)[:, None] * below
        return np.sqrt((left**2).sum(axis=1) * n / max(1, n - 1)) / np.abs(sums)
