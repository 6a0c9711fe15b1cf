"""A chat from Python: ask, stream, look inside, rate, delete. Every call blocks until it is done."""

from collections.abc import Generator, Sequence
from typing import Literal

from chatlab.api.schemas import NewFeedback, NewTurn, NoteChange
from chatlab.attribution import Attribution
from chatlab.chat import NEWEST, SeenPrompt
from chatlab.lab.choices import Cache, History, Params, checked
from chatlab.lab.following import Following
from chatlab.lab.thread import PartsThread
from chatlab.lab.turn import LabTurn, TurnFailed
from chatlab.lab.view import chat_html
from chatlab.messages import CacheChoice, Chat, DoneEvent, ErrorEvent, EventBody, Note, Turn


class LabChat:
    """A stored chat of one user. Made by `Lab.chat`; usable from several threads, one answer at a time.

    Every method raises NotFound once the chat is deleted, and RuntimeError once the lab is closed.
    """

    def __init__(self, thread: PartsThread, user_id: str, chat_id: str) -> None:
        self.user_id = user_id
        self.chat_id = chat_id
        self._thread = thread
        self._chats = thread.parts.chats

    @property
    def stored(self) -> Chat:
        """Title, times and settings as they are now."""
        return self._thread.call(self._chats.conversation(self.user_id, self.chat_id)).chat

    @property
    def turns(self) -> Sequence[LabTurn]:
        """All turns, all branches, oldest first; a running one with its text so far."""
        known = self._thread.call(self._chats.conversation(self.user_id, self.chat_id))
        return [LabTurn.of(turn) for turn in known.turns]

    def ask(
        self,
        message: str,
        *,
        params: Params | None = None,
        history: History | None = None,
        cache: Cache | None = None,
        bypass_cache: bool = False,
        parent_turn_id: str | None = NEWEST,
    ) -> LabTurn:
        """Send a message and wait for its answer; an interrupt stops the turn, with its partial text kept.

        Args:
            message: What the user says.
            params: Sampling for this turn, over the chat's.
            history: The history choice of this turn.
            cache: The cache choice of this turn.
            bypass_cache: Ask the model in any case.
            parent_turn_id: The turn it follows: the newest when left out, None for a new root.

        Returns:
            The turn, done or stopped.

        Raises:
            InvalidInput: Something given cannot be used; names it and the fix.
            ChatBusy: The chat is answering.
            TurnFailed: The answer failed on the way; carries the turn.
        """
        for event in self.stream(
            message,
            params=params,
            history=history,
            cache=cache,
            bypass_cache=bypass_cache,
            parent_turn_id=parent_turn_id,
        ):
            if isinstance(event, DoneEvent | ErrorEvent):
                turn = LabTurn.of(event.turn)
                if isinstance(event, ErrorEvent):
                    raise TurnFailed(turn)
                return turn
        raise AssertionError("a turn ends with an event")

    def stream(
        self,
        message: str,
        *,
        params: Params | None = None,
        history: History | None = None,
        cache: Cache | None = None,
        bypass_cache: bool = False,
        parent_turn_id: str | None = NEWEST,
    ) -> Generator[EventBody]:
        """The events of an answer as they come; see `ask` for what it takes and raises.

        The message is sent when the first event is asked for. Leaving the loop early, or an interrupt, stops the turn.

        Yields:
            One `StatusEvent`, then `DeltaEvent`s (after a `RestartEvent` the text begins anew), then `DoneEvent` or
            `ErrorEvent` with the turn. A failed turn does not raise here.
        """
        body = checked(
            NewTurn,
            user_message=message,
            params=params,
            history=history,
            cache=_turn_cache(cache, bypass_cache),
            **({} if parent_turn_id is None or parent_turn_id == NEWEST else {"parent_turn_id": parent_turn_id}),
        )
        if parent_turn_id is None:
            body.parent_turn_id = None  # said, so it counts as set: a new root
        for event in Following(self._chats, self.user_id, self.chat_id, body).events(self._thread):
            match event:
                case DoneEvent():
                    yield DoneEvent(LabTurn.of(event.turn))
                case ErrorEvent():
                    yield ErrorEvent(LabTurn.of(event.turn), event.problem)
                case _:
                    yield event

    def prompt(self, turn: Turn | str) -> SeenPrompt:
        """What the model saw for a turn, as messages and as the rendered text."""
        return self._thread.call(self._chats.prompt(self.user_id, self.chat_id, _id_of(turn)))

    def what_mattered(self, turn: Turn | str) -> Attribution:
        """How much less likely an answer is without each part of its prompt, in nats; see docs/attribution.md.

        Raises:
            InvalidInput: It cannot be measured; says why.
        """
        return self._thread.call(self._chats.attribution(self.user_id, self.chat_id, _id_of(turn)))

    def rate(self, turn: Turn | str, rating: Literal[1, -1], reason: str | None = None) -> None:
        """Say whether an answer was good (1) or not (-1)."""
        said = checked(NewFeedback, rating=rating, reason=reason)
        self._thread.call(self._chats.rate(self.user_id, self.chat_id, _id_of(turn), said.rating, said.reason))

    def pin(self, turn: Turn | str, pinned: bool = True) -> None:
        """Keep a turn in the prompt of every later one, or no longer."""
        self._thread.call(self._chats.pin(self.user_id, self.chat_id, _id_of(turn), pinned))

    @property
    def notes(self) -> Sequence[Note]:
        """What stands in for old turns, on whatever branch, oldest first."""
        return self._thread.call(self._chats.notes(self.user_id, self.chat_id))

    def edit_note(self, note: Note | str, text: str) -> Note:
        """Let a note say something else; from then on nothing but a person changes it.

        Args:
            note: The note or its id.
            text: Lines, `user: …`, `assistant: …`, or about both.
        """
        said = checked(NoteChange, text=text)
        return self._thread.call(self._chats.edit_note(self.user_id, self.chat_id, _note_id_of(note), said.text))

    def delete_note(self, note: Note | str) -> None:
        """Delete a note; nothing stands for its turns from then on, and no other note of them is written."""
        self._thread.call(self._chats.delete_note(self.user_id, self.chat_id, _note_id_of(note)))

    def delete(self) -> None:
        """Delete the chat and all that belongs to it; an answer under way is stopped first."""
        self._thread.call(self._chats.delete_chat(self.user_id, self.chat_id))

    def __repr__(self) -> str:
        return f"<chat {self.chat_id} of {self.user_id}>"

    def _repr_html_(self) -> str:
        known = self._thread.call(self._chats.conversation(self.user_id, self.chat_id))
        return chat_html(known.chat, known.turns)


def _turn_cache(cache: Cache | None, bypass: bool) -> object:
    """The cache of one turn as its body has it."""
    if not bypass:
        return cache
    if isinstance(cache, CacheChoice):
        cache = cache.scope
    return {"bypass": True, **({} if cache is None else {"scope": cache} if isinstance(cache, str) else cache)}


def _id_of(turn: Turn | str) -> str:
    return turn if isinstance(turn, str) else turn.turn_id


def _note_id_of(note: Note | str) -> str:
    return note if isinstance(note, str) else note.note_id
