"""Who decides in a stream whether a stored answer is served: chatlab's cache, and its peers.

Each sees the nearest stored questions and, later, labels: whether the answer to the one it looked at would have served.
Knows neither the stream nor how answers are stored.

vCache is written anew from its paper (Schroeder et al. 2025, arXiv 2502.03771): a logistic curve of the similarity for
each stored question, and exploring as often as its confidence asks for.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.bound import CLOSED, shipped
from chatlab.cache.decision import CANDIDATES, Judgement, best
from chatlab.cache.recalibration import AUDIT_SHARE, Comparator, Label, Recalibration

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stored question: the place of its text, and its cosine with what is asked."""

    text: int
    similarity: float


@dataclass(frozen=True, slots=True)
class Choice:
    """What a policy looked at (None without candidates), whether that is served, its score, the guard that refused."""

    candidate: Candidate | None
    served: bool = False
    score: float = 0.0
    guard: str | None = None


class Policy(Protocol):
    """Decides, and may learn.

    Attributes:
        keyed: Whether it tells conversations and languages apart, as chatlab does.
        exact: Whether the same words are served without asking it.
        n_candidates: Nearest stored questions that it looks at.
        audit_share: Of what it serves, the share that the model answers, too.
        keeps_all: Whether every new answer is stored, not only those that no stored one would have replaced.
    """

    keyed: bool
    exact: bool
    n_candidates: int
    audit_share: float
    keeps_all: bool

    def choose(self, text: int, candidates: Sequence[Candidate]) -> Choice:
        """What to do with a question, the place of its text given; called once for each that has no exact match."""
        ...

    def served_exactly(self) -> None:
        """One more question was served by the exact tier."""
        ...

    def learn(self, choice: Choice, same: bool, audited: bool) -> None:
        """A label of a choice that was not served, or was audited."""
        ...


@dataclass(slots=True)
class Chatlab:
    """The cache's decision with a threshold that follows labels, or the shipped one where it does not learn.

    Attributes:
        judge: Judgements of the texts of candidates.
        max_error: Share of what is served that may be wrong.
        comparator: The errors of the labels.
        learns: Whether labels move the threshold.
    """

    judge: Callable[[int, Sequence[Candidate]], list[Judgement]]
    max_error: float
    comparator: Comparator | None = None
    learns: bool = True
    keyed: bool = field(default=True, init=False)
    exact: bool = field(default=True, init=False)
    n_candidates: int = field(default=CANDIDATES, init=False)
    audit_share: float = field(default=AUDIT_SHARE, init=False)
    keeps_all: bool = field(default=True, init=False)
    recalibration: Recalibration = field(init=False)

    def __post_init__(self) -> None:
        self.recalibration = Recalibration(self.max_error, self.comparator)

    def choose(self, text: int, candidates: Sequence[Candidate]) -> Choice:
        """Guards, verifier, threshold."""
        self.recalibration.asked()
        threshold = self.recalibration.threshold if self.learns else shipped().threshold(self.max_error)
        found = best(self.judge(text, candidates))
        if found is None:
            return Choice(None)
        return Choice(candidates[found.place], found.score >= threshold, found.score, found.guard)

    def served_exactly(self) -> None:
        """It counts as right."""
        self.recalibration.asked(exact=True)

    def learn(self, choice: Choice, same: bool, audited: bool) -> None:
        """One more label; what a guard refused says nothing about scores."""
        if self.learns and choice.score > 0:
            weight, source = (1 / AUDIT_SHARE, "audit") if audited else (1.0, "miss")
            self.recalibration.learn(Label(choice.score, same, weight, source))


@dataclass(slots=True)
class Threshold:
    """The nearest stored question, where it is near enough.

    Attributes:
        least: Cosine from which on its answer is served.
        keyed: Whether it is helped by chatlab's keys.
        exact: And by its exact tier.
    """

    least: float
    keyed: bool = False
    exact: bool = False
    n_candidates: int = field(default=1, init=False)
    audit_share: float = field(default=0.0, init=False)
    keeps_all: bool = field(default=True, init=False)

    def choose(self, text: int, candidates: Sequence[Candidate]) -> Choice:
        """Serve it or not."""
        if not candidates:
            return Choice(None)
        nearest = candidates[0]
        return Choice(nearest, nearest.similarity >= self.least, nearest.similarity)

    def served_exactly(self) -> None:
        """Nothing."""

    def learn(self, choice: Choice, same: bool, audited: bool) -> None:
        """Nothing."""


FIRST = ((0.0, False), (1.0, True))  # what is believed of every stored question, as similarity and label
LEAST_OBSERVED = 6  # with these two, before anything is served
RIDGE = 1e-3  # of the curve, which has no best one where the labels can be told apart
SEPARATED = 0.2  # variance of the middle there, times the number of labels; about what the authors simulated
STEPS = 25  # of Newton's method
DOUBTS = np.linspace(1e-6, 1 - 1e-6, 50)  # that the middle of the curve is higher than assumed
_QUANTILES = np.array([NormalDist().inv_cdf(1 - doubt) for doubt in DOUBTS])


