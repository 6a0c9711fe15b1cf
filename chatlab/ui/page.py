"""The plain page: a list of chats, one conversation, stop, one line under each answer. Layout and events only."""

from collections.abc import AsyncGenerator
from typing import Any

import gradio as gr

from chatlab.ui.handlers import Kept, PageHandlers, Refused, View

STORAGE_KEY = "chatlab"
PLACEHOLDER = "### What would you like to know?\nEach answer shows where it came from and what it cost."
CSS = """
.gradio-container small { color: var(--body-text-color-subdued); }
#chats .wrap { flex-direction: column; }
#conversation { height: calc(100dvh - 110px); min-height: 240px; }
#conversation button[aria-label="Clear"] { display: none; }
footer { display: none !important; }
"""

Updates = tuple[Any, ...]


def build_ui(handlers: PageHandlers, secret_key: str, max_message_chars: int) -> gr.Blocks:
    """The page.

    Args:
        handlers: What it does.
        secret_key: Encrypts what the browser keeps.
        max_message_chars: Longest message taken.
    """
    with gr.Blocks(title="chatlab", fill_height=True, analytics_enabled=False) as ui:
        browser = gr.BrowserState({}, storage_key=STORAGE_KEY, secret=secret_key)
        chat_id = gr.State("")
        with gr.Sidebar(width=280):
            gr.Markdown("## chatlab")
            new = gr.Button("New chat", variant="secondary", elem_id="new")
            listed = gr.Radio([], label="Chats", elem_id="chats", show_label=False, container=False)
        conversation = gr.Chatbot(
            elem_id="conversation",
            show_label=False,
            container=False,
            placeholder=PLACEHOLDER,
            feedback_options=None,
            buttons=["copy"],
            allow_tags=False,
            height=None,
        )
        with gr.Row(equal_height=True):
            box = gr.Textbox(
                placeholder="Send a message",
                show_label=False,
                container=False,
                lines=1,
                max_lines=8,
                max_length=max_message_chars,
                autofocus=True,
                scale=8,
                elem_id="message",
            )
            send = gr.Button("Send", variant="primary", scale=1, min_width=80, elem_id="send")
            stop = gr.Button("Stop", variant="stop", scale=1, min_width=80, visible=False, elem_id="stop")

        async def load(kept: Kept, request: gr.Request) -> AsyncGenerator[Updates]:
            wanted = str(request.query_params.get("chat") or kept.get("chat", ""))
            async for view in handlers.show(kept, wanted):
                yield _updates(view)

        async def select(kept: Kept, wanted: str | None) -> AsyncGenerator[Updates]:
            async for view in handlers.show(kept, wanted or ""):
                yield _updates(view)

        async def ask(kept: Kept, shown: str, message: str) -> AsyncGenerator[Updates]:
            try:
                async for view in handlers.ask(kept, shown, message):
                    yield _updates(view)
            except Refused as error:
                raise gr.Error(str(error)) from error

        async def begin_anew(kept: Kept) -> Updates:
            return _updates(await handlers.begin_anew(kept))

        def remember(kept: Kept, shown: str) -> Kept:
            return {**kept, "chat": shown}

        outputs = [chat_id, conversation, listed, send, stop, box]
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private", "concurrency_limit": None}
        identified = ui.load(handlers.identify, [browser], [browser], **quiet)
        loaded = identified.then(load, [browser], outputs, **quiet)
        asked = gr.on([send.click, box.submit], ask, [browser, chat_id, box], outputs, **quiet)
        selected = listed.input(select, [browser, listed], outputs, cancels=[loaded, asked], **quiet)
        new.click(begin_anew, [browser], outputs, cancels=[loaded, asked, selected], **quiet)
        stop.click(handlers.stop, [browser, chat_id], None, queue=False, **quiet)
        chat_id.change(remember, [browser, chat_id], [browser], queue=False, **quiet)
    return ui


def _updates(view: View) -> Updates:
    """A view as values of: chat id, conversation, list, send, stop, message box."""

    def value(part: object) -> Any:
        return gr.skip() if part is None else part

    return (
        view.chat_id,
        value(view.messages),
        gr.skip() if view.listed is None else gr.update(choices=view.listed, value=view.chat_id or None),
        gr.update(visible=not view.busy),
        gr.update(visible=view.busy),
        value(view.message),
    )
