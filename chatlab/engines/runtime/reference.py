"""Any architecture that Transformers loads, by its own modules: correct everywhere, one sequence after the other.

What `llama` is held against, and what answers where that does not know the architecture.
"""

import copy
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import DynamicCache

from chatlab.engines.runtime.runner import Feed


@dataclass(eq=False, slots=True)
class Cached:
    """A sequence's keys and values, in Transformers' own container; `n_tokens` of it are there."""

    cache: DynamicCache
    n_tokens: int


class ReferenceRunner:
    """See `Runner`.

    Args:
        model: A causal language model of Transformers, ready to run.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        last_only = "logits_to_keep" in inspect.signature(model.forward).parameters
        self._options: dict[str, Any] = {"logits_to_keep": 1} if last_only else {}
        empty = DynamicCache(config=model.config)
        self.cuts = empty.is_croppable and not any(empty.is_sliding)  # a window has forgotten what is before it
        self.device: torch.device = model.device
        self._states: set[Cached] = set()
        self._bytes_per_token = 0  # known after the first step

    @property
    def n_bytes(self) -> int:
        """Of all states."""
        return sum(state.n_tokens for state in self._states) * self._bytes_per_token

    @property
    def bytes_per_token(self) -> int:
        """As measured on the first sequence; 0 before."""
        return self._bytes_per_token

    def cost_of(self, n_tokens: int, state: Cached | None = None) -> int:
        """See `Runner.cost_of`."""
        return (n_tokens - (state.n_tokens if state else 0)) * self._bytes_per_token

    def begin(self, n_tokens: int, kept: Cached | None, n_known: int) -> Cached:
        """See `Runner.begin`; memory is taken as tokens come."""
        if kept is None or not n_known:
            state = Cached(DynamicCache(config=self._model.config), 0)
        else:
            state = Cached(copy.deepcopy(kept.cache), kept.n_tokens)
            _cut(state, n_known)
        self._states.add(state)
        return state

    def grow(self, state: Cached, n_tokens: int, n_written: int) -> Cached:
        """See `Runner.grow`: the container grows by itself."""
        return state

    def keep(self, state: Cached, n_tokens: int) -> Cached:
        """See `Runner.keep`: the state itself, which nobody uses any more."""
        _cut(state, n_tokens)
        return state

    def end(self, state: Cached, spoiled: bool = False) -> None:
        """See `Runner.end`."""
        self._states.discard(state)

    @torch.inference_mode()
    def step(self, feeds: Sequence[Feed[Cached]]) -> torch.Tensor:
        """See `Runner.step`."""
        logits: list[torch.Tensor] = []
        for feed in feeds:
            _cut(feed.state, feed.start)  # a step that failed half-way may have left more
            output = self._model(
                input_ids=torch.tensor([feed.token_ids], device=self.device),  # (1, n)
                past_key_values=feed.state.cache,
                use_cache=True,
                **self._options,
            )
            feed.state.n_tokens = feed.start + len(feed.token_ids)
            if not self._bytes_per_token:
                self._bytes_per_token = _n_bytes(feed.state.cache) // feed.state.n_tokens
            if feed.wants_logits:
                logits.append(output.logits[0, -1])
        return torch.stack(logits) if logits else torch.empty(0)


def _cut(state: Cached, n_tokens: int) -> None:
    """Drop what is after the first `n_tokens`."""
    if surplus := state.cache.get_seq_length() - n_tokens:
        state.cache.crop(-surplus)
    state.n_tokens = n_tokens


def _n_bytes(cache: DynamicCache) -> int:
    layers: list[Any] = cache.layers
    tensors = [getattr(layer, name, None) for layer in layers for name in ("keys", "values")]
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)
