"""Trains what compares two answers, `chatlab/cache/comparator.npz`, and measures how often it errs.

On `data/cache_answers.jsonl`; what is true is what the data says of the two questions. Needs scikit-learn, which the
embedder brings. Run it as `python -m tools.train_comparator`; `--anew` asks the bundled model anew before.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from chatlab.cache.comparator import ANSWER_FEATURES, WEIGHTS, Answered, Weights, compared, opening, plain
from chatlab.cache.decision import judge
from chatlab.cache.evidence import Question
from chatlab.cache.recalibration import Comparator
from chatlab.evaluation.readers.pairs import read_pairs
from tools.make_cache_answers import FILE, UNSEEN, ask_anew, near, read_answers
from tools.train_verifier import Pair, pairs, questions

ROOT = Path(__file__).parent.parent
PENALTY = 0.1  # C, of scaled features
FOLDS = 10
DRAWS = 1_000
BOUND = 0.05  # share of wrong ones at which a label is to say most
SURE = 0.5  # score of the verifier: of what is above the threshold is decided, and there the comparison errs more often
TOLD = {None: 0.0, True: np.inf, False: -np.inf}

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Compared:
    """Pairs of questions with their answers compared.

    Attributes:
        features: Of the answers, (n, n_features).
        told: Log odds where they are plain, infinite; else 0, (n,).
        scores: The verifier's of the questions, (n,).
        near: Whether the cache would compare them, (n,).
    """

    pairs: Sequence[Pair]
    features: Floats
    told: Floats
    scores: Floats
    near: Bools

    @cached_property
    def same(self) -> Bools:
        """Whether one answer serves both."""
        return np.array([pair.same for pair in self.pairs])

    def odds(self, trained: Weights) -> Floats:
        """That answers say the same, (n,)."""
        return trained.odds(self.features) + self.told


def compare(known: Sequence[Pair], answers: dict[str, str], read: dict[str, Question]) -> Compared:
    """Those of the pairs to which both answers are known."""
    found = [pair for pair in known if pair.a in answers and pair.b in answers]
    answered = {text: Answered(read[text], read[opening(answers[text])]) for text in answers}
    return Compared(
        pairs=found,
        features=np.array([compared(answered[pair.a], answered[pair.b]) for pair in found]),
        told=np.array([TOLD[plain(answered[pair.a].answer, answered[pair.b].answer)] for pair in found]),
        scores=np.array([judge(read[pair.a], [read[pair.b]])[0].score for pair in found]),
        near=np.array([near(read, pair.a, pair.b) for pair in found]),
    )


def fit(features: Floats, same: Bools) -> Weights:
    """The regression, both classes worth the same; its cut and errors are to be measured."""
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    model = LogisticRegression(C=PENALTY, max_iter=5_000, class_weight="balanced")
    model.fit((features - mean) / scale, same)
    return Weights(mean, scale, model.coef_[0], np.asarray(model.intercept_)[0], np.zeros(()), np.zeros(2))


def errors(odds: Floats, same: Bools, cut: float) -> Comparator:
    """How often a cut errs."""
    return Comparator(float(np.mean(odds[~same] >= cut)), float(np.mean(odds[same] < cut)))


def best_cut(odds: Floats, same: Bools) -> float:
    """The cut with which a label says most about a share of wrong ones at the bound."""
    return max(
        map(float, np.quantile(odds[np.isfinite(odds)], np.linspace(0.02, 0.98, 97))),
        key=lambda cut: worth(odds, same, cut),
    )


def worth(odds: Floats, same: Bools, cut: float) -> float:
    """See `Comparator.worth`; 0 where more is wrong than right."""
    found = errors(odds, same, cut)
    return found.worth(BOUND) if found.false_same + found.false_different < 1 else 0.0


def main() -> None:
    """Train, measure and report."""
    if "--anew" in sys.argv[1:]:
        ask_anew()
    answers = read_answers(FILE)
    read = asyncio.run(questions(sorted({*answers, *map(opening, answers.values())})))
    known = compare([*pairs()], answers, read)
    unseen = compare([Pair(each.a, each.b, each.same, "", 0) for each in read_pairs(UNSEEN)], answers, read)

    odds = np.zeros(len(known.pairs))
    groups = np.array([pair.group for pair in known.pairs])
    for train, test in GroupKFold(FOLDS).split(known.features, known.same, groups):
        odds[test] = fit(known.features[train], known.same[train]).odds(known.features[test]) + known.told[test]
    decisive = known.near & (known.scores >= SURE)
    cut = best_cut(odds[decisive], known.same[decisive])
    measured = errors(odds[decisive], known.same[decisive], cut)
    trained = fit(known.features, known.same)

    print(f"{len(answers)} answers; cut {cut:+.2f}")
    _report("near, left out", odds, known, known.near, cut)
    _report("others, left out", odds, known, ~known.near, cut)
    for low, high in pairwise((0.0, 0.3, SURE, 0.65, 1.01)):
        chosen = known.near & (known.scores >= low) & (known.scores < high)
        _report(f"near, the verifier says {low} to {high:.2f}", odds, known, chosen, cut)
    _report(f"near, the verifier says {SURE} and more", odds, known, decisive, cut)
    low, high = _intervals(odds[decisive], known.same[decisive], groups[decisive], cut)
    print(f"95 % of draws of groups: false same {low[0]:.2f}-{high[0]:.2f}, false different {low[1]:.2f}-{high[1]:.2f}")
    _report("never seen", unseen.odds(trained), unseen, unseen.near, cut)
    for name, value in sorted(zip(ANSWER_FEATURES, trained.coefficients, strict=True), key=lambda each: -abs(each[1])):
        print(f"{name:46} {value:+.2f}")
    arrays: dict[str, Any] = {name: np.float32(getattr(trained, name)) for name in Weights.__dataclass_fields__}
    arrays |= {
        "cut": np.float32(cut),
        "errors": np.array([measured.false_same, measured.false_different], dtype=np.float32),
    }
    np.savez(ROOT / "chatlab" / "cache" / WEIGHTS, **arrays)


def _intervals(odds: Floats, same: Bools, groups: NDArray[np.int64], cut: float, seed: int = 0) -> Floats:
    """The errors of groups drawn again and again, between which 95 % lie, (2, 2)."""
    rng = np.random.default_rng(seed)
    places = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    drawn: list[tuple[float, float]] = []
    for _ in range(DRAWS):
        chosen = np.concatenate([places[i] for i in rng.integers(len(places), size=len(places))])
        found = errors(odds[chosen], same[chosen], cut)
        drawn.append((found.false_same, found.false_different))
    return np.quantile(drawn, [0.025, 0.975], axis=0)


def _report(name: str, odds: Floats, of: Compared, chosen: Bools, cut: float) -> None:
    odds, same = odds[chosen], of.same[chosen]
    found = errors(odds, same, cut)
    print(
        f"{name}: {same.sum()} same, {(~same).sum()} not; AUC {roc_auc_score(same, np.clip(odds, -50, 50)):.3f}, "
        f"false same {found.false_same:.3f}, false different {found.false_different:.3f}, "
        f"worth {worth(odds, same, cut):.3f}"
    )


if __name__ == "__main__":
    main()