@dataclass(frozen=True, slots=True)
class Curve:
    """How likely an answer serves at a similarity: its middle, steepness, and the variance of the middle."""

    middle: float
    steepness: float
    variance: float

    @classmethod
    def fitted(cls, observed: Sequence[tuple[float, bool]]) -> "Curve":
        """To similarities and labels, at least one of each kind."""
        x = np.array([[1.0, similarity] for similarity, _ in observed])  # (n, 2)
        same = np.array([label for _, label in observed], dtype=float)
        weights = np.zeros(2)
        hessian = np.eye(2)
        for _ in range(STEPS):
            said = _logistic(x @ weights)
            hessian = x.T @ ((said * (1 - said))[:, None] * x) + RIDGE * np.eye(2)
            step = np.linalg.solve(hessian, x.T @ (same - said) - RIDGE * weights)
            weights = weights + step
            if float(np.abs(step).max()) < 1e-6:
                break
        intercept, steepness = float(weights[0]), max(float(weights[1]), 1e-6)
        if x[same == 1, 1].min() > x[same == 0, 1].max():
            variance = SEPARATED / len(observed)
        else:  # the delta method
            gradient = np.array([-1 / steepness, intercept / steepness**2])
            variance = float(gradient @ np.linalg.solve(hessian, gradient))
        return cls(min(1.0, max(0.0, -intercept / steepness)), steepness, variance)

    def exploring(self, similarity: float, max_error: float) -> float:
        """How often the model is to answer, so that errors keep the bound with the confidence there is."""
        middles = np.clip(self.middle + _QUANTILES * np.sqrt(self.variance), 0.0, 1.0)
        right = (1 - DOUBTS) * _logistic(self.steepness * (similarity - middles))
        return float((1 - max_error / (1 - right)).min())


@dataclass(slots=True)
class VCache:
    """vCache's policy; its bound is on the wrong answers among all requests, not among those served.

    Attributes:
        max_error: That bound.
        chance: Of exploring.
        keyed: Whether it is helped by chatlab's keys.
    """

    max_error: float
    chance: random.Random
    keyed: bool = False
    exact: bool = field(default=False, init=False)
    n_candidates: int = field(default=1, init=False)
    audit_share: float = field(default=0.0, init=False)
    keeps_all: bool = field(default=False, init=False)
    _observed: dict[int, list[tuple[float, bool]]] = field(default_factory=dict[int, list[tuple[float, bool]]])
    _curves: dict[int, Curve] = field(default_factory=dict[int, Curve])

    def choose(self, text: int, candidates: Sequence[Candidate]) -> Choice:
        """Explore, or serve the nearest."""
        if not candidates:
            return Choice(None)
        nearest = candidates[0]
        observed = self._observed.setdefault(nearest.text, [*FIRST])
        if len(observed) < LEAST_OBSERVED:
            return Choice(nearest)
        if nearest.text not in self._curves:
            self._curves[nearest.text] = Curve.fitted(observed)
        exploring = self._curves[nearest.text].exploring(nearest.similarity, self.max_error)
        return Choice(nearest, self.chance.random() > exploring, nearest.similarity)

    def served_exactly(self) -> None:
        """Nothing."""

    def learn(self, choice: Choice, same: bool, audited: bool) -> None:
        """One more point of the curve."""
        if choice.candidate is not None:
            self._observed[choice.candidate.text].append((round(choice.candidate.similarity, 3), same))
            self._curves.pop(choice.candidate.text, None)


def _logistic(odds: Floats) -> Floats:
    return 1 / (1 + np.exp(-np.clip(odds, -500, 500)))


def gptcache_threshold() -> float | None:
    """The cosine from which GPTCache serves with its defaults; None where it is not installed.

    Its evaluation takes the squared distance that its search gives, for vectors of unit norm 2 - 2 cos.
    """
    try:
        evaluation = import_module("gptcache.similarity_evaluation.distance").SearchDistanceEvaluation()
        share = float(import_module("gptcache.config").Config().similarity_threshold)
    except ImportError:
        return None
    low, high = evaluation.range()
    cosines = np.linspace(0, 1, 1_001)
    ranks = [evaluation.evaluation({}, {"search_result": (2 - 2 * cosine, None)}) for cosine in cosines]
    served = np.array(ranks) >= share * (high - low) - 1e-9
    return float(cosines[served][0]) if served.any() else CLOSED


def redisvl_threshold() -> float | None:
    """The cosine from which RedisVL's semantic cache serves by default; None where it is not installed."""
    try:
        cache = import_module("redisvl.extensions.cache.llm").SemanticCache
    except ImportError:
        return None
    from inspect import signature

    return 1 - float(signature(cache.__init__).parameters["distance_threshold"].default)
