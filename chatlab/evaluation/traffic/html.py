"""Pieces of a page: every text is escaped here, and nowhere is anything but text taken from an export."""

from collections.abc import Sequence
from html import escape
from typing import Any

from chatlab.evaluation.traffic.sentences import Answer, percent

WORDS: dict[Answer, str] = {"yes": "Yes", "no": "No", "open": "Open", "fact": ""}


def text(value: object) -> str:
    """A text as HTML."""
    return escape(str(value))


def number(value: float) -> str:
    """A count, with its thousands apart; large ones in millions."""
    return f"{value / 1e6:,.1f} M" if abs(value) >= 1e7 else f"{value:,.0f}"


def estimate(found: dict[str, Any] | None) -> str:
    """A share with its interval below."""
    if found is None:
        return "–"
    low, high = found["interval"]
    if low == high:
        return percent(found["value"])
    return f"{percent(found['value'])} <small class='quiet'>{percent(low)} to {percent(high)}</small>"


def table(caption: str, head: Sequence[str], rows: Sequence[str], plain: int = 1) -> str:
    """A table that scrolls by itself where it is too wide.

    Args:
        caption: Read aloud.
        head: Names of columns; those after the first `plain` ones hold numbers.
        rows: Of HTML.
        plain: Columns of words.
    """
    cells = "".join(
        f'<th scope="col"{"" if i < plain else " class=n"}>{text(name)}</th>' for i, name in enumerate(head)
    )
    return (
        f'<div class="wide" tabindex="0" role="region" aria-label="{text(caption)}"><table>'
        f"<thead><tr>{cells}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
    )


def cell(value: str) -> str:
    """A number of a table, already HTML."""
    return f'<td class="n">{value}</td>'
