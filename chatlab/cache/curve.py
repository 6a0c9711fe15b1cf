"""What labels say of each threshold: how much would be served, how much of it wrong, and where the bound is kept.

Split conformal risk control (Angelopoulos et al., 2022, arXiv 2208.02814) on labels alone, without a prior: for a file
of labelled pairs, or a log. Knows neither questions nor answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.bound import CLOSED
from chatlab.cache.recalibration import Comparator, Label
from chatlab.cache.statistics import share_of
from chatlab.messages import CacheLookup

GRID = np.linspace(0.02, 0.98, 97)  # thresholds looked at

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """Of lookups with a candidate, by threshold.

    Attributes:
        thresholds: Scores, rising, (n,).
        served: Lookups that would be served, (n,).
        wrong: Of these, those whose answer is another, (n,).
        lookups: All of them, those that a guard refused too.
        worth: How much a label counts beside a true one, in (0, 1].
    """

    thresholds: Floats
    served: Floats
    wrong: Floats
    lookups: float
    worth: float = 1.0

    def threshold(self, max_error: float) -> float:
        """The least from which on the share of wrong answers, one more added, stays under the bound; else `CLOSED`."""
        wrong, served = self.wrong * self.worth + 1, self.served * self.worth + 1
        return self._first(wrong <= max_error * served, max_error * served >= 1)

    def interval(self, max_error: float) -> tuple[float, float]:
        """Where the threshold may lie: from where 95 % intervals reach under the bound, to where all of them are."""
        n = (self.served * self.worth).tolist()
        shares = [share_of(k, m) for k, m in zip((self.wrong * self.worth).tolist(), n, strict=True)]
        low = np.array([share.low <= max_error for share in shares])
        high = np.array([share.high <= max_error for share in shares])
        enough = np.array([share_of(0, m).high <= max_error for m in n])
        return self._first(low, self.served > 0), self._first(high, enough)

    def _first(self, kept: NDArray[np.bool_], enough: NDArray[np.bool_]) -> float:
        """The threshold after the last that serves enough to tell, and is bad; `CLOSED` if none is left that does."""
        bad = np.flatnonzero(~kept & enough)
        first = int(bad[-1]) + 1 if len(bad) else 0
        return float(self.thresholds[first]) if first < len(kept) and enough[first] else CLOSED


@dataclass(frozen=True, slots=True)
class Calibrated:
    """Where the cache stands.

    Attributes:
        max_error: Share of served answers that may be wrong.
        threshold: Least score that is served; above 1 nothing is.
        n_labels: That the threshold rests on, beside the shipped calibration.
        curve: What the stored labels alone say.
        labels: These.
    """

    max_error: float
    threshold: float
    n_labels: int
    curve: Curve
    labels: Sequence[Label] = ()


def curve_of_log(lookups: Sequence[CacheLookup], comparator: Comparator) -> Curve:
    """The curve of the labels of stored lookups."""
    return curve_of(labels_of_log(lookups), sum(each.guard is not None for each in lookups), comparator)


def labels_of_log(lookups: Sequence[CacheLookup]) -> list[Label]:
    """What is known of candidates that were scored."""
    return [
        Label(each.score, each.same, each.label_weight or 1.0, each.label_source or "miss")
        for each in lookups
        if each.same is not None and each.score and each.tier != "exact"
    ]


def curve_of(labels: Sequence[Label], n_refused: float = 0.0, comparator: Comparator | None = None) -> Curve:
    """The curve of labels.

    Args:
        labels: Of candidates; those with a score of 0 were refused by a guard.
        n_refused: Further lookups that a guard refused.
        comparator: Errors of the labels that are not a person's; None where they have none.
    """
    scores = np.array([label.score for label in labels])
    weights = np.array([label.weight for label in labels])
    different = np.array([not label.same for label in labels], dtype=bool)
    certain = np.array([label.source == "person" for label in labels], dtype=bool)
    reached = (scores >= GRID[:, None]) * weights if len(labels) else np.zeros((len(GRID), 0))  # (n_thresholds, n)
    served = reached.sum(axis=1)
    if comparator is None:
        return Curve(GRID, served, reached[:, different].sum(axis=1), float(weights.sum()) + n_refused)
    compared = reached[:, ~certain].sum(axis=1)
    said = reached[:, different & ~certain].sum(axis=1)
    wrong = np.array([comparator.wrong(k, n) for k, n in zip(said.tolist(), compared.tolist(), strict=True)])
    wrong = wrong + reached[:, different & certain].sum(axis=1)
    return Curve(GRID, served, wrong, float(weights.sum()) + n_refused, comparator.worth(0.05))
