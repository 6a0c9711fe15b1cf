"""Trains what compares two answers, `chatlab/cache/comparator.npz`, and measures how often it errs.

On `data/cache_answers.jsonl`; what is true is what the data says of the two questions. Needs scikit-learn, which the
embedder brings. Run it as `python -m tools.train_comparator`; `--anew` asks the bundled model anew before.
"""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from chatlab.cache.comparator import ANSWER_FEATURES, WEIGHTS, Answered, Weights, compared, opening
from chatlab.cache.decision import judge
from chatlab.cache.evidence import Question
from chatlab.cache.recalibration import Comparator
from chatlab.evaluation.readers.pairs import read_pairs
from tools import make_cache_answers
from tools.make_cache_answers import FILE, UNSEEN, near, read_answers
from tools.train_verifier import Pair, pairs, questions

ROOT = Path(__file__).parent.parent
PENALTY = 0.03  # C, of scaled features
FOLDS = 10
BOUND = 0.05  # share of wrong ones at which a label is to say most
SURE = 0.5  # score of the verifier from which on errors are measured on their own: they decide on the threshold

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class Compared:
    """Pairs of questions with the features of their answers, (n, n_features)."""

    pairs: Sequence[Pair]
    features: Floats
    scores: Floats
    near: Bools

    @cached_property
    def same(self) -> Bools:
        """Whether one answer serves both."""
        return np.array([pair.same for pair in self.pairs])


def compare(known: Sequence[Pair], answers: dict[str, str], read: dict[str, Question]) -> Compared:
    """Those of the pairs to which both answers are known."""
    found = [pair for pair in known if pair.a in answers and pair.b in answers]
    answered = {text: Answered(read[text], read[opening(answers[text])]) for text in answers}
    return Compared(
        pairs=found,
        features=np.array([compared(answered[pair.a], answered[pair.b]) for pair in found]),
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
    return max(map(float, np.quantile(odds, np.linspace(0.02, 0.98, 97))), key=lambda cut: worth(odds, same, cut))


def worth(odds: Floats, same: Bools, cut: float) -> float:
    """See `Comparator.worth`; 0 where more is wrong than right."""
    found = errors(odds, same, cut)
    return found.worth(BOUND) if found.false_same + found.false_different < 1 else 0.0


def main() -> None:
    """Train, measure and report."""
    if "--anew" in sys.argv[1:]:
        make_cache_answers.main()
    answers = read_answers(FILE)
    read = asyncio.run(questions(sorted({*answers, *map(opening, answers.values())})))
    known = compare([*pairs()], answers, read)
    unseen = compare([Pair(each.a, each.b, each.same, "", 0) for each in read_pairs(UNSEEN)], answers, read)

    odds = np.zeros(len(known.pairs))
    groups = [pair.group for pair in known.pairs]
    for train, test in GroupKFold(FOLDS).split(known.features, known.same, groups):
        odds[test] = fit(known.features[train], known.same[train]).odds(known.features[test])
    cut = best_cut(odds[known.near], known.same[known.near])
    measured = errors(odds[known.near], known.same[known.near], cut)
    trained = fit(known.features, known.same)

    print(f"{len(answers)} answers; cut {cut:+.2f}")
    _report("near, left out", odds, known, known.near, cut)
    _report("others, left out", odds, known, ~known.near, cut)
    _report(f"near, the verifier says {SURE}", odds, known, known.near & (known.scores >= SURE), cut)
    _report("never seen", trained.odds(unseen.features), unseen, unseen.near, cut)
    for name, value in sorted(zip(ANSWER_FEATURES, trained.coefficients, strict=True), key=lambda each: -abs(each[1])):
        print(f"{name:46} {value:+.2f}")
    arrays: dict[str, Any] = {name: np.float32(getattr(trained, name)) for name in Weights.__dataclass_fields__}
    arrays |= {
        "cut": np.float32(cut),
        "errors": np.array([measured.false_same, measured.false_different], dtype=np.float32),
    }
    np.savez(ROOT / "chatlab" / "cache" / WEIGHTS, **arrays)


def _report(name: str, odds: Floats, of: Compared, chosen: Bools, cut: float) -> None:
    odds, same = odds[chosen], of.same[chosen]
    found = errors(odds, same, cut)
    print(
        f"{name}: {same.sum()} same, {(~same).sum()} not; AUC {roc_auc_score(same, odds):.3f}, "
        f"false same {found.false_same:.3f}, false different {found.false_different:.3f}, "
        f"worth {worth(odds, same, cut):.3f}"
    )


if __name__ == "__main__":
    main()
