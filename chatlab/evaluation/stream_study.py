"""Streams of questions, several seeds, bounds and methods: what `eval cache --stream` prints and the notebook plots.

Knows how methods are set up and compared; how a question is answered is `streams`' business.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from chatlab.cache.bound import CLOSED
from chatlab.cache.recalibration import MAX_WRONG_REQUESTS, Comparator
from chatlab.embedding import Embedder
from chatlab.evaluation import bootstrap
from chatlab.evaluation.policies import Chatlab, Policy, Threshold, VCache, gptcache_threshold, redisvl_threshold
from chatlab.evaluation.streams import Corpus, Keyed, Run, halves, prepare, simulate
from chatlab.evaluation.workload import Asked
from chatlab.messages import CacheScope

BOUNDS = (0.02, 0.05, 0.10)
GRID = (
    0.70,
    0.75,
    *(float(i) / 100 for i in range(80, 100)),
    0.995,
)  # similarities that a plain threshold is tuned over
TYPICAL = Comparator(false_same=0.02, false_different=0.10)  # assumed of a comparison of answers
KEEPING = 0.95  # of the seeds, in both halves of which a bound is to hold
FIXED = (0.80, 0.90, 0.95)
OURS, OURS_NOISY, OURS_SHIPPED = "chatlab", "chatlab, erring labels", "chatlab, shipped threshold"
PLAIN, PLAIN_KEYED, PLAIN_BOTH = (
    "plain, tuned",
    "plain with chatlab's keys, tuned",
    "plain with the keys, tuned to both",
)
PLAIN_KEEPING = "plain with the keys, best that keeps it"  # by hindsight
VCACHE, GPTCACHE, REDISVL = "vCache with chatlab's keys", "GPTCache", "RedisVL"


@dataclass(frozen=True, slots=True)
class Cell:
    """A method at a bound: a run a seed, and the stream each was of."""

    method: str
    max_error: float
    runs: Sequence[Run]
    streams: Sequence[Sequence[Keyed]]

    @property
    def hit_rate(self) -> float:
        """Share of all questions that are served."""
        return float(np.mean([run.served.mean() for run in self.runs]))

    @property
    def seeds_within_bound(self) -> float:
        """Share of the seeds in both halves of which the bound holds."""
        return float(np.mean([run.keeps(self.max_error) for run in self.runs]))

    def wrong_share(self, half: int | None = None) -> float | None:
        """Of what is served, over all seeds, in the whole or a half (0 or 1)."""
        parts = [slice(None) if half is None else halves(len(run.served))[half] for run in self.runs]
        served = sum(int(run.served[part].sum()) for run, part in zip(self.runs, parts, strict=True))
        wrong = sum(int(run.wrong[part].sum()) for run, part in zip(self.runs, parts, strict=True))
        return wrong / served if served else None

    def hits(self, half: int) -> int:
        """Served in a half, over all seeds."""
        return sum(int(run.served[halves(len(run.served))[half]].sum()) for run in self.runs)

    def as_json(self) -> dict[str, Any]:
        """In the documented shape; intervals are over seeds."""
        hit_rates = [float(run.served.mean()) for run in self.runs]
        wrong = bootstrap.ratio(
            [float(run.wrong.sum()) for run in self.runs], [float(run.served.sum()) for run in self.runs], seed=0
        )
        rate = bootstrap.mean(hit_rates, seed=0)
        n = sum(len(run.served) for run in self.runs)
        seconds = sum(run.seconds for run in self.runs)
        return {
            "hit_rate": self.hit_rate,
            "exact_rate": float(np.mean([run.exact.mean() for run in self.runs])),
            "wrong_share": self.wrong_share(),
            "wrong_share_first_half": self.wrong_share(0),
            "wrong_share_second_half": self.wrong_share(1),
            "wrong_of_requests": float(np.mean([run.wrong.mean() for run in self.runs])),
            "seeds_within_bound": self.seeds_within_bound,
            "intervals": {
                "hit_rate": None if rate is None else [rate.low, rate.high],
                "wrong_share": None if wrong is None else [wrong.low, wrong.high],
            },
            "questions_per_second": n / seconds if seconds else None,
            "by_kind": self._by_kind(),
            "refusals": self._refusals(),
            "seeds": [
                {
                    "hit_rate": float(run.served.mean()),
                    "wrong_share": run.wrong_share(),
                    "wrong_share_first_half": run.wrong_share(halves(len(run.served))[0]),
                    "wrong_share_second_half": run.wrong_share(halves(len(run.served))[1]),
                }
                for run in self.runs
            ],
        }

    def _by_kind(self) -> dict[str, dict[str, int]]:
        found: dict[str, dict[str, int]] = {}
        for run, stream in zip(self.runs, self.streams, strict=True):
            for keyed, served, wrong in zip(stream, run.served, run.wrong, strict=True):
                if keyed.asked.kind is not None:
                    kind = found.setdefault(keyed.asked.kind, {"n": 0, "served": 0, "wrong": 0})
                    kind["n"] += 1
                    kind["served"] += int(served)
                    kind["wrong"] += int(wrong)
        return found

    def _refusals(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for run in self.runs:
            for guard in filter(None, run.guards):
                found[guard] = found.get(guard, 0) + 1
        return found


@dataclass(frozen=True, slots=True)
class Report:
    """All methods at all bounds.

    Attributes:
        cells: By method and bound.
        curves: Of plain thresholds, without and with chatlab's keys: hit rate and wrong share at each similarity.
        left_out: Peers that are not installed.
    """

    n: int
    n_seeds: int
    scope: CacheScope
    bounds: Sequence[float]
    labels: Comparator
    cells: Mapping[str, Mapping[float, Cell]]
    curves: Mapping[str, Sequence[Mapping[str, float | None]]] = field(default_factory=dict[str, Any])
    left_out: Sequence[str] = ()

    def against(self, peer: str, max_error: float, half: int = 1) -> float | None:
        """Our hits (true labels) over a peer's, in a half of the streams; None where the peer serves nothing."""
        theirs = self.cells[peer][max_error].hits(half)
        return self.cells[OURS][max_error].hits(half) / theirs if theirs else None

    def as_json(self) -> dict[str, Any]:
        """In the documented shape."""
        return {
            "n": self.n,
            "seeds": self.n_seeds,
            "scope": self.scope,
            "max_errors": [*self.bounds],
            "label_errors": {"false_same": self.labels.false_same, "false_different": self.labels.false_different},
            "methods": {
                method: {f"{bound:g}": cell.as_json() for bound, cell in cells.items()}
                for method, cells in self.cells.items()
            },
            "hits_over": {
                peer: {f"{bound:g}": self.against(peer, bound) for bound in self.bounds}
                for peer in (PLAIN, PLAIN_KEYED, PLAIN_BOTH, PLAIN_KEEPING)
            },
            "curves": self.curves,
            "left_out": [*self.left_out],
        }


