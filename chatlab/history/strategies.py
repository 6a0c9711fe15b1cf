"""Which past turns a prompt carries word for word: from one of them on, all.

Where that begins stays put from turn to turn, so that the prompt's beginning stays the same and what an engine
computed of it serves again. Only when the turns no longer fit it moves, and then far enough for many turns to come.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from chatlab.messages import StrategyName

RECALL_TOKENS = 400  # at least these are left for what is recalled, as far as there are


@dataclass(frozen=True, slots=True)
class Tail:
    """How a strategy keeps the newest turns, in shares of the room that the rest of the prompt leaves.

    Attributes:
        low: What they take after older ones were evicted.
        high: What they may take until some are evicted again; while none was, they may take all.
        recalls: Whether evicted turns are searched for what bears on the question.
    """

    low: float
    high: float
    recalls: bool = False


TAILS: Mapping[StrategyName, Tail] = {
    "truncate": Tail(low=0.5, high=1.0),
    "summarize": Tail(low=0.5, high=1.0),  # where notes are not ready yet
    "hybrid": Tail(low=0.12, high=0.5, recalls=True),
}


def recalls(strategy: StrategyName) -> bool:
    """Whether evicted turns are searched with this strategy."""
    return strategy in TAILS and TAILS[strategy].recalls


@dataclass(frozen=True, slots=True)
class Room:
    """Tokens for past turns.

    Attributes:
        whole: While all of them are there.
        evicting: Once some are not.
        target: After an eviction.
        newest: For the newest turn, if it is left alone.
    """

    whole: int
    evicting: int
    target: int
    newest: int

    @classmethod
    def of(cls, tail: Tail, tokens: int) -> "Room":
        """For a strategy, of the tokens that there are."""
        tokens = max(0, tokens)
        evicting = newest = int(tail.high * tokens)
        if tail.recalls:
            evicting = max(0, min(evicting, tokens - RECALL_TOKENS))
        return cls(tokens, evicting, min(evicting, int(tail.low * tokens)), newest)


def first_kept(size: Callable[[int], int], n_turns: int, room: Room, begin: int = 0) -> int:
    """The first turn that is kept, if it was `begin` until now.

    Args:
        size: Tokens of a turn, by its place in the path.
        n_turns: How many turns there are.
        room: For them.
        begin: No turn before it is kept.

    Returns:
        `n_turns` when not even the newest fits.
    """
    total = sum(map(size, range(begin, n_turns)))
    if total <= (room.evicting if begin else room.whole):
        return begin
    while begin < n_turns and total > room.target:
        total -= size(begin)
        begin += 1
    if begin == n_turns and n_turns and size(n_turns - 1) <= room.newest:
        begin -= 1  # better the newest turn with little else than none
    return begin


def first_kept_from_root(size: Callable[[int], int], n_turns: int, room: Room) -> int:
    """The first turn that is kept if nothing is known of the prompts before: as if each had been made with this room.

    It moves as it would have then, so it stays put for callers that bring the whole conversation each time.
    """
    begin = total = 0
    for n in range(1, n_turns + 1):
        total += size(n - 1)
        if total > (room.evicting if begin else room.whole):
            while begin < n - 1 and total > room.target:
                total -= size(begin)
                begin += 1
    return begin
