"""Whether a stored answer may be served: guards, then the verifier, then the threshold of the bound.

The story: candidates that are near -> those that a guard refuses go -> the verifier's probability for each of the rest
-> of those above the threshold the one whose words are closest.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from chatlab.cache.evidence import FEATURES, Question, evidence
from chatlab.cache.guards import refusal
from chatlab.cache.reading import normalised
from chatlab.cache.verifier import weights

UNSEEN = "what the embedder does not see"
UNKNOWN = "[UNK]"  # the piece of a word that it has no pieces for
CANDIDATES = 5  # nearest entries that are looked at
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


def judge(question: Question, candidates: Sequence[Question]) -> list[Judgement]:
    """Judge each candidate."""
    return [_judged(question, candidate, place) for place, candidate in enumerate(candidates)]


def best(judged: Sequence[Judgement], threshold: float) -> Judgement | None:
    """The one to serve if its score reaches the threshold, else the nearest to that; None without candidates."""
    served = [each for each in judged if each.score >= threshold]
    if served:
        return max(served, key=lambda each: each.closeness)
    return max(judged, key=lambda each: (each.score, each.closeness), default=None)


def _judged(question: Question, candidate: Question, place: int) -> Judgement:
    similarity = float(question.embedded.vector @ candidate.embedded.vector)
    if (guard := refusal(question.reading, candidate.reading)) is not None:
        return Judgement(place, similarity, 0.0, guard, similarity)
    if normalised(question.text) == normalised(candidate.text):
        return Judgement(place, similarity, 1.0, None, np.inf)
    if not _seen(question, candidate):
        return Judgement(place, similarity, 0.0, UNSEEN, similarity)
    found = evidence(question, candidate)
    score = float(weights().probabilities(found.astype(np.float64)[None])[0])
    return Judgement(place, similarity, score, None, float(found[_CLOSENESS].sum()))


def _seen(a: Question, b: Question) -> bool:
    """Whether the vectors are of all in which the texts may differ."""
    if not (a.embedded.whole and b.embedded.whole):
        return False
    if UNKNOWN not in a.embedded.pieces and UNKNOWN not in b.embedded.pieces:
        return True
    return a.reading.strange <= b.reading.strange or b.reading.strange <= a.reading.strange
