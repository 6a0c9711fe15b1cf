"""The list of chats as HTML, grouped by date, or what a search found."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from html import escape
from itertools import groupby
from typing import Self

from pydantic import TypeAdapter, ValidationError

from chatlab.messages import Chat
from chatlab.store import SearchHit

PAGE_CHATS = 40
MAX_CHATS = 2_000  # listed at once
MAX_FOUND = 50


@dataclass(frozen=True, slots=True)
class Shelf:
    """Which chats a page lists. The browser keeps it as JSON; it grants nothing.

    Attributes:
        archived: The archived ones instead of the others.
        chats: Most chats listed.
        utc_offset_minutes: Of the browser's clock, for "Today".
    """

    archived: bool = False
    chats: int = PAGE_CHATS
    utc_offset_minutes: int = 0

    @classmethod
    def of(cls, text: str) -> Self:
        """From what a browser sent; what cannot be read is the ordinary list."""
        try:
            shelf = _shelf.validate_json(text)
        except ValidationError:
            return cls()
        offset = max(-24 * 60, min(24 * 60, shelf.utc_offset_minutes))
        return cls(shelf.archived, max(PAGE_CHATS, min(MAX_CHATS, shelf.chats)), offset)

    def to_json(self) -> str:
        """As the browser keeps it."""
        return _shelf.dump_json(self).decode()


_shelf = TypeAdapter(Shelf)


def listing(chats: Sequence[Chat], more: bool, shelf: Shelf, shown: str, now: datetime) -> str:
    """The chats, pinned ones first, then by date.

    Args:
        chats: Newest first.
        more: Whether there are others beyond these.
        shelf: What is listed.
        shown: The id of the chat on the page.
        now: For the names of the groups.
    """
    to_local = timedelta(minutes=shelf.utc_offset_minutes)
    today = (now + to_local).date()
    ordered = sorted(chats, key=lambda chat: not chat.pinned)
    parts = [
        _group(name, (_item(chat, shown) for chat in group))
        for name, group in groupby(
            ordered, lambda chat: "Pinned" if chat.pinned else group_name((chat.updated_at + to_local).date(), today)
        )
    ]
    if not chats:
        empty = "No archived chats." if shelf.archived else "Your chats will be listed here."
        parts.append(f'<p class="empty">{empty}</p>')
    if more:
        parts.append('<p><button type="button" class="plain" data-do="more">Show more</button></p>')
    other = "Back to the chats" if shelf.archived else "Archived chats"
    parts.append(f'<p><button type="button" class="plain quiet" data-do="shelf">{other}</button></p>')
    return "".join(parts)


def found(hits: Sequence[SearchHit], q: str, shown: str) -> str:
    """What a search found, with the matched words marked."""
    if not hits:
        return f'<p class="empty" role="status">Nothing contains “{escape(q)}”.</p>'
    items = (_item(hit.chat, shown, _marked(hit), hit.turn_id or "") for hit in hits)
    n = "1 chat" if len(hits) == 1 else f"{len(hits)} chats" if len(hits) < MAX_FOUND else f"{MAX_FOUND} chats or more"
    return _group(f"Found in {n}", items)


def group_name(day: date, today: date) -> str:
    """The heading over chats of a day."""
    age = (today - day).days
    if age < 1:
        return "Today"
    if age < 2:
        return "Yesterday"
    if age < 7:
        return "Last 7 days"
    if age < 30:
        return "Last 30 days"
    return day.strftime("%B %Y")


def _group(name: str, items: Iterable[str]) -> str:
    return f"<h3>{escape(name)}</h3><ul>{''.join(items)}</ul>"


def _item(chat: Chat, shown: str, excerpt: str = "", turn_id: str = "") -> str:
    title = chat.title or "Untitled chat"
    current = ' aria-current="page"' if chat.chat_id == shown else ""
    label = excerpt if excerpt and not turn_id else escape(title)
    below = f"<small>{excerpt}</small>" if excerpt and turn_id else ""
    return (
        f'<li data-chat="{escape(chat.chat_id)}" data-title="{escape(title)}" '
        f'data-pinned="{str(chat.pinned).lower()}" data-archived="{str(chat.archived).lower()}">'
        f'<a href="?chat={escape(chat.chat_id)}" data-do="open" data-chat="{escape(chat.chat_id)}" '
        f'data-turn="{escape(turn_id)}"{current}><span>{label}</span>{below}</a>'
        f'<button type="button" class="menu-button" data-do="menu" aria-haspopup="menu" '
        f'aria-label="Options of {escape(title)}">⋯</button></li>'
    )


def _marked(hit: SearchHit) -> str:
    before, match, after = hit.excerpt[: hit.start], hit.excerpt[hit.start : hit.end], hit.excerpt[hit.end :]
    return f"{escape(before)}<mark>{escape(match)}</mark>{escape(after)}"


def undo_notice(chat: Chat) -> str:
    """A chat was deleted and can come back."""
    return (
        f'<div class="undo" role="status">Deleted “{escape(chat.title or "Untitled chat")}” '
        f'<button type="button" class="plain" data-do="undo" data-chat="{escape(chat.chat_id)}">Undo</button></div>'
    )
