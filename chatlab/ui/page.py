"""The plain page: a list of chats, one conversation, stop, one line under each answer. Layout and events only."""

from collections.abc import AsyncGenerator
from typing import Any

import gradio as gr

from chatlab.settings import Settings
from chatlab.ui.handlers import Kept, PageHandlers, Refused, View, Watch

STORAGE_KEY = "chatlab"
MAX_WAITING_EVENTS = 10_000  # of all pages; on ZeroGPU Gradio's own limit would be 1
PLACEHOLDER = "### What would you like to know?\nEach answer shows where it came from and what it cost."
CSS = """
.gradio-container small { color: var(--body-text-color-subdued); }
#chats .wrap { flex-direction: column; }
#conversation { height: calc(100dvh - 110px); min-height: 240px; }
#conversation button[aria-label="Clear"] { display: none; }
footer { display: none !important; }
"""

Updates = tuple[Any, ...]


def build_ui(handlers: PageHandlers, storage_secret: str, settings: Settings) -> gr.Blocks:
    """The page.

    Args:
        handlers: What it does.
        storage_secret: Fixed, else what the browser keeps is lost at a restart. Known to every visitor.
        settings: For the longest message taken.
    """
    with gr.Blocks(title="chatlab", fill_height=True, analytics_enabled=False) as ui:
        browser = gr.BrowserState({}, storage_key=STORAGE_KEY, secret=storage_secret)
        chat_id = gr.State("")
        watch = gr.State(Watch())
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
                max_length=settings.max_message_chars,
                autofocus=True,
                scale=8,
                elem_id="message",
            )
            send = gr.Button("Send", variant="primary", scale=1, min_width=80, elem_id="send")
            stop = gr.Button("Stop", variant="stop", scale=1, min_width=80, visible=False, elem_id="stop")

        async def load(kept: Kept, seen: Watch, request: gr.Request) -> AsyncGenerator[Updates]:
            wanted = str(request.query_params.get("chat") or kept.get("chat", ""))
            async for view in handlers.show(kept, seen, wanted):
                yield _updates(view)

        async def select(kept: Kept, seen: Watch, wanted: str | None) -> AsyncGenerator[Updates]:
            async for view in handlers.show(kept, seen, wanted or ""):
                yield _updates(view)

        async def ask(kept: Kept, seen: Watch, shown: str, message: str) -> AsyncGenerator[Updates]:
            try:
                async for view in handlers.ask(kept, seen, shown, message):
                    yield _updates(view)
            except Refused as error:
                raise gr.Error(str(error), print_exception=False) from error

        async def begin_anew(kept: Kept, seen: Watch) -> Updates:
            return _updates(await handlers.begin_anew(kept, seen))

        def remember(kept: Kept, shown: str) -> Kept:
            return {**kept, "chat": shown}

        outputs = [chat_id, conversation, listed, send, stop, box]
        quiet: dict[str, Any] = {
            "show_progress": "hidden",
            "api_visibility": "private",
            "concurrency_limit": None,
            "trigger_mode": "multiple",  # with "once", what is asked for while an answer streams would be ignored
        }
        identified = ui.load(handlers.identify, [browser], [browser], **quiet)
        identified.then(load, [browser, watch], outputs, **quiet)
        gr.on([send.click, box.submit], ask, [browser, watch, chat_id, box], outputs, **quiet)
        listed.input(select, [browser, watch, listed], outputs, **quiet)
        new.click(begin_anew, [browser, watch], outputs, **quiet)
        stop.click(handlers.stop, [browser, chat_id], None, queue=False, **quiet)
        chat_id.change(remember, [browser, chat_id], [browser], queue=False, **quiet)
    return ui.queue(max_size=MAX_WAITING_EVENTS)


def _updates(view: View) -> Updates:
    """A view as values of: chat id, conversation, list, send, stop, message box."""

    def value(part: object) -> Any:
        return gr.skip() if part is None else part

    return (
        value(view.chat_id),
        value(view.messages),
        gr.skip() if view.listed is None else gr.update(choices=view.listed, value=view.chat_id or None),
        gr.skip() if view.busy is None else gr.update(visible=not view.busy),
        gr.skip() if view.busy is None else gr.update(visible=view.busy),
        value(view.message),
    )
