"""What one server makes of OpenAI's chat completions: the request in its words, its refusals in ours.

Starts from what OpenAI documents and the server's make, and learns: what a server refuses by name and nobody asked
for is left out from then on. Belongs to one event loop.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Sequence
from typing import Any

from chatlab.engines.remote.server import ServerRefusal
from chatlab.errors import ChatlabError, FieldError, InvalidInput, PromptTooLong
from chatlab.messages import Message, SamplingParams

OPTIONAL = ("cache_salt", "stream_options")  # an answer comes without them, too
MAX_STOP_STRINGS = 4  # OpenAI refuses more; the rest is found in the text
COUNTS_ON_THE_WAY = frozenset({"vllm", "sglang"})  # usage with every event, so that a stopped answer has its count
FIELDS = {
    "temperature": "params.temperature",
    "top_p": "params.topP",
    "top_k": "params.topK",
    "max_tokens": "params.maxNewTokens",
    "max_completion_tokens": "params.maxNewTokens",
    "stop": "params.stop",
    "seed": "params.seed",
    "repetition_penalty": "params.repetitionPenalty",
    "repeat_penalty": "params.repetitionPenalty",
}
# As OpenAI and vLLM ("maximum context length"), llama.cpp ("available context size"), TGI and chatlab put it.
TOO_LONG = re.compile(r"context.(length|size|window)|exceeds? the context|`inputs` tokens|must have less than", re.I)


class Dialect:
    """How to talk to one server.

    Args:
        model: Its name for the model.
        owner: `owned_by` of the model, which names the make of some servers.
        salt_key: Keeps users' prefixes apart in the server's cache without telling it who they are; empty sends none.
    """

    def __init__(self, model: str, owner: str, salt_key: bytes) -> None:
        self._model = model
        self._owner = owner
        self._salt_key = salt_key
        self._left_out: set[str] = set() if salt_key else {"cache_salt"}
        self._limit_name = "max_tokens"

    def body(self, messages: Sequence[Message], params: SamplingParams, limit: int, user_id: str) -> dict[str, Any]:
        """The request; what is unset is left to the server's defaults."""
        usage = {"include_usage": True}
        if self._owner in COUNTS_ON_THE_WAY:
            usage["continuous_usage_stats"] = True
        top_k = -1 if params.top_k == 0 and self._owner == "sglang" else params.top_k  # no filter
        fields = {
            "model": self._model,
            "messages": list(messages),
            "stream": True,
            "stream_options": usage,
            self._limit_name: limit,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": top_k,
            "seed": params.seed,
            "stop": list(params.stop[:MAX_STOP_STRINGS]) if params.stop else None,
            "repeat_penalty" if self._owner == "llamacpp" else "repetition_penalty": params.repetition_penalty,
            "cache_salt": self._salt(user_id),
        }
        return {name: value for name, value in fields.items() if value is not None and name not in self._left_out}

    def learn(self, refusal: ServerRefusal, body: dict[str, Any]) -> bool:
        """Whether the same request can be asked again in other words, which are used from then on."""
        if refusal.status not in (400, 422) or TOO_LONG.search(refusal.words):
            return False
        if "max_tokens" in body and _names(refusal, "max_completion_tokens"):
            self._limit_name = "max_completion_tokens"
            return True
        refused = {name for name in OPTIONAL if name in body and _names(refusal, name)}
        self._left_out |= refused
        return bool(refused)

    def explain(self, refusal: ServerRefusal, body: dict[str, Any]) -> ChatlabError:
        """The refusal as the caller's mistake, where it names what the caller sent."""
        if refusal.status not in (400, 413, 422):
            return refusal
        if TOO_LONG.search(refusal.words):
            return PromptTooLong(FieldError("messages", str(refusal)))
        wrong = [
            FieldError(field, str(refusal)) for name, field in FIELDS.items() if name in body and _names(refusal, name)
        ]
        return InvalidInput(*wrong) if wrong else refusal

    def _salt(self, user_id: str) -> str:
        """43 characters that only this installation can make from a user's id."""
        digest = hmac.digest(self._salt_key, b"cache_salt\0" + user_id.encode(), hashlib.sha256)
        return base64.urlsafe_b64encode(digest).decode().rstrip("=")


def _names(refusal: ServerRefusal, name: str) -> bool:
    return re.search(rf"\b{name}\b", refusal.words) is not None
