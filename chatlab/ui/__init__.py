"""The web page: one file a tab, thin handlers over the chat service."""

from collections.abc import Callable
from datetime import UTC, datetime
from importlib.resources import files

import gradio as gr

from chatlab.messages import CacheChoice, ChatSettings
from chatlab.ui.cache_tab import CachePage
from chatlab.ui.compare import ComparePage
from chatlab.ui.frame import TABS
from chatlab.ui.guard import Guard
from chatlab.ui.handlers import PageHandlers
from chatlab.ui.identity import Identities
from chatlab.ui.insights import InsightsPage
from chatlab.ui.inspecting import Inspecting
from chatlab.ui.library import Library
from chatlab.ui.page import build_ui as build_page
from chatlab.ui.panel import Panel
from chatlab.ui.presets import Presets
from chatlab.ui.theme import theme
from chatlab.ui.tickets import Tickets
from chatlab.ui.transfer import files_router
from chatlab.ui.visitors import Visitors
from chatlab.wiring import Parts

STYLES = ("style", "inspector", "transfer")  # those of the pages beside the chat come with them

__all__ = ["Guard", "Visitors", "build_ui", "css", "files_router", "theme"]


def build_ui(parts: Parts) -> gr.Blocks:
    """The page over running parts."""
    identities = Identities(parts.secret_key)
    facts, chats = parts.engine.facts, parts.chats
    defaults = ChatSettings(cache=CacheChoice(parts.settings.cache_scope))
    handlers = PageHandlers(chats, identities, facts.model, defaults)
    ui = build_page(
        handlers,
        Inspecting(chats, identities, handlers),
        Library(chats, identities, Tickets(parts.secret_key)),
        Presets(chats, identities),
        lambda: Panel(facts, defaults),
        identities,
        parts.settings,
    )
    build: dict[str, Callable[[], object]] = {
        "compare": lambda: ComparePage(
            ui, identities, chats, parts.comparisons, lambda: Panel(facts, defaults), defaults
        ),
        "cache": lambda: CachePage(ui, identities, parts.answers, _now),
        "insights": lambda: InsightsPage(ui, identities, parts.store.insights, _now),
    }
    for path, name in TABS:
        if path in build:
            with ui.route(name, path, show_in_navbar=False):
                build[path]()
    return ui


def _now() -> datetime:
    return datetime.now(UTC)


def css() -> str:
    """The page's style sheets, as one."""
    return "\n".join((files("chatlab.ui") / f"{name}.css").read_text() for name in STYLES)
