"""What the page does with the list of chats: list, search, rename, pin, archive, delete and undo. Knows no Gradio."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from chatlab.chat import ChatService
from chatlab.errors import ChatlabError
from chatlab.messages import Chat
from chatlab.ui.chat_list import MAX_CHATS, PAGE_CHATS, Shelf, found, listing, undo_notice
from chatlab.ui.identity import Identities, Kept
from chatlab.ui.refusal import Refused, refusal
from chatlab.ui.tickets import Tickets
from chatlab.ui.view import TITLE_CHARS, Place

MAX_QUERY_CHARS = 200
PAGE = 100  # chats read at once


@dataclass(frozen=True, slots=True)
class Listed:
    """The list as HTML, and what is listed."""

    html: str
    shelf: Shelf


@dataclass(frozen=True, slots=True)
class Managed:
    """What came of a choice in the list.

    Attributes:
        listed: The list afterwards.
        notice: What is said about it, as HTML; None leaves what was said before.
        changed: The chat whose title or state is another now, if any.
        gone: Whether the chat on show is no longer there.
    """

    listed: Listed
    notice: str | None = None
    changed: str = ""
    gone: bool = False


class Library:
    """The list of a person's chats, over the chat service."""

    def __init__(self, chats: ChatService, identities: Identities, tickets: Tickets) -> None:
        self._chats = chats
        self._identities = identities
        self._tickets = tickets

    async def ticket(self, kept: Kept) -> str:
        """A permit to import or export this person's chats, for a moment.

        Args:
            kept: The browser's token.
        """
        return self._tickets.new(self._identities.require(kept))

    async def listed(self, kept: Kept, shelf: Shelf, q: str, shown: str) -> Listed:
        """The list as it is now.

        Args:
            kept: The browser's token.
            shelf: What to list.
            q: What to search for; empty lists all.
            shown: The chat on the page.
        """
        user_id = self._identities.require(kept)
        if q := q.strip()[:MAX_QUERY_CHARS].replace("\x00", ""):
            hits = await self._chats.search(user_id, q, archived=shelf.archived)
            return Listed(found(hits, q, shown), shelf)
        pinned, _ = await self._read(user_id, MAX_CHATS, shelf.archived, pinned=True)
        others, more = await self._read(user_id, shelf.chats, shelf.archived, pinned=False)
        return Listed(listing([*pinned, *others], more, shelf, shown, datetime.now(UTC)), shelf)

    async def _read(self, user_id: str, most: int, archived: bool, pinned: bool) -> tuple[list[Chat], bool]:
        """Chats, and whether there are more."""
        chats: list[Chat] = []
        cursor: str | None = None
        while len(chats) < most:
            page = await self._chats.chats(
                user_id, min(PAGE, most - len(chats)), cursor, archived=archived, pinned=pinned
            )
            chats += page.chats
            if (cursor := page.next_cursor) is None:
                break
        return chats, cursor is not None

    async def manage(
        self, kept: Kept, place: Place, shelf: Shelf, q: str, do: str, chat_id: str, title: str
    ) -> Managed:
        """Carry out what was chosen in the list.

        Args:
            kept: The browser's token.
            place: Where the page is.
            shelf: What is listed.
            q: What was searched for.
            do: The choice; an unknown one only renews the list.
            chat_id: The chat it is about.
            title: The new title, to rename.

        Raises:
            Refused: It cannot be done.
        """
        undo = None
        match do:
            case "more":
                shelf = replace(shelf, chats=shelf.chats + PAGE_CHATS)
            case "shelf":
                shelf = replace(shelf, archived=not shelf.archived, chats=PAGE_CHATS)
            case "rename":
                await self.rename(kept, chat_id, title)
            case "pin":
                await self.pin(kept, chat_id)
            case "archive":
                await self.archive(kept, chat_id)
            case "discard":
                undo = await self.discard(kept, chat_id)
            case "undo":
                await self.restore(kept, chat_id)
            case _:
                pass
        gone = undo is not None and chat_id == place.chat
        return Managed(
            await self.listed(kept, shelf, q, "" if gone else place.chat),
            undo_notice(undo) if undo is not None else "" if do == "undo" else None,
            chat_id if do in ("rename", "archive") else "",
            gone,
        )

    async def rename(self, kept: Kept, chat_id: str, title: str) -> None:
        """Give a chat a title.

        Raises:
            Refused: The title is empty.
        """
        if not (title := " ".join(title.split())[: 2 * TITLE_CHARS]):
            raise Refused("A chat needs a title: write at least one letter.")
        await self._change(kept, chat_id, lambda chat: replace(chat, title=title))

    async def pin(self, kept: Kept, chat_id: str) -> None:
        """Pin a chat to the top, or no longer."""
        await self._change(kept, chat_id, lambda chat: replace(chat, pinned=not chat.pinned))

    async def archive(self, kept: Kept, chat_id: str) -> None:
        """Put a chat aside, to be read only; or take it back."""
        await self._change(kept, chat_id, lambda chat: replace(chat, archived=not chat.archived))

    async def discard(self, kept: Kept, chat_id: str) -> Chat:
        """Delete a chat; for a short while it can be brought back."""
        user_id = self._identities.require(kept)
        try:
            chat = (await self._chats.conversation(user_id, chat_id)).chat
            await self._chats.discard_chat(user_id, chat_id)
        except ChatlabError as error:
            raise refusal(error) from error
        return chat

    async def restore(self, kept: Kept, chat_id: str) -> None:
        """Bring a deleted chat back.

        Raises:
            Refused: It is too late.
        """
        try:
            await self._chats.restore_chat(self._identities.require(kept), chat_id)
        except ChatlabError as error:
            raise Refused("This chat can no longer be brought back.") from error

    async def _change(self, kept: Kept, chat_id: str, change: Callable[[Chat], Chat]) -> None:
        try:
            await self._chats.change_chat(self._identities.require(kept), chat_id, change)
        except ChatlabError as error:
            raise refusal(error) from error
