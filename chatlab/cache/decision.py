"""Whether a stored answer may be served: guards, then the verifier, then the threshold of the bound.

The story: candidates that are near -> those that a guard refuses go -> the closest of the rest are embedded -> the
verifier's probability for each of these -> the one whose words are closest, if its probability reaches the threshold.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.evidence import FEATURES, Question, evidence, in_common
from chatlab.cache.guards import refusal
from chatlab.cache.reading import Reading, normalised
from chatlab.cache.verifier import weights

UNSEEN = "what the embedder does not see"
UNKNOWN = "[UNK]"  # the piece of a word that it has no pieces for
CANDIDATES = 5  # nearest entries that are looked at
CLOSEST = 2  # of them, that are embedded: which takes longer than all the rest
_SIMILARITY = FEATURES.index("similarity")
_CLOSENESS = [FEATURES.index(name) for name in ("similarity", "words in common", "aligned mean, least")]


@dataclass(frozen=True, slots=True)
class Judgement:
    """What was found of one candidate.

    Attributes:
        place: Of the candidate among those judged.
        similarity: Cosine of the embeddings, in [-1, 1].
        score: How likely one answer serves both, in [0, 1]; 0 where a guard refused.
        guard: The name of that guard.
        closeness: Of the words and the embeddings; tells candidates apart that may all be served.
    """

    place: int
    similarity: float
    score: float
    guard: str | None
    closeness: float


class Verifier(Protocol):
    """What may stand in for the shipped verifier, a cross-encoder for example."""

    @property
    def name(self) -> str:
        """Scores of another name are not comparable."""
        ...

    @property
    def calibrated(self) -> bool:
        """Whether the shipped threshold means something for its scores."""
        ...

    def scores(self, question: str, candidates: Sequence[str]) -> NDArray[np.float64]:
        """That one answer serves the question and each candidate, (n,), in [0, 1]. May block for long."""
        ...


def closest(question: Question, readings: Sequence[Reading], similarities: Sequence[float]) -> list[int]:
    """Places of the candidates that are worth embedding: the closest that no guard refuses, else the nearest.

    Args:
        question: What is asked.
        readings: Of the candidates.
        similarities: Of their embeddings to the question's, cosines.
    """
    ours = question.reading
    allowed = [place for place, theirs in enumerate(readings) if refusal(ours, theirs) is None]
    allowed.sort(key=lambda place: -similarities[place] - in_common(ours.stems, readings[place].stems))
    return allowed[:CLOSEST] or [int(np.argmax(similarities))]


def judge(question: Question, candidates: Sequence[Question], verifier: Verifier | None = None) -> list[Judgement]:
    """Judge each candidate; with another verifier than the shipped one this may block.

    Args:
        question: What is asked.
        candidates: What has been answered.
        verifier: Instead of the shipped one, behind the same guards.
    """
    judged = {place: _at_once(question, candidate, place) for place, candidate in enumerate(candidates)}
    left = [place for place, found in judged.items() if found is None]
    if left:
        found = np.array([evidence(question, candidates[place]) for place in left], dtype=np.float64)
        if verifier is None:
            scores = weights().probabilities(found)
        else:
            scores = verifier.scores(question.text, [candidates[place].text for place in left])
        for place, score, row in zip(left, scores, found, strict=True):
            judged[place] = Judgement(place, float(row[_SIMILARITY]), float(score), None, float(row[_CLOSENESS].sum()))
    return [each for each in judged.values() if each is not None]


def best(judged: Sequence[Judgement]) -> Judgement | None:
    """The one whose words are closest of those that no guard refused: to serve if its score reaches the threshold.

    One that is farther is not served in its place, whatever its score: where the closest asks something else, the
    others seldom ask the same. Without any the nearest refused one; None without candidates.
    """
    allowed = [each for each in judged if each.guard is None]
    return max(allowed or judged, key=lambda each: each.closeness, default=None)


def _at_once(question: Question, candidate: Question, place: int) -> Judgement | None:
    """What needs no verifier."""
    similarity = float(question.embedded.vector @ candidate.embedded.vector)
    if (guard := refusal(question.reading, candidate.reading)) is not None:
        return Judgement(place, similarity, 0.0, guard, similarity)
    if normalised(question.text) == normalised(candidate.text):
        return Judgement(place, similarity, 1.0, None, np.inf)
    if not _seen(question, candidate):
        return Judgement(place, similarity, 0.0, UNSEEN, similarity)
    return None


def _seen(a: Question, b: Question) -> bool:
    """Whether the vectors are of all in which the texts may differ."""
    if not (a.embedded.whole and b.embedded.whole):
        return False
    if UNKNOWN not in a.embedded.pieces and UNKNOWN not in b.embedded.pieces:
        return True
    return a.reading.strange <= b.reading.strange or b.reading.strange <= a.reading.strange
