"""Counting prompts for a model that runs elsewhere: by its server, by a tokenizer of our own, or as an estimate.

vLLM, llama.cpp and TGI have routes of their own that apply the chat template and the tokenizer; there is no standard
one. What counts runs in any thread; HTTP stays on the server's event loop.
"""

import hashlib
import json
import re
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, ClassVar, Protocol

from chatlab.engines.remote.server import RemoteServer, ServerRefusal
from chatlab.errors import EngineError
from chatlab.messages import Message

KEPT_COUNTS = 512
SILENT_SECONDS = 5.0  # after a count that failed, before the server is asked again
PROBE: list[Message] = [{"role": "user", "content": "Hi"}]

# What templates of well-known families mark roles with. Text that holds one could pose as another role, or end a
# message, in servers that take special tokens from text. `<s>` and `</s>` are left out: they are HTML, too.
CONTROL_TOKENS = (
    *("<|im_start|>", "<|im_end|>", "<|im_sep|>", "<|endoftext|>"),  # ChatML: Qwen, SmolLM, Phi-4
    *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|eom_id|>"),
    *("<|header_start|>", "<|header_end|>", "<|eot|>", "<|python_tag|>"),  # Llama 3 and 4
    *("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]"),  # Llama 2, Mistral
    *("[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]"),
    *("<start_of_turn>", "<end_of_turn>", "<|turn>", "<turn|>"),  # Gemma
    *("<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|end|>"),  # Phi, GLM, Zephyr
    *("<|start|>", "<|channel|>", "<|message|>", "<|return|>", "<|call|>"),  # gpt-oss
    *("<｜User｜>", "<｜Assistant｜>", "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"),  # DeepSeek
    *("<|START_OF_TURN_TOKEN|>", "<|END_OF_TURN_TOKEN|>", "<|SYSTEM_TOKEN|>", "<|USER_TOKEN|>", "<|CHATBOT_TOKEN|>"),
    *("<|start_of_role|>", "<|end_of_role|>"),  # Granite
)


class Tokenizer(Protocol):
    """What an engine needs of one."""

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Strings that mean something to the template."""
        ...

    def render(self, messages: Sequence[Message]) -> str:
        """The text of the prompt."""
        ...

    def count(self, messages: Sequence[Message]) -> int:
        """Its tokens."""
        ...


class Estimate:
    """Meant to be too high: a token is 2.5 letters of a word here, and else a byte, but for the space before a word.

    Measured with the 49,000 tokens of SmolLM2, which are English: twice the true count for English and code, 1.1 for
    German and Finnish, 2.2 for Russian, 0.9 for Swahili; 0.4 for letters at random. Larger vocabularies need fewer.
    """

    MESSAGE_TOKENS: ClassVar = 8
    TEMPLATE_TOKENS: ClassVar = 96  # templates open with a system prompt, a date, and the like
    _WORD = re.compile(r"[A-Za-z]+")
    _SPACE_BEFORE_WORD = re.compile(r"(?<=\S) (?=[A-Za-z])")

    control_tokens: tuple[str, ...] = CONTROL_TOKENS

    def render(self, messages: Sequence[Message]) -> str:
        """A transcript: nothing here knows the template."""
        return "".join(f"{message['role']}: {message['content']}\n" for message in messages)

    def count(self, messages: Sequence[Message]) -> int:
        """Probably no fewer than it has."""
        return self.TEMPLATE_TOKENS + sum(self.MESSAGE_TOKENS + self._tokens(each["content"]) for each in messages)

    def _tokens(self, text: str) -> int:
        lengths = map(len, self._WORD.findall(text))
        letters = sum(1 if length <= 3 else (2 * length + 4) // 5 for length in lengths)
        other_bytes = len(self._WORD.sub("", text).encode(errors="replace"))
        return letters + other_bytes - len(self._SPACE_BEFORE_WORD.findall(text))


class Route(Protocol):
    """A server's own way to count."""

    async def render(self, messages: Sequence[Message]) -> str:
        """The text of the prompt."""
        ...

    async def count(self, messages: Sequence[Message]) -> int:
        """Its tokens."""
        ...

    async def context_tokens(self) -> int | None:
        """The window, where the route tells it."""
        ...


