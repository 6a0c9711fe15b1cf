"""The cache's decision on labelled pairs: side a has been answered, side b is asked.

Each pair alone, or all first sides stored before any second one is asked (`pooled`). Exact search: the embeddings are
compared with all that is stored.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from chatlab.cache.context import needs_context
from chatlab.cache.decision import CANDIDATES, Judgement, Verifier, best, closest, judge
from chatlab.cache.evidence import Question
from chatlab.cache.key import history_key
from chatlab.cache.questions import CHUNK, Questions
from chatlab.cache.reading import normalised
from chatlab.embedding import Embedder
from chatlab.evaluation.readers.pairs import ConversationPair, LabelledPair
from chatlab.messages import Message

TIMED = 200  # lookups, one by one
MAX_KNOWN = 20_000  # texts whose vectors are kept
EXACT, NO_CANDIDATE, OTHER_HISTORY = "exact", "nothing stored is near", "another conversation"


@dataclass(frozen=True, slots=True)
class Item:
    """What the cache did with a pair; in pools, `right` says whether the answer that was served is the pair's."""

    pair_id: str
    label: bool
    served: bool
    score: float
    reason: str
    category: str | None
    right: bool

    def as_json(self) -> dict[str, Any]:
        """In the documented shape."""
        return {
            "id": self.pair_id,
            "label": int(self.label),
            "served": self.served,
            "score": round(self.score, 6),
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Outcome:
    """All items in the order of the file; milliseconds of single lookups, embedding included."""

    items: Sequence[Item]
    threshold: float
    lookup_ms: Sequence[float]

    def as_json(self) -> dict[str, Any]:
        """In the documented shape."""
        categories = dict.fromkeys(item.category for item in self.items if item.category is not None)
        served = [item for item in self.items if item.served]
        return {
            **_shares(self.items),
            "precision": sum(item.right for item in served) / len(served) if served else None,
            "right": sum(item.right for item in served),
            "wrong": sum(not item.right for item in served),
            "by_category": {
                name: _shares([item for item in self.items if item.category == name]) for name in categories
            },
            "threshold": self.threshold,
            "latency_ms": {
                f"p{q}": float(np.percentile(self.lookup_ms, q)) if self.lookup_ms else None for q in (50, 95)
            },
            "items": [item.as_json() for item in self.items],
        }


def _shares(items: Sequence[Item]) -> dict[str, Any]:
    same = [item.served for item in items if item.label]
    other = [item.served for item in items if not item.label]
    return {
        "n": len(items),
        "hit_rate": float(np.mean(same)) if same else None,
        "false_hit_rate": float(np.mean(other)) if other else None,
    }


async def evaluate_pairs(
    pairs: Sequence[LabelledPair],
    embedder: Embedder,
    threshold: float,
    pooled: bool = False,
    verifier: Verifier | None = None,
) -> Outcome:
    """Look each second side up.

    Args:
        pairs: Labelled.
        embedder: The cache's.
        threshold: Least score that is served.
        pooled: Whether all first sides are stored before.
        verifier: Instead of the shipped one.
    """
    texts = Questions(embedder, MAX_KNOWN)
    items = await (_pooled if pooled else _alone)(pairs, texts, threshold, verifier)
    return Outcome(items, threshold, await _timed(pairs, embedder, threshold, verifier))


async def _alone(
    pairs: Sequence[LabelledPair], texts: Questions, threshold: float, verifier: Verifier | None
) -> list[Item]:
    items: list[Item] = []
    for i in range(0, len(pairs), CHUNK):
        chunk = pairs[i : i + CHUNK]
        questions = await texts.get([text for pair in chunk for text in (pair.a, pair.b)])
        for pair, stored, asked in zip(chunk, questions[::2], questions[1::2], strict=True):
            found = best(judge(asked, [stored], verifier))
            items.append(_item(pair, found, threshold, right=pair.same))
    return items


async def _pooled(
    pairs: Sequence[LabelledPair], texts: Questions, threshold: float, verifier: Verifier | None
) -> list[Item]:
    stored = await texts.get([pair.a for pair in pairs])
    vectors = np.stack([each.embedded.vector for each in stored])  # (n, dim)
    place_of = {normalised(pair.a): i for i, pair in reversed([*enumerate(pairs)])}
    items: list[Item] = []
    for pair, asked in zip(pairs, await texts.get([pair.b for pair in pairs]), strict=True):
        if (place := place_of.get(normalised(pair.b))) is not None:
            near = np.array([place])
        else:
            cosines = vectors @ asked.embedded.vector
            near = np.argsort(-cosines, kind="stable")[:CANDIDATES]
            near = near[closest(asked, [stored[i].reading for i in near], cosines[near].tolist())]
        found = best(judge(asked, [stored[i] for i in near], verifier))
        chosen = None if found is None else pairs[near[found.place]]
        right = chosen is not None and pair.same and (chosen is pair or normalised(chosen.a) == normalised(pair.a))
        items.append(_item(pair, found, threshold, right))
    return items


def _item(pair: LabelledPair | ConversationPair, found: Judgement | None, threshold: float, right: bool) -> Item:
    if found is None:
        return Item(pair.pair_id, pair.same, False, 0.0, NO_CANDIDATE, pair.category, False)
    served = found.score >= threshold
    if found.guard is not None:
        reason = f"{found.guard} differs"
    elif np.isinf(found.closeness):
        reason = EXACT
    else:
        reason = f"score {found.score:.3f} {'reaches' if served else 'is below'} {threshold:.3f}"
    return Item(pair.pair_id, pair.same, served, found.score, reason, pair.category, right)


async def _timed(
    pairs: Sequence[LabelledPair], embedder: Embedder, threshold: float, verifier: Verifier | None
) -> list[float]:
    """Milliseconds of lookups one by one: the question embedded, its candidate at hand."""
    chosen = pairs[:: max(1, len(pairs) // TIMED)][:TIMED]
    stored = await Questions(embedder, MAX_KNOWN).get([pair.a for pair in chosen])
    took: list[float] = []
    for pair, candidate in zip(chosen, stored, strict=True):
        started = time.perf_counter()
        (embedded,) = await embedder.embed_tokens([pair.b])
        best(judge(Question(pair.b, embedded), [candidate], verifier))
        took.append(1e3 * (time.perf_counter() - started))
    return took


async def evaluate_conversations(
    pairs: Sequence[ConversationPair], embedder: Embedder, threshold: float, verifier: Verifier | None = None
) -> Outcome:
    """Look each second conversation's last message up, each pair alone.

    Args:
        pairs: Labelled.
        embedder: The cache's.
        threshold: Least score that is served.
        verifier: Instead of the shipped one.
    """
    texts = Questions(embedder, MAX_KNOWN)
    items: list[Item] = []
    took: list[float] = []
    for pair in pairs:
        stored_key, stored = await _keyed(pair.a, texts)
        started = time.perf_counter()
        asked_key, asked = await _keyed(pair.b, texts)
        if stored_key == asked_key:
            items.append(_item(pair, best(judge(asked, [stored], verifier)), threshold, pair.same))
        else:
            items.append(Item(pair.pair_id, pair.same, False, 0.0, OTHER_HISTORY, pair.category, False))
        took.append(1e3 * (time.perf_counter() - started))
    return Outcome(items, threshold, took)


async def _keyed(messages: Sequence[Message], texts: Questions) -> tuple[str, Question]:
    """What the last message is keyed by beside its own words, and the message."""
    said = [message["content"] for message in messages if message["role"] == "user"]
    *before, asked = await texts.get(said)
    system = [message for message in messages if message["role"] == "system"]
    vectors = [each.embedded.vector for each in before]
    needed = needs_context(asked.text, asked.embedded.vector, vectors, said[:-1])
    return history_key(messages[:-1] if needed else system), asked
