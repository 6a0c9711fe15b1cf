"""The threshold that keeps what is promised: the share of answers served from the cache that may be wrong.

It ships calibrated on pairs that the verifier was not trained on (`tools/train_verifier.py`), mixed as traffic is
assumed to be: `MIX`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

FILE = "calibration.npz"
# Of lookups that find something alike: those that ask the same, those that change what matters, others on the topic.
MIX: Mapping[str, float] = {"same": 0.55, "trap": 0.05, "topic": 0.40}
CLOSED = 1.01  # a threshold that no score reaches
MIN_SERVED = 0.005  # of the pairs that ask the same: with less there is nothing to estimate from

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Calibration:
    """Shares of pairs with at least a score, by what they are.

    Attributes:
        thresholds: Scores, rising, (n,).
        same: Of pairs that one answer serves, (n,).
        trap: Of pairs that are alike but for what matters, (n,).
        topic: Of pairs on the same topic, (n,).
    """

    thresholds: Floats
    same: Floats
    trap: Floats
    topic: Floats

    @property
    def wrong(self) -> Floats:
        """Of lookups with a candidate under `MIX`, those served a wrong answer at each threshold, (n,)."""
        return MIX["trap"] * self.trap + MIX["topic"] * self.topic

    @property
    def served(self) -> Floats:
        """Of lookups with a candidate under `MIX`, those served at each threshold, (n,)."""
        return MIX["same"] * self.same + self.wrong

    def threshold(self, max_error: float) -> float:
        """The least from which on no more than this share of what is served is wrong; `CLOSED` if there is none."""
        kept = (self.wrong <= max_error * self.served) & (self.same >= MIN_SERVED)
        if not kept.any():
            return CLOSED
        last_bad = np.flatnonzero(~kept & (self.same >= MIN_SERVED))
        first = 0 if not len(last_bad) else int(last_bad[-1]) + 1
        return float(self.thresholds[first]) if kept[first:].any() else CLOSED


@cache
def shipped() -> Calibration:
    """That of the package."""
    with resources.files("chatlab.cache").joinpath(FILE).open("rb") as file, np.load(file) as arrays:
        return Calibration(**{name: arrays[name].astype(np.float64) for name in Calibration.__dataclass_fields__})
