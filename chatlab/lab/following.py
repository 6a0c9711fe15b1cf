"""One turn from its question to its end: it runs on the parts' loop, its events are read in the caller's thread."""

from collections.abc import Generator
from contextlib import aclosing
from queue import SimpleQueue

from chatlab.api.schemas import NewTurn
from chatlab.api.turns import turn_request
from chatlab.chat import ChatService
from chatlab.lab.thread import PartsThread, interruptible
from chatlab.messages import Event, EventBody


class Following:
    """Sends a message and reads the answer's events.

    Args:
        chats: Of the thread.
        user_id: The chat's owner.
        chat_id: The chat.
        body: The message with what is different for this turn.
    """

    def __init__(self, chats: ChatService, user_id: str, chat_id: str, body: NewTurn) -> None:
        self._chats = chats
        self._user_id = user_id
        self._chat_id = chat_id
        self._body = body
        self._outbox: SimpleQueue[list[Event] | Exception | None] = SimpleQueue()  # None: nothing follows
        self._turn_id: str | None = None
        self._left = False

    def events(self, thread: PartsThread) -> Generator[EventBody]:
        """The events, from `StatusEvent` to the one end; leaving before the end stops the turn and waits for that."""
        thread.submit(self._follow())
        ended = False
        try:
            while (batch := self._next()) is not None:
                for event in batch:
                    ended = event.last
                    yield event.body
        finally:
            if not ended and not thread.closed:
                leaving = thread.submit(self._leave())
                if not thread.inside():  # where a forgotten generator may be collected, too
                    leaving.result()

    def _next(self) -> list[Event] | None:
        with interruptible():
            batch = self._outbox.get()
        if isinstance(batch, Exception):
            raise batch
        return batch

    async def _follow(self) -> None:
        """Never cancelled by its reader: whoever leaves says so, and the turn comes to its stored end."""
        try:
            known = await self._chats.conversation(self._user_id, self._chat_id)
            turn = await self._chats.begin(self._user_id, self._chat_id, turn_request(self._body, known.chat))
            self._turn_id = turn.turn_id
            if self._left:
                await self._chats.stop(self._user_id, turn.turn_id)
            async with aclosing(await self._chats.events(self._user_id, turn.turn_id)) as batches:
                async for batch in batches:
                    self._outbox.put(batch)
        except Exception as error:  # noqa: BLE001 - raised again where the events are read
            self._outbox.put(error)
        finally:
            self._outbox.put(None)

    async def _leave(self) -> None:
        self._left = True
        if self._turn_id is not None:
            await self._chats.stop(self._user_id, self._turn_id)
