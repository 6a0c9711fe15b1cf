"""What speaks for and against one answer serving two questions, as numbers: the input of the verifier.

Token alignment is that of BERTScore (Zhang et al. 2020) on the embedder's own token vectors.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.guards import doubt
from chatlab.cache.reading import MAX_CHARS, STOP_WORDS, Reading, exclusions, read
from chatlab.embedding import TokenVectors

STOP_WEIGHT = 0.05  # of a token that says little, where one of the others is 1

Floats = NDArray[np.float32]

_ASKED = re.compile(r"\b(how (?:many|much|long|far|old|often|tall|big)|how|what|why|when|where|who|which)\b")

FEATURES = (
    "similarity",
    "similarity cubed",
    "aligned mean, least",
    "aligned mean, most",
    "worst token, least",
    "worst token, most",
    "worst two tokens, least",
    "worst two tokens, most",
    "unaligned, least",
    "unaligned, most",
    "worst slight token, least",
    "worst slight token, most",
    "content words in common",
    "words in common",
    "order in common",
    "words of one only, fewer",
    "words of one only, more",
    "same content words",
    "one contains the other",
    "content words contained",
    "one word for another",
    "one word more",
    "length",
    "lengths apart",
    "same interrogative",
    "other interrogative",
    "numbers differ",
    "negations differ",
    "names of one only, fewer",
    "names of one only, more",
    "opposites",
    "alternatives",
    "share of words of one only",
    "a guard's doubt",
    "similarity x words in common",
    "similarity x other words",
    "worst token x words in common",
    "unaligned, least x words in common",
    "unaligned, most x words in common",
)


@dataclass(frozen=True)
class Question:
    """A text with all that the decision looks at.

    Attributes:
        embedded: Its vectors.
    """

    text: str
    embedded: TokenVectors

    @cached_property
    def reading(self) -> Reading:
        """Its words."""
        return read(self.text[:MAX_CHARS])

    @cached_property
    def weights(self) -> Floats:
        """Of its tokens, (n,)."""
        slight = [piece in STOP_WORDS or not any(map(str.isalnum, piece)) for piece in self.embedded.pieces]
        return np.where(slight, STOP_WEIGHT, 1.0).astype(np.float32)


def evidence(a: Question, b: Question) -> Floats:
    """The numbers, in the order of `FEATURES`, (n_features,). The order in common depends a little on which is `a`."""
    similarity = float(a.embedded.vector @ b.embedded.vector)
    ours, theirs = a.reading, b.reading
    words_a, words_b = ({word.stem for word in each.content} for each in (ours, theirs))
    n_common = len(words_a & words_b)
    fewer, more = sorted((len(words_a - words_b), len(words_b - words_a)))
    n_a, n_b = len(ours.content), len(theirs.content)
    common = in_common(ours.stems, theirs.stems)
    aligned = _alignment(a, b)
    names = sorted((_names_only(ours, theirs), _names_only(theirs, ours)))
    asked_a, asked_b = _asked(a.text), _asked(b.text)
    excluded = exclusions()
    values = [
        similarity,
        similarity**3,
        *aligned.ravel(),
        n_common / max(1, len(words_a | words_b)),
        common,
        SequenceMatcher(None, ours.stems, theirs.stems, autojunk=False).ratio(),
        np.log1p(fewer),
        np.log1p(more),
        fewer + more == 0,
        fewer == 0,
        n_common / max(1, min(len(words_a), len(words_b))),
        (fewer, more) == (1, 1),
        (fewer, more) == (0, 1),
        np.log1p(len(ours.words) + len(theirs.words)),
        abs(n_a - n_b) / max(1, n_a + n_b),
        asked_a == asked_b,
        asked_a != asked_b and None not in (asked_a, asked_b),
        _numbers_apart(ours, theirs),
        (ours.n_negations - theirs.n_negations) % 2,
        min(names[0], 2),
        min(names[1], 3),
        _exclude(words_a - words_b, words_b - words_a, excluded.opposites),
        _exclude(words_a - words_b, words_b - words_a, excluded.alternatives),
        more / max(1, n_a, n_b),
        doubt(ours, theirs) is not None,
        similarity * common,
        similarity * (1 - common),
        aligned[1, 0] * common,
        aligned[3, 0] * common,
        aligned[3, 1] * common,
    ]
    return np.array(values, dtype=np.float32)


def _alignment(a: Question, b: Question) -> Floats:
    """How well the tokens of each find their like in the other, (5, 2): the lesser and the greater of both sides."""
    if not (len(a.embedded.tokens) and len(b.embedded.tokens)):
        return np.array([[1, 1], [1, 1], [1, 1], [0, 0], [1, 1]], dtype=np.float32)
    products = a.embedded.tokens @ b.embedded.tokens.T  # (n_a, n_b)
    sides = [_side(products.max(axis=1), a.weights), _side(products.max(axis=0), b.weights)]
    return np.sort(np.array(sides, dtype=np.float32).T, axis=1)


def _side(best: Floats, weights: Floats) -> list[float]:
    says = weights > STOP_WEIGHT
    slight = best[~says]
    if not says.any():
        says = np.ones_like(says)
    kept, weight = np.sort(best[says]), weights[says]
    mean = float((best[says] * weight).sum() / weight.sum())
    lacking = float(((1 - best[says]) * weight).sum())
    return [mean, float(kept[0]), float(kept[:2].mean()), lacking, float(slight.min()) if len(slight) else 1.0]


def in_common(a: Sequence[str], b: Sequence[str]) -> float:
    """Share of the words of both, in [0, 1]."""
    ours, theirs = Counter(a), Counter(b)
    return (ours & theirs).total() / max(1, (ours | theirs).total())


def _names_only(a: Reading, b: Reading) -> int:
    stems = set(b.stems)
    return sum(word.named and word.stem not in stems for word in a.words)


def _exclude(ours: set[str], theirs: set[str], excluded: Mapping[str, frozenset[str]]) -> bool:
    return any(not theirs.isdisjoint(excluded.get(word, ())) for word in ours)


def _numbers_apart(a: Reading, b: Reading) -> int:
    """On how many sides there are numbers which the other lacks: 0, 1 or 2."""
    ours, theirs = (Counter(value for value, _ in each.numbers) for each in (a, b))
    return bool(ours - theirs) + bool(theirs - ours)


def _asked(text: str) -> str | None:
    found = _ASKED.search(text.lower())
    return found and found.group(1)
