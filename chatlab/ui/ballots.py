"""What open pages compare, until its vote: few enough, and short enough, to be kept in memory."""

from collections import OrderedDict

from chatlab.comparison import Comparison

MAX_KEPT = 1_000  # of all pages
MAX_KEPT_CHARS = 20_000_000  # of their texts


class Ballots:
    """Comparisons by page, the newest of each; the oldest go first. Belongs to one event loop.

    Args:
        most: Kept at once.
        most_chars: Of all their texts.
    """

    def __init__(self, most: int = MAX_KEPT, most_chars: int = MAX_KEPT_CHARS) -> None:
        self._most = most
        self._most_chars = most_chars
        self._made: OrderedDict[str, Comparison] = OrderedDict()

    def of(self, page: str, user_id: str) -> Comparison | None:
        """What a page of this user compares."""
        made = self._made.get(page)
        return made if made is not None and made.user_id == user_id else None

    async def put(self, page: str, made: Comparison) -> None:
        """Remember what a page compares now; what it compared before is stopped."""
        if (before := self._made.pop(page, None)) is not None:
            await before.stop()
        self._made[page] = made
        self.trim()

    def drop(self, page: str, made: Comparison) -> None:
        """Forget it, unless the page compares something else by now."""
        if self._made.get(page) is made:
            del self._made[page]

    def trim(self) -> None:
        """Let the oldest go where there are too many, or they have grown too long."""
        chars = sum(made.chars for made in self._made.values())
        while len(self._made) > self._most or chars > self._most_chars:
            _, gone = self._made.popitem(last=False)
            chars -= gone.chars
