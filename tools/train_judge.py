"""Trains what judges statements, `chatlab/history/judge.npz`, and prints how well it does on what it has not seen.

A logistic regression over the rules' log odds and sentence embeddings, for each role. Examples are clauses of
`data/salience.jsonl`, cut as the product cuts them, of `data/notes_dev.jsonl` and of `data/notes_check.jsonl`; neither
`data/notes_test.jsonl` nor any public set. Needs scikit-learn, which the embedder brings.
"""

import asyncio
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score

from chatlab.embedding import Embedder
from chatlab.evaluation.datasets import read_dialogues
from chatlab.evaluation.metrics import holds
from chatlab.history.judge import WEIGHTS, Weights
from chatlab.history.ledger import Said, statements
from chatlab.history.salience import log_odds
from chatlab.messages import UNKNOWN_TIME, Role, Turn

DATA = Path(__file__).parent.parent / "data"
SAME = 0.6  # of a clause's words, that a labelled one has
# Chosen by the average precision on parts left out, and by the facts that outlive notes of notes_dev.jsonl.
PENALTY = 0.1  # C, of embeddings scaled by SCALE and rules' log odds by RULES_SCALE
SCALE, RULES_SCALE = 3.0, 0.3
RULES_SHARE = 0.1  # of the log odds, that are the rules' own
PRIOR: Mapping[Role, float] = {"user": -2.0, "assistant": -2.5}  # log odds: examples have more to remember than chats

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Examples:
    """Statements with what is right: their rules' log odds (n,), embeddings (n, dim) and labels (n,)."""

    said: Sequence[Said]
    rules: Floats
    vectors: Floats
    labels: NDArray[np.bool_]

    @property
    def assistant(self) -> Floats:
        """1 where the assistant said it, (n, 1)."""
        return np.array([[each.role == "assistant"] for each in self.said], dtype=np.float64)

    @property
    def features(self) -> Floats:
        """Of the regression, (n, 2 + 2 dim)."""
        vectors = SCALE * self.vectors
        return np.hstack([self.assistant, RULES_SCALE * self.rules[:, None], vectors, vectors * self.assistant])


def labelled(path: Path) -> Iterator[tuple[str, Said, bool]]:
    """The statements of messages with labelled clauses, each with its part of the file."""
    for line in path.read_text(encoding="utf-8").splitlines():
        message = json.loads(line)
        text = " ".join(clause for clause, _ in message["clauses"])
        user, assistant = (text, "") if message["role"] == "user" else ("", text)
        for said in statements(Turn("t", "", "", None, user, UNKNOWN_TIME, assistant_message=assistant)):
            yield message["part"], said, _label(said.text, message["clauses"])


def _label(text: str, clauses: Sequence[tuple[str, int]]) -> bool:
    """That of the clause that has most of the words."""
    words = _words(text)
    best = max(clauses, key=lambda clause: len(words & _words(clause[0])))
    return any(
        label and (clause == best[0] or (len(words) > 2 and len(words & _words(clause)) >= SAME * len(words)))
        for clause, label in clauses
    )


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower()))


def planted(path: Path) -> Iterator[tuple[Said, bool]]:
    """The statements of made-up chats, and whether they have the answer to a question."""
    for dialogue in read_dialogues(path):
        answers: dict[int, list[str]] = {}
        for asked in dialogue.questions:
            for each in dialogue.utterances:
                if each.utterance_id in (asked.evidence or ()):
                    answers.setdefault(each.turn_index, []).append(asked.answer)
        for place, turn in enumerate(dialogue.turns):
            for said in statements(turn):
                yield said, any(holds(said.text, answer) for answer in answers.get(place, ()))


def examples(embedder: Embedder, found: Sequence[tuple[Said, bool]]) -> Examples:
    """With features."""
    said = [each for each, _ in found]
    rules = np.array([log_odds(each.role, each.text, each.context) for each in said])
    vectors = asyncio.run(embedder.embed([each.text for each in said])).vectors.astype(np.float64)
    return Examples(said, rules, vectors, np.array([label for _, label in found]))


def joined(parts: Sequence[Examples]) -> Examples:
    """All of them."""
    return Examples(
        [each for part in parts for each in part.said],
        np.concatenate([part.rules for part in parts]),
        np.concatenate([part.vectors for part in parts]),
        np.concatenate([part.labels for part in parts]),
    )


def fit(train: Examples) -> Weights:
    """The weights, priors included."""
    model = LogisticRegression(C=PENALTY, max_iter=5_000).fit(train.features, train.labels)
    learned, own = 1 - RULES_SHARE, RULES_SHARE
    (coefficients,), (constant,) = model.coef_, model.intercept_
    dim = train.vectors.shape[1]
    offset, rules = coefficients[0], RULES_SCALE * coefficients[1]
    user, more = SCALE * coefficients[2 : 2 + dim], SCALE * coefficients[2 + dim :]
    return Weights(
        bias=np.array([learned * constant + PRIOR["user"], learned * (constant + offset) + PRIOR["assistant"]]),
        rules=np.full(2, learned * rules + own),
        vectors=learned * np.stack([user, user + more]),
    )


def precision(weights: Weights, held_out: Examples) -> float:
    """Average precision."""
    odds = weights.log_odds([each.role for each in held_out.said], held_out.rules, held_out.vectors)
    return float(average_precision_score(held_out.labels, odds))


def main(target: Path = WEIGHTS) -> int:
    """Train, print, write."""
    embedder = Embedder()
    found: dict[str, list[tuple[Said, bool]]] = {}
    for part, said, label in labelled(DATA / "salience.jsonl"):
        found.setdefault(part, []).append((said, label))
    for name in ("notes_dev", "notes_check"):
        found[name] = [*planted(DATA / f"{name}.jsonl")]
    parts = {name: examples(embedder, rows) for name, rows in found.items()}
    test = examples(embedder, [*planted(DATA / "notes_test.jsonl")])
    print(f"{'left out':12} {'n':>6} {'ones':>5} {'rules':>6} {'judge':>6}")
    for name, part in [*parts.items(), ("notes_test", test)]:
        weights = fit(joined([other for key, other in parts.items() if key != name]))
        rules = float(average_precision_score(part.labels, part.rules))
        print(f"{name:12} {len(part.said):6} {part.labels.sum():5} {rules:6.3f} {precision(weights, part):6.3f}")
    fit(joined([*parts.values()])).write(target)
    embedder.close()
    return 0


if __name__ == "__main__":
    sys.exit(main(*map(Path, sys.argv[1:])))
