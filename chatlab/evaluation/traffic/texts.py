"""All questions of an export, each text once: their vectors, who is near whom, and what the decision sees of them.

Vectors are kept in the state as they come. The vectors of tokens, which are many, are kept in memory as long as there
is room, and computed again where they are wanted later.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.evidence import Question
from chatlab.cache.questions import CHUNK
from chatlab.cache.reading import MAX_CHARS
from chatlab.embedding import Embedder, TokenVectors
from chatlab.evaluation.traffic.state import State

NEIGHBOURS = 64  # nearest texts of all that are known of each
TOKEN_BYTES = 600_000_000  # of vectors of tokens that are kept
_AT_ONCE = 512  # texts compared with all others

Vectors = NDArray[np.float32]


class Texts:
    """The texts of questions.

    Args:
        texts: Each once.
        embedder: The cache's.
        state: Where vectors are kept.
    """

    def __init__(self, texts: Sequence[str], embedder: Embedder, state: State) -> None:
        self.texts = texts
        self.place_of = {text: i for i, text in enumerate(texts)}
        self.vectors: Vectors = np.zeros((len(texts), 0), dtype=np.float32)  # (n, dim), unit norm
        self.whole: NDArray[np.bool_] = np.zeros(len(texts), dtype=bool)
        self.neighbours: NDArray[np.int32] = np.zeros((0, 0), dtype=np.int32)  # (n, k), the nearest first
        self._embedder = embedder
        self._state = state
        self._bare: dict[int, Question] = {}
        self._known: OrderedDict[int, Question] = OrderedDict()
        self._bytes = 0

    async def embed(self, progress: Callable[[int, int], None]) -> None:
        """Compute all vectors, or take them from the state.

        Raises:
            ModelUnavailable: The embedder cannot be loaded.
        """
        order = sorted(range(len(self.texts)), key=lambda i: len(self.texts[i]))  # those of a length together
        for number, begin in enumerate(range(0, len(order), CHUNK)):
            places = order[begin : begin + CHUNK]
            name = f"vectors-{number:05d}"
            if (found := self._state.arrays(name)) is None:
                embedded = await self._embedded(places)
                found = {
                    "vectors": np.stack([each.vector for each in embedded]),
                    "whole": np.array([each.whole for each in embedded]),
                }
                self._state.save_arrays(name, **found)
                for place, each in zip(places, embedded, strict=True):
                    self._keep(place, each)
            if not self.vectors.shape[1]:
                self.vectors = np.zeros((len(self.texts), found["vectors"].shape[1]), dtype=np.float32)
            self.vectors[places] = found["vectors"]
            self.whole[places] = found["whole"]
            progress(begin + len(places), len(order))

    def find_neighbours(self) -> None:
        """The nearest of all others of each."""
        k = min(NEIGHBOURS, len(self.texts))
        rows = [self._nearest(begin, k) for begin in range(0, len(self.texts), _AT_ONCE)]
        self.neighbours = np.concatenate(rows) if rows else np.zeros((0, 0), dtype=np.int32)

    def _nearest(self, begin: int, k: int) -> NDArray[np.int32]:
        similarities = self.vectors[begin : begin + _AT_ONCE] @ self.vectors.T  # (_AT_ONCE, n)
        near = np.argpartition(-similarities, k - 1, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(similarities, near, axis=1), axis=1, kind="stable")
        return np.take_along_axis(near, order, axis=1).astype(np.int32)

    def similarity(self, a: int, b: int) -> float:
        """Cosine of two texts."""
        return float(self.vectors[a] @ self.vectors[b])

    def words(self, place: int) -> Question:
        """A text for its words alone; perhaps without the vectors of its tokens."""
        if (found := self._known.get(place) or self._bare.get(place)) is None:
            vector = self.vectors[place]
            found = self._bare[place] = Question(self.texts[place], TokenVectors(vector, vector[None, :0], (), False))
        return found

    async def questions(self, places: Sequence[int]) -> list[Question]:
        """Texts with the vectors of their tokens.

        Raises:
            ModelUnavailable: The embedder cannot be loaded.
        """
        found = {place: self._known[place] for place in places if place in self._known}
        missing = sorted({*places} - found.keys(), key=lambda i: len(self.texts[i]))
        for begin in range(0, len(missing), CHUNK):
            chunk = missing[begin : begin + CHUNK]
            for place, each in zip(chunk, await self._embedded(chunk), strict=True):
                found[place] = self._keep(place, each)
        return [found[place] for place in places]

    async def _embedded(self, places: Sequence[int]) -> list[TokenVectors]:
        texts = [self.texts[place] for place in places]
        embedded = await self._embedder.embed_tokens([text[:MAX_CHARS] for text in texts])
        return [
            replace(each, whole=each.whole and len(text) <= MAX_CHARS)
            for text, each in zip(texts, embedded, strict=True)
        ]

    def _keep(self, place: int, embedded: TokenVectors) -> Question:
        """Keep a text; of one that is not wholly seen, no token is ever looked at."""
        if not embedded.whole:
            embedded = replace(embedded, tokens=embedded.tokens[:0], pieces=())
        question = self._known[place] = Question(self.texts[place], embedded)
        self._bytes += embedded.tokens.nbytes
        while self._bytes > TOKEN_BYTES and len(self._known) > CHUNK:
            _, gone = self._known.popitem(last=False)
            self._bytes -= gone.embedded.tokens.nbytes
        return question
