"""The model that a server answers with, and what the server says of it. What is wrong here ends the start."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx2
import structlog

from chatlab.engines.remote.server import AWAY, RemoteServer, ServerRefusal, ServerUnreachable
from chatlab.engines.remote.tokenizer import Route, find_route
from chatlab.errors import ConfigError, EngineError

# Under which name a list of models tells the window: vLLM, SGLang and chatlab; OpenRouter; Groq; Mistral.
WINDOW_KEYS = ("max_model_len", "context_length", "context_window", "max_context_length")

LOADING_SECONDS = 60.0
LOADING_PAUSE_SECONDS = 2.0
NO_LIST = frozenset({404, 405, 500, 501})  # nothing that a server needs for an answer

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """A model at a server.

    Attributes:
        name: The server's.
        owner: What the server says owns it: the make of some servers.
        context_tokens: Its window; None if the server does not say.
        route: How the server counts tokens; None if it does not, or was not asked.
    """

    name: str
    owner: str
    context_tokens: int | None
    route: Route | None


def check_address(base_url: str) -> None:
    """Raise ConfigError unless it can be a server's address."""
    try:
        address = httpx2.URL(base_url)
        usable = address.scheme in ("http", "https") and bool(address.host)
    except httpx2.InvalidURL:
        usable = False
    if not usable:
        raise ConfigError(
            f"CHATLAB_OPENAI_BASE_URL={base_url!r}: CHATLAB_ENGINE=openai needs the address of a server there, "
            "like http://127.0.0.1:8000/v1"
        )


async def find_remote_model(server: RemoteServer, choice: str, count_there: bool) -> RemoteModel:
    """Ask a server for its model.

    Args:
        server: To ask.
        choice: Its name; `auto` takes the only one.
        count_there: Whether to look for a way to count tokens.

    Raises:
        ConfigError: The server does not answer, or has no such model; names the variable.
    """
    where = f"CHATLAB_OPENAI_BASE_URL={server.name!r}: "
    try:
        entries = await _models_once_loaded(server)
    except ServerUnreachable as error:
        raise ConfigError(
            f"{where}nothing answers there ({error.cause}). Start the server, or correct the address"
        ) from error
    except ServerRefusal as refusal:
        if refusal.status in (401, 403):
            raise ConfigError(f"CHATLAB_OPENAI_API_KEY: {refusal}") from refusal
        if refusal.status in AWAY:
            raise ConfigError(f"{where}it is not ready: {refusal}") from refusal
        if choice == "auto" or refusal.status not in NO_LIST:
            raise ConfigError(
                f"{where}{refusal}. Is it the address of an OpenAI-compatible API? With most servers it ends in /v1"
            ) from refusal
        log.warning("the server has no list of models", said=str(refusal))
        entries = [{"id": choice}]
    entry = _chosen(entries, choice, where)
    route = await find_route(server, entry["id"]) if count_there else None
    return RemoteModel(entry["id"], str(entry.get("owned_by")), await _window(entry, route), route)


async def _models_once_loaded(server: RemoteServer) -> Sequence[Mapping[str, Any]]:
    """The model list; a server that answers but is not ready yet (llama.cpp while it loads) is waited for."""
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + LOADING_SECONDS
    while True:
        try:
            return await server.models()
        except ServerRefusal as refusal:
            if refusal.status not in AWAY or loop.time() > give_up_at:
                raise
            log.info("waiting for the server", said=refusal.words)
        await asyncio.sleep(LOADING_PAUSE_SECONDS)


def _chosen(entries: Sequence[Mapping[str, Any]], choice: str, where: str) -> Mapping[str, Any]:
    """The entry of the chosen model. `auto` knows a chat model among others by its window."""
    if choice == "auto":
        with_window = [entry for entry in entries if any(entry.get(key) for key in WINDOW_KEYS)]
        for only in (entries, with_window):
            if len(only) == 1:
                return only[0]
        names = ", ".join(entry["id"] for entry in entries[:20]) or "none that it lists"
        raise ConfigError(f"{where}set CHATLAB_MODEL to one of the server's models: {names}")
    for entry in entries:
        if entry["id"] == choice:
            return entry
    if entries:  # some load what they do not list
        log.warning("the server does not list the model", model=choice, listed=[entry["id"] for entry in entries[:20]])
    return {"id": choice}


async def _window(entry: Mapping[str, Any], route: Route | None) -> int | None:
    for key in WINDOW_KEYS:
        if isinstance(window := entry.get(key), int):
            return window
    try:
        return None if route is None else await route.context_tokens()
    except (EngineError, LookupError, TypeError):
        return None
