"""Okapi BM25 over texts that come one after the other.

Robertson and Zaragoza 2009, The Probabilistic Relevance Framework: BM25 and Beyond. English words are stemmed (Porter
2), words of other languages taken as they are, runs of scripts without spaces as pairs of characters.
"""

import math
import re
import threading
import unicodedata
from array import array
from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

K1, B = 1.2, 0.75
MARKS = "".join(chr(code) for code in range(0x300, 0x2000) if unicodedata.category(chr(code)) in ("Mn", "Mc"))
WORD = re.compile(rf"[^\W_][^\W_{MARKS}]*+(?:[{MARKS}]++[^\W_]*+)*+")  # `\w` has no vowel signs
UNSPACED = re.compile(r"([\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]+)")  # Thai, Japanese, Chinese
STOP_WORDS = frozenset(
    WORD.findall(
        """
        a about again all also am an and any are as at be because been before being but by can could did do does
        doing done don down during each few for from further had has have having he her here hers him his how i if
        in into is it its just ll me might more most my no nor not now of off on once only or other our out over
        own re s same she should so some such t than that the their them then there these they this those through
        to too under until up ve very was we were what when where which while who whom why will with would you
        your
        """
    )
)


def terms(text: str) -> list[str]:
    """The words of a text that say something, as they are looked up."""
    found: list[str] = []
    for word in WORD.findall(text.lower()):
        for place, part in enumerate(UNSPACED.split(word)):
            if place % 2:
                found += (part[i : i + 2] for i in range(max(1, len(part) - 1)))
            elif part and part not in STOP_WORDS:
                found.append(_stem(part))
    return found


class LexicalIndex:
    """Texts by their terms. Grows at the end; not thread-safe."""

    def __init__(self) -> None:
        self._lengths = array("i")
        self._postings: dict[str, tuple[array[int], array[int]]] = {}  # texts that have a term, and how often

    def __len__(self) -> int:
        """How many texts there are."""
        return len(self._lengths)

    def add(self, text_terms: Sequence[str]) -> None:
        """Add the next text."""
        for term, count in Counter(text_terms).items():
            texts, counts = self._postings.setdefault(term, (array("i"), array("i")))
            texts.append(len(self._lengths))
            counts.append(count)
        self._lengths.append(len(text_terms))

    def scores(self, query_terms: Sequence[str]) -> NDArray[np.float64]:
        """How well each text matches, (n,); 0 for those that share no term."""
        n = len(self._lengths)
        scores = np.zeros(n)
        lengths = np.array(self._lengths, dtype=float)
        norm = K1 * (1 - B + B * lengths / max(lengths.mean() if n else 0.0, 1.0))  # (n,)
        for term in set(query_terms) & self._postings.keys():
            texts, counts = (np.array(each) for each in self._postings[term])
            idf = math.log(1 + (n - len(texts) + 0.5) / (len(texts) + 0.5))
            scores[texts] += idf * counts * (K1 + 1) / (counts + norm[texts])
        return scores


_stemming = threading.Lock()  # guards the stemmer: it keeps the word that it works on


@lru_cache(100_000)
def _stem(word: str) -> str:
    with _stemming:
        return _english().stemWord(word)


@lru_cache(1)
def _english() -> Any:
    from snowballstemmer import stemmer  # every language of it: not for a start

    return stemmer("english")
