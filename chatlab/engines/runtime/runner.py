"""What the scheduler asks of a model: steps over many sequences. Knows tokens and memory, not requests or users."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import torch

State = TypeVar("State")
Kept = Any  # keys and values of a prefix, as a runner keeps them


class KvMemoryFull(Exception):
    """No room for keys and values, within the limit or in the machine's memory."""


@dataclass(frozen=True, slots=True)
class Feed(Generic[State]):
    """What one sequence gets in a step.

    Attributes:
        state: Its keys and values; those of the first `start` tokens are there.
        start: Position of the first of the tokens.
        token_ids: At least one.
        wants_logits: Whether the logits after the last of them are needed.
    """

    state: State
    start: int
    token_ids: Sequence[int]
    wants_logits: bool


class Runner(Protocol[State]):
    """A model over the keys and values of many sequences. Used by one thread.

    Attributes:
        cuts: Whether a kept prefix can be used up to any of its tokens, or only as a whole.
    """

    cuts: bool

    @property
    def n_bytes(self) -> int:
        """What the states take."""
        ...

    @property
    def bytes_per_token(self) -> int:
        """Of keys and values."""
        ...

    def cost_of(self, n_tokens: int, state: State | None = None) -> int:
        """Bytes that `begin`, or with a state `grow`, would add."""
        ...

    def begin(self, n_tokens: int, kept: Kept, n_known: int) -> State:
        """A state with room for `n_tokens`, that knows the first `n_known` tokens of a kept prefix.

        Raises:
            KvMemoryFull: The machine has no memory; so does `grow`, which leaves the state as it was.
        """
        ...

    def grow(self, state: State, n_tokens: int, n_written: int) -> State:
        """The state with room for `n_tokens`, of which `n_written` are there; the old one is no longer used."""
        ...

    def keep(self, state: State, n_tokens: int) -> Kept:
        """What `begin` takes, for the first `n_tokens`; the state itself is to be ended.

        Raises:
            KvMemoryFull: The machine has no memory for it.
        """
        ...

    def end(self, state: State, spoiled: bool = False) -> None:
        """Free the state's memory; `spoiled` if what was computed may not be numbers."""
        ...

    def step(self, feeds: Sequence[Feed[State]]) -> torch.Tensor:
        """Compute tokens of several sequences, each with its own state.

        Returns:
            Logits after the last token of each feed that wants them, in their order, (n, vocab).
        """
        ...