class VllmRoute:
    """`POST /tokenize` with messages, and `/detokenize`."""

    def __init__(self, server: RemoteServer, model: str) -> None:
        self._server = server
        self._model = model

    async def render(self, messages: Sequence[Message]) -> str:
        """From the tokens back to text."""
        body = {"model": self._model, "tokens": (await self._tokenize(messages))["tokens"]}
        return (await self._server.ask("POST", "/detokenize", body, at_root=True))["prompt"]

    async def count(self, messages: Sequence[Message]) -> int:
        """One request."""
        return int((await self._tokenize(messages))["count"])

    async def context_tokens(self) -> int | None:
        """Comes with every count."""
        return (await self._tokenize(PROBE)).get("max_model_len")

    async def _tokenize(self, messages: Sequence[Message]) -> Any:
        body = {"model": self._model, "messages": list(messages), "add_generation_prompt": True}
        return await self._server.ask("POST", "/tokenize", body, at_root=True)


class LlamaCppRoute:
    """`POST /apply-template`, then `/tokenize` as the server itself does with a prompt."""

    def __init__(self, server: RemoteServer, model: str) -> None:
        self._server = server
        self._model = model

    async def render(self, messages: Sequence[Message]) -> str:
        """The template applied."""
        body = {"model": self._model, "messages": list(messages)}
        return (await self._server.ask("POST", "/apply-template", body, at_root=True))["prompt"]

    async def count(self, messages: Sequence[Message]) -> int:
        """Two requests."""
        body = {
            "model": self._model,
            "content": await self.render(messages),
            "add_special": True,
            "parse_special": True,
        }
        return len((await self._server.ask("POST", "/tokenize", body, at_root=True))["tokens"])

    async def context_tokens(self) -> int | None:
        """That of one slot, which is less than the model's."""
        settings = await self._server.ask("GET", "/props", at_root=True)
        return settings["default_generation_settings"].get("n_ctx")


class TgiRoute:
    """`POST /chat_tokenize`."""

    def __init__(self, server: RemoteServer, model: str) -> None:
        self._server = server
        self._model = model

    async def render(self, messages: Sequence[Message]) -> str:
        """The template applied."""
        return (await self._tokenize(messages))["templated_text"]

    async def count(self, messages: Sequence[Message]) -> int:
        """One request."""
        return len((await self._tokenize(messages))["tokenize_response"])

    async def context_tokens(self) -> int | None:
        """Prompt and answer together."""
        return (await self._server.ask("GET", "/info", at_root=True)).get("max_total_tokens")

    async def _tokenize(self, messages: Sequence[Message]) -> Any:
        body = {"model": self._model, "messages": list(messages)}
        return await self._server.ask("POST", "/chat_tokenize", body, at_root=True)


async def find_route(server: RemoteServer, model: str) -> Route | None:
    """The first that answers with a count."""
    for route in (VllmRoute(server, model), LlamaCppRoute(server, model), TgiRoute(server, model)):
        try:
            if await route.count(PROBE) > 0:
                return route
        except (EngineError, LookupError, TypeError, ValueError):
            continue
    return None


class RemoteTokenizer:
    """Counts by a route, and remembers.

    A count that the server does not give is estimated: what keeps it from counting is said when it is to answer.

    Args:
        route: Of the server.
        run: Runs a coroutine on the server's event loop and waits for it.
    """

    control_tokens = CONTROL_TOKENS

    def __init__(self, route: Route, run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        self._route = route
        self._run = run
        self._estimate = Estimate()
        self._lock = threading.Lock()  # guards the two below
        self._counts: OrderedDict[bytes, int] = OrderedDict()
        self._ask_again_at = 0.0

    def render(self, messages: Sequence[Message]) -> str:
        """The server's own.

        Raises:
            EngineError: It does not say.
        """
        try:
            return self._run(self._route.render(messages))
        except (LookupError, TypeError) as error:
            raise EngineError(f"the server does not show a prompt any more: {error!r}") from error

    def count(self, messages: Sequence[Message]) -> int:
        """The server's own, or an estimate while it does not answer."""
        key = hashlib.blake2b(json.dumps(messages).encode(), digest_size=16).digest()
        with self._lock:
            if (known := self._counts.get(key)) is not None:
                self._counts.move_to_end(key)
                return known
            asked = time.monotonic() >= self._ask_again_at
        counted: int | None = None
        silent = False
        try:
            if asked:
                counted = int(self._run(self._route.count(messages)))
        except (ServerRefusal, LookupError, TypeError, ValueError):
            pass  # of this prompt
        except EngineError:
            silent = True
        with self._lock:
            if silent:
                self._ask_again_at = time.monotonic() + SILENT_SECONDS
            if counted is None:
                return self._estimate.count(messages)
            self._counts[key] = counted
            while len(self._counts) > KEPT_COUNTS:
                self._counts.popitem(last=False)
        return counted
