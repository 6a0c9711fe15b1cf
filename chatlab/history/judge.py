"""How likely statements are to be worth remembering: by a linear model over the rules' odds and sentence embeddings.

Trained by `tools/train_judge.py` on examples of our own (the card: data/README.md). The weights belong to one embedder;
with another one, or where it cannot be loaded, the rules alone decide.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import structlog
from numpy.typing import NDArray

from chatlab.embedding import Embedder
from chatlab.errors import ModelUnavailable
from chatlab.history.ledger import Said
from chatlab.history.salience import log_odds
from chatlab.messages import Role, Statement

EMBEDDER = "all-MiniLM-L6-v2"
WEIGHTS = Path(__file__).with_name("judge.npz")
ROLES: Sequence[Role] = ("user", "assistant")
HOPELESS = -5.0  # log odds by the rules, a third of a chat; what is less likely is not embedded
BATCH = 16  # texts at a time: a question that is searched for waits for no more
SECONDS = 120.0  # for all of them; loading may be a part of it
MAX_KNOWN = 20_000  # statements, whose odds are remembered
MAX_VECTORS = 5_000  # of them, whose embeddings are: 4 MB

log = structlog.get_logger(__name__)

Key = tuple[Role, str, frozenset[str]]
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Weights:
    """Of a linear model for each role: `bias` (2,), `rules` (2,) for the rules' log odds, `vectors` (2, dim)."""

    bias: Floats
    rules: Floats
    vectors: Floats

    @classmethod
    def read(cls, path: Path = WEIGHTS) -> "Weights":
        """From a file of `write`."""
        with np.load(path, allow_pickle=False) as stored:
            return cls(*(stored[name].astype(np.float64) for name in ("bias", "rules", "vectors")))

    def write(self, path: Path = WEIGHTS) -> None:
        """To a file, in half precision."""
        np.savez(path, **{name: getattr(self, name).astype(np.float16) for name in ("bias", "rules", "vectors")})

    def log_odds(self, roles: Sequence[Role], rules: Floats, vectors: Floats) -> Floats:
        """Of statements (n,), given who said them, the rules' log odds (n,) and their embeddings (n, dim)."""
        of = np.array([ROLES.index(role) for role in roles], dtype=np.intp)
        return self.bias[of] + self.rules[of] * rules + np.einsum("nd,nd->n", vectors, self.vectors[of])


class Judge:
    """Judges statements. Belongs to one event loop.

    Args:
        embedder: Of their texts; None leaves it to the rules.
        patient: Whether to wait until it is loaded, and not to leave it to the rules until then.
    """

    def __init__(self, embedder: Embedder | None = None, patient: bool = False) -> None:
        known = embedder is not None and embedder.name.rpartition("/")[2] == EMBEDDER
        self._embedder = embedder if known else None
        self._patient = patient
        self._known: OrderedDict[Key, float] = OrderedDict()  # log odds: notes are merged, and turns read again
        self._vectors: OrderedDict[str, NDArray[np.float16]] = OrderedDict()  # by text, unit norm

    def prepare(self) -> None:
        """Have loaded what will be needed before long."""
        if self._embedder is not None and not self._embedder.loaded:
            self._embedder.preload()

    async def likelihoods(self, found: Sequence[Said]) -> Floats:
        """That each is worth remembering, (n,), in (0, 1)."""
        odds = np.array([log_odds(each.role, each.text, each.context) for each in found], dtype=np.float64)
        if self._embedder is not None and (self._patient or self._embedder.loaded):
            rules = {each: odds[i] for i, each in enumerate(map(_key, found)) if odds[i] > HOPELESS}
            new = [each for each in rules if each not in self._known]
            try:
                async with asyncio.timeout(SECONDS):
                    for i in range(0, len(new), BATCH):
                        batch = new[i : i + BATCH]
                        embedded = await self._embedder.embed([text for _, text, _ in batch])
                        vectors = embedded.vectors.astype(np.float64)
                        self._keep([text for _, text, _ in batch], embedded.vectors)
                        known = np.array([rules[each] for each in batch])
                        judged = _weights().log_odds([role for role, _, _ in batch], known, vectors)
                        self._known.update(zip(batch, judged.tolist(), strict=True))
            except ModelUnavailable as error:
                log.info("what is worth noting is judged by rules alone", reason=str(error))
            except Exception:  # whatever is wrong with the embedder: a note is worth more without it than none
                log.warning("what is worth noting is judged by rules alone", exc_info=True)
            else:
                odds = np.array([self._known.get(_key(each), odds[i]) for i, each in enumerate(found)])
            while len(self._known) > MAX_KNOWN:
                self._known.popitem(last=False)
        return 1 / (1 + np.exp(-odds))

    async def remember(self, said: Sequence[Statement]) -> None:
        """Embed those that were not judged by their meaning here, as far as that is possible."""
        new = [text for text in dict.fromkeys(each.text for each in said) if text not in self._vectors]
        if not new or self._embedder is None or not (self._patient or self._embedder.loaded):
            return
        try:
            async with asyncio.timeout(SECONDS):
                for i in range(0, len(new), BATCH):
                    self._keep(new[i : i + BATCH], (await self._embedder.embed(new[i : i + BATCH])).vectors)
        except Exception:  # as above: a note is worth more without it than none
            log.info("what replaces what is judged by words alone", exc_info=True)

    def likeness(self, older: Sequence[Statement], newer: Sequence[Statement]) -> NDArray[np.float32] | None:
        """Cosines of the statements' embeddings, (older, newer), 0 where one was not judged by its meaning.

        Returns:
            None where only rules judge.
        """
        if not self._vectors:
            return None
        dim = len(next(iter(self._vectors.values())))
        unknown = np.zeros(dim, dtype=np.float16)

        def stacked(said: Sequence[Statement]) -> NDArray[np.float32]:
            rows = [self._vectors.get(each.text, unknown) for each in said]
            return np.array(rows, dtype=np.float32).reshape(len(rows), dim)

        return stacked(older) @ stacked(newer).T

    def _keep(self, texts: Sequence[str], vectors: NDArray[np.float32]) -> None:
        self._vectors.update(zip(texts, vectors.astype(np.float16), strict=True))
        while len(self._vectors) > MAX_VECTORS:
            self._vectors.popitem(last=False)


def _key(said: Said) -> Key:
    return said.role, said.text, said.context


@cache
def _weights() -> Weights:
    return Weights.read()
