"""How likely one answer serves two questions.

A logistic regression over their evidence that must agree with the similarity of the two. Trained by
`tools/train_verifier.py`; the card is in `data/README.md`. It is of all-MiniLM-L6-v2: with another embedder its scores
mean nothing, and the semantic tier stays closed.
"""

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from chatlab.cache.key import CALIBRATION_VERSION

EMBEDDER = "all-MiniLM-L6-v2"  # or a folder of that name
WEIGHTS = "verifier.npz"
NAME = f"shipped/{CALIBRATION_VERSION}"  # scores of another one are not comparable

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Weights:
    """The trained numbers.

    Attributes:
        mean: Of each feature, (n_features,).
        scale: Its standard deviation, (n_features,).
        coefficients: Of the scaled features, (n_features,).
        bias: Of the regression.
        similarity: Weight of the similarity beside it, and the similarity that counts as none, (2,).
        calibration: Slope and intercept from raw score to log odds, (2,).
    """

    mean: Floats
    scale: Floats
    coefficients: Floats
    bias: Floats
    similarity: Floats
    calibration: Floats

    def raw(self, features: Floats) -> Floats:
        """Scores before calibration, (n,), of features (n, n_features)."""
        odds = ((features - self.mean) / self.scale) @ self.coefficients + self.bias
        weight, middle = self.similarity
        return weight * (features[:, 0] - middle) - np.logaddexp(0, -odds)

    def probabilities(self, features: Floats) -> Floats:
        """That one answer serves both, (n,), in (0, 1), of features (n, n_features)."""
        slope, intercept = self.calibration
        return 1 / (1 + np.exp(-(slope * self.raw(features) + intercept)))


def calibrated_for(embedder: str) -> bool:
    """Whether scores mean something with this embedder."""
    return embedder.rpartition("/")[2] == EMBEDDER


@cache
def weights() -> Weights:
    """Those of the package."""
    with resources.files("chatlab.cache").joinpath(WEIGHTS).open("rb") as file, np.load(file) as arrays:
        return Weights(**{name: arrays[name].astype(np.float64) for name in Weights.__dataclass_fields__})
