"""Keys and values kept after an answer, for later prompts of the same user that begin alike.

An entry belongs to one user and is never looked at for another: not even how long an answer takes tells one person
what another has written.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from chatlab.engines.runtime.runner import Kept

TokenIds = npt.NDArray[np.int64]


@dataclass(eq=False, slots=True)
class Prefix:
    """Tokens, and their keys and values."""

    user_id: str
    token_ids: TokenIds
    kept: Kept
    n_bytes: int


class Prefixes:
    """Kept prefixes, by user; the least recently used one goes first. Used by the generation thread alone.

    Args:
        cuts: Whether a prefix serves up to any of its tokens, or only as a whole.
    """

    def __init__(self, cuts: bool) -> None:
        self._cuts = cuts
        self._by_user: dict[str, list[Prefix]] = {}
        self._by_use: OrderedDict[Prefix, None] = OrderedDict()
        self.n_bytes = 0

    def __len__(self) -> int:
        """How many are kept."""
        return len(self._by_use)

    def longest(self, user_id: str, prompt_ids: Sequence[int]) -> tuple[Prefix | None, int]:
        """The user's prefix with most tokens in common with the prompt, and how many; it counts as used.

        At least one token of the prompt is left to be computed.
        """
        prompt = np.asarray(prompt_ids[:-1], dtype=np.int64)
        best, most = None, 0
        for prefix in self._by_user.get(user_id, ()):
            n = _common(prefix.token_ids, prompt)
            if n > most and (self._cuts or n == len(prefix.token_ids)):
                best, most = prefix, n
        if best is not None:
            self._by_use.move_to_end(best)
        return best, most

    def put(self, user_id: str, token_ids: Sequence[int], kept: Kept, n_bytes: int) -> None:
        """Keep a prefix, unless one of the user's does its service; those that it makes superfluous are dropped."""
        added = Prefix(user_id, np.asarray(token_ids, dtype=np.int64), kept, n_bytes)
        for known in [*self._by_user.get(user_id, ())]:
            n = _common(known.token_ids, added.token_ids)
            if self._cuts and n == len(added.token_ids):
                self._by_use.move_to_end(known)
                return
            if n == len(known.token_ids) and (self._cuts or n == len(added.token_ids)):
                self._drop(known)
        self._by_user.setdefault(user_id, []).append(added)
        self._by_use[added] = None
        self.n_bytes += n_bytes

    def drop_oldest(self) -> None:
        """Free the least recently used one."""
        self._drop(next(iter(self._by_use)))

    def clear(self) -> None:
        """Free all."""
        while self._by_use:
            self.drop_oldest()

    def _drop(self, prefix: Prefix) -> None:
        del self._by_use[prefix]
        self.n_bytes -= prefix.n_bytes
        entries = self._by_user[prefix.user_id]
        entries.remove(prefix)
        if not entries:
            del self._by_user[prefix.user_id]


def _common(a: TokenIds, b: TokenIds) -> int:
    """How many tokens two lists begin with in common."""
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    return int(different[0]) if len(different) else n
