"""Attention keys and values kept between the turns of a chat, so that a known prompt prefix is not computed again.

Bounded by memory, least recently used out first. An entry belongs to one user and one chat and is taken out while it
is in use: it is never shared.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import DynamicCache

Key = tuple[str, str]  # user, chat


@dataclass(slots=True)
class Prefix:
    """Tokens and their keys and values; `len(token_ids)` equals the cache's sequence length."""

    token_ids: list[int]
    cache: DynamicCache

    def cut_to_common(self, prompt_ids: Sequence[int]) -> int:
        """Drop what `prompt_ids` does not begin with; at least one token of the prompt stays to be computed.

        Returns:
            How many tokens of the prompt are now in the cache.
        """
        limit = min(len(self.token_ids), len(prompt_ids) - 1)
        common = next((i for i in range(limit) if self.token_ids[i] != prompt_ids[i]), limit)
        if surplus := len(self.token_ids) - common:
            self.cache.crop(-surplus)
            del self.token_ids[common:]
        return common

    @property
    def n_bytes(self) -> int:
        """Memory of the keys and values."""
        layers: list[Any] = self.cache.layers
        return sum(tensor.nbytes for layer in layers for tensor in (layer.keys, layer.values) if tensor is not None)


class PrefixStore:
    """Prefixes by user and chat within `max_bytes`. Used by the generation thread alone."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._entries: OrderedDict[Key, Prefix] = OrderedDict()
        self._n_bytes = 0

    def take(self, key: Key) -> Prefix | None:
        """Remove and return a chat's prefix."""
        prefix = self._entries.pop(key, None)
        if prefix is not None:
            self._n_bytes -= prefix.n_bytes
        return prefix

    def put(self, key: Key, prefix: Prefix) -> None:
        """Keep a prefix, and drop the least recently used ones that no longer fit."""
        self.take(key)
        self._entries[key] = prefix
        self._n_bytes += prefix.n_bytes
        while self._n_bytes > self._max_bytes:
            self.take(next(iter(self._entries)))
