"""The page: layout and events. What happens is in `handlers` and `library`, what it looks like in `style.css`.

Browser actions come as events of one hidden component, the bridge, whose scripts (`scripts/`) read `data-do` of what
was clicked. The page's place is a hidden text in the browser, so that no state of a page is kept here.
"""

import json
from collections.abc import AsyncGenerator, Callable
from importlib.resources import files
from typing import Any

import gradio as gr
from gradio.events import api

from chatlab.errors import InvalidInput
from chatlab.messages import ChatSettings
from chatlab.settings import Settings
from chatlab.ui.chat_list import Shelf
from chatlab.ui.endpoint import Endpoint
from chatlab.ui.failures import failed as _failed
from chatlab.ui.failures import or_shown as _or_shown
from chatlab.ui.failures import shown as _shown
from chatlab.ui.frame import STORAGE_KEY, nav_html
from chatlab.ui.handlers import PageHandlers
from chatlab.ui.identity import Identities, Kept
from chatlab.ui.inspecting import Inspecting
from chatlab.ui.library import Library, Listed, Managed
from chatlab.ui.panel import Panel, chosen_from, values_of
from chatlab.ui.presets import Presets
from chatlab.ui.refusal import Refused, refusal
from chatlab.ui.view import Place, View, plain

MAX_WAITING_EVENTS = 10_000  # of all pages; on ZeroGPU Gradio's own limit would be 1
SCRIPTS = (
    "conversation", "notes", "scroll", "composer", "chats", "transfer", "tabs", "inspector", "connection", "keys",
)  # fmt: skip
# Components come when they are loaded: the scripts wait for all that they need.
NEEDED = (
    "#chat-menu", "#chats", "#header .bar", "#latest .welcome, #latest .turn", "#composer .attach", "#message textarea",
    "#search input, #search textarea", "#place input, #place textarea", "#editing input, #editing textarea",
    "#transfers .transfer", "#ticket input, #ticket textarea",
)  # fmt: skip
WHEN_READY = """(async () => {{
while (!{needed}.every((each) => document.querySelector(each))) await new Promise(requestAnimationFrame);
{scripts}
if (page.place().chat || !page.inAddress()) page.announce(page.place()); // else the chat of the address is to come
window.dispatchEvent(new CustomEvent("chatlab:latest"));
}})();"""
# Tells the scripts that a part was renewed, after its HTML was.
RENEWED = "watch('value', () => window.dispatchEvent(new CustomEvent('chatlab:{part}')))"
ON_REFUSAL = "() => window.chatlab?.settled()"
ON_END = "() => window.chatlab?.ended()"
ON_NOTE_REFUSAL = "() => window.chatlab?.unchanged()"
ON_TICKET = "() => setTimeout(() => window.chatlab?.ticketed())"
ON_NOT_ATTRIBUTED = "() => window.chatlab?.unattributed()"
ON_NOT_INSPECTED = "() => window.chatlab?.uninspected()"
ON_PLACE = "() => setTimeout(() => window.chatlab?.placed())"
# The server does not know the browser's time zone, and "Today" depends on it.
ON_LOAD = (
    "(kept, shelf) => [kept, "
    "JSON.stringify({...JSON.parse(shelf), utc_offset_minutes: -new Date().getTimezoneOffset()})]"
)

# Until the page knows who it is and where, nothing can be sent.
READY = gr.update(interactive=True, placeholder="Send a message")

Updates = tuple[Any, ...]
QUIET: dict[str, Any] = {
    "show_progress": "hidden",
    "api_visibility": "private",
    "concurrency_limit": None,
    "trigger_mode": "multiple",  # with "once", what is asked for while an answer streams would be ignored
}

TYPED: dict[str, Any] = {**QUIET, "trigger_mode": "always_last"}  # letters come faster than answers


