"""What the page does, as plain async functions from values to what is shown next. Knows no Gradio.

Every handler is an endpoint that anyone can call: each one first checks the browser's token.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace

from chatlab.chat import ChatService, TurnRequest
from chatlab.errors import ChatlabError, NotFound
from chatlab.messages import DeltaEvent, DoneEvent, ErrorEvent, EventBody, RestartEvent, Turn
from chatlab.problems import problem_of
from chatlab.ui.identity import Identities
from chatlab.ui.view import Bubble, bubbles, choices, newest_branch, title_of

LISTED_CHATS = 100

# What the browser keeps: `token`, and `chat`, the one to come back to.
Kept = dict[str, str]


class Refused(Exception):
    """A handler could not do what was asked; the message is for the person."""


@dataclass(frozen=True, slots=True)
class View:
    """What the page shows next; None leaves a part as it is, so that `View()` changes nothing.

    Attributes:
        chat_id: The chat on show, empty for a new one.
        messages: Its newest branch.
        busy: Whether an answer is under way.
        listed: Label and id of the user's chats.
        message: The text in the box.
    """

    chat_id: str | None = None
    busy: bool | None = None
    messages: list[Bubble] | None = None
    listed: list[tuple[str, str]] | None = None
    message: str | None = None


class Watch:
    """What one open page looks at: turning to something else ends what was followed before."""

    def __init__(self) -> None:
        self.number = 0

    def turn_to(self) -> "Ticket":
        """Look at something new."""
        self.number += 1
        return Ticket(self, self.number)


@dataclass(frozen=True, slots=True)
class Ticket:
    """Valid until the page looks at something else."""

    watch: Watch
    number: int

    @property
    def valid(self) -> bool:
        """Whether the page still looks at this."""
        return self.watch.number == self.number


class PageHandlers:
    """The page over the chat service."""

    def __init__(self, chats: ChatService, identities: Identities) -> None:
        self._chats = chats
        self._identities = identities

    def identify(self, kept: Kept) -> Kept:
        """The browser's identity, made on its first visit."""
        known = self._identities.user_id(kept.get("token")) is not None
        return kept if known else {"token": self._identities.new()}

    async def show(self, kept: Kept, watch: Watch, chat_id: str) -> AsyncGenerator[View]:
        """Show a chat; an answer under way goes on. A chat that is not there shows as a new one."""
        user_id = self._user(kept)
        ticket = watch.turn_to()
        try:
            known = await self._chats.conversation(user_id, chat_id)
        except NotFound:
            yield await self.begin_anew(kept, watch)
            return
        branch = newest_branch(known.turns)
        live = branch[-1] if branch and branch[-1].live else None
        yield View(chat_id, live is not None, bubbles(branch), await self._listed(user_id))
        if live is not None:
            async for view in self._follow(user_id, live, ticket):
                yield view

    async def begin_anew(self, kept: Kept, watch: Watch) -> View:
        """An empty chat; it is stored with its first message."""
        watch.turn_to()
        return View("", False, [], await self._listed(self._user(kept)))

    async def ask(self, kept: Kept, watch: Watch, chat_id: str, message: str) -> AsyncGenerator[View]:
        """Send a message and show its answer as it comes; the first one makes the chat."""
        if not message.strip():
            return
        user_id = self._user(kept)
        ticket = watch.turn_to()
        try:
            chat_id, turn = await self._begin(user_id, chat_id, message)
        except ChatlabError as error:
            raise Refused(problem_of(error).detail) from error
        known = await self._chats.conversation(user_id, chat_id)
        yield View(chat_id, True, bubbles(newest_branch(known.turns)), await self._listed(user_id), "")
        async for view in self._follow(user_id, turn, ticket):
            yield view

    async def _begin(self, user_id: str, chat_id: str, message: str) -> tuple[str, Turn]:
        """The chat, made where there is none, and its new turn. A refused message leaves no chat behind."""
        if chat_id:
            return chat_id, await self._chats.begin(user_id, chat_id, TurnRequest(message))
        made = await self._chats.create_chat(lambda chat: replace(chat, title=title_of(message)), user_id)
        try:
            return made.chat_id, await self._chats.begin(user_id, made.chat_id, TurnRequest(message))
        except ChatlabError:
            await self._chats.delete_chat(user_id, made.chat_id)
            raise

    async def stop(self, kept: Kept, chat_id: str) -> None:
        """End the answer under way in a chat."""
        user_id = self._user(kept)
        known = await self._chats.conversation(user_id, chat_id)
        for turn in known.turns:
            if turn.live:
                await self._chats.stop(user_id, turn.turn_id)

    async def _follow(self, user_id: str, turn: Turn, ticket: Ticket) -> AsyncGenerator[View]:
        """A turn until it ends or the person looks elsewhere; the list of chats is renewed with the end."""
        known = await self._chats.conversation(user_id, turn.chat_id)
        before = newest_branch(known.turns)[:-1]
        text = ""
        async with aclosing(await self._chats.events(user_id, turn.turn_id)) as events:
            async for batch in events:
                if not ticket.valid:
                    yield View()  # Gradio repeats the last view when a handler ends
                    return
                for event in batch:
                    turn, text = _after(turn, text, event.body)
                turn = replace(turn, assistant_message=text)
                ended = batch[-1].last
                yield View(
                    turn.chat_id, not ended, bubbles([*before, turn]), await self._listed(user_id) if ended else None
                )

    async def _listed(self, user_id: str) -> list[tuple[str, str]]:
        page = await self._chats.chats(user_id, LISTED_CHATS)
        return choices(page.chats)

    def _user(self, kept: Kept) -> str:
        if (user_id := self._identities.user_id(kept.get("token"))) is None:
            raise Refused("This page's identity is no longer valid: reload the page.")
        return user_id


def _after(turn: Turn, text: str, event: EventBody) -> tuple[Turn, str]:
    """The turn and its text after an event."""
    match event:
        case DeltaEvent():
            return turn, text + event.text
        case RestartEvent():
            return turn, ""
        case DoneEvent() | ErrorEvent():
            return event.turn, event.turn.assistant_message or ""
        case _:
            return turn, text
