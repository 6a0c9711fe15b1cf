"""Pieces of a message's text: code in a fence that it cannot end, and words for what a chat cannot hold."""

import re

_TICKS = re.compile(r"`+")
_LANGUAGE = re.compile(r"[A-Za-z0-9_+#.-]{1,30}")


def fence_for(text: str) -> str:
    """A fence longer than any run of backticks in the text."""
    longest = max((len(run) for run in _TICKS.findall(text)), default=0)
    return "`" * max(3, longest + 1)


def fenced(code: str, language: str = "") -> str:
    """Code as a block of Markdown."""
    fence = fence_for(code)
    known = _LANGUAGE.fullmatch(language) and language != "unknown"
    return f"{fence}{language if known else ''}\n{code}\n{fence}"


def omitted(what: str, name: str = "") -> str:
    """What stands for something that is no text, like `[image not imported: plan.png]`."""
    return f"[{what} not imported: {name}]" if name else f"[{what} not imported]"
