"""Finding what of a chat's evicted turns bears on a question: by meaning (vectors) and by words (BM25), together.

Keeps vectors of the turns that may be evicted; those of the originals, which never change. What the path of a
question does not contain (another branch, what was edited away) is never found: only the turns asked about are.
Belongs to one event loop.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from chatlab.embedding import Embedded, Embedder
from chatlab.errors import ModelUnavailable
from chatlab.history.lexical import LexicalIndex, terms
from chatlab.history.passages import Passage, passages_of
from chatlab.history.quotes import date_of
from chatlab.messages import Turn
from chatlab.vectors import Known, Vectors

NEIGHBOURS = (0.5, 0.25)  # of a passage's score, for those one and two places away in the same sitting
SITTING = timedelta(hours=6)  # a longer pause parts two sittings
# A passage counts when it stands out from the chat's others by so many standard deviations, both scores together: more
# where not even the best one stands out by much, as in small talk, where quotes would only make the answer wait.
CLEAR_BEST, CLEAR_SCORE = 12.0, 2.0
VAGUE_BEST, VAGUE_SCORE = 8.0, 4.0
# And nothing counts unless something is near in meaning, or has half of what a word weighs that occurs in it alone.
MIN_COSINE, MIN_WORDS = 0.3, 0.5
MAX_PASSAGES = 10_000  # of one chat, searched for by meaning
BATCH = 4  # passages embedded at a time: a question waits for no more
CHATS = 32  # whose words are kept in memory
EMBED_SECONDS = 10.0  # a question waits no longer for the embedder

Scores = NDArray[np.float64]


@dataclass(slots=True)
class _Words:
    """The passages of a chat's first turns, and their words."""

    turn_ids: list[str] = field(default_factory=list[str])
    passages: list[Passage] = field(default_factory=list[Passage])
    keys: list[str] = field(default_factory=list[str])  # theirs
    sittings: list[int] = field(default_factory=list[int])  # which one each passage belongs to
    index: LexicalIndex = field(default_factory=LexicalIndex)

    def add(self, turn: Turn) -> None:
        self.turn_ids.append(turn.turn_id)
        for passage in passages_of(turn):
            before = self.passages[-1].said_at if self.passages else None
            pause = passage.said_at - before if passage.said_at and before else timedelta(0)
            self.sittings.append((self.sittings[-1] if self.sittings else 0) + (pause > SITTING))
            self.passages.append(passage)
            self.keys.append(passage.ref.key)
            self.index.add(terms(date_of(passage) + " " + passage.text))


class Recall:
    """Search in the past turns of chats, with an `embedder`.

    Args:
        embedder: Of turns and questions.
        vectors: Those of this embedder.
    """

    def __init__(self, embedder: Embedder, vectors: Vectors) -> None:
        self.embedder = embedder
        self._vectors = vectors
        self._words: OrderedDict[str, _Words] = OrderedDict()
        self._indexed: OrderedDict[str, set[str]] = OrderedDict()  # by chat, turns that need not be looked for
        self._n_faults = 0  # of the vectors, when that was noted

    async def search(self, chat_id: str | None, turns: Sequence[Turn], question: str) -> tuple[Passage, ...]:
        """Passages of these turns that bear on a question, best first.

        Args:
            chat_id: The chat; None searches by words alone.
            turns: From its root on, in order.
            question: What is asked.

        Raises:
            VectorsUnavailable: LanceDB does not answer.
            ModelUnavailable: The embedder cannot be loaded.
        """
        asked = terms(question)
        if not asked or not turns:
            return ()
        embedded = None if chat_id is None else asyncio.ensure_future(self.embedder.embed([question]))
        try:
            words = await asyncio.to_thread(self._words_of, chat_id, turns)
            similarities: Mapping[str, float] = {}
            if chat_id is not None and embedded is not None:
                vector = (await _soon(embedded)).vectors[0]
                similarities = await self._vectors.nearest(chat_id, vector, MAX_PASSAGES)
        finally:
            if embedded is not None and not embedded.done():
                embedded.cancel()
        return await asyncio.to_thread(_best, words, asked, similarities)

    async def search_words(self, chat_id: str | None, turns: Sequence[Turn], question: str) -> tuple[Passage, ...]:
        """The same by words alone: nothing is embedded, and nothing is asked of LanceDB."""
        asked = terms(question)
        return _best(self._words_of(chat_id, turns), asked, {}) if asked and turns else ()

    async def index(self, chat_id: str, turns: Sequence[Turn]) -> None:
        """Embed what of these turns of a chat is not yet; takes its time, so that questions come first.

        Raises:
            VectorsUnavailable: LanceDB does not answer.
            ModelUnavailable: The embedder cannot be loaded.
        """
        done = self._done(chat_id)
        new = [turn for turn in turns if turn.turn_id not in done and turn.assistant_message and not turn.live]
        if not new:
            return
        known = await self._vectors.keys(chat_id)  # of a turn, perhaps a part
        for turn in new:
            missing = (passage for passage in passages_of(turn) if passage.ref.key not in known)
            while batch := list(islice(missing, BATCH)):
                embedded = await self.embedder.embed([passage.text for passage in batch])
                await self._vectors.add(chat_id, [passage.ref.key for passage in batch], embedded.vectors)
            done.add(turn.turn_id)

    async def sweep(self, chat_ids: Known) -> None:
        """Delete what is left of other chats than these, which are asked for when nothing is written.

        Raises:
            VectorsUnavailable: LanceDB does not answer.
        """
        await self._vectors.keep_only(chat_ids)

    async def forget(self, chat_id: str) -> None:
        """Delete all of a chat.

        Raises:
            VectorsUnavailable: They cannot be deleted.
        """
        self._words.pop(chat_id, None)
        self._indexed.pop(chat_id, None)
        await self._vectors.delete_group(chat_id)

    def _done(self, chat_id: str) -> set[str]:
        """The turns of a chat whose vectors are known to be there."""
        if self._n_faults != self._vectors.n_faults:  # what was there may be gone
            self._indexed.clear()
            self._n_faults = self._vectors.n_faults
        done = self._indexed.setdefault(chat_id, set())
        self._indexed.move_to_end(chat_id)
        while len(self._indexed) > CHATS:
            self._indexed.popitem(last=False)
        return done

    def _words_of(self, chat_id: str | None, turns: Sequence[Turn]) -> _Words:
        """The words of exactly these turns: those known of the chat, and more at their end, or all anew."""
        known = self._words.pop(chat_id, None) if chat_id is not None else None  # nobody else has them meanwhile
        n = 0 if known is None else len(known.turn_ids)
        if known is None or known.turn_ids != [turn.turn_id for turn in turns[:n]]:
            known, n = _Words(), 0
        for turn in turns[n:]:
            known.add(turn)
        if chat_id is not None:
            self._words[chat_id] = known
            while len(self._words) > CHATS:
                self._words.popitem(last=False)
        return known


