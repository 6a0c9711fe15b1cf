"""Texts as questions: embedded and read once, the latest are kept. Belongs to one event loop."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace

from chatlab.cache.evidence import Question
from chatlab.cache.reading import MAX_CHARS
from chatlab.embedding import Embedder

FEW = 8  # texts, each embedded by itself: its vector then depends on nothing else, and a lookup can be repeated
CHUNK = 256  # of more, embedded together: three times as fast, and bf16 rounds differently by up to .002


class Questions:
    """What was asked lately.

    Args:
        embedder: Of their vectors.
        most: How many are kept.
    """

    def __init__(self, embedder: Embedder, most: int) -> None:
        self._embedder = embedder
        self._most = most
        self._known: OrderedDict[str, Question] = OrderedDict()

    async def get(self, texts: Sequence[str]) -> list[Question]:
        """These texts; of very long ones the beginning is embedded, and they count as not wholly seen.

        Raises:
            ModelUnavailable: The embedder cannot be loaded.
        """
        new = sorted(
            {text for text in texts if text not in self._known}, key=len
        )  # those of a length pad each other less
        size = 1 if len(new) <= FEW else CHUNK
        for i in range(0, len(new), size):
            chunk = new[i : i + size]
            embedded = await self._embedder.embed_tokens([text[:MAX_CHARS] for text in chunk])
            for text, vectors in zip(chunk, embedded, strict=True):
                self._known[text] = Question(text, replace(vectors, whole=vectors.whole and len(text) <= MAX_CHARS))
        found = [self._known[text] for text in texts]
        for text in texts:
            self._known.move_to_end(text)
        while len(self._known) > self._most:
            self._known.popitem(last=False)
        return found