class ChatPage:
    """The chat tab: its components and what connects them. Built inside `gr.Blocks`."""

    def __init__(
        self,
        ui: gr.Blocks,
        handlers: PageHandlers,
        inspecting: Inspecting,
        library: Library,
        presets: Presets,
        panel: Callable[[], Panel],
        secret: str,
        settings: Settings,
    ) -> None:
        self._handlers = handlers
        self._inspecting = inspecting
        self._library = library
        self._presets = presets
        self.kept = gr.BrowserState({}, storage_key=STORAGE_KEY, secret=secret)
        self.place = _hidden("place", Place().to_json())
        self.shelf = _hidden("shelf", Shelf().to_json())
        self.editing = _hidden("editing", "")
        self.ticket = _hidden("ticket", "")
        self.bridge = gr.HTML(_asset("dialogs.html"), js_on_load=_scripts(), apply_default_css=False, elem_id="bridge")
        with gr.Row(elem_id="shell"):
            with gr.Column(elem_id="sidebar"):
                gr.HTML(_asset("brand.html").format(nav=nav_html("")), js_on_load=None, apply_default_css=False)
                self.search = gr.Textbox(
                    label="Search chats", show_label=False, container=False, placeholder="Search", elem_id="search",
                    max_lines=1,
                )  # fmt: skip
                self.notice = gr.HTML("", js_on_load=None, apply_default_css=False, elem_id="notice")
                self.listed = _part("chats", "")
                gr.HTML(_asset("transfer.html"), js_on_load=None, apply_default_css=False, elem_id="transfers")
            with gr.Column(elem_id="main"):
                gr.HTML(_asset("header.html"), js_on_load=None, apply_default_css=False, elem_id="header")
                self.notes = _part("notes", "")
                with gr.Column(elem_id="conversation"):
                    self.earlier = _part("earlier", "")
                    self.latest = _part("latest", _asset("loading.html"))
                with gr.Column(elem_id="composer"):
                    gr.HTML(_asset("composer.html"), js_on_load=None, apply_default_css=False)
                    with gr.Row(elem_id="compose"):
                        gr.HTML(_asset("attach.html"), js_on_load=None, apply_default_css=False)
                        self.box = gr.Textbox(
                            label="Message", show_label=False, container=False, placeholder="One moment …", lines=1,
                            max_lines=10, max_length=settings.max_message_chars, interactive=False, elem_id="message",
                        )  # fmt: skip
                        self.send = gr.Button("Send", variant="primary", elem_id="send", min_width=72)
                        self.stop = gr.Button("Stop", variant="secondary", elem_id="stop", min_width=72)
                    self.meter = _part("meter", "")
                    self.inspected = _part("inspected", "")
                    self.attributed = _part("attributed", "")
            with gr.Column(elem_id="panel"):
                gr.HTML(_asset("panel.html"), js_on_load=None, apply_default_css=False)
                self.preset = gr.Dropdown([], label="Preset", info="Settings kept under a name.", elem_id="preset")
                with gr.Row(elem_id="presets"):
                    self.preset_name = gr.Textbox(
                        label="Name", show_label=False, container=False, placeholder="Keep these settings as …",
                        max_length=60, scale=3, elem_id="preset-name",
                    )  # fmt: skip
                    self.keep_preset = gr.Button("Keep", size="sm", min_width=60, elem_id="keep-preset")
                    self.drop_preset = gr.Button("Delete", size="sm", min_width=60, elem_id="drop-preset")
                self.panel = panel()
        self._connect(ui)

    def _connect(self, ui: gr.Blocks) -> None:
        here = [self.kept, self.place]
        shown = [self.place, self.earlier, self.latest, self.notes]
        whole = [*shown, *self.panel.components]
        listing = [self.listed, self.shelf]
        where = [*here, self.shelf, self.search]
        settings = self.panel.components

        ui.load(
            self._load,
            [self.kept, self.shelf],
            [self.kept, *listing, self.preset, self.box, *whole],
            js=ON_LOAD,
            **QUIET,
        )
        sent = gr.on(
            [self.send.click, self.box.submit], self._ask, [*here, self.box, self.editing, *settings], shown, **QUIET
        )
        sent.failure(None, None, None, js=ON_REFUSAL, **QUIET)
        sent.then(None, None, None, js=ON_END, **QUIET)
        self.stop.click(self._stop, here, None, **QUIET)
        self.bridge.open_chat(self._open, [self.kept], whole, **QUIET)
        self.bridge.again(self._again, here, shown, **QUIET)
        self.bridge.rate(self._rate, here, shown, **QUIET)
        self.bridge.similar(self._judge_similar, here, shown, **QUIET)
        self.bridge.pin_turn(self._pin_turn, here, shown, **QUIET)
        noted = self.bridge.note(self._note, here, self.notes, **QUIET)
        noted.failure(None, None, None, js=ON_NOTE_REFUSAL, **QUIET)
        inspected = self.bridge.inspect(self._inspect, here, self.inspected, **QUIET)
        inspected.failure(None, None, None, js=ON_NOT_INSPECTED, **QUIET)
        attributed = self.bridge.attribute(self._attribute, here, self.attributed, **QUIET)
        attributed.failure(None, None, None, js=ON_NOT_ATTRIBUTED, **QUIET)
        self.bridge.measure(self._measure, here, self.meter, **QUIET)
        self.bridge.manage(self._manage, where, [self.notice, *listing, *whole], **QUIET)
        self.bridge.renew(self._renew, where, listing, **QUIET)
        self.search.change(self._renew, where, listing, **TYPED)
        self.bridge.ticket(self._ticket, [self.kept], self.ticket, **QUIET)
        self.ticket.change(None, None, None, js=ON_TICKET, **QUIET)
        self.place.change(None, None, None, js=ON_PLACE, **QUIET)

        changed = [each.blur if isinstance(each, gr.Textbox | gr.Number) else each.input for each in settings]
        gr.on(changed, self._configure, [*here, *settings], None, **QUIET).then(
            self._measure, here, self.meter, **QUIET
        )
        self.preset.input(self._apply, [self.kept, self.preset], settings, **QUIET).then(
            self._configure, [*here, *settings], None, **QUIET
        )
        self.keep_preset.click(
            self._keep, [self.kept, self.preset_name, *settings], [self.preset, self.preset_name], **QUIET
        )
        self.drop_preset.click(self._drop, [self.kept, self.preset], [self.preset], **QUIET)

    async def _load(self, kept: Kept, shelf: str, request: gr.Request) -> AsyncGenerator[Updates]:
        kept = self._handlers.identify(kept)
        chat_id = plain(request.query_params.get("chat"))
        listed = await _or_shown(self._library.listed(kept, Shelf.of(shelf), "", chat_id))
        first: Updates = (kept, *_listing(listed), await self._preset_choices(kept), READY)
        async for updates in _views(self._handlers.show(kept, _page(request), Place(chat_id)), self._whole):
            yield *first, *updates
            first = (gr.skip(),) * len(first)

    async def _open(self, kept: Kept, event: gr.EventData, request: gr.Request) -> AsyncGenerator[Updates]:
        views = self._handlers.show(kept, _page(request), Place.of(_Payload(event).text("place")))
        async for updates in _views(views, self._whole):
            yield updates

    async def _ask(
        self, request: gr.Request, kept: Kept, place: str, message: str, editing: str, *values: Any
    ) -> AsyncGenerator[Updates]:
        chosen = _chosen(values)
        views = self._handlers.ask(kept, _page(request), Place.of(place), message or "", plain(editing), chosen)
        async for updates in _views(views, _updates):
            yield updates

    async def _again(self, kept: Kept, place: str, event: gr.EventData, request: gr.Request) -> AsyncGenerator[Updates]:
        wanted = _Payload(event)
        at, turn_id, do = Place.of(place), wanted.text("turn"), wanted.text("do")
        if do == "wrong":
            views = self._inspecting.wrong(kept, _page(request), at, turn_id)
        else:
            views = self._handlers.again(kept, _page(request), at, turn_id, on_with_it=do == "continue")
        async for updates in _views(views, _updates):
            yield updates

    async def _inspect(self, kept: Kept, place: str, event: gr.EventData) -> str:
        wanted = _Payload(event)
        return await _or_shown(
            self._inspecting.inspect(kept, Place.of(place), wanted.text("turn"), wanted.text("part"))
        )

    async def _attribute(self, kept: Kept, place: str, event: gr.EventData) -> str:
        turn_id = _Payload(event).text("turn")
        return await _or_shown(self._inspecting.attribute(kept, Place.of(place), turn_id))

    async def _measure(self, kept: Kept, place: str) -> str:
        return await _or_shown(self._inspecting.measure(kept, Place.of(place)))

    async def _stop(self, kept: Kept, place: str) -> None:
        await _or_shown(self._handlers.stop(kept, Place.of(place)))

    async def _rate(self, kept: Kept, place: str, event: gr.EventData, request: gr.Request) -> Updates:
        wanted = _Payload(event)
        rating = 1 if wanted.text("rating") == "1" else -1
        reason = wanted.text("reason")[:500] or None
        rated = self._handlers.rate(kept, _page(request), Place.of(place), wanted.text("turn"), rating, reason)
        return _updates(await _or_shown(rated))

    async def _judge_similar(self, kept: Kept, place: str, event: gr.EventData, request: gr.Request) -> Updates:
        wanted = _Payload(event)
        same = wanted.text("same") == "true"
        done = self._handlers.judge_similar(kept, _page(request), Place.of(place), wanted.text("turn"), same)
        return _updates(await _or_shown(done))

    async def _pin_turn(self, kept: Kept, place: str, event: gr.EventData, request: gr.Request) -> Updates:
        wanted = _Payload(event)
        pinned = wanted.text("pinned") == "true"
        done = self._handlers.pin(kept, _page(request), Place.of(place), wanted.text("turn"), pinned)
        return _updates(await _or_shown(done))

    async def _note(self, kept: Kept, place: str, event: gr.EventData, request: gr.Request) -> Any:
        """What was chosen in the panel of notes; anything else renews it."""
        wanted, at, session = _Payload(event), Place.of(place), _page(request)
        match wanted.text("do"):
            case "edit":
                done = self._handlers.edit_note(kept, session, at, wanted.text("note"), wanted.text("text"))
            case "delete":
                done = self._handlers.delete_note(kept, session, at, wanted.text("note"))
            case _:
                done = self._handlers.notes(kept, session, at)
        view = await _or_shown(done)
        return gr.skip() if view.notes is None else view.notes

    async def _manage(
        self, kept: Kept, place: str, shelf: str, q: str, event: gr.EventData, request: gr.Request
    ) -> Updates:
        """What was chosen in the list of chats; the conversation changes with it where it is the chat on show."""
        wanted, at = _Payload(event), Place.of(place)
        chosen = (wanted.text("do"), wanted.text("chat"), wanted.text("title"))
        done: Managed = await _or_shown(self._library.manage(kept, at, Shelf.of(shelf), plain(q), *chosen))
        view = View()
        if done.gone:
            view = self._handlers.leave(_page(request), at)
        elif done.changed == at.chat and at.chat:
            view = await _or_shown(self._handlers.as_is(kept, _page(request), at))
        notice = gr.skip() if done.notice is None else done.notice
        return notice, *_listing(done.listed), *self._whole(view)

    async def _renew(self, kept: Kept, place: str, shelf: str, q: str) -> Updates:
        return _listing(await _or_shown(self._library.listed(kept, Shelf.of(shelf), plain(q), Place.of(place).chat)))

    async def _ticket(self, kept: Kept) -> str:
        return await _or_shown(self._library.ticket(kept))

    async def _configure(self, kept: Kept, place: str, *values: Any) -> None:
        await _or_shown(self._handlers.configure(kept, Place.of(place), _chosen(values)))

    async def _apply(self, kept: Kept, name: str) -> list[Any]:
        return values_of(await _or_shown(self._presets.chosen(kept, plain(name))))

    async def _keep(self, kept: Kept, name: str, *values: Any) -> Updates:
        kept_name = await _or_shown(self._presets.keep(kept, plain(name), _chosen(values)))
        return gr.update(choices=await self._presets.names(kept), value=kept_name), ""

    async def _drop(self, kept: Kept, name: str) -> Any:
        await _or_shown(self._presets.drop(kept, plain(name)))
        return await self._preset_choices(kept)

    async def _preset_choices(self, kept: Kept) -> Any:
        return gr.update(choices=await _or_shown(self._presets.names(kept)), value=None)

    def _whole(self, view: View) -> Updates:
        """A view as values of: place, earlier, latest, notes, and the settings."""
        unchanged = [gr.skip()] * len(self.panel.components)
        return *_updates(view), *(unchanged if view.chosen is None else values_of(view.chosen))


