"""Fits what tells that a statement replaces another, for `chatlab/history/succession.py`, and prints the weights.

A logistic regression over pairs of statements of `data/notes_dev.jsonl` and `data/notes_check.jsonl`: the one that a
value is first said in and the one that updates it, against all others that may be noted. Prints how many pairs it finds
in the file that it was not fitted to, too. Needs scikit-learn, which the embedder brings.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from chatlab.embedding import Embedder
from chatlab.evaluation.datasets import read_dialogues
from chatlab.evaluation.dialogues import Dialogue
from chatlab.evaluation.metrics import holds
from chatlab.history.judge import Judge
from chatlab.history.ledger import LEAST_LIKENESS, Said, statements
from chatlab.history.succession import signs
from chatlab.history.updates import Subject

DATA = Path(__file__).parent.parent / "data"
FILES = ("notes_dev", "notes_check")
PENALTY = 0.3  # C
LEAST = (-2.0, -1.0, 0.0, 0.5)  # log odds that are tried
LIKELY = 0.03  # to be worth remembering, that a statement must be to be compared

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pairs:
    """Signs (n, k), whether the later one replaces the earlier one (n,), and the names of the signs."""

    signs: Floats
    labels: NDArray[np.bool_]
    names: tuple[str, ...]


async def pairs(path: Path, embedder: Embedder) -> Pairs:
    """Of all chats of a file."""
    rows: list[list[float]] = []
    labels: list[bool] = []
    names: tuple[str, ...] = ()
    for dialogue in read_dialogues(path):
        found = [(i, each) for i, turn in enumerate(dialogue.turns) for each in statements(turn) if each.role == "user"]
        likely = await Judge(embedder, patient=True).likelihoods([each for _, each in found])
        found = [each for each, worth in zip(found, likely, strict=True) if worth >= LIKELY]
        vectors = (await embedder.embed([each.text for _, each in found])).vectors
        likeness = vectors @ vectors.T
        right = {*_replaced(dialogue, found)}
        for new, (later, now) in enumerate(found):
            for old, (earlier, was) in enumerate(found[:new]):
                one, other = Subject.of(was.text), Subject.of(now.text)
                if one.told_apart(other) or other.told_apart(one):
                    continue
                if earlier < later and was.text != now.text and likeness[old, new] >= LEAST_LIKENESS:
                    seen = signs(was.text, now.text, float(likeness[old, new]))
                    names = tuple(seen)
                    rows.append([float(each) for each in seen.values()])
                    labels.append((old, new) in right)
    return Pairs(np.array(rows), np.array(labels), names)


def _replaced(dialogue: Dialogue, found: Sequence[tuple[int, Said]]) -> Iterator[tuple[int, int]]:
    place_of = {each.utterance_id: each.turn_index for each in dialogue.utterances}
    for asked in dialogue.questions:
        if asked.stale is None or not asked.evidence:
            continue
        said = place_of[asked.evidence[0]]
        for new, (later, now) in enumerate(found):
            if later == said and holds(now.text, asked.answer):
                for old, (earlier, was) in enumerate(found):
                    if earlier < later and holds(was.text, asked.stale):
                        yield old, new


def fit(parts: Sequence[Pairs]) -> tuple[float, Floats]:
    """The bias and the weights (k,), on all of them."""
    model = LogisticRegression(C=PENALTY, max_iter=5_000).fit(
        np.concatenate([each.signs for each in parts]), np.concatenate([each.labels for each in parts])
    )
    (weights,), (bias,) = model.coef_, model.intercept_
    return float(bias), np.array(weights)


def main() -> int:
    """Fit and print."""
    embedder = Embedder()
    parts = {name: asyncio.run(pairs(DATA / f"{name}.jsonl", embedder)) for name in FILES}
    for name, part in parts.items():
        bias, weights = fit([other for key, other in parts.items() if key != name])
        odds = part.signs @ weights + bias
        for least in LEAST:
            right, wrong = (int(((odds > least) & (part.labels == label)).sum()) for label in (True, False))
            print(f"{name}, left out, over {least}: {right} of {part.labels.sum()}, {wrong} wrong")
    bias, weights = fit([*parts.values()])
    print(f"BIAS = {bias:.1f}")
    for sign, weight in zip(parts[FILES[0]].names, weights.tolist(), strict=True):
        print(f'    "{sign}": {weight:.1f},')
    embedder.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
