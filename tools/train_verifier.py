"""Trains what decides of a cached answer, and prints how well it does on what it has not seen.

Writes `chatlab/cache/verifier.npz`, the calibration of the threshold beside it, and the plot of its probabilities,
`docs/verifier_calibration.svg`. Pairs of `data/cache_groups.jsonl` and `data/cache_topics.jsonl` alone, both written
for this project; no public set. Needs scikit-learn, which the embedder brings, and matplotlib.

The regression may weigh a feature only in the direction in which it is evidence, and does not learn from pairs of which
one number, name or word is exchanged: guards see those, and a regression learns from them that what is alike is a trap.
"""

import asyncio
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score
from sklearn.model_selection import GroupKFold

from chatlab.cache.bound import FILE, MIX, Calibration
from chatlab.cache.evidence import FEATURES, Question, evidence
from chatlab.cache.guards import refusal
from chatlab.cache.verifier import WEIGHTS, Weights
from chatlab.embedding import Embedder

ROOT = Path(__file__).parent.parent
DATA = ROOT / "data"
PLOT = ROOT / "docs" / "verifier_calibration.svg"
PENALTY = 10.0  # on squared weights of scaled features, beside the summed loss
SIMILARITY = (5.0, 0.8)  # chosen on the pairs left out: more makes paraphrases of other words rank higher, traps too
WEIGHT_OF = {"near": 1.0, "topic": 2.0}  # of a pair by kind, others 1: topics are what people ask side by side
# Kinds of pairs that are learned from; the others, mostly one word of a kind changed, are for calibration alone.
LEARNED = {"same", "topic", "near", "aspect", "sibling", "comparison", "role", "scope"}
EITHER_WAY = {"length", "similarity x other words"}
AGAINST = {
    "unaligned, least",
    "unaligned, most",
    "words of one only, fewer",
    "words of one only, more",
    "one word for another",
    "one word more",
    "lengths apart",
    "other interrogative",
    "numbers differ",
    "negations differ",
    "names of one only, fewer",
    "names of one only, more",
    "opposites",
    "alternatives",
    "share of words of one only",
    "a guard's doubt",
    "unaligned, least x words in common",
    "unaligned, most x words in common",
}  # the others speak for it
FOLDS = 5

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Pair:
    """Two texts; `same` if one answer serves both; `group` is the part of the data they are from."""

    a: str
    b: str
    same: bool
    kind: str
    group: int


def pairs() -> Iterator[Pair]:
    """All pairs within a group or a topic."""
    group = 0
    for line in (DATA / "cache_groups.jsonl").read_text(encoding="utf-8").splitlines():
        read = json.loads(line)
        same = [read["question"], *read["same"]]
        yield from (Pair(a, b, True, "same", group) for a, b in combinations(same, 2))
        yield from (Pair(a, b["text"], False, b["kind"], group) for a in same for b in read["other"])
        group += 1
    for line in (DATA / "cache_topics.jsonl").read_text(encoding="utf-8").splitlines():
        questions = json.loads(line)["questions"]
        for wordings in questions:
            yield from (Pair(a, b, True, "topic", group) for a, b in combinations(wordings, 2))
        for ours, theirs in combinations(questions, 2):
            yield from (Pair(a, b, False, "topic", group) for a, b in product(ours, theirs))
        group += 1


def neighbours(known: Sequence[Pair], read: dict[str, Question], seed: int = 0) -> Iterator[Pair]:
    """Pairs of texts of two groups that are alike, and of some that are not."""
    rng = np.random.default_rng(seed)
    group_of = {text: pair.group for pair in known for text in (pair.a, pair.b)}
    texts = [*group_of]
    groups = np.array([*group_of.values()])
    vectors = np.array([read[text].embedded.vector for text in texts])
    for i, text in enumerate(texts):
        similarity = np.where(groups == groups[i], -1.0, vectors @ vectors[i])
        order = np.argsort(-similarity)[:30]
        for j in {int(rng.choice(order[:5])), int(rng.choice(order)), int(rng.integers(len(texts)))}:
            if groups[j] != groups[i]:
                yield Pair(text, texts[j], False, "near", int(groups[i]))


