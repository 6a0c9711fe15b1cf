r"""Markdown as HTML that is safe to show: what a model writes is data, never a page.

Raw HTML is shown as text, images become links (a remote image would tell its server who reads), links lead to http,
https and mail only, formulas become MathML built from a list of allowed elements. So the output holds no script, no
style from the text, and nothing that loads by itself. CommonMark with tables and strikethrough; formulas in `$`, `$$`,
`\(` and `\[`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from html import escape, unescape
from typing import Any
from urllib.parse import urlsplit
from xml.etree import ElementTree

from latex2mathml.converter import convert_to_element
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.rules_inline import StateInline
from markdown_it.token import Token
from mdit_py_plugins.dollarmath import dollarmath_plugin
from mdit_py_plugins.texmath import texmath_plugin
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name
from pygments.util import ClassNotFound

LINK = re.compile(r"(https?:|mailto:)", re.IGNORECASE)
LINE_BREAK = re.compile(r"<br\s*/?>", re.IGNORECASE)
OPEN_REASONING, CLOSE_REASONING = "<think>", "</think>"
MAX_FORMULA_CHARS = 2_000  # the converter's time grows with the square
# What a hostile text may cost. The rules for formulas and some lexers take quadratic time (measured: 107 s for 100,000
# characters of "$$a", 17 s for 20,000 empty lines of Java); these take 0.2 s for the worst 20,000 characters found.
MAX_RENDERED_CHARS = 30_000
MAX_FORMULA_MARKS = 200
FORMULA_MARK = re.compile(r"\$\$|\\[(\[]")
MAX_HIGHLIGHTED_CHARS = 20_000
MAX_SLOW_HIGHLIGHTED_CHARS = 2_000
FAST_LEXERS = {
    "bash", "css", "dart", "docker", "go", "haskell", "javascript", "json", "julia", "kotlin", "php", "python", "r",
    "ruby", "rust", "scss", "sql", "swift", "text", "toml",
}  # fmt: skip
MATHML = {
    "math", "mrow", "mi", "mn", "mo", "mtext", "mspace", "ms", "mfrac", "msqrt", "mroot", "mstyle", "merror", "mpadded",
    "mphantom", "mfenced", "menclose", "msub", "msup", "msubsup", "munder", "mover", "munderover", "mtable", "mtr",
    "mtd", "mlabeledtr", "mmultiscripts", "mprescripts", "none",
}  # fmt: skip
MATHML_ATTRIBUTES = {
    "display", "displaystyle", "scriptlevel", "mathvariant", "stretchy", "fence", "separator", "largeop",
    "movablelimits", "accent", "accentunder", "minsize", "maxsize", "lspace", "rspace", "width", "height", "depth",
    "linethickness", "columnalign", "rowspacing", "columnspacing", "columnlines", "rowlines", "notation",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Thought:
    """An answer in two parts: what the model thought aloud, and what it says. `closed` when the thought is over."""

    reasoning: str
    answer: str
    closed: bool


def split_reasoning(text: str) -> Thought:
    """Split off a leading `<think>` part. A template may have opened it already, so the closing tag alone counts."""
    body = text.lstrip()
    opened = body.startswith(OPEN_REASONING)
    reasoning, closing, answer = body.removeprefix(OPEN_REASONING).partition(CLOSE_REASONING)
    if closing and (opened or OPEN_REASONING not in reasoning):
        return Thought(reasoning.strip(), answer.lstrip("\n"), True)
    return Thought(reasoning.strip(), "", False) if opened else Thought("", text, True)


def to_html(text: str) -> str:
    """A whole text; a very long one as plain paragraphs."""
    if len(text) > MAX_RENDERED_CHARS:
        return f'<div class="plain-text">{escape(text)}</div>'
    return _markdown_for(text).render(text)


@dataclass(slots=True)
class GrowingText:
    """A text that only grows, as HTML blocks: finished blocks are rendered once, the last one again and again.

    A reference-style link whose target comes later is resolved by `to_html` at the end.
    """

    _text: str = ""
    _from: int = 0  # where the unfinished block begins
    _finished: list[str] = field(default_factory=list[str])
    _last: str = ""

    def grow(self, text: str) -> str:
        """The text so far as HTML; a text that is no continuation begins anew."""
        if not text.startswith(self._text):
            self._from, self._finished, self._last = 0, [], ""
        if len(text) > MAX_RENDERED_CHARS:
            return to_html(text)
        if text != self._text:
            self._text = text
            self._render(text[self._from :])
        return "".join(self._finished) + self._last

    def _render(self, tail: str) -> None:
        markdown = _markdown_for(tail)
        environment: dict[str, Any] = {"growing": True}
        tokens = markdown.parse(tail, environment)
        n_lines = tail.count("\n")  # whole ones: what begins in a line that still grows may turn out to be no beginning
        starts = [
            (i, token.map[0])
            for i, token in enumerate(tokens)
            if token.level == 0 and token.nesting >= 0 and token.map and token.map[0] < n_lines
        ]
        if len(starts) > 1:
            at, line = starts[-1]
            self._finished.append(markdown.renderer.render(tokens[:at], markdown.options, {}))
            self._from += _offset_of_line(tail, line)
            tokens = tokens[at:]
        self._last = markdown.renderer.render(tokens, markdown.options, environment)


def _offset_of_line(text: str, line: int) -> int:
    offset = 0
    for _ in range(line):
        offset = text.index("\n", offset) + 1
    return offset


def _markdown_for(text: str) -> MarkdownIt:
    return _markdown(formulas=len(FORMULA_MARK.findall(text)) <= MAX_FORMULA_MARKS)


@lru_cache(maxsize=2)
def _markdown(formulas: bool) -> MarkdownIt:
    markdown = MarkdownIt("commonmark", {"html": False, "linkify": False, "breaks": True})
    markdown.enable(["table", "strikethrough"])
    if formulas:
        markdown.use(dollarmath_plugin, allow_space=False, allow_digits=False, double_inline=True, allow_labels=False)
        markdown.use(texmath_plugin, delimiters="brackets")
    markdown.inline.ruler.before("html_inline", "line_break", _line_break)
    markdown.validateLink = lambda url: LINK.match(url) is not None
    assert isinstance(markdown.renderer, RendererHTML)
    rules: dict[str, Any] = markdown.renderer.rules
    rules.update(_RULES)
    return markdown


def _line_break(state: StateInline, silent: bool) -> bool:
    """`<br>`, which models write into table cells."""
    if (match := LINE_BREAK.match(state.src, state.pos)) is None:
        return False
    if not silent:
        state.push("hardbreak", "br", 0)
    state.pos = match.end()
    return True


Rule = Callable[[Sequence[Token], int, Any, Any], str]


def _link_open(tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    href = escape(str(tokens[at].attrs.get("href", "")))
    return f'<a href="{href}" target="_blank" rel="noopener noreferrer nofollow">'


def _image(tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    address, label = str(tokens[at].attrs.get("src", "")), escape(tokens[at].content or "image")
    if LINK.match(address) is None:
        return f"[{label}]"
    site = escape(urlsplit(address).netloc)
    return (
        f'<a class="image" href="{escape(address)}" target="_blank" rel="noopener noreferrer nofollow">'
        f"{label} (image on {site})</a>"
    )


def _fence(tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    token = tokens[at]
    language = token.info.split()[0] if token.info.split() else ""
    growing = bool(env.get("growing")) and at == len(tokens) - 1
    return (
        f'<div class="code"><div class="code-bar"><span>{escape(language) or "code"}</span>'
        '<button type="button" data-do="copy-code">Copy</button></div>'
        f'<pre tabindex="0" aria-label="{escape(language) or "code"}"><code>'
        f"{_highlighted(token.content, '' if growing else language)}</code></pre></div>"
    )


@lru_cache(maxsize=64)
def _highlighted(code: str, language: str) -> str:
    if not language or len(code) > MAX_HIGHLIGHTED_CHARS:
        return escape(code)
    try:
        lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
    except ClassNotFound:
        return escape(code)
    if len(code) > MAX_SLOW_HIGHLIGHTED_CHARS and FAST_LEXERS.isdisjoint(lexer.aliases):
        return escape(code)
    return highlight(code, lexer, HtmlFormatter(nowrap=True))


def _code_block(tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return f'<pre tabindex="0" aria-label="code"><code>{escape(tokens[at].content)}</code></pre>'


def _table_open(tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return '<div class="table" tabindex="0" role="region" aria-label="table"><table>'


def _table_close(tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return "</table></div>"


def _heading_open(tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return f"<{_heading(tokens[at])}>"


def _heading_close(tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return f"</{_heading(tokens[at])}>"


def _heading(token: Token) -> str:
    """The page has levels 1 and 2 for itself."""
    return f"h{min(6, int(token.tag[1]) + 2)}"


def _inline_formula(tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return _formula(tokens[at].content, "inline")


def _block_formula(tokens: Sequence[Token], at: int, options: Any, env: Any) -> str:
    return f'<div class="formula" tabindex="0">{_formula(tokens[at].content, "block")}</div>\n'


@lru_cache(maxsize=2_048)
def _formula(latex: str, display: str) -> str:
    """A formula as MathML; as code where it cannot be read."""
    try:
        if len(latex) > MAX_FORMULA_CHARS:
            raise ValueError("too long")
        element = convert_to_element(latex.strip(), display=display)
    except Exception:  # noqa: BLE001 - the converter raises whatever its parser trips over
        return f"<code>{escape(latex)}</code>"
    for node in element.iter():
        # The converter writes entities and anything inside \text as they are: only its text counts, as text.
        node.text, node.tail = _plain(node.text), _plain(node.tail)
        node.tag = node.tag if node.tag in MATHML else "mtext"
        node.attrib = {name: _plain(value) or "" for name, value in node.attrib.items() if name in MATHML_ATTRIBUTES}
    return ElementTree.tostring(element, encoding="unicode")


def _plain(text: str | None) -> str | None:
    return None if text is None else unescape(text)


_RULES: Mapping[str, Rule] = {
    "link_open": _link_open,
    "image": _image,
    "fence": _fence,
    "code_block": _code_block,
    "table_open": _table_open,
    "table_close": _table_close,
    "heading_open": _heading_open,
    "heading_close": _heading_close,
    "math_inline": _inline_formula,
    "math_inline_double": _block_formula,
    "math_block": _block_formula,
    "math_block_eqno": _block_formula,
}
