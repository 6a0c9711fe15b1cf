"""What of Gradio may be reached, and what the page may load. Gradio's endpoints are an API too: the rest is closed.

Pure ASGI, so that streams pass through untouched.
"""

import re
from importlib.resources import files

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chatlab.ui.frame import TABS

API = "/gradio_api"
# Of Gradio's own routes: what the page and Gradio's clients need to call our named endpoints, and nothing that reads,
# writes or fetches files (`file`, `upload`, `proxy`, `stream`), records, or reports.
OPEN_API = re.compile(
    rf"{API}/(info|app_id|startup-events|heartbeat/[\w-]+|queue/(join|data)|cancel|reset|call/(v2/)?ask(/\w+)?|theme\.css)/?"
)
CLOSED_PAGES = re.compile(r"/(monitoring|pwa_icon|svelte|login|logout|custom_component|dev|deep_link)(/.*)?")
# Gradio evaluates its templates; images, media and connections stay on this server, so no beacon leaves the page.
POLICY = "; ".join(
    (
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' 'unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
        "form-action 'self'",
    )
).encode()
HEAD = ("storage.html", "stream.html", "pages.html")  # scripts that run before Gradio's
PAGES = frozenset(f"/{path}" for path, _ in TABS)


class Guard:
    """Wraps the whole app."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._head = b"".join((files("chatlab.ui") / "html" / name).read_bytes() for name in HEAD)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 404 for what is closed; add the policy to pages."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = str(scope["path"]).removeprefix(str(scope.get("root_path", "")))  # where it is mounted
        if closed(path):
            await JSONResponse({"detail": "Not found"}, 404)(scope, receive, send)
            return
        await self._app(scope, receive, _GuardedSend(send, self._head if path in PAGES else b""))


def closed(path: str) -> bool:
    """Whether a path of Gradio's is not for anybody."""
    if path.startswith(API):
        return OPEN_API.fullmatch(path) is None
    return CLOSED_PAGES.fullmatch(path) is not None


class _GuardedSend:
    """Puts the policy on HTML, and our scripts before all others into the page itself."""

    def __init__(self, send: Send, head: bytes) -> None:
        self._send = send
        self._head = head
        self._start: Message | None = None

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [*message.get("headers", ())]
            if any(name == b"content-type" and value.startswith(b"text/html") for name, value in headers):
                headers.append((b"content-security-policy", POLICY))
                headers.append((b"referrer-policy", b"same-origin"))
                message["headers"] = headers
                if self._head:
                    self._start = message  # the length is another: sent with the body
                    return
        elif self._start is not None:
            body = message.get("body", b"").replace(b"<head>", b"<head>" + self._head, 1)
            headers = [(name, value) for name, value in self._start["headers"] if name != b"content-length"]
            whole = not message.get("more_body", False)
            self._start["headers"] = [*headers, (b"content-length", str(len(body)).encode())] if whole else headers
            await self._send(self._start)
            self._start = None
            message = {**message, "body": body}
        await self._send(message)
