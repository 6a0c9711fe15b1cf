"""A cross-encoder of sentence-transformers as the verifier of cached answers, instead of the shipped one.

It reads both questions at once, which sees more and takes longer: its callers wait in a thread of their own. Loaded on
first use. Owns one thread; the model is touched by nobody else.
"""

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlab.errors import ConfigError, ModelUnavailable

BATCH_SIZE = 16
SAME = frozenset({"duplicate", "is_duplicate", "paraphrase", "equivalent", "entailment", "same", "1", "label_1"})

Floats = NDArray[np.float64]


class CrossEncoderVerifier:
    """How likely one answer serves two questions, says a CrossEncoder.

    With one label its sigmoid is the score; with more the share of the one named like `duplicate` or `entailment`.

    Args:
        location: A Hub id or a folder.
        device: A torch device.

    Attributes:
        name: The location; scores of another one are not comparable.
        calibrated: Whether its scores are known to keep a bound: never, until labels show where they do.
    """

    calibrated = False

    def __init__(self, location: str, device: str = "cpu") -> None:
        self.name = location
        self._device = device
        self._model: Any = None  # CrossEncoder; imported late, it takes seconds
        self._label = 0
        self._thread = ThreadPoolExecutor(1, "verifier", initializer=_one_thread)

    def scores(self, question: str, candidates: Sequence[str]) -> Floats:
        """That one answer serves the question and each candidate, (n,), in [0, 1].

        The lesser of both orders, so that it does not matter which came first; 0 for what is longer than the model
        reads. Blocks.

        Raises:
            ModelUnavailable: The model cannot be loaded; says which and the ways out.
            ConfigError: It has no label that says that two texts mean the same.
        """
        return self._thread.submit(self._scores, question, list(candidates)).result()

    def close(self) -> None:
        """Finish what was asked for and end the thread."""
        self._thread.shutdown()

    def _scores(self, question: str, candidates: list[str]) -> Floats:
        model = self._loaded()
        pairs = [pair for candidate in candidates for pair in ((question, candidate), (candidate, question))]
        if not pairs:
            return np.zeros(0)
        raw = model.predict(
            pairs, batch_size=BATCH_SIZE, activation_fn=_identity, apply_softmax=False, show_progress_bar=False
        )
        logits = np.asarray(raw, dtype=np.float64).reshape(len(pairs), -1)  # (2 n, n_labels)
        shares = 1 / (1 + np.exp(-logits[:, 0])) if logits.shape[1] == 1 else _softmax(logits)[:, self._label]
        seen = np.array([self._fits(*pair) for pair in pairs])
        return np.where(seen, shares, 0.0).reshape(-1, 2).min(axis=1)

    def _fits(self, a: str, b: str) -> bool:
        longest = self._model.max_seq_length or math.inf
        return len(self._model.tokenizer(a, b, truncation=False, verbose=False)["input_ids"]) <= longest

    def _loaded(self) -> Any:
        if self._model is None:
            model = self._load()
            self._label = _label(self.name, model.config.id2label, model.num_labels)
            self._model = model
        return self._model

    def _load(self) -> Any:
        from sentence_transformers import CrossEncoder

        try:
            return CrossEncoder(self.name, device=self._device)
        except Exception as error:
            raise ModelUnavailable(
                f"CHATLAB_CACHE_VERIFIER: {self.name!r} cannot be loaded as a cross-encoder. Either fetch it where "
                f"there is a network (`hf download {self.name}`), or name a folder that holds one, or leave it empty "
                f"for the shipped verifier. Cause: {(str(error) or repr(error)).splitlines()[0]}"
            ) from error


def _label(name: str, names: Mapping[int, str], n_labels: int) -> int:
    """The place of the label that says "the same"."""
    if n_labels == 1:
        return 0
    found = [place for place, label in names.items() if str(label).lower() in SAME]
    if len(found) == 1:
        return int(found[0])
    raise ConfigError(
        f"CHATLAB_CACHE_VERIFIER: {name!r} has the labels {', '.join(map(str, names.values()))}; one score is needed, "
        "or one label that says that two texts mean the same (duplicate, paraphrase, entailment)"
    )


def _softmax(logits: Floats) -> Floats:
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def _identity(logits: Any) -> Any:
    """In place of what a model's configuration says of its logits, which differs."""
    return logits


def _one_thread() -> None:
    """As the embedder does: a second team of threads would slow the engine's down."""
    import torch

    torch.set_num_threads(1)
