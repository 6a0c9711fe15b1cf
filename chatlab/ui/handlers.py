"""What the page does with a conversation, as plain async functions from values to what is shown next. Knows no Gradio.

Every handler is an endpoint that anyone can call: each one first checks the browser's token.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, replace

from chatlab.chat import ChatService, TurnRequest
from chatlab.errors import ChatlabError, NotFound
from chatlab.markdown import GrowingText
from chatlab.messages import (
    Chat,
    ChatSettings,
    DeltaEvent,
    DoneEvent,
    ErrorEvent,
    EventBody,
    Note,
    RestartEvent,
    Turn,
)
from chatlab.store.recent import Conversation
from chatlab.ui import conversation
from chatlab.ui.identity import Identities, Kept
from chatlab.ui.notes import notes_html
from chatlab.ui.refusal import Refused, refusal
from chatlab.ui.view import Branch, Place, View, branch_to, place_in, title_of, with_turn

UPDATE_SECONDS = 0.05  # between two updates of a growing answer
UPDATES_PER_SECOND = 200  # of all growing answers together: with many of them, each is updated less often
RENDER_SHARE = 0.1  # of one core that rendering one answer may take
TITLE_SECONDS = 15.0  # how long a page waits for an automatic title
NOTES_SECONDS = 15.0  # and for the notes that a turn made due
MAX_WATCHES = 10_000
CONTINUE = "Continue exactly where you stopped."


class Watch:
    """What one open page looks at: turning to something else ends what was followed before."""

    def __init__(self) -> None:
        self.number = 0
        self.sending = False  # a message is on its way into a chat

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
    """The conversation on the page, over the chat service.

    Args:
        chats: The service.
        identities: Who browsers are.
        model: The name of the model that answers.
        defaults: The settings of a new chat.
    """

    def __init__(self, chats: ChatService, identities: Identities, model: str, defaults: ChatSettings) -> None:
        self._chats = chats
        self._identities = identities
        self._model = model
        self._defaults = defaults
        self._watches: OrderedDict[str, Watch] = OrderedDict()  # by page; a forgotten one only ends early
        self._n_growing = 0

    def identify(self, kept: Kept) -> Kept:
        """What the browser keeps from now on."""
        return self._identities.keep(kept)

    async def show(self, kept: Kept, session: str, wanted: Place) -> AsyncGenerator[View]:
        """Show a chat; an answer under way goes on.

        Args:
            kept: The browser's token.
            session: The page.
            wanted: The chat, empty for a new one; the turn that its branch goes through; how many turns.
        """
        user_id = self._identities.require(kept)
        ticket = self._watch(session).turn_to()
        if not wanted.chat:
            yield self.new_chat(wanted)
            return
        try:
            known = await self._chats.conversation(user_id, wanted.chat)
        except NotFound:
            missing = View(Place(n=wanted.n), "", conversation.missing(), "", self._defaults)
            yield missing if ticket.valid else View()
            return
        if not ticket.valid:  # a quick person has gone on while this was read
            yield View()
            return
        branch = branch_to(known.turns, wanted.leaf)
        place = place_in(wanted, known.chat, branch)
        yield self._whole(known, branch, place)
        if branch.turns and branch.turns[-1].live:
            async for view in self._follow(user_id, known, branch, place, ticket):
                yield view

    def new_chat(self, place: Place) -> View:
        """An empty chat; it is stored with its first message."""
        return View(Place(n=place.n), "", conversation.welcome(self._model), "", self._defaults)

    async def ask(
        self, kept: Kept, session: str, place: Place, message: str, editing: str, chosen: ChatSettings
    ) -> AsyncGenerator[View]:
        """Send a message and show its answer as it comes; the first one makes the chat.

        Args:
            kept: The browser's token.
            session: The page.
            place: Where the page is.
            message: What the person wrote.
            editing: The turn whose message this replaces, as a new branch; empty for none.
            chosen: The settings of a chat that begins with this message.
        """
        if not message.strip():
            return
        user_id = self._identities.require(kept)
        request = TurnRequest(message)
        if place.chat:
            known = await self._writable(user_id, place.chat)
            if editing:
                if (edited := _turn(known, editing)) is None:
                    raise Refused("The message that you were editing is not in this chat: press Esc, then send it.")
                request = replace(request, parent_turn_id=edited.parent_turn_id)
            elif place.leaf:
                request = replace(request, parent_turn_id=place.leaf)
        async for view in self._answer(user_id, session, place, request, chosen):
            yield view

    async def again(
        self, kept: Kept, session: str, place: Place, turn_id: str, on_with_it: bool = False
    ) -> AsyncGenerator[View]:
        """Answer a message again, as another version; or go on with an answer that was cut (`on_with_it`)."""
        user_id = self._identities.require(kept)
        known = await self._writable(user_id, place.chat)
        if (turn := _turn(known, turn_id)) is None:
            raise Refused("This message is gone: reload the page.")
        request = TurnRequest(turn.user_message, parent_turn_id=turn.parent_turn_id, cache_bypass=True)
        if on_with_it:
            request = TurnRequest(CONTINUE, parent_turn_id=turn.turn_id, cache_bypass=True)
        async for view in self._answer(user_id, session, place, request, self._defaults):
            yield view

    async def _answer(
        self, user_id: str, session: str, place: Place, request: TurnRequest, chosen: ChatSettings
    ) -> AsyncGenerator[View]:
        watch = self._watch(session)
        if watch.sending:  # a double click
            return
        looked_at, watch.sending = watch.number, True
        try:
            chat_id, turn = await self._begin(user_id, place.chat, request, chosen)
        finally:
            watch.sending = False
        if watch.number != looked_at:  # the person looks at another chat by now; the answer goes on in its own
            yield View()
            return
        ticket = watch.turn_to()
        known = await self._conversation(user_id, chat_id)
        branch = branch_to(known.turns, turn.turn_id)
        goes_on = bool(place.chat) and turn.parent_turn_id == place.leaf
        place = place_in(place, known.chat, branch)
        whole = replace(self._whole(known, branch, place), chosen=None)
        # A page that goes on with what it shows has the turns before: it moves the last one up by itself.
        yield replace(whole, earlier=None) if goes_on else whole
        async for view in self._follow(user_id, known, branch, place, ticket):
            yield view

    async def _begin(self, user_id: str, chat_id: str, request: TurnRequest, chosen: ChatSettings) -> tuple[str, Turn]:
        """The chat, made where there is none, and its new turn. A refused message leaves no chat behind."""
        try:
            if chat_id:
                return chat_id, await self._chats.begin(user_id, chat_id, request)
            title = title_of(request.user_message)
            made = await self._chats.create_chat(lambda chat: chosen.apply(replace(chat, title=title)), user_id)
            try:
                return made.chat_id, await self._chats.begin(user_id, made.chat_id, replace(request, entitle=title))
            except BaseException:
                await asyncio.shield(self._chats.delete_chat(user_id, made.chat_id))
                raise
        except ChatlabError as error:
            raise refusal(error) from error

    async def stop(self, kept: Kept, place: Place) -> None:
        """End the answer under way in a chat."""
        user_id = self._identities.require(kept)
        if not place.chat:
            return
        for turn in (await self._conversation(user_id, place.chat)).turns:
            if turn.live:
                await self._chats.stop(user_id, turn.turn_id)

    async def rate(self, kept: Kept, session: str, place: Place, turn_id: str, rating: int, reason: str | None) -> View:
        """Store a thumb, with its reason; the page shows it."""
        user_id = self._identities.require(kept)
        try:
            await self._chats.rate(user_id, place.chat, turn_id, rating, reason)
        except ChatlabError as error:
            raise refusal(error) from error
        return await self.as_is(kept, session, place)

    async def judge_similar(self, kept: Kept, session: str, place: Place, turn_id: str, same: bool) -> View:
        """Take the answer to a similar question, or turn it down; whoever follows the turn shows what comes of it."""
        user_id = self._identities.require(kept)
        try:
            turn = await self._chats.judge_similar(user_id, turn_id, same)
        except NotFound as error:
            raise Refused("The answer to the similar question is gone: wait for the model's.") from error
        return View() if turn.live else await self.as_is(kept, session, place)

    async def pin(self, kept: Kept, session: str, place: Place, turn_id: str, pinned: bool) -> View:
        """Keep a turn in every later prompt, or no longer; the page shows it."""
        user_id = self._identities.require(kept)
        try:
            await self._chats.pin(user_id, place.chat, turn_id, pinned)
        except ChatlabError as error:
            raise refusal(error) from error
        return await self.as_is(kept, session, place)

    async def edit_note(self, kept: Kept, session: str, place: Place, note_id: str, text: str) -> View:
        """Let a note say something else; the page shows the notes as they are then.

        Raises:
            Refused: The note is gone, or the text is empty or too long.
        """
        user_id = self._identities.require(kept)
        return await self._noted(
            kept, session, place, lambda: self._chats.edit_note(user_id, place.chat, note_id, text)
        )

    async def delete_note(self, kept: Kept, session: str, place: Place, note_id: str) -> View:
        """Delete a note for good; the page shows the others.

        Raises:
            Refused: The note is gone.
        """
        user_id = self._identities.require(kept)
        return await self._noted(kept, session, place, lambda: self._chats.delete_note(user_id, place.chat, note_id))

    async def _noted(
        self, kept: Kept, session: str, place: Place, change: Callable[[], Awaitable[Note | None]]
    ) -> View:
        watch = self._watch(session)
        looked_at = watch.number
        await self._writable(self._identities.require(kept), place.chat)
        try:
            await change()
        except NotFound as error:
            raise Refused("This note is gone: it was merged with others, or deleted.") from error
        except ChatlabError as error:
            raise refusal(error) from error
        return await self.notes(kept, session, place) if watch.number == looked_at else View()

    async def notes(self, kept: Kept, session: str, place: Place) -> View:
        """The panel of notes, as they are now; nothing if the page has gone on meanwhile."""
        return View(notes=(await self.as_is(kept, session, place)).notes)

    async def as_is(self, kept: Kept, session: str, place: Place) -> View:
        """The same place, as it is now; nothing if the page has gone on meanwhile."""
        watch = self._watch(session)
        looked_at = watch.number
        known = await self._conversation(self._identities.require(kept), place.chat)
        if watch.number != looked_at:
            return View()
        branch = branch_to(known.turns, place.leaf)
        return replace(self._whole(known, branch, place_in(place, known.chat, branch)), chosen=None)

    def leave(self, session: str, place: Place) -> View:
        """Look away from a chat that is gone."""
        self._watch(session).turn_to()
        return self.new_chat(place)

    async def configure(self, kept: Kept, place: Place, chosen: ChatSettings) -> None:
        """Store the settings of a chat; those of a new one are stored with its first message."""
        user_id = self._identities.require(kept)
        if not place.chat:
            return
        known = await self._conversation(user_id, place.chat)
        if ChatSettings.of(known.chat) == chosen:
            return
        try:
            await self._chats.change_chat(user_id, place.chat, chosen.apply)
        except ChatlabError as error:
            raise refusal(error) from error

    async def turns(self, user_id: str, chat_id: str, message: str) -> AsyncGenerator[Turn]:
        """Send a message and give its turn as it grows, for callers without a page.

        Raises:
            Refused: The message is not taken.
        """
        if chat_id:
            await self._writable(user_id, chat_id)
        _, turn = await self._begin(user_id, chat_id, TurnRequest(message), self._defaults)
        async for grown in self._grow(user_id, turn):
            yield grown

    async def _grow(self, user_id: str, turn: Turn) -> AsyncGenerator[Turn]:
        """A turn with its text so far, not more often than a person can see, and at last its end."""
        text = ""
        self._n_growing += 1
        try:
            async with aclosing(await self._chats.events(user_id, turn.turn_id)) as events:
                async for batch in events:
                    for event in batch:
                        turn, text = _after(turn, text, event.body)
                    if batch[-1].last:
                        yield turn
                    elif text:
                        yield replace(turn, assistant_message=text, status="running")
                        await asyncio.sleep(max(UPDATE_SECONDS, self._n_growing / UPDATES_PER_SECOND))
        finally:
            self._n_growing -= 1

    async def _follow(
        self, user_id: str, known: Conversation, branch: Branch, place: Place, ticket: Ticket
    ) -> AsyncGenerator[View]:
        """A turn until it ends or the person looks elsewhere, then its chat's notes and title."""
        growing = GrowingText()
        async with aclosing(self._grow(user_id, branch.turns[-1])) as turns:
            async for turn in turns:
                if not ticket.valid:
                    yield View()  # Gradio repeats the last view when a handler ends
                    return
                began = time.perf_counter()
                render = growing.grow if turn.live else conversation.settled_html
                now = replace(with_turn(branch, turn), similar=self._chats.similar_to(turn))
                latest = conversation.latest(now, render)
                yield View(latest=latest)
                await asyncio.sleep((time.perf_counter() - began) / RENDER_SHARE if turn.live else 0)
        noted = await self._after_noting(user_id, known)
        if ticket.valid and noted.notes != known.notes:
            yield View(notes=_notes(noted, branch_to(noted.turns, branch.turns[-1].turn_id)))
        if len(branch.turns) == 1:
            chat = await self._titled(user_id, known.chat)
            if ticket.valid and chat.title != place.title:
                yield View(place_in(place, chat, branch))
                return
        yield View()

    async def _after_noting(self, user_id: str, known: Conversation) -> Conversation:
        try:
            async with asyncio.timeout(NOTES_SECONDS):
                return await self._chats.noted(user_id, known.chat.chat_id)
        except (TimeoutError, NotFound):
            return known

    async def _titled(self, user_id: str, chat: Chat) -> Chat:
        try:
            async with asyncio.timeout(TITLE_SECONDS):
                return await self._chats.titled(user_id, chat.chat_id)
        except (TimeoutError, NotFound):
            return chat

    def _whole(self, known: Conversation, branch: Branch, place: Place) -> View:
        branch = replace(branch, read_only=known.chat.archived)
        if not branch.turns:
            return replace(self.new_chat(place), place=place, chosen=ChatSettings.of(known.chat))
        branch = replace(branch, similar=self._chats.similar_to(branch.turns[-1]))
        return View(
            place,
            conversation.earlier(branch, place.turns),
            conversation.latest(branch),
            _notes(known, branch),
            ChatSettings.of(known.chat),
        )

    async def _writable(self, user_id: str, chat_id: str) -> Conversation:
        known = await self._conversation(user_id, chat_id)
        if known.chat.archived:
            raise Refused("This chat is archived and can only be read: take it back first.")
        return known

    async def _conversation(self, user_id: str, chat_id: str) -> Conversation:
        try:
            return await self._chats.conversation(user_id, chat_id)
        except NotFound as error:
            raise Refused("This chat is no longer here: it was deleted. Begin a new one.") from error

    def _watch(self, session: str) -> Watch:
        watch = self._watches.pop(session, None) or Watch()
        self._watches[session] = watch
        while len(self._watches) > MAX_WATCHES:
            self._watches.popitem(last=False)
        return watch


def _notes(known: Conversation, branch: Branch) -> str:
    return notes_html(known.notes, replace(branch, read_only=known.chat.archived))


def _turn(known: Conversation, turn_id: str) -> Turn | None:
    return next((turn for turn in known.turns if turn.turn_id == turn_id), None)


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
