"""The web page: one file a tab, thin handlers over the chat service."""

import gradio as gr

from chatlab.ui.handlers import PageHandlers
from chatlab.ui.identity import Identities
from chatlab.ui.page import CSS
from chatlab.ui.page import build_ui as build_page
from chatlab.ui.visitors import Visitors
from chatlab.wiring import Parts

__all__ = ["CSS", "Visitors", "build_ui"]


def build_ui(parts: Parts) -> gr.Blocks:
    """The page over running parts."""
    identities = Identities(parts.secret_key)
    return build_page(PageHandlers(parts.chats, identities), identities.storage_secret, parts.settings)
