"""Whether two answers say the same: what makes a label where no person does.

A logistic regression over the beginnings of both answers and what each of them has of the other's question. It never
compares the questions with each other, which the verifier does: its errors are to be others than the verifier's.
Trained by `tools/train_comparator.py`, which measures its errors, too; the card is in `data/README.md`.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.evidence import FEATURES, Question, evidence
from chatlab.cache.reading import normalised
from chatlab.cache.recalibration import Comparator

WEIGHTS = "comparator.npz"
OPENING_CHARS = 300  # of an answer: it was trained on answers of 64 tokens, and longer ones begin with what they are on

ANSWER_FEATURES = (
    *FEATURES,
    "same first words",
    "own question nearer than the other's",
    "own question nearer, most",
    "other's question, least",
    "one question's own words in its answer alone",
)

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Answered:
    """A question and the `opening` of its answer, both embedded."""

    question: Question
    answer: Question


@dataclass(frozen=True, slots=True)
class Weights:
    """The trained numbers.

    Attributes:
        mean: Of each feature, (n_features,).
        scale: Its standard deviation, (n_features,).
        coefficients: Of the scaled features, (n_features,).
        bias: Of the regression.
        cut: Log odds from which on answers say the same.
        errors: Of that: false "same", false "different", (2,).
    """

    mean: Floats
    scale: Floats
    coefficients: Floats
    bias: Floats
    cut: Floats
    errors: Floats

    def odds(self, features: Floats) -> Floats:
        """Log odds that answers say the same, (n,), of features (n, n_features)."""
        return ((features - self.mean) / self.scale) @ self.coefficients + self.bias


def opening(answer: str) -> str:
    """As much of an answer as is compared, for the embedder."""
    if len(answer) <= OPENING_CHARS:
        return answer
    return answer[:OPENING_CHARS].rpartition(" ")[0] or answer[:OPENING_CHARS]


def agree(a: Answered, b: Answered) -> bool:
    """Whether the answers say the same, as far as can be seen; the same whichever comes first."""
    if normalised(a.answer.text) == normalised(b.answer.text):
        return True
    trained = weights()
    return float(trained.odds(compared(a, b)[None])[0]) >= float(trained.cut)


def shipped() -> Comparator:
    """How often `agree` errs, measured on answers that it was not trained on, to questions that are near."""
    false_same, false_different = weights().errors
    return Comparator(float(false_same), float(false_different))


def compared(a: Answered, b: Answered) -> Floats:
    """The numbers, in the order of `ANSWER_FEATURES`, (n_features,)."""
    own = [_similarity(each.question, each.answer) for each in (a, b)]
    cross = [_similarity(a.question, b.answer), _similarity(b.question, a.answer)]
    more = [
        np.log1p(_first_words(a.answer, b.answer)),
        sum(own) - sum(cross),
        max(own[0] - cross[0], own[1] - cross[1]),
        min(cross),
        np.log1p(_told_apart(a, b) + _told_apart(b, a)),
    ]
    return np.concatenate([evidence(a.answer, b.answer), more]).astype(np.float64)


@cache
def weights() -> Weights:
    """Those of the package."""
    with resources.files("chatlab.cache").joinpath(WEIGHTS).open("rb") as file, np.load(file) as arrays:
        return Weights(**{name: arrays[name].astype(np.float64) for name in Weights.__dataclass_fields__})


def _similarity(a: Question, b: Question) -> float:
    return float(a.embedded.vector @ b.embedded.vector)


def _first_words(a: Question, b: Question) -> int:
    """With how many same words they begin."""
    same = [x == y for x, y in zip(a.reading.stems, b.reading.stems, strict=False)]
    return (*same, False).index(False)


def _told_apart(a: Answered, b: Answered) -> int:
    """Words that the answer of `a` takes from its question, and `b` has nowhere."""
    asked, said = ({word.stem for word in each.reading.content} for each in (a.question, a.answer))
    elsewhere = {*b.question.reading.stems, *b.answer.reading.stems}
    return len(asked & said - elsewhere)
