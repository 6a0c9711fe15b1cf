"""A user's chats as things: made, found, changed, put away, and the settings kept under a name for new ones.

Knows no prompts and no engine. A chat changes only while nothing answers in it, or in ways that an answer does not see.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import IO

import structlog

from chatlab.clock import Clock
from chatlab.errors import FieldError, InvalidInput, NotFound
from chatlab.exchange import Count, ExportedChat, FormatName, write_chats
from chatlab.importing import Imported, import_chats
from chatlab.jobs import Jobs
from chatlab.messages import Chat, ChatSettings, Preset
from chatlab.store import Page, SearchHit, Store
from chatlab.telemetry import Metrics

UNDO_SECONDS = 30.0  # a discarded chat can be restored for so long
MAX_NAME_CHARS = 60

log = structlog.get_logger(__name__)


async def _nothing(chat_id: str) -> None:
    """Keep nothing, forget nothing."""


class ChatLibrary:
    """What a user does with chats beside talking. Belongs to one event loop.

    Args:
        store: Open.
        jobs: Of this process.
        metrics: Told of faults.
        clock: Later than everything stored.
        new_id: Unique ids.
        undo_seconds: From discarding a chat to its end.
        forget: Deletes what other places than the store keep of a chat.
        evict: Deletes the answers of a chat that are served to others.
    """

    def __init__(
        self,
        store: Store,
        jobs: Jobs,
        metrics: Metrics,
        clock: Clock,
        new_id: Callable[[], str],
        undo_seconds: float = UNDO_SECONDS,
        forget: Callable[[str], Awaitable[None]] = _nothing,
        evict: Callable[[str], Awaitable[None]] = _nothing,
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._metrics = metrics
        self._clock = clock
        self._new_id = new_id
        self._undo_seconds = undo_seconds
        self._forget = forget
        self._evict = evict
        self._changing = asyncio.Lock()  # guards the settings of every chat, its restoring and purging, and presets
        self._purges: dict[str, asyncio.Task[None]] = {}  # by chat

    # Making, finding, changing

    async def create_chat(self, chat: Callable[[Chat], Chat], user_id: str) -> Chat:
        """Store a new chat of a user.

        Args:
            chat: Fills in what the caller chose.
            user_id: The owner.
        """
        now = self._clock()
        made = chat(Chat(self._new_id(), user_id, None, now, now))
        await self._store.add_chat(made)
        return made

    async def chats(
        self,
        user_id: str,
        limit: int,
        cursor: str | None = None,
        q: str | None = None,
        archived: bool | None = None,
        pinned: bool | None = None,
    ) -> Page:
        """A user's chats, newest first; see `Store.chats`."""
        _check_query(q or "")
        return await self._store.chats(user_id, limit, cursor, q, archived, pinned)

    async def search(
        self, user_id: str, q: str, limit: int = 50, archived: bool | None = None
    ) -> tuple[SearchHit, ...]:
        """A user's chats whose title or messages contain `q`, newest first; nothing is in none."""
        _check_query(q)
        return await self._store.search(user_id, q, limit, archived) if q else ()

    async def change_chat(self, user_id: str, chat_id: str, change: Callable[[Chat], Chat]) -> Chat:
        """Change a chat's settings or title."""
        async with self._changing:  # read and write belong together: two changes at once must both count
            known = await self._store.conversation(user_id, chat_id)
            changed = replace(change(known.chat), updated_at=self._clock())
            await self._store.change_chat(changed)
        return changed

    async def replace_title(self, user_id: str, chat_id: str, old: str, new: str) -> None:
        """Set a chat's title unless a person chose another than `old` meanwhile, or the chat is gone.

        Nobody asked for it, so the chat keeps its place in the list.
        """
        async with self._changing:
            try:
                known = await self._store.conversation(user_id, chat_id)
            except NotFound:
                return
            if known.chat.title == old:
                await self._store.change_chat(replace(known.chat, title=new))

    # To and from files

    async def import_chats(self, user_id: str, chats: Iterator[ExportedChat]) -> Imported:
        """Store chats of a file as a user's: all of them, or none where `chats` raises."""
        return await import_chats(self._store, self._clock, self._new_id, user_id, chats)

    async def export_chats(self, user_id: str, name: FormatName, file: IO[bytes], chat_id: str | None = None) -> Count:
        """Write a user's chats into a file, the oldest first, or one of them.

        Raises:
            NotFound: No such chat of this user.
        """
        if chat_id is not None:
            await self._store.conversation(user_id, chat_id)
        chats = (ExportedChat(known, lookups) for known, lookups in self._store.whole_chats(user_id, chat_id))
        return await asyncio.to_thread(write_chats, chats, name, file, self._clock(), chat_id is not None)

    # Putting away

    async def delete_chat(self, user_id: str, chat_id: str) -> None:
        """Delete a chat and all that belongs to it; an answer under way is stopped first."""
        async with self._emptied(user_id, chat_id):
            await self._store.delete_chat(chat_id)
            await self._forget(chat_id)

    async def discard_chat(self, user_id: str, chat_id: str) -> None:
        """Delete a chat, `restore_chat` can undo it for a while; to everything else it is gone at once."""
        async with self._emptied(user_id, chat_id):
            await self._store.discard_chat(chat_id, self._clock())
        self._purges[chat_id] = self._jobs.aside(self._purge_later(chat_id), f"purge {chat_id}")

    async def restore_chat(self, user_id: str, chat_id: str) -> Chat:
        """Undo a discard.

        Raises:
            NotFound: No such discarded chat of this user, or its time is over.
        """
        async with self._changing:
            await self._store.restore_chat(user_id, chat_id)
            if (purge := self._purges.pop(chat_id, None)) is not None:
                purge.cancel()
        return (await self._store.conversation(user_id, chat_id)).chat

    @asynccontextmanager
    async def _emptied(self, user_id: str, chat_id: str) -> AsyncGenerator[None]:
        """A chat in which nothing answers and nothing starts."""
        await self._store.conversation(user_id, chat_id)
        while (running := self._jobs.of_chat(chat_id)) is not None:
            await self._jobs.stop(running)
        place = self._jobs.hold(chat_id)
        try:
            await self._store.conversation(user_id, chat_id)  # another one may have been first
            await self._evict(chat_id)
            yield
            self._jobs.forget(chat_id)
        finally:
            self._jobs.release(place)

    async def _purge_later(self, chat_id: str) -> None:
        """Delete a discarded chat when its time is over; what is not reached is purged at the next start."""
        await asyncio.sleep(self._undo_seconds)
        async with self._changing:  # restoring comes before this or after it
            try:
                await self._store.delete_chat(chat_id)
            except Exception:
                self._metrics.fault("purge")
                log.warning("a discarded chat was not deleted", chat_id=chat_id, exc_info=True)
            self._purges.pop(chat_id, None)
        await self._forget(chat_id)

    # Presets

    async def presets(self, user_id: str) -> tuple[Preset, ...]:
        """A user's presets by name."""
        return await self._store.presets(user_id)

    async def save_preset(self, user_id: str, name: str, settings: ChatSettings) -> Preset:
        """Keep settings under a name; what had the name is replaced.

        Raises:
            InvalidInput: The name is empty, too long, or more than a line of text.
        """
        name = name.strip()
        if not (0 < len(name) <= MAX_NAME_CHARS and name.isprintable()):
            raise InvalidInput(FieldError("name", f"must be one line of 1 to {MAX_NAME_CHARS} characters"))
        async with self._changing:
            same_name = (preset.preset_id for preset in await self._store.presets(user_id) if preset.name == name)
            preset_id = next(same_name, None) or self._new_id()
            preset = Preset(
                preset_id, user_id, name, settings.system_prompt, settings.history, settings.cache, settings.params
            )
            await self._store.save_preset(preset)
        return preset

    async def delete_preset(self, user_id: str, preset_id: str) -> None:
        """Delete a preset.

        Raises:
            NotFound: No such preset of this user.
        """
        async with self._changing:
            if preset_id not in {preset.preset_id for preset in await self._store.presets(user_id)}:
                raise NotFound("preset", preset_id)
            await self._store.delete_preset(preset_id)


def _check_query(q: str) -> None:
    """Raise InvalidInput for what no stored text can contain and no query can carry."""
    if "\x00" in q or any("\ud800" <= c <= "\udfff" for c in q):
        raise InvalidInput(FieldError("q", "must be text without NUL characters and lone surrogates"))
