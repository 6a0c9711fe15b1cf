"""One answer of an OpenAI-compatible server: the events of its stream in, pieces of text out.

Knows the chunks of OpenAI's chat completions and what servers make of them. Servers differ in what comes last: the
reason alone, the usage with it or after it, `[DONE]` or nothing.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any, cast

from chatlab.engines.base import Finished, Piece
from chatlab.engines.remote.server import words_of
from chatlab.engines.text import StopStrings
from chatlab.errors import EngineError
from chatlab.messages import FinishReason, Usage

END = "[DONE]"
OPEN_REASONING, CLOSE_REASONING = "<think>\n", "\n</think>\n\n"  # as models write it that are not parsed
CUT_SHORT = frozenset({"length", "max_tokens"})
BROKEN_OFF = frozenset({"abort", "content_filter", "error"})
SHOWN_CHARS = 200


class Answer:
    """What has come so far.

    Args:
        stop: Stop strings; found here, too, since not every server looks for them, or keeps them out of the text.

    Attributes:
        begun: Whether text has come out: the request must not be repeated.
    """

    def __init__(self, stop: Sequence[str]) -> None:
        self._stops = StopStrings(stop)
        self._reason: FinishReason | None = None
        self._usage: Usage | None = None
        self._reasoning = False
        self._n_tokens = 0
        self.begun = False

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found: nothing more is wanted."""
        return self._stops.hit

    @property
    def complete(self) -> bool:
        """Whether the server said that this is all."""
        return self.stopped or self._reason is not None

    def take(self, data: str) -> Iterator[Piece]:
        """The text of one event.

        Raises:
            EngineError: The event is an error, or nothing that can be understood.
        """
        if data == END:
            self._reason = self._reason or "stop"
            return
        chunk = _parsed(data)
        if problem := chunk.get("error") or (chunk if chunk.get("object") == "error" else None):
            raise EngineError(f"the server broke off: {words_of(problem)}")
        self._take_usage(chunk.get("usage"))
        choices = chunk.get("choices")
        choice: dict[str, Any] = choices[0] if choices else {}
        delta: dict[str, Any] = choice.get("delta") or {}
        thought = delta.get("reasoning_content") or delta.get("reasoning")
        said = delta.get("content") or delta.get("refusal")
        if thought or said:
            yield self._piece(self._marked(_text(thought), _text(said)))
        if reason := choice.get("finish_reason"):
            if reason in BROKEN_OFF:
                raise EngineError(f"the server broke off: {reason}")
            self._reason = "length" if reason in CUT_SHORT else "stop"

    def end(self) -> Iterator[Piece | Finished]:
        """What was held back, tokens that came without text of their own, and the end."""
        left = "" if self.stopped else self._stops.feed(self._marked("", "", ended=True)) + self._stops.flush()
        more = max(0, (self._usage.completion_tokens or 0) - self._n_tokens) if self._usage else 0
        if left or more:
            yield Piece(left, more)
        yield Finished("stop" if self.stopped else self._reason or "stop", self._usage)

    def _piece(self, text: str) -> Piece:
        """Counted by the usage so far, where the server sends it along; otherwise an event is a token."""
        self.begun = True
        tokens = 1
        if self._usage is not None:
            tokens = max(0, (self._usage.completion_tokens or 0) - self._n_tokens)
        self._n_tokens += tokens
        return Piece(self._stops.feed(text), tokens)

    def _marked(self, thought: str, said: str, ended: bool = False) -> str:
        """Reasoning that the server keeps apart, put back between its tags."""
        text = ""
        if thought:
            text += thought if self._reasoning else OPEN_REASONING + thought
            self._reasoning = True
        if self._reasoning and (said or ended):
            text += CLOSE_REASONING
            self._reasoning = False
        return text + said

    def _take_usage(self, usage: Any) -> None:
        if not usage or not usage.get("completion_tokens"):  # some send zeros on the way
            return
        details = usage.get("prompt_tokens_details") or {}
        self._usage = Usage(usage.get("prompt_tokens"), usage["completion_tokens"], details.get("cached_tokens"))


def _parsed(data: str) -> dict[str, Any]:
    try:
        chunk = json.loads(data)
    except ValueError:
        chunk = None
    if not isinstance(chunk, dict):
        raise EngineError(f"the server sent what is no part of an answer: {data[:SHOWN_CHARS]}")
    return cast(dict[str, Any], chunk)


def _text(content: Any) -> str:
    """Text, or the text of a list of parts."""
    if isinstance(content, list):
        return "".join(str(part.get("text", "")) for part in cast(list[dict[str, Any]], content))
    return content or ""
