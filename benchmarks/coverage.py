"""Whether 95 % intervals hold the truth in 93 to 97 of 100 samples, for what replay, verdict and eval report.

Each kind of data is drawn anew 1,000 times, from a distribution whose truth is known. Beside our intervals are
percentiles of the same resamples, which is the usual bootstrap.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.report import write
from chatlab.evaluation import bootstrap

SAMPLES = 1_000
LEAST, MOST = 0.93, 0.97

Floats = NDArray[np.float64]
Draw = Callable[[np.random.Generator], tuple[Floats, Floats]]


@dataclass(frozen=True, slots=True)
class Kind:
    """Data of one kind: numerators and denominators of a sample, and the ratio of their expectations."""

    draw: Draw
    truth: float
    yes_or_no: bool = False


def main(json_file: Path | None = None) -> None:
    """Measure, print, and write the result."""
    found: dict[str, dict[str, float]] = {}
    print(f"{'data':44}{'ours':>8}{'percentiles':>14}   of {SAMPLES:,} samples")
    for name, kind in KINDS.items():
        ours, percentiles = coverage(kind, SAMPLES)
        found[name] = {"ours": ours, "percentiles": percentiles}
        reached = "" if LEAST <= ours <= MOST else "   not reached"
        print(f"{name:44}{ours:>8.1%}{percentiles:>14.1%}{reached}", flush=True)
    write({"coverage": found}, json_file)


def coverage(kind: Kind, samples: int, seed: int = 1) -> tuple[float, float]:
    """Shares of samples whose interval holds the truth: ours, and percentiles."""
    generator = np.random.default_rng(seed)
    ours = percentiles = 0
    for number in range(samples):
        above, below = kind.draw(generator)
        estimate = bootstrap.share(above.tolist()) if kind.yes_or_no else bootstrap.ratio(above, below, number)
        ours += estimate is not None and estimate.low <= kind.truth <= estimate.high
        picks = generator.integers(0, len(above), (1_000, len(above)))
        low, high = np.percentile(above[picks].sum(axis=1) / below[picks].sum(axis=1), [2.5, 97.5])
        percentiles += bool(low <= kind.truth <= high)
    return ours / samples, percentiles / samples


def _plain(draw: Callable[[np.random.Generator], NDArray[Any]]) -> Draw:
    def drawn(generator: np.random.Generator) -> tuple[Floats, Floats]:
        values = draw(generator).astype(np.float64)
        return values, np.ones(len(values))

    return drawn


def _clusters(n: int, share: float, alike: float, better: float | None = None) -> Draw:
    """Turns that are served or not, in n chats whose shares differ; less another way's, where `better` is its share."""

    def drawn(generator: np.random.Generator) -> tuple[Floats, Floats]:
        turns = 1 + generator.geometric(0.2, n)
        a, b = share * (1 - alike) / alike, (1 - share) * (1 - alike) / alike
        shares = generator.beta(a, b, n)
        served = generator.binomial(turns, shares).astype(float)
        if better is not None:
            served -= generator.binomial(turns, better * shares)
        return served, turns.astype(float)

    return drawn


def _tokens(n: int) -> Draw:
    """Tokens in n chats, skewed, of turns whose number differs."""

    def drawn(generator: np.random.Generator) -> tuple[Floats, Floats]:
        turns = (1 + generator.geometric(0.2, n)).astype(np.float64)
        return turns * generator.lognormal(0.0, 0.7, n), turns

    return drawn


KINDS: Mapping[str, Kind] = {
    "differences, normal, 20": Kind(_plain(lambda g: g.normal(0, 1, 20)), 0.0),
    "seconds, exponential, 20": Kind(_plain(lambda g: g.exponential(1, 20)), 1.0),
    "seconds, exponential, 40": Kind(_plain(lambda g: g.exponential(1, 40)), 1.0),
    "tokens, lognormal, 40": Kind(_plain(lambda g: g.lognormal(0, 0.7, 40)), math.exp(0.245)),
    "tokens, very skewed (lognormal 1), 40": Kind(_plain(lambda g: g.lognormal(0, 1, 40)), math.exp(0.5)),
    "saved, 3 of 4 nothing, 40": Kind(_plain(lambda g: (g.random(40) < 0.25) * g.exponential(1, 40)), 0.25),
    "share 0.5 of 30": Kind(_plain(lambda g: (g.random(30) < 0.5) * 1.0), 0.5, yes_or_no=True),
    "share 0.2 of 40": Kind(_plain(lambda g: (g.random(40) < 0.2) * 1.0), 0.2, yes_or_no=True),
    "share 0.05 of 200": Kind(_plain(lambda g: (g.random(200) < 0.05) * 1.0), 0.05, yes_or_no=True),
    "share 0.3 over 25 chats": Kind(_clusters(25, 0.3, 0.2), 0.3),
    "share 0.1 over 30 chats": Kind(_clusters(30, 0.1, 0.1), 0.1),
    "paired difference of shares, 25 chats": Kind(_clusters(25, 0.3, 0.2, 0.6), 0.12),
    "paired difference of shares, 40 chats": Kind(_clusters(40, 0.1, 0.1, 0.6), 0.04),
    "tokens a turn, skewed, 30 chats": Kind(_tokens(30), math.exp(0.245)),
    "tokens a turn, skewed, 60 chats": Kind(_tokens(60), math.exp(0.245)),
}