def fit(features: Floats, same: NDArray[np.bool_], weight: Floats) -> Weights:
    """The regression, each weight of the sign of its evidence; its scores are calibrated by `calibrated`."""
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-9
    inputs = np.hstack([(features - mean) / scale, np.ones((len(features), 1))])
    side = np.where(same, 1.0, -1.0)

    def loss(coefficients: Floats) -> tuple[float, Floats]:
        margin = side * (inputs @ coefficients)
        kept = np.append(coefficients[:-1], 0.0)
        slope = inputs.T @ (-side * weight / (1 + np.exp(np.minimum(margin, 500))))
        value = (weight * np.logaddexp(0, -margin)).sum() + PENALTY / 2 * (kept**2).sum()
        return float(value), slope + PENALTY * kept

    bounds = [_bounds(name) for name in FEATURES] + [(None, None)]
    found = minimize(loss, np.zeros(len(bounds)), jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": 500})
    coefficients, bias = np.asarray(found.x)[:-1], np.asarray(found.x)[-1]
    return Weights(mean, scale, coefficients, bias, np.array(SIMILARITY), np.array([1.0, 0.0]))


def _bounds(feature: str) -> tuple[float | None, float | None]:
    if feature in EITHER_WAY:
        return None, None
    return (None, 0.0) if feature in AGAINST else (0.0, None)


def calibrated(raw: Floats, same: NDArray[np.bool_]) -> Floats:
    """Slope and intercept (Platt 1999) of scores of pairs that were left out."""
    model = LogisticRegression(C=1e6, max_iter=5_000).fit(raw[:, None], same)
    return np.array([np.asarray(model.coef_)[0, 0], np.asarray(model.intercept_)[0]])


async def questions(texts: Sequence[str]) -> dict[str, Question]:
    """Texts embedded."""
    embedder = Embedder()
    try:
        found = await embedder.embed_tokens(texts)
    finally:
        embedder.close()
    return {text: Question(text, embedded) for text, embedded in zip(texts, found, strict=True)}


def main() -> None:
    """Train and report."""
    known = [*pairs()]
    read = asyncio.run(questions(sorted({text for pair in known for text in (pair.a, pair.b)})))
    known += neighbours(known, read)
    passed = [pair for pair in known if refusal(read[pair.a].reading, read[pair.b].reading) is None]
    features = np.array([evidence(read[pair.a], read[pair.b]) for pair in passed], dtype=np.float64)
    same = np.array([pair.same for pair in passed])
    groups = np.array([pair.group for pair in passed])
    weight = np.array([WEIGHT_OF.get(pair.kind, 1.0) if pair.kind in LEARNED else 0.0 for pair in passed])

    left_out = np.zeros(len(passed))
    for train, test in GroupKFold(FOLDS).split(features, same, groups):
        left_out[test] = fit(features[train], same[train], weight[train]).raw(features[test])
    calibration = calibrated(left_out, same)
    trained = fit(features, same, weight)
    arrays = {name: getattr(trained, name) for name in Weights.__dataclass_fields__} | {"calibration": calibration}
    _save(WEIGHTS, arrays)
    probability = 1 / (1 + np.exp(-(calibration[0] * left_out + calibration[1])))
    _report(known, passed, same, probability, trained)
    _plot(probability, same)
    curves = curves_of(known, passed, probability)
    _save(FILE, asdict(curves))
    for max_error in (0.01, 0.02, 0.05, 0.1, 0.2):
        print(f"at most {max_error} of what is served wrong: from {curves.threshold(max_error):.3f} on")


def _save(name: str, arrays: Mapping[str, Floats]) -> None:
    single: dict[str, Any] = {key: np.float32(value) for key, value in arrays.items()}
    np.savez(ROOT / "chatlab" / "cache" / name, **single)


def curves_of(known: Sequence[Pair], passed: Sequence[Pair], probability: Floats) -> Calibration:
    """How much of each part of the mix is served, by threshold."""
    thresholds = np.linspace(0.02, 0.98, 97)
    n_of = {part: sum(_part(pair) == part for pair in known) for part in MIX}
    parts = np.array([_part(pair) for pair in passed])
    served = {
        part: np.array([(probability[parts == part] >= threshold).sum() / n_of[part] for threshold in thresholds])
        for part in MIX
    }
    return Calibration(thresholds, **served)


def _part(pair: Pair) -> str:
    """Of the mix; the heaviest rewritings of the groups ask the same as well as the lightest."""
    if pair.kind in {"topic", "near"}:
        return "" if pair.same or pair.kind == "near" else "topic"
    return "same" if pair.same else "trap"


def _report(
    known: Sequence[Pair],
    passed: Sequence[Pair],
    same: NDArray[np.bool_],
    probability: Floats,
    trained: Weights,
) -> None:
    n_of, refused_of = defaultdict[str, int](int), defaultdict[str, int](int)
    for pair in known:
        n_of[_kind(pair)] += 1
    for pair in passed:
        refused_of[_kind(pair)] += 1
    thresholds = (0.2, 0.3, 0.4, 0.5, 0.7)
    precision = average_precision_score(same, probability)
    print(f"{len(known)} pairs, {len(passed)} past the guards; average precision {precision:.3f}")
    print("kind, pairs, refused by a guard, served at", *thresholds)
    for kind, n in sorted(n_of.items()):
        scores = probability[[_kind(pair) == kind for pair in passed]]
        shares = (f"{(scores >= threshold).sum() / n:.3f}" for threshold in thresholds)
        print(f"{kind:14} {n:6} {1 - refused_of[kind] / n:.3f}", *shares)
    for low in np.arange(0, 1, 0.1):
        inside = (probability >= low) & (probability < low + 0.1)
        if inside.any():
            print(f"said {low:.1f}-{low + 0.1:.1f}: {inside.sum():6} pairs, right {same[inside].mean():.3f}")
    for name, value in sorted(zip(FEATURES, trained.coefficients, strict=True), key=lambda item: -abs(item[1])):
        print(f"{name:40} {value:+.2f}")


def _plot(probability: Floats, same: NDArray[np.bool_]) -> None:
    """Reliability of pairs that were left out: what was said, what was right, and how often it was said."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "chatlab", "svg.fonttype": "none"})
    from matplotlib import pyplot as plt

    figure, (above, below) = plt.subplots(
        2, 1, figsize=(5, 5.5), sharex=True, height_ratios=(3, 1), layout="constrained"
    )
    edges = np.linspace(0, 1, 11)
    place = np.clip(np.digitize(probability, edges) - 1, 0, 9)
    n = np.bincount(place, minlength=10)
    said = np.bincount(place, probability, minlength=10) / np.maximum(n, 1)
    right = np.bincount(place, same, minlength=10) / np.maximum(n, 1)
    error = 1.96 * np.sqrt(right * (1 - right) / np.maximum(n, 1))
    filled = n > 0
    above.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    above.errorbar(said[filled], right[filled], yerr=error[filled], marker="o", color="tab:blue", capsize=2)
    above.set(ylabel="share that one answer serves", ylim=(0, 1), title="Verifier, pairs left out of training")
    below.bar(edges[:-1] + 0.05, n, width=0.09, color="tab:blue")
    below.set(xlabel="probability", ylabel="pairs", yscale="log", xlim=(0, 1))
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)


def _kind(pair: Pair) -> str:
    return f"{pair.kind}, same" if pair.same and pair.kind != "same" else pair.kind


if __name__ == "__main__":
    main()