async def study(
    streams: Sequence[Sequence[Asked]],
    embedder: Embedder,
    scope: CacheScope = "user",
    bounds: Sequence[float] = BOUNDS,
    labels: Comparator = TYPICAL,
) -> Report:
    """Run every method on every stream.

    Args:
        streams: One a seed, all of the same length; the seed is its place.
        embedder: The cache's.
        scope: Whether users share answers.
        bounds: Shares of served answers that may be wrong.
        labels: Errors of the labels of the second line.

    Raises:
        ModelUnavailable: The embedder cannot be loaded.
    """
    corpus, keyed = await prepare(streams, embedder, scope)
    return compare(corpus, keyed, scope, bounds, labels)


def compare(
    corpus: Corpus,
    keyed: Sequence[Sequence[Keyed]],
    scope: CacheScope = "user",
    bounds: Sequence[float] = BOUNDS,
    labels: Comparator = TYPICAL,
) -> Report:
    """The same on streams that are prepared."""

    def runs(new: Callable[[int], Policy], errors: Comparator | None = None) -> list[Run]:
        return [simulate(stream, corpus, new(seed), seed, errors) for seed, stream in enumerate(keyed)]

    plain = {least: runs(lambda _, least=least: Threshold(least)) for least in (*GRID, CLOSED)}
    with_keys = {least: runs(lambda _, least=least: Threshold(least, True, True)) for least in (*GRID, CLOSED)}
    fixed: dict[str, list[Run]] = {f"plain {least:.2f}": plain[least] for least in FIXED}
    left_out: list[str] = []
    for name, least in ((GPTCACHE, gptcache_threshold()), (REDISVL, redisvl_threshold())):
        if least is None:
            left_out.append(f"{name}: is not installed")
        else:
            fixed[name] = runs(lambda _, least=least: Threshold(least))
    cells: dict[str, dict[float, Cell]] = {}
    for bound in bounds:
        found = {
            OURS: runs(lambda _, bound=bound: Chatlab(corpus.judge, bound)),
            OURS_NOISY: runs(lambda _, bound=bound: Chatlab(corpus.judge, bound, labels), labels),
            OURS_SHIPPED: runs(lambda _, bound=bound: Chatlab(corpus.judge, bound, learns=False)),
            PLAIN: tuned(plain, bound),
            PLAIN_KEYED: tuned(with_keys, bound),
            PLAIN_BOTH: tuned(with_keys, bound, MAX_WRONG_REQUESTS),
            PLAIN_KEEPING: best_keeping(with_keys, bound),
            VCACHE: runs(lambda seed, bound=bound: VCache(bound, random.Random(seed), keyed=True)),
            **fixed,
        }
        for method, each in found.items():
            cells.setdefault(method, {})[bound] = Cell(method, bound, each, keyed)
    curves = {"plain": _curve(plain), "plain with chatlab's keys": _curve(with_keys)}
    return Report(len(keyed[0]), len(keyed), scope, bounds, labels, cells, curves, left_out)


