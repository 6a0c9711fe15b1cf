"""An answer's text from its tokens, and where it must end: stop strings are found across piece boundaries."""

from collections.abc import Sequence
from typing import Any

from tokenizers.decoders import DecodeStream

from chatlab.engines.base import Piece
from chatlab.messages import FinishReason


class StopStrings:
    """Passes text through until a stop string is complete; holds back what may be the start of one.

    The stop string itself never comes out.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stop = stop
        self._held = ""
        self.hit = False

    def feed(self, text: str) -> str:
        """The part of the text so far that is certainly before any stop string."""
        self._held += text
        found = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if found:
            self.hit = True
            safe, self._held = self._held[: min(found)], ""
            return safe
        keep = max((_overlap(self._held, stop) for stop in self._stop), default=0)
        cut = len(self._held) - keep
        safe, self._held = self._held[:cut], self._held[cut:]
        return safe

    def flush(self) -> str:
        """What was held back, at the end of the text."""
        held, self._held = self._held, ""
        return held


class AnswerText:
    """Turns the tokens of one answer into text until it ends.

    Args:
        tokenizer: A fast tokenizer of Transformers.
        eos_ids: Tokens that end the answer; they count and have no text.
        stop: Strings that end it.
        limit: Most tokens.

    Attributes:
        reason: Why it ended; None while it goes on.
    """

    def __init__(self, tokenizer: Any, eos_ids: frozenset[int], stop: Sequence[str], limit: int) -> None:
        self._tokenizer = tokenizer.backend_tokenizer
        self._eos_ids = eos_ids
        self._stops = StopStrings(stop)
        self._left = limit
        self._decoder = DecodeStream(skip_special_tokens=True)
        self.reason: FinishReason | None = None

    def feed(self, token_id: int) -> Piece:
        """The next token's piece of text."""
        assert self.reason is None, "nothing follows the end"
        self._left -= 1
        if token_id in self._eos_ids:
            self.reason = "stop"
            return Piece(self._stops.flush())
        text = self._stops.feed(self._decoder.step(self._tokenizer, token_id) or "")
        if self._stops.hit:
            self.reason = "stop"
        elif not self._left:
            self.reason = "length"
            text += self._stops.flush()
        return Piece(text)

    def cut(self) -> Piece:
        """What was held back, when no more tokens come."""
        self.reason = "length"
        return Piece(self._stops.flush(), tokens=0)


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop`."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
