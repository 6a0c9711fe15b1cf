"""Failures in the words of RFC 9457, for turns that failed and for requests that were refused."""

from chatlab.errors import (
    ChatBusy,
    ChatlabError,
    EngineError,
    InvalidInput,
    ModelUnavailable,
    NotFound,
    QueueFull,
)
from chatlab.messages import Problem

TYPE_PREFIX = "urn:chatlab:problem:"

INTERRUPTED = Problem(
    type=TYPE_PREFIX + "interrupted",
    title="Interrupted",
    status=503,
    detail="The server stopped in the middle of this answer. What had been written is kept; ask again to go on.",
)

_KINDS: tuple[tuple[type[ChatlabError], str, str, int], ...] = (
    (InvalidInput, "invalid-input", "Invalid input", 422),
    (NotFound, "not-found", "Not found", 404),
    (ChatBusy, "chat-busy", "The chat is answering", 409),
    (QueueFull, "queue-full", "Too many answers under way", 429),
    (EngineError, "engine-failed", "The engine failed", 502),
    (ModelUnavailable, "model-unavailable", "The model is not available", 503),
)


def problem_of(error: Exception) -> Problem:
    """The problem that an error is; anything that is not ours is an internal error without detail."""
    for kind, name, title, status in _KINDS:
        if isinstance(error, kind):
            return Problem(TYPE_PREFIX + name, title, status, str(error))
    return Problem(TYPE_PREFIX + "internal", "Internal error", 500, "chatlab failed; the server's log has the cause")