def tuned(runs: Mapping[float, Sequence[Run]], max_error: float, max_wrong_requests: float = 1.0) -> list[Run]:
    """For each seed the run of the similarity that serves most in the first half and keeps the bounds there.

    Where none does, that which comes closest.

    Args:
        runs: By similarity, one a seed; that of a closed threshold among them.
        max_error: Share of what is served in that half that may be wrong.
        max_wrong_requests: Share of all questions of that half that may be served a wrong answer.
    """
    chosen: list[Run] = []
    for of_seed in zip(*runs.values(), strict=True):
        first = halves(len(of_seed[0].served))[0]
        kept = [
            run
            for run in of_seed
            if (run.wrong_share(first) or 0.0) <= max_error and run.wrong[first].mean() <= max_wrong_requests
        ]
        if not kept:  # the same words asked for another thing, and nothing else is served
            kept = [min(of_seed, key=lambda run: run.wrong_share(first) or 0.0)]
        chosen.append(max(kept, key=lambda run: int(run.served[first].sum())))
    return chosen


def best_keeping(runs: Mapping[float, Sequence[Run]], max_error: float) -> list[Run]:
    """Those of the similarity that serves most of all that keep the bound, as ours has to, in nearly all seeds."""
    kept = [each for each in runs.values() if np.mean([run.keeps(max_error) for run in each]) >= KEEPING]
    if not kept:
        kept = [min(runs.values(), key=lambda each: sum(int(run.wrong.sum()) for run in each))]
    return [*max(kept, key=lambda each: sum(int(run.served.sum()) for run in each))]


def _curve(runs: Mapping[float, Sequence[Run]]) -> list[dict[str, float | None]]:
    cells = {least: Cell("", 1.0, each, ()) for least, each in runs.items() if least != CLOSED}
    return [
        {"similarity": least, "hit_rate": cell.hit_rate, "wrong_share": cell.wrong_share()}
        for least, cell in cells.items()
    ]


def table_of(streams: Mapping[str, Any]) -> list[list[str]]:
    """The rows of the table that is printed, from the JSON shape."""
    rows = [["bound", "method", "hits", "wrong of served", "1st half", "2nd half", "of requests", "seeds within"]]
    for bound in map("{:g}".format, streams["max_errors"]):
        for method, cells in streams["methods"].items():
            cell = cells[bound]
            shares = [
                cell[name] for name in ("hit_rate", "wrong_share", "wrong_share_first_half", "wrong_share_second_half")
            ]
            rows.append(
                [
                    bound,
                    method,
                    *("-" if share is None else f"{share:.3f}" for share in shares),
                    f"{cell['wrong_of_requests']:.4f}",
                    f"{cell['seeds_within_bound']:.2f}",
                ]
            )
    return rows
