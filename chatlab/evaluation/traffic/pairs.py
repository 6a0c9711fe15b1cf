"""The pairs of questions that a person is shown to judge, in random order, so that the first ones are a fair sample.

The answer that was given to the second one is there, too: the comparison that makes labels of the live cache says
whether the two say the same. It errs; its errors are known and taken out of what is estimated from it.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

from chatlab.cache.comparator import Answered, agree, opening
from chatlab.cache.evidence import Question
from chatlab.embedding import Embedder
from chatlab.evaluation.traffic.lookups import Cell, Found
from chatlab.evaluation.traffic.requests import Requests
from chatlab.evaluation.traffic.state import State
from chatlab.evaluation.traffic.texts import Texts

MOST_SERVED = 200  # questions with a pair that some cache would have served
MOST_REFUSED = 40  # that none would have
NEAR = 0.6  # cosine from which on a refused pair is worth a look
_AT_ONCE = 64


@dataclass(frozen=True, slots=True)
class Pair:
    """A question and the earlier one whose answer a cache would have served, or nearly.

    Attributes:
        request: The place of the question.
        entry: That of the earlier one.
        found: What the lookup found.
        cells: The caches that would have served it, by their places.
        same: Whether the comparison takes both answers for the same; None where one is missing.
    """

    request: int
    entry: int
    found: Found
    cells: tuple[int, ...]
    same: bool | None = None


def sample(cells: Sequence[Cell], seed: int) -> list[Pair]:
    """Pairs in random order, those that were served before those that were not.

    Args:
        cells: That have looked everything up.
        seed: Of the order.
    """
    n = len(cells[0].found) if cells else 0
    order = random.Random(seed).sample(range(n), n)
    served: list[Pair] = []
    refused: list[Pair] = []
    n_served = 0
    for place in order:
        found = [cell.found[place] for cell in cells]
        entries: dict[int, list[int]] = {}
        for i, each in enumerate(found):
            if each.outcome == "semantic" and each.entry is not None:
                entries.setdefault(each.entry, []).append(i)
        if entries and n_served < MOST_SERVED:
            n_served += 1
            served += [Pair(place, entry, found[of[0]], tuple(of)) for entry, of in entries.items()]
        if not entries and len(refused) < MOST_REFUSED and (near := _near(place, found[-1])) is not None:
            refused.append(near)
    return served + refused


def _near(place: int, found: Found) -> Pair | None:
    """What was not served, though it is near."""
    if found.outcome != "miss" or found.entry is None or found.similarity < NEAR:
        return None
    return Pair(place, found.entry, found, ())


async def compared(
    pairs: Sequence[Pair], requests: Requests, texts: Texts, embedder: Embedder, state: State
) -> list[Pair]:
    """The pairs with what the comparison of their answers says.

    Raises:
        ModelUnavailable: The embedder cannot be loaded.
    """
    known: list[bool | None] | None = state.json("compared")
    if known is None:
        known = []
        for begin in range(0, len(pairs), _AT_ONCE):
            known += await _compared(pairs[begin : begin + _AT_ONCE], requests, texts, embedder)
        state.save_json("compared", known)
    return [
        Pair(pair.request, pair.entry, pair.found, pair.cells, same) for pair, same in zip(pairs, known, strict=True)
    ]


async def _compared(pairs: Sequence[Pair], requests: Requests, texts: Texts, embedder: Embedder) -> list[bool | None]:
    sides = [requests.asked[place] for pair in pairs for place in (pair.request, pair.entry)]
    openings = [opening(each.answer) for each in sides]
    answers = [
        Question(text, vectors) for text, vectors in zip(openings, await embedder.embed_tokens(openings), strict=True)
    ]
    answered = [
        Answered(texts.words(texts.place_of[each.turn.user_message]), answer)
        for each, answer in zip(sides, answers, strict=True)
    ]
    return [
        agree(ours, theirs) if ours.answer.text.strip() and theirs.answer.text.strip() else None
        for ours, theirs in zip(answered[::2], answered[1::2], strict=True)
    ]