class _Payload:
    """What a script sent with an event: anything, from anybody."""

    def __init__(self, event: gr.EventData) -> None:
        data = getattr(event, "_data", None)
        self._data: dict[str, Any] = data if isinstance(data, dict) else {}

    def text(self, name: str) -> str:
        return plain(self._data.get(name))


def build_ui(
    handlers: PageHandlers, inspecting: Inspecting, library: Library, presets: Presets, panel: Callable[[], Panel],
    identities: Identities, settings: Settings,
) -> gr.Blocks:  # fmt: skip
    """The page. One file a tab: the chat is the first."""
    with gr.Blocks(title="chatlab", fill_height=True, fill_width=True, analytics_enabled=False) as ui:
        ChatPage(ui, handlers, inspecting, library, presets, panel, identities.storage_secret, settings)
        ui.queue(max_size=MAX_WAITING_EVENTS)
        api(Endpoint(handlers, identities).ask, api_name="ask", concurrency_limit=None)
    return ui


async def _views(views: AsyncGenerator[View], updates: Callable[[View], Updates]) -> AsyncGenerator[Updates]:
    try:
        async for view in views:
            yield updates(view)
    except Refused as error:
        raise _shown(error) from error
    except Exception as error:
        raise _failed() from error


def _chosen(values: tuple[Any, ...]) -> ChatSettings:
    try:
        return chosen_from(values)
    except InvalidInput as error:
        raise _shown(refusal(error)) from error