async def _soon(embedded: asyncio.Future[Embedded]) -> Embedded:
    """What is being embedded, unless that takes too long for somebody who waits for an answer."""
    try:
        return await asyncio.wait_for(asyncio.shield(embedded), EMBED_SECONDS)
    except TimeoutError:
        raise ModelUnavailable(f"the embedder has not answered for {EMBED_SECONDS:.0f} s") from None


def _best(words: _Words, asked: Sequence[str], similarities: Mapping[str, float]) -> tuple[Passage, ...]:
    """The passages that count, best first."""
    by_words = words.index.scores(asked)  # (n,)
    by_meaning = np.array([similarities.get(key, np.nan) for key in words.keys])
    scores = combined(by_words, by_meaning, np.array(words.sittings))
    if not scores.any():
        return ()
    wanted = np.flatnonzero(scores >= enough(float(scores.max())))
    best_first = wanted[np.argsort(-scores[wanted], kind="stable")]
    return tuple(words.passages[i] for i in best_first)


def enough(best: float) -> float:
    """The score from which on passages count, where the best one has this."""
    score = float(np.interp(best, (VAGUE_BEST, CLEAR_BEST), (VAGUE_SCORE, CLEAR_SCORE)))
    return min(score, best / 2)  # in a short chat nothing stands out by much


def combined(by_words: Scores, by_meaning: Scores, sitting: NDArray[np.int64]) -> Scores:
    """One score from BM25 and cosines: the sum of both, standardised over the chat, with a share of its neighbours'.

    Args:
        by_words: (n,), 0 where no word is shared.
        by_meaning: (n,) in [-1, 1], NaN where there is no vector.
        sitting: (n,), the same number within a sitting.

    Returns:
        (n,), 0 and more; all 0 when nothing bears on the question.
    """
    meant = by_meaning[~np.isnan(by_meaning)]
    enough_words = MIN_WORDS * np.log1p(len(by_words) / 1.5)
    if by_words.max(initial=0.0) < enough_words and meant.max(initial=-1.0) < MIN_COSINE:
        return np.zeros(len(by_words))
    alone = np.maximum(_standard(by_words) + _standard(by_meaning), 0.0)
    scores = alone.copy()
    for away, share in enumerate(NEIGHBOURS, 1):
        together = sitting[away:] == sitting[:-away]
        scores[away:] += share * alone[:-away] * together
        scores[:-away] += share * alone[away:] * together
    return scores


def _standard(values: Scores) -> Scores:
    """Zero mean and unit variance, where there are values; 0 elsewhere."""
    there = values[~np.isnan(values)]
    if not len(there) or not (spread := float(there.std())):
        return np.zeros(len(values))
    return np.nan_to_num((values - there.mean()) / spread)
