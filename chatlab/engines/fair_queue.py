"""Waiting requests, one user at a time: each user's are first come first served, and users take turns."""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Round robin over users. Not thread-safe: its owner guards it."""

    def __init__(self) -> None:
        self._by_user: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._by_user.values()))

    def put(self, user_id: str, item: T) -> None:
        """Add to the end of the user's line."""
        self._by_user.setdefault(user_id, deque()).append(item)

    def take(self) -> T:
        """The next item; its user goes to the end of the round.

        Raises:
            KeyError: The queue is empty.
        """
        user_id, line = self._by_user.popitem(last=False)
        item = line.popleft()
        if line:
            self._by_user[user_id] = line
        return item

    def remove(self, user_id: str, item: T) -> bool:
        """Take an item out before its turn; whether it was there."""
        line = self._by_user.get(user_id)
        if line is None or item not in line:
            return False
        line.remove(item)
        if not line:
            del self._by_user[user_id]
        return True
