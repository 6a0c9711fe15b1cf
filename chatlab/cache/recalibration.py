"""The threshold on one's own traffic: labels correct the shipped calibration, and close what can no longer be shown.

Risk control pooled over all entries: the least threshold at which the share of wrong answers among those served, and
what is unknown of it, stays under the bound. After conformal risk control (Angelopoulos et al., 2022, arXiv
2208.02814), with a fitted curve in place of its counts, and so without its guarantee (docs/log.md). Labels are of
candidates: what was not served is compared with the model's new answer, of what was served a random share is. How
likely an answer is wrong depends on its score alone, whether it was served or not, so that the many labels of what was
not served tell of what is: a logistic curve through the shipped calibration, which counts as `PRIOR` lookups, and all
labels. How many lookups have a score is counted by what each label stands for. What the exact tier serves is right.
Where no threshold keeps the bound, the semantic tier is closed. Knows neither questions nor answers.
"""

from collections import deque
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.bound import CLOSED, MIN_SERVED, shipped
from chatlab.messages import LabelSource

MAX_WRONG_REQUESTS = 0.01  # of all requests that look an answer up
AUDIT_SHARE = 0.1  # of hits, that the model answers, too
WINDOW = 3_000  # labels that count, the latest
RECENT = 0.25  # of them: where these have more wrong ones than all, something changed
MIN_RECENT = 30  # of these, without which they say nothing
CHANCE = 2.0  # standard deviations that may be chance
MARGIN = 0.20  # of the bound, kept for what changes between the labels and the next lookups
FEW = 5  # labels, with which half the margin is kept; without any it is the shipped calibration that holds
DOUBT = 1.0  # standard deviations of the curve that are added to it, all of them once there are `SURE` labels
SURE = 30
SEMANTIC = 2.0  # times the bound: of what the semantic tier serves alone, where the exact one serves much
PRIOR, PRIOR_REQUESTS = 150.0, 450.0  # lookups with a candidate, of so many requests, that the shipped one counts for
ANEW = 0.01  # more labels, after which the threshold is found anew
STEPS = 12  # of Fisher scoring, at most

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Label:
    """Whether the answer to a candidate serves the question as well.

    Attributes:
        score: Of the candidate, in (0, 1].
        same: Whether it does.
        weight: Lookups that the label stands for: one over the chance that it was made.
        source: Who says so: the comparison of a new answer after a miss, that of an audited hit, or a person.
    """

    score: float
    same: bool
    weight: float = 1.0
    source: LabelSource = "miss"


@dataclass(frozen=True, slots=True)
class Comparator:
    """How often the comparison of two answers errs.

    Attributes:
        false_same: Of answers to different questions, those it takes for the same.
        false_different: Of answers to the same question, those it takes for different.
    """

    false_same: float = 0.0
    false_different: float = 0.0

    @property
    def kept(self) -> float:
        """How much of what sets answers apart is left."""
        return 1 - self.false_same - self.false_different

    def worth(self, share: float) -> float:
        """How much less a label of it says about a share of wrong ones than a true label, in (0, 1]."""
        said = self.false_different + self.kept * share
        return share * (1 - share) * self.kept**2 / (said * (1 - said))

    def wrong(self, said: float, n: float) -> float:
        """How many of n are wrong where it says so of `said`."""
        return min(n, max(0.0, (said - self.false_different * n) / self.kept))

    def said(self, wrong: Floats) -> Floats:
        """How likely it says so of what is wrong with this probability."""
        return self.false_different + self.kept * wrong


class Recalibration:
    """The threshold, by what labels say.

    Args:
        max_error: Share of answers served from the cache that may be wrong, in (0, 1).
        comparator: Errors of the labels that are not a person's; None where they have none.
        calibrated: Whether the shipped calibration is of these scores; else nothing is served until labels allow it.
    """

    def __init__(self, max_error: float, comparator: Comparator | None = None, calibrated: bool = True) -> None:
        self.max_error = max_error
        self._prior = PRIOR if calibrated else 0.0
        self._comparator = comparator or Comparator()
        self._labels: deque[_Counted] = deque()
        self._recent: deque[_Counted] = deque()
        self._all_of_them, self._recent_ones = _Tally(), _Tally()
        self._n_requests = 0
        self._n_exact = 0
        self._n_new = 0  # labels that the threshold does not know
        self._curve: _Curve | None = None  # the last one, from which the next is found sooner

    def asked(self, exact: bool = False) -> None:
        """One more request looked an answer up; whether the exact tier served it, which counts as right."""
        self._n_requests += 1
        self._n_exact += exact

    def learn(self, *labels: Label) -> None:
        """Take labels in, oldest first."""
        for label in labels:
            counted = _Counted(label, self._n_requests, self._n_exact)
            self._labels.append(counted)
            self._recent.append(counted)
            self._all_of_them.add(label)
            self._recent_ones.add(label)
            if len(self._labels) > WINDOW:
                self._all_of_them.take_out(self._labels.popleft().label)
            while len(self._recent) > int(RECENT * len(self._labels)):
                self._recent_ones.take_out(self._recent.popleft().label)
            self._n_new += 1
        if self._n_new > ANEW * len(self._labels) or any(label.source == "person" for label in labels):
            self._n_new = 0
            self.__dict__.pop("threshold", None)

    @property
    def n_labels(self) -> int:
        """Those that count."""
        return len(self._labels)

    @cached_property
    def threshold(self) -> float:
        """Least score that may be served; `CLOSED` where the bound cannot be shown for any."""
        prior = shipped()
        if not self._labels:
            return prior.threshold(self.max_error) if self._prior else CLOSED
        assumed = self._prior * _bins(prior.served)
        said, recent = self._all_of_them, self._recent_ones
        # 1. How likely an answer is wrong at a score: the shipped curve and all labels.
        doubt = DOUBT * min(1.0, self.n_labels / SURE) if self._prior else DOUBT
        self._curve = _Curve.fitted(
            assumed, self._prior * _bins(prior.wrong), said, self._comparator, doubt, self._curve
        )
        # 2. Of what would be served from each score on, how much of it is wrong at most.
        wrong_at = np.minimum(1.0, self._curve.at_most * recent.excess(self._curve, self._comparator))
        lookups = said.lookups + assumed
        served, wrong = _from_each_on(lookups), _from_each_on(lookups * wrong_at)
        # 3. The least score that keeps all bounds.
        share = 1 - MARGIN * self.n_labels / (self.n_labels + FEW)  # of them, that is used
        first = self._labels[0]
        n_requests, n_exact = self._n_requests - first.n_requests + PRIOR_REQUESTS, self._n_exact - first.n_exact
        kept = wrong <= share * self.max_error * (served + n_exact)
        kept &= wrong <= SEMANTIC * self.max_error * served
        kept &= wrong <= share * MAX_WRONG_REQUESTS * n_requests
        kept &= prior.same >= MIN_SERVED
        return float(prior.thresholds[kept][0]) if kept.any() else CLOSED