def _updates(view: View) -> Updates:
    """A view as values of: place, earlier, latest, notes."""
    return (
        gr.skip() if view.place is None else view.place.to_json(),
        gr.skip() if view.earlier is None else view.earlier,
        gr.skip() if view.latest is None else view.latest,
        gr.skip() if view.notes is None else view.notes,
    )


def _listing(listed: Listed) -> Updates:
    return listed.html, listed.shelf.to_json()


def _page(request: gr.Request) -> str:
    return str(request.session_hash)


def _hidden(name: str, value: str) -> gr.Textbox:
    return gr.Textbox(value, visible="hidden", elem_id=name, label=name, lines=1, max_lines=1)


def _part(name: str, value: str) -> gr.HTML:
    return gr.HTML(value, js_on_load=RENEWED.format(part=name), apply_default_css=False, elem_id=name)


def _asset(name: str) -> str:
    return (files("chatlab.ui") / "html" / name).read_text()


def _scripts() -> str:
    """All scripts as one body: `page.js` for all, the others each in a block of its own."""
    blocks = [f"{{\n{_script(name)}}}" for name in SCRIPTS]
    return WHEN_READY.format(needed=json.dumps(NEEDED), scripts="\n".join([_script("page"), *blocks]))


def _script(name: str) -> str:
    return (files("chatlab.ui") / "scripts" / f"{name}.js").read_text()
