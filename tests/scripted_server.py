"""An OpenAI-compatible server that does what a script says: a real one, on loopback, a thread a connection."""

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar

Handler = BaseHTTPRequestHandler
Reply = Callable[[Handler], None]

LEAVE_SECONDS = 10.0


class ScriptedServer:
    """Answers chat completions by `script`, one reply a request, the last one again and again.

    Attributes:
        models: Entries of the model list, or a status to refuse it with.
        routes: What other paths answer: JSON, a status, or a function from the body to JSON.
        requests: Bodies of the chat completions asked for, in order.
        headers: Theirs.
        left: Set when a client left in the middle of a stream.
    """

    def __init__(self) -> None:
        self.models: list[dict[str, Any]] | int = [{"id": "m", "max_model_len": 1_000}]
        self.routes: dict[str, Any] = {}
        self.script: list[Reply] = [says("Hello", " there")]
        self.requests: list[dict[str, Any]] = []
        self.headers: list[Mapping[str, str]] = []
        self.asked: list[str] = []
        self.left = threading.Event()
        self.root = ""

    @property
    def url(self) -> str:
        return self.root + "/v1"

    def answer(self, handler: Handler) -> None:
        body = json.loads(handler.rfile.read(int(handler.headers.get("content-length", 0))) or b"null")
        self.asked.append(handler.path)
        if handler.path == "/v1/models":
            found: Any = self.models if isinstance(self.models, int) else {"object": "list", "data": self.models}
        elif handler.path == "/v1/chat/completions":
            self.requests.append(body)
            self.headers.append(dict(handler.headers))
            reply = self.script[min(len(self.requests), len(self.script)) - 1]
            try:
                reply(handler)
            except (BrokenPipeError, ConnectionResetError):
                self.left.set()
            return
        else:
            found = self.routes.get(handler.path, 404)
        found = found(body) if callable(found) else found
        refuses(found, "so it says", location="/elsewhere")(handler) if isinstance(found, int) else _send(
            handler, 200, found
        )


def says(
    *texts: str, reason: str | None = "stop", usage: tuple[int, int, int] | None = None, pause: float = 0.0
) -> Reply:
    """A stream of texts, with the usage (prompt, completion, cached) in an event after the last."""
    events: list[object] = [chunk({"content": text}) for text in texts]
    if reason is not None:
        events.append(chunk({}, reason))
    if usage is not None:
        counted = {
            "prompt_tokens": usage[0],
            "completion_tokens": usage[1],
            "prompt_tokens_details": {"cached_tokens": usage[2]},
        }
        events.append({"choices": [], "usage": counted})
    return sends(*events, *(["[DONE]"] if reason is not None else []), pause=pause)


def sends(*events: object, pause: float = 0.0) -> Reply:
    """Events as they are; strings are sent raw."""

    def reply(handler: Handler) -> None:
        _begin(handler)
        for event in events:
            data = event if isinstance(event, str) else json.dumps(event, ensure_ascii=False)
            handler.wfile.write(f"data: {data}\n\n".encode())
            time.sleep(pause)

    return reply


def then(first: Reply, *others: Reply) -> Reply:
    """One after the other on the same connection."""

    def reply(handler: Handler) -> None:
        for each in (first, *others):
            each(handler)

    return reply


def drops(handler: Handler) -> None:
    """The connection ends here."""
    handler.close_connection = True


def resets(handler: Handler) -> None:
    """The connection is torn down, once what was sent has been read."""
    time.sleep(0.1)
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.shutdown(socket.SHUT_RD)
    handler.connection.close()
    handler.close_connection = True


def stalls(handler: Handler) -> None:
    """Nothing more, until the client leaves."""
    handler.connection.settimeout(LEAVE_SECONDS)
    if handler.connection.recv(1) == b"":
        raise BrokenPipeError


def refuses(status: int, problem: object, **headers: str) -> Reply:
    return lambda handler: _send(handler, status, problem, headers)


def chunk(delta: dict[str, Any], reason: str | None = None, **more: object) -> dict[str, Any]:
    return {
        "object": "chat.completion.chunk",
        "choices": [{"index": 0, "delta": delta, "finish_reason": reason}],
        **more,
    }


def _begin(handler: Handler) -> None:
    handler.send_response(200)
    handler.send_header("content-type", "text/event-stream")
    handler.send_header("connection", "close")
    handler.end_headers()


def _send(handler: Handler, status: int, content: object, headers: Mapping[str, str] | None = None) -> None:
    body = content.encode() if isinstance(content, str) else json.dumps(content).encode()
    handler.send_response(status)
    for name, value in (headers or {}).items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("content-length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)


@contextmanager
def scripted_server(again: ScriptedServer | None = None, port: int = 0) -> Generator[ScriptedServer]:
    """Listening on loopback.

    Args:
        again: One that was there before, to come back.
        port: To listen on; 0 takes a free one.
    """
    script = again or ScriptedServer()

    class Answering(Handler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            script.answer(self)

        def do_POST(self) -> None:
            script.answer(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Listening(ThreadingHTTPServer):
        daemon_threads = True
        connections: ClassVar[list[socket.socket]] = []

        def get_request(self) -> tuple[socket.socket, Any]:
            connection, address = super().get_request()
            self.connections.append(connection)
            return connection, address

    with Listening(("127.0.0.1", port), Answering) as server:
        script.root = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield script
        server.shutdown()
        thread.join()
        for connection in server.connections:
            with suppress(OSError):  # closed already
                connection.shutdown(socket.SHUT_RDWR)
