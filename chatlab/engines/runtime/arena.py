"""Memory for the attention keys and values of running sequences: rows of a few capacities, in blocks of rows.

Rows of one capacity lie beside each other, so that neighbours are attended to in one call, without padding to the
longest of all and without moving anything when a sequence ends. Knows bytes and places, not tokens or users.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch

from chatlab.engines.runtime.runner import KvMemoryFull

MIN_ROW_TOKENS = 256
BLOCK_TOKENS = 4_096  # of a block, or one row if that is longer
BLOCK_BYTES = 128_000_000  # of a block, or one row: large models have fewer tokens in one


@dataclass(eq=False, slots=True)
class Block:
    """Rows of equal capacity: `kv` is (layers, rows, 2 * kv_heads, capacity, head_dim), keys before values."""

    kv: torch.Tensor
    free: list[int]

    @property
    def n_rows(self) -> int:
        """Free and taken."""
        return self.kv.shape[1]


@dataclass(eq=False, slots=True)
class Row:
    """The place of one sequence."""

    block: Block
    index: int

    @property
    def capacity(self) -> int:
        """Tokens it can hold."""
        return self.block.kv.shape[3]

    @property
    def kv(self) -> torch.Tensor:
        """Its keys and values, (layers, 2 * kv_heads, capacity, head_dim)."""
        return self.block.kv[:, self.index]


@dataclass(slots=True)
class KvShape:
    """What a token's keys and values are made of."""

    layers: int
    kv_heads: int
    head_dim: int
    dtype: torch.dtype
    device: torch.device

    @property
    def bytes_per_token(self) -> int:
        """Memory of one token over all layers."""
        return self.layers * 2 * self.kv_heads * self.head_dim * self.dtype.itemsize

    def empty(self, rows: int, capacity: int) -> torch.Tensor:
        """Memory for rows, zeros: what lies behind a row's tokens is masked, but 0 times NaN would be NaN.

        Raises:
            KvMemoryFull: The machine has none.
        """
        shape = (self.layers, rows, 2 * self.kv_heads, capacity, self.head_dim)
        try:
            return torch.zeros(shape, dtype=self.dtype, device=self.device)
        except RuntimeError as error:  # torch.OutOfMemoryError is one; a CPU raises the plain one
            raise KvMemoryFull(f"no memory for {capacity} tokens: {str(error).splitlines()[0]}") from error


@dataclass(slots=True)
class Arena:
    """All rows. Used by the generation thread alone.

    Attributes:
        max_row_tokens: The model's context.
        n_bytes: What the blocks take.
    """

    shape: KvShape
    max_row_tokens: int
    n_bytes: int = 0
    _blocks: dict[int, list[Block]] = field(default_factory=dict[int, list[Block]])

    def capacity_for(self, n_tokens: int) -> int:
        """The smallest row that holds `n_tokens`."""
        capacity = MIN_ROW_TOKENS
        while capacity < n_tokens:
            capacity *= 2
        return min(capacity, max(self.max_row_tokens, n_tokens))

    def cost_of(self, n_tokens: int) -> int:
        """Bytes that taking a row for `n_tokens` would add."""
        capacity = self.capacity_for(n_tokens)
        if any(block.free for block in self._blocks.get(capacity, ())):
            return 0
        return self._rows_of_a_block(capacity) * capacity * self.shape.bytes_per_token

    def take(self, n_tokens: int) -> Row:
        """A row that holds `n_tokens`, from the fullest block that has one.

        Raises:
            KvMemoryFull: The machine has no memory for another block.
        """
        capacity = self.capacity_for(n_tokens)
        blocks = self._blocks.setdefault(capacity, [])
        block = min((b for b in blocks if b.free), key=lambda b: len(b.free), default=None)
        if block is None:
            rows = self._rows_of_a_block(capacity)
            block = Block(self.shape.empty(rows, capacity), list(reversed(range(rows))))
            blocks.append(block)
            self.n_bytes += block.kv.nbytes
        return Row(block, block.free.pop())

    def give_back(self, row: Row, spoiled: bool = False) -> None:
        """Free a row, and its block when it was the last one taken; `spoiled` if it may hold what is not a number."""
        block = row.block
        if spoiled:
            row.kv.zero_()
        block.free.append(row.index)
        block.free.sort(reverse=True)  # the lowest is taken first, so that taken ones are neighbours
        if len(block.free) == block.n_rows:
            self._blocks[row.capacity].remove(block)
            self.n_bytes -= block.kv.nbytes

    def _rows_of_a_block(self, capacity: int) -> int:
        return max(1, min(BLOCK_TOKENS, BLOCK_BYTES // self.shape.bytes_per_token) // capacity)

    def grown(self, row: Row, n_tokens: int, n_written: int) -> Row:
        """A row for `n_tokens` with the first `n_written` of this one, which is given back if it was too small.

        Raises:
            KvMemoryFull: As `take`; the row is as it was.
        """
        if n_tokens <= row.capacity:
            return row
        larger = self.take(n_tokens)
        larger.kv[:, :, :n_written] = row.kv[:, :, :n_written]
        self.give_back(row)
        return larger


def neighbours(rows: list[Row]) -> Iterator[tuple[int, int]]:
    """Runs of rows that lie beside each other, as ranges of the list; the list is in order of block and index."""
    start = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i].block is not rows[start].block or rows[i].index != rows[start].index + i - start:
            yield start, i
            start = i