@dataclass(frozen=True, slots=True)
class _Counted:
    """A label, with the requests until then, and those that the exact tier served."""

    label: Label
    n_requests: int
    n_exact: int


class _Tally:
    """Labels by score, from each threshold to the next.

    Attributes:
        lookups: That they stand for, (n_thresholds,).
        numbers: Of them, (2, n_thresholds): of comparisons and of persons.
        different: Of these, (2, n_thresholds).
    """

    def __init__(self) -> None:
        n = len(shipped().thresholds)
        self.lookups = np.zeros(n)
        self.numbers, self.different = np.zeros((2, n)), np.zeros((2, n))

    def add(self, label: Label) -> None:
        self._change(label, 1)

    def take_out(self, label: Label) -> None:
        self._change(label, -1)

    def _change(self, label: Label, sign: int) -> None:
        place = int(np.searchsorted(shipped().thresholds, label.score, side="right")) - 1
        if place < 0:
            return  # never served
        row = int(label.source == "person")
        self.lookups[place] += sign * label.weight
        self.numbers[row, place] += sign
        self.different[row, place] += sign * (not label.same)

    def excess(self, curve: "_Curve", comparator: Comparator) -> float:
        """How many times more different ones there are than a curve says, beyond chance; 1 if there are no more."""
        if self.numbers.sum() < MIN_RECENT:
            return 1.0
        said = np.stack([comparator.said(curve.mean), curve.mean])
        expected = float((self.numbers * said).sum())
        spread = float(np.sqrt((self.numbers * said * (1 - said)).sum()))
        return max(1.0, (float(self.different.sum()) - CHANCE * spread) / max(expected, 1e-9))


@dataclass(frozen=True, slots=True)
class _Curve:
    """How likely a candidate's answer is wrong, by its score, (n_thresholds,): on average, and at most; its weights."""

    weights: Floats
    mean: Floats
    at_most: Floats

    @classmethod
    def fitted(
        cls,
        assumed: Floats,
        assumed_wrong: Floats,
        said: _Tally,
        comparator: Comparator,
        doubt: float,
        last: "_Curve | None",
    ) -> "_Curve":
        """A logistic regression on the log odds of the score, by Fisher scoring; errors of comparisons are its link's.

        Args:
            assumed: Lookups of the shipped calibration, (n_thresholds,).
            assumed_wrong: Of these.
            said: Labels.
            comparator: Of comparisons.
            doubt: Standard deviations from the mean to the most.
            last: Where to begin.
        """
        score = np.minimum(shipped().thresholds + 0.005, 0.99)
        x = np.stack([np.ones_like(score), np.log(1 / score - 1)], axis=1)  # (n_thresholds, 2)
        sure, sure_wrong = assumed + said.numbers[1], assumed_wrong + said.different[1]
        compared, compared_wrong = said.numbers[0], said.different[0]
        weights = np.array([0.0, 1.0]) if last is None else last.weights
        information = np.eye(2)
        for _ in range(STEPS):
            p = _logistic(x @ weights)
            q, slope = comparator.said(p), comparator.kept * p * (1 - p)
            gradient = x.T @ (sure_wrong - sure * p + slope * (compared_wrong - compared * q) / (q * (1 - q)))
            fisher = sure * p * (1 - p) + compared * slope**2 / (q * (1 - q))
            information = x.T @ (fisher[:, None] * x) + 1e-6 * np.eye(2)
            step = np.clip(np.linalg.solve(information, gradient), -1.0, 1.0)
            weights = weights + step
            if float(np.abs(step).max()) < 1e-3:
                break
        spread = np.sqrt(np.einsum("ij,jk,ik->i", x, np.linalg.inv(information), x))
        odds = x @ weights
        return cls(weights, _logistic(odds), _logistic(odds + doubt * spread))


def _logistic(odds: Floats) -> Floats:
    return np.clip(1 / (1 + np.exp(-np.clip(odds, -30, 30))), 1e-9, 1 - 1e-9)


def _from_each_on(values: Floats) -> Floats:
    """Sums from each threshold on."""
    return values[::-1].cumsum()[::-1]


def _bins(from_each_on: Floats) -> Floats:
    """The other way round: shares from each threshold to the next."""
    return from_each_on - np.append(from_each_on[1:], 0.0)
