"""The chats in use, in memory: a turn reads its chat without a query. The store keeps it in step with every commit.

Valid because one process opens a data dir. Bounded by characters, least recently used chat out first.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from chatlab.messages import Chat, Note, Turn

MAX_CHARS = 100_000_000
OVERHEAD_CHARS = 1_000  # of a chat or a turn, beside its texts


@dataclass(frozen=True, slots=True)
class Conversation:
    """A chat, all its turns and all its notes, oldest first."""

    chat: Chat
    turns: tuple[Turn, ...]
    notes: tuple[Note, ...] = ()

    @property
    def n_chars(self) -> int:
        """Its size in memory, roughly."""
        texts = sum(len(turn.user_message) + len(turn.assistant_message or "") for turn in self.turns)
        texts += sum(2 * len(note.text) for note in self.notes)
        return texts + len(self.chat.system_prompt or "") + OVERHEAD_CHARS * (1 + len(self.turns) + len(self.notes))

    def with_turn(self, turn: Turn) -> "Conversation":
        """With a new turn, unless it is there: loaded from disk right after its commit."""
        if any(other.turn_id == turn.turn_id for other in self.turns):
            return self
        moved_at = max(self.chat.updated_at, turn.created_at)
        return replace(
            self, chat=replace(self.chat, updated_at=moved_at), turns=(*self.turns, replace(turn, prompt=()))
        )

    def finished(self, turn: Turn) -> "Conversation":
        """With the end of a turn, and what a person said of that turn meanwhile."""
        moved_at = max(self.chat.updated_at, turn.finished_at or turn.created_at)
        ended = self.changed(
            turn.turn_id, lambda begun: replace(turn, prompt=(), feedback=begun.feedback, pinned=begun.pinned)
        )
        return replace(ended, chat=replace(self.chat, updated_at=moved_at))

    def changed(self, turn_id: str, change: Callable[[Turn], Turn]) -> "Conversation":
        """With one turn changed."""
        return replace(self, turns=tuple(change(turn) if turn.turn_id == turn_id else turn for turn in self.turns))

    def noted(self, note: Note, instead_of: Collection[Note]) -> "Conversation":
        """With a note, which replaces others."""
        gone = {note.note_id, *(each.note_id for each in instead_of)}
        return replace(self, notes=(*(each for each in self.notes if each.note_id not in gone), note))


class RecentChats:
    """Conversations by chat id. Thread-safe.

    A reader that loads from disk brackets it with `loading` and `loaded`: a commit in between makes the loaded copy
    old, and it is then not kept.
    """

    def __init__(self, max_chars: int = MAX_CHARS) -> None:
        self._max_chars = max_chars
        self._entries: OrderedDict[str, Conversation] = OrderedDict()
        self._loading: dict[str, object] = {}
        self._n_chars = 0
        self._lock = threading.Lock()  # guards everything above

    def get(self, chat_id: str) -> Conversation | None:
        """The conversation, if it is here."""
        with self._lock:
            found = self._entries.get(chat_id)
            if found is not None:
                self._entries.move_to_end(chat_id)
            return found

    def loading(self, chat_id: str) -> object:
        """A load from disk begins; hand the token to `loaded`."""
        with self._lock:
            token = self._loading[chat_id] = object()
            return token

    def loaded(self, chat_id: str, token: object, conversation: Conversation | None) -> None:
        """A load ended; what it found is kept unless the chat changed meanwhile."""
        with self._lock:
            if self._loading.get(chat_id) is token:
                del self._loading[chat_id]
                if conversation is not None:
                    self._put(chat_id, conversation)

    def add(self, conversation: Conversation) -> None:
        """A new chat was committed."""
        with self._lock:
            self._put(conversation.chat.chat_id, conversation)

    def change(self, chat_id: str, change: Callable[[Conversation], Conversation | None]) -> None:
        """A change of the chat was committed; None drops it."""
        with self._lock:
            self._loading.pop(chat_id, None)
            known = self._entries.get(chat_id)
            if known is None:
                return
            changed = change(known)
            if changed is None:
                self._drop(chat_id)
            else:
                self._put(chat_id, changed)

    def _put(self, chat_id: str, conversation: Conversation) -> None:
        self._drop(chat_id)
        self._entries[chat_id] = conversation
        self._n_chars += conversation.n_chars
        while self._n_chars > self._max_chars and len(self._entries) > 1:
            self._drop(next(iter(self._entries)))

    def _drop(self, chat_id: str) -> None:
        dropped = self._entries.pop(chat_id, None)
        if dropped is not None:
            self._n_chars -= dropped.n_chars
