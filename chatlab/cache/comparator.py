"""Whether two answers say the same: what makes a label where no person does.

A logistic regression over the beginnings of both answers: how alike they are, whether they differ in the direction in
which the questions do, and in whose answer the words of which question stand. How alike the questions are is no part of
it: that is the verifier's, whose errors these labels are to find. Of two answers with the same words but another number
or a negation none is needed. Trained by `tools/train_comparator.py`, which measures its errors, too; the card is in
`data/README.md`.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.evidence import Question
from chatlab.cache.guards import refusal
from chatlab.cache.reading import normalised
from chatlab.cache.recalibration import Comparator

WEIGHTS = "comparator.npz"
OPENING_CHARS = 300  # of an answer: it was trained on answers of 64 tokens, and longer ones begin with what they are on

TELLING = frozenset({"number", "unit", "currency", "date", "negation", "opposite"})  # guards; of few words apart

_WORDS = (
    "the question's own words in the other answer",
    "the question's own words in its answer",
    "the question's own words in its answer alone",
    "words of both questions in its answer",
)
ANSWER_FEATURES = (
    "similarity",
    "content words in common",
    "words in common",
    "same first words",
    "differ as the questions do",
    "both answers to both questions",
    *(f"{name}, {which}" for which in ("least", "most") for name in _WORDS),
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
        errors: Of what is decided so, the plain included: false "same", false "different", (2,).
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
    told = plain(a.answer, b.answer)
    if told is not None:
        return told
    trained = weights()
    return float(trained.odds(compared(a, b)[None])[0]) >= float(trained.cut)


def plain(a: Question, b: Question) -> bool | None:
    """Whether two answers say the same, where that is plain; else None."""
    if normalised(a.text) == normalised(b.text):
        return True
    return False if refusal(a.reading, b.reading) in TELLING else None


def shipped() -> Comparator:
    """How often `agree` errs, of answers left out of its training whose questions the verifier takes for the same.

    Of questions less alike it takes fewer answers wrongly for the same. Of another model's answers it errs otherwise.
    """
    false_same, false_different = weights().errors
    return Comparator(float(false_same), float(false_different))


def compared(a: Answered, b: Answered) -> Floats:
    """The numbers, in the order of `ANSWER_FEATURES`, (n_features,)."""
    questions = [each.question.embedded.vector for each in (a, b)]
    answers = [each.answer.embedded.vector for each in (a, b)]
    ours, theirs = ({word.stem for word in each.answer.reading.content} for each in (a, b))
    values = [
        float(answers[0] @ answers[1]),
        len(ours & theirs) / max(1, len(ours | theirs)),
        _in_common(a.answer.reading.stems, b.answer.reading.stems),
        np.log1p(_first_words(a.answer.reading.stems, b.answer.reading.stems)),
        _cosine(questions[0] - questions[1], answers[0] - answers[1]),
        _cosine(questions[0] + questions[1], answers[0] + answers[1]),
    ]
    words = np.log1p(np.sort([_words(a, b), _words(b, a)], axis=0)).ravel()
    return np.array([*values, *words], dtype=np.float64)


@cache
def weights() -> Weights:
    """Those of the package."""
    with resources.files("chatlab.cache").joinpath(WEIGHTS).open("rb") as file, np.load(file) as arrays:
        return Weights(**{name: arrays[name].astype(np.float64) for name in Weights.__dataclass_fields__})


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b) + 1e-9))


def _in_common(a: Sequence[str], b: Sequence[str]) -> float:
    """Share of the words of both."""
    ours, theirs = Counter(a), Counter(b)
    return (ours & theirs).total() / max(1, (ours | theirs).total())


def _first_words(a: Sequence[str], b: Sequence[str]) -> int:
    """With how many same words they begin."""
    same = [x == y for x, y in zip(a, b, strict=False)]
    return [*same, False].index(False)


def _words(a: Answered, b: Answered) -> list[int]:
    """How many words `_WORDS` says, of the question of `a`."""
    ours, theirs = ({word.stem for word in each.question.reading.content} for each in (a, b))
    said, elsewhere = {*a.answer.reading.stems}, {*b.answer.reading.stems}
    own = ours - theirs
    return [len(own & elsewhere), len(own & said), len(own & said - elsewhere), len(ours & theirs & said)]
