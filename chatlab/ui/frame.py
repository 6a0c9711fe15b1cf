"""What the pages beside the chat share: the links between them, their head, who looks at them.

Each is a page of its own of the one app (`Blocks.route`), so that the chat loads none of it. Their addresses are
relative: the app may be mounted behind a path.
"""

from collections.abc import Awaitable
from html import escape
from importlib.resources import files

import gradio as gr
import structlog

from chatlab.errors import ChatlabError
from chatlab.ui.identity import Identities, Kept
from chatlab.ui.refusal import Refused, refusal

STORAGE_KEY = "chatlab"  # of the browser's, on every page the same
TABS = (("", "Chat"), ("compare", "Compare"), ("cache", "Cache"), ("insights", "Insights"))  # address, name
LOADING = (
    '<p class="waiting" role="status"><span class="dots" aria-hidden="true"><i></i><i></i><i></i></span>'
    '<span class="sr-only">Loading</span></p>'
)
# The browser's time zone, for the days of a person's own.
ZONE = "-new Date().getTimezoneOffset()"
MAX_ZONE = 15 * 60

log = structlog.get_logger(__name__)


def nav_html(current: str) -> str:
    """The links between the pages; `current` is the address of the one that they are on."""
    links = "".join(
        f'<a href="{path or "./"}"{" aria-current=page" if path == current else ""}>{name}</a>' for path, name in TABS
    )
    return f'<nav class="pages" aria-label="Pages">{links}</nav>'


class Frame:
    """The head of a page, and what the browser keeps. Built where the page's components are to follow."""

    def __init__(self, identities: Identities, path: str, about: str) -> None:
        name = dict(TABS)[path]
        self._identities = identities
        self.kept = gr.BrowserState({}, storage_key=STORAGE_KEY, secret=identities.storage_secret)
        self.zone = gr.Textbox("0", visible="hidden", elem_id="zone", label="zone")
        style = (files("chatlab.ui") / "tabs.css").read_text()
        gr.HTML(
            f'<style>{style}</style><header class="tab-head"><div class="brand">chatlab</div>{nav_html(path)}</header>'
            f'<div class="tab-title"><h1>{name}</h1><p>{escape(about)}</p></div>',
            js_on_load=f"document.title = '{name} – chatlab'",
            apply_default_css=False,
            elem_classes="tab-frame",
        )

    def identify(self, kept: Kept) -> tuple[Kept, str]:
        """What the browser keeps from now on, and who that is."""
        kept = self._identities.keep(kept)
        return kept, self._identities.require(kept)

    def require(self, kept: Kept) -> str:
        """Whose browser keeps this.

        Raises:
            Refused: It is none of ours.
        """
        return self._identities.require(kept)


def zone_from(value: object) -> int:
    """Minutes from UTC, of what a browser sent; 0 for what cannot be one."""
    try:
        minutes = int(str(value))
    except ValueError:
        return 0
    return minutes if abs(minutes) <= MAX_ZONE else 0


def part(name: str, value: str = LOADING) -> gr.HTML:
    """A part of a page that handlers fill."""
    return gr.HTML(value, js_on_load=None, apply_default_css=False, elem_id=name)


async def or_said(work: Awaitable[str]) -> str:
    """HTML, or in its place why there is none."""
    try:
        return await work
    except Refused as error:
        return problem_html(str(error))
    except ChatlabError as error:
        return problem_html(str(refusal(error)))
    except Exception:
        log.exception("a page failed")
        return problem_html("The server could not read this; its log says why. Reload the page to try again.")


def problem_html(words: str) -> str:
    """Something that went wrong, in place of what it is about."""
    return f'<p class="problem" role="alert"><b>That did not work.</b> {escape(words)}</p>'


def empty_html(title: str, words: str) -> str:
    """Nothing to see yet, and what to do about it; `words` is HTML."""
    return f'<section class="empty"><h2>{escape(title)}</h2><p>{words}</p></section>'


def figures_html(figures: list[tuple[str, str, str]]) -> str:
    """Figures that count, each with its name and a word on it."""
    cells = "".join(
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b><span>{escape(about)}</span></dd></div>"
        for name, value, about in figures
    )
    return f'<dl class="figures">{cells}</dl>'
