"""ZeroGPU: whose request it is, for routes that are not Gradio's.

`spaces` finds the visitor, whose quota a GPU call takes, and the server, whose sockets a GPU process must not hold, in
Gradio's context. Gradio sets it for its own events only; a REST request would count against the Space.
"""

import gradio as gr
from gradio.context import LocalContext
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send


class Visitors:
    """ASGI middleware that puts each request into Gradio's context, for the page `ui`."""

    def __init__(self, app: ASGIApp, ui: gr.Blocks) -> None:
        self._app = app
        self._ui = ui

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""
        if scope["type"] == "http":
            LocalContext.blocks.set(self._ui)
            LocalContext.request.set(gr.Request(Request(scope)))
        await self._app(scope, receive, send)
