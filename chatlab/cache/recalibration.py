"""The threshold on one's own traffic: labels correct the shipped calibration, and close what can no longer be shown.

Conformal risk control (Angelopoulos et al., 2022, arXiv 2208.02814), pooled over all entries: the least threshold at
which the share of wrong answers among those served, with one wrong answer added for what is unknown, stays under the
bound. Labels are of candidates: what was not served is compared with the model's new answer, of what was served a
random share is; each counts as many lookups as it stands for. The shipped calibration counts as `PRIOR` lookups, which
labels outweigh by and by. Where no threshold keeps the bound, the semantic tier is closed. Knows neither questions nor
answers.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.bound import CLOSED, MIN_SERVED, shipped
from chatlab.messages import LabelSource

MAX_WRONG_REQUESTS = 0.01  # of all requests that look an answer up
AUDIT_SHARE = 0.1  # of hits, that the model answers, too
WINDOW = 3_000  # labels that count, the latest
RECENT = 0.25  # of them: where these alone are above the bound, something changed
MIN_RECENT = 30.0  # lookups they stand for, without which they alone say nothing
MARGIN = 0.45  # of the bound, kept for what changes between the labels and the next lookups
FEW = 5.0  # labels, with which half the margin is kept; without any it is the shipped calibration that holds
PRIOR, PRIOR_REQUESTS = 400.0, 1_200.0  # lookups with a candidate, of so many requests, that the shipped one counts for

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
    def _kept(self) -> float:
        return 1 - self.false_same - self.false_different

    def wrong(self, said: Floats, served: Floats) -> Floats:
        """How many are wrong where it says so of `said` among `served`."""
        return np.clip((said - self.false_different * served) / self._kept, 0.0, None)

    def worth(self, share: float) -> float:
        """How much less a label of it says about a share of wrong ones than a true label, in (0, 1]."""
        said = self.false_different + self._kept * share
        return share * (1 - share) * self._kept**2 / (said * (1 - said))


class Recalibration:
    """The threshold, by what labels say.

    Args:
        max_error: Share of answers served from the cache that may be wrong, in (0, 1).
        comparator: Errors of the labels that are not a person's; None where they have none.
    """

    def __init__(self, max_error: float, comparator: Comparator | None = None) -> None:
        self.max_error = max_error
        self._comparator = comparator or Comparator()
        self._labels: deque[tuple[int, Label]] = deque(maxlen=WINDOW)  # with the number of requests until then
        self._n_requests = 0

    def asked(self) -> None:
        """One more request looked an answer up."""
        self._n_requests += 1

    def learn(self, *labels: Label) -> None:
        """Take labels in, oldest first."""
        self._labels.extend((self._n_requests, label) for label in labels)
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
            return prior.threshold(self.max_error)
        labels = [label for _, label in self._labels]
        said = self._counted(labels)
        sure = float(said.served[0] / (said.served[0] + FEW))
        share = 1 - MARGIN * sure  # of the bounds, that is used
        served = np.maximum(said.served + PRIOR * prior.served + sure, 1e-9)
        wrong = (said.wrong + PRIOR * prior.wrong + sure) / served
        n_requests = self._n_requests - self._labels[0][0] + 1 + PRIOR_REQUESTS
        kept = wrong <= share * self.max_error
        kept &= wrong * (said.lookups + PRIOR * prior.served) / n_requests <= share * MAX_WRONG_REQUESTS
        recent = self._counted(labels[len(labels) - int(RECENT * len(labels)) :])
        kept &= (recent.served < MIN_RECENT) | (recent.wrong <= self.max_error * recent.served)
        kept &= prior.same >= MIN_SERVED
        return float(prior.thresholds[kept][0]) if kept.any() else CLOSED

    def _counted(self, labels: Sequence[Label]) -> "_Counts":
        scores = np.array([label.score for label in labels])
        weights = np.array([label.weight for label in labels])
        different = np.array([not label.same for label in labels], dtype=bool)
        by_person = np.array([label.source == "person" for label in labels], dtype=bool)
        reached = (scores >= shipped().thresholds[:, None]) * weights  # (n_thresholds, n_labels)
        worth = self._comparator.worth(self.max_error)
        compared = reached[:, ~by_person].sum(axis=1)
        wrong = self._comparator.wrong(reached[:, different & ~by_person].sum(axis=1), compared)
        return _Counts(
            lookups=reached.sum(axis=1),
            served=worth * compared + reached[:, by_person].sum(axis=1),
            wrong=worth * wrong + reached[:, different & by_person].sum(axis=1),
        )


@dataclass(frozen=True, slots=True)
class _Counts:
    """What labels stand for at each threshold, (n_thresholds,).

    Attributes:
        lookups: That would be served.
        served: The same as true labels would count, of whom those of a comparator are worth less.
        wrong: Of `served`.
    """

    lookups: Floats
    served: Floats
    wrong: Floats
