"""Another server over HTTP: where it is, whether it answers, and its refusals in words.

Knows OpenAI's routes and the shapes of errors, not prompts and tokens. Belongs to one event loop. The key, and a
password in the address, are in no message.
"""

import asyncio
import json
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import httpx2

from chatlab.errors import EngineError

VERSION_PATH = "/v1"
AWAY = frozenset({502, 503, 504})  # the server, or what stands before it, says that it is not there
SHOWN_CHARS = 500  # of what a server says


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds to wait for a server.

    Attributes:
        connect: For a connection.
        ask: For something small: its models, the tokens of a prompt.
        first_token: For the beginning of an answer, retries included.
        next_token: From one piece of text to the next.
        pause: Before the first retry; doubles with each.
    """

    connect: float = 5.0
    ask: float = 10.0
    first_token: float = 120.0
    next_token: float = 60.0
    pause: float = 0.5


class ServerUnreachable(EngineError):
    """Nothing answers, or the connection broke; `cause` says how."""

    def __init__(self, server: str, cause: str) -> None:
        super().__init__(f"the server at {server} does not answer ({cause}): is it running?")
        self.cause = cause


class ServerRefusal(EngineError):
    """The server answered that it will not.

    Attributes:
        status: The HTTP status.
        words: What the server says.
        retry_after_seconds: When it wants to be asked again; None if it does not say.
    """

    def __init__(self, server: str, status: int, words: str, retry_after_seconds: float | None = None) -> None:
        later = "" if retry_after_seconds is None else f"; it asks to wait {retry_after_seconds:.0f} s"
        super().__init__(f"the server at {server} refused ({status}): {words}{later}")
        self.status = status
        self.words = words
        self.retry_after_seconds = retry_after_seconds


class RemoteServer:
    """An HTTP client for one server, to be closed on its event loop.

    Args:
        base_url: What OpenAI's clients call so; ends in `/v1` with most servers.
        api_key: Sent as a bearer token; empty sends none.
        patience: How long to wait.
        connections: Most at the same time.

    Attributes:
        up: Whether it answered when it was last asked.
        heard_at: When that was, on the monotonic clock.
    """

    def __init__(self, base_url: str, api_key: str, patience: Patience, connections: int) -> None:
        url = httpx2.URL(base_url)
        self._base = str(url.copy_with(username=None, password=None)).rstrip("/")  # as it is, it would be logged
        self._patience = patience
        self._client = httpx2.AsyncClient(
            headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            auth=(url.username, url.password) if url.userinfo and not api_key else None,
            timeout=httpx2.Timeout(None, connect=patience.connect),  # the rest is timed by who waits
            limits=httpx2.Limits(max_connections=connections, max_keepalive_connections=connections),
        )
        self.up = True
        self.heard_at = time.monotonic()

    @property
    def name(self) -> str:
        """The address, without a password."""
        return self._base

    @property
    def host(self) -> str:
        """Host and port."""
        return httpx2.URL(self._base).netloc.decode()

    async def models(self) -> list[dict[str, Any]]:
        """The entries of its model list. An address without `/v1` that needs it gets it.

        Raises:
            ServerUnreachable, ServerRefusal: As `ask`; status 200 for an answer that is no model list.
        """
        try:
            answer = await self.ask("GET", "/models")
        except ServerRefusal as refusal:
            if refusal.status != 404 or self._base.endswith(VERSION_PATH):
                raise
            self._base += VERSION_PATH
            try:
                answer = await self.ask("GET", "/models")
            except ServerRefusal as other:
                if other.status == 404:
                    self._base = self._base.removesuffix(VERSION_PATH)
                raise
        entries = answer.get("data") if isinstance(answer, dict) else None
        if not isinstance(entries, list):
            raise ServerRefusal(self.name, 200, "its answer is no list of models")
        return [entry for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str)]

    async def check(self) -> None:
        """Find out whether it answers; never raises."""
        try:
            await self.ask("GET", "/models")
        except ServerRefusal as refusal:
            self.up = refusal.status not in AWAY | {401, 403}
        except ServerUnreachable:
            pass

    async def ask(self, method: str, path: str, body: object = None, at_root: bool = False) -> Any:
        """Ask something small; gives the JSON of the answer.

        Args:
            method: Of HTTP.
            path: Below the base address, or with `at_root` below what comes before `/v1`.
            body: Sent as JSON.
            at_root: See `path`.

        Raises:
            ServerUnreachable: Nothing answers in time.
            ServerRefusal: The answer is an error, or no JSON.
        """
        root = self._base.removesuffix(VERSION_PATH) if at_root else self._base
        try:
            with self._transport():
                async with asyncio.timeout(self._patience.ask):
                    response = await self._client.request(method, root + path, json=body)
        except TimeoutError:
            raise self._gone(f"nothing within {self._patience.ask:g} s") from None
        self._judge(response)
        try:
            return response.json()
        except ValueError:
            raise ServerRefusal(self.name, response.status_code, "its answer is no JSON") from None

    @asynccontextmanager
    async def stream(self, body: object) -> AsyncGenerator[AsyncGenerator[str]]:
        """Ask for an answer; gives the data of its events as they come. Leaving closes the connection.

        Raises:
            ServerUnreachable: Nothing answers, or the connection breaks on the way.
            ServerRefusal: The answer is an error, or no stream.
        """
        with self._transport():
            async with self._client.stream("POST", self._base + "/chat/completions", json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                self._judge(response)
                async with aclosing(_data(response)) as data:
                    yield data

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    @contextmanager
    def _transport(self) -> Generator[None]:
        """HTTP's failures as ours."""
        try:
            yield
        except httpx2.SSEError as error:
            raise ServerRefusal(self.name, 200, str(error)) from error
        except httpx2.HTTPError as error:
            raise self._gone(str(error) or type(error).__name__) from error

    def _gone(self, cause: str) -> ServerUnreachable:
        self.up, self.heard_at = False, time.monotonic()
        return ServerUnreachable(self.name, cause)

    def _judge(self, response: httpx2.Response) -> None:
        """Take note that it answered, and raise ServerRefusal unless with success."""
        status = response.status_code
        self.up, self.heard_at = status not in AWAY, time.monotonic()
        if response.has_redirect_location:
            raise ServerRefusal(self.name, status, f"it redirects to {response.headers['location']}")
        if not response.is_success:
            words = words_of_body(response.text) or response.reason_phrase
            raise ServerRefusal(self.name, status, words, _seconds(response.headers.get("retry-after")))


async def _data(response: httpx2.Response) -> AsyncGenerator[str]:
    async for event in httpx2.EventSource(response):
        if event.data:
            yield event.data


def words_of_body(body: str) -> str:
    """What an error's body says: JSON in one of the usual shapes, or text."""
    try:
        return words_of(json.loads(body))
    except ValueError:
        return " ".join(body.split())[:SHOWN_CHARS]


def words_of(problem: object) -> str:
    """What a server says in JSON, as OpenAI, FastAPI and others put it."""
    match problem:
        case {"loc": [*where], "msg": what}:
            return f"{'.'.join(map(str, where))}: {what}"
        case {"error": inner} | {"message": inner} | {"detail": inner} if inner:
            return words_of(inner)
        case [*several]:
            return "; ".join(map(words_of, several))[:SHOWN_CHARS]
        case str():
            return problem[:SHOWN_CHARS]
        case _:
            return json.dumps(problem)[:SHOWN_CHARS]


def _seconds(retry_after: str | None) -> float | None:
    """The header's seconds or date; None for anything else."""
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(retry_after) - datetime.now(UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
