"""Intervals by the bootstrap (Efron 1979): percentiles over resamples of the questions, with a seed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2_000
CONFIDENCE = 0.95
_AT_ONCE = 2_000_000  # picks held in memory


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


def ratio(
    numerators: Sequence[float] | NDArray[np.float64],
    denominators: Sequence[float] | NDArray[np.float64],
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
    generator = np.random.default_rng(seed)
    found: list[NDArray[np.float64]] = []
    step = max(1, _AT_ONCE // n)
    for start in range(0, resamples, step):
        picks = generator.integers(0, n, (min(step, resamples - start), n))
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append(above[picks].sum(axis=1) / below[picks].sum(axis=1))
    ratios = np.concatenate(found)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(ratios[np.isfinite(ratios)], [tail, 100 - tail])
    return Estimate(float(above.sum() / below.sum()), float(low), float(high), n)
