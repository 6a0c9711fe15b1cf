"""The measurements of one answer, taken as its chunks come. Times are seconds of `perf_counter`."""

import time
from dataclasses import dataclass, field

from chatlab.engines.base import Chunk, Finished, Piece, Started
from chatlab.messages import FinishReason, Timing, Usage


@dataclass(slots=True)
class Progress:
    """What is known of an answer so far.

    Attributes:
        started_at: The request came in.
        queued_at: The engine was asked.
        stored_at: The message is on disk; no reader hears of the turn before that.
    """

    started_at: float
    queued_at: float = field(default_factory=time.perf_counter)
    stored_at: float | None = None
    finish_reason: FinishReason | None = None
    _stream_at: float | None = None
    _first_at: float | None = None
    _last_at: float | None = None
    _n_tokens: int = 0
    _prompt: Started | None = None
    _counted: Usage | None = None  # by the model's server, which knows better

    def stored(self) -> None:
        """The message is on disk."""
        self.stored_at = time.perf_counter()

    def take(self, chunk: Chunk) -> None:
        """Account for a chunk that has just come."""
        now = time.perf_counter()
        match chunk:
            case Started():
                self._stream_at, self._prompt = now, chunk
            case Piece():
                self._n_tokens += chunk.tokens
                self._first_at = self._first_at or now
                self._last_at = now
            case Finished():
                self.finish_reason = chunk.reason
                self._counted = chunk.usage

    @property
    def usage(self) -> Usage:
        """Tokens; unset where the engine never began."""
        if self._counted is not None:
            return self._counted
        if self._prompt is None:
            return Usage()
        return Usage(self._prompt.prompt_tokens, self._n_tokens, self._prompt.reused_prefix_tokens)

    @property
    def timing(self) -> Timing:
        """Times up to now; the first token counts from when a reader could see it."""
        first_seen = self._first_at and max(self._first_at, self.stored_at or 0.0)
        rate = None
        if self._first_at and self._last_at and self._n_tokens > 1 and self._last_at > self._first_at:
            rate = round((self._n_tokens - 1) / (self._last_at - self._first_at), 2)
        return Timing(
            queue_ms=_ms(self.queued_at, self._stream_at),
            prompt_ms=_ms(self.started_at, self.queued_at),
            ttft_ms=_ms(self.started_at, first_seen),
            total_ms=_ms(self.started_at, time.perf_counter()),
            tokens_per_second=rate,
        )


def _ms(start: float, end: float | None) -> float | None:
    return None if end is None else round((end - start) * 1e3, 3)
