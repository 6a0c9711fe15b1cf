"""The embedder: our own encoder gives what Transformers' does, whatever texts come together."""

import numpy as np
import pytest
from numpy.typing import NDArray

from chatlab.embedding import Embedder, TokenVectors

TEXTS = [
    "How do I get a wine stain out of a white shirt?",
    "yes",
    "",
    "naïve café, 100 %, 你好 and 🙂",
    "a long one " * 300,
    *(f"How many sides has a polygon of {n} corners?" for n in range(40)),
]


@pytest.fixture(scope="module")
def both(embedder: Embedder) -> tuple[list[TokenVectors], list[TokenVectors]]:
    """The vectors of `TEXTS` by what the embedder takes, our encoder where it can, and by sentence-transformers."""
    embedder._loaded()
    encoder = embedder._encoder
    ours = embedder._embed_tokens(TEXTS)
    embedder._encoder = None
    try:
        return ours, embedder._embed_tokens(TEXTS)
    finally:
        embedder._encoder = encoder


def test_our_encoder_gives_what_transformers_does(both: tuple[list[TokenVectors], list[TokenVectors]]) -> None:
    for ours, theirs in zip(*both, strict=True):
        assert ours.pieces == theirs.pieces
        assert ours.whole == theirs.whole
        assert ours.tokens.shape == theirs.tokens.shape
        assert cosine(ours.vector, theirs.vector) > 0.9995
        assert all(cosine(a, b) > 0.999 for a, b in zip(ours.tokens, theirs.tokens, strict=True))


async def test_what_comes_together_does_not_matter(
    embedder: Embedder, both: tuple[list[TokenVectors], list[TokenVectors]]
) -> None:
    (alone,) = await embedder.embed_tokens(TEXTS[:1])
    assert cosine(alone.vector, both[0][0].vector) > 0.9995
    embedded = await embedder.embed(TEXTS)
    assert all(cosine(row, ours.vector) > 0.99999 for row, ours in zip(embedded.vectors, both[0], strict=True))
    assert embedded.tokens > 900, "of all tokens, those beyond what the model reads, too"


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
