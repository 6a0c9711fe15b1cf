"""What the page does with the inspector and the context meter. Knows no Gradio.

Every handler is an endpoint that anyone can call: each one first checks the browser's token.
"""

from collections.abc import AsyncGenerator
from html import escape

from chatlab.chat import ChatService
from chatlab.errors import ChatlabError, NotFound, PromptTooLong
from chatlab.ui.handlers import PageHandlers
from chatlab.ui.identity import Identities, Kept
from chatlab.ui.inspector import Inspected, exact_html, inside_html, links_to, part_html
from chatlab.ui.mattered import mattered_html
from chatlab.ui.meter import meter_html, no_room_html, unknown_html
from chatlab.ui.refusal import Refused, refusal
from chatlab.ui.view import Place, View, branch_to

WRONG = "Wrong answer from the cache"
GONE = "This answer is gone: reload the page."


class Inspecting:
    """Looking into answers, over the chat service.

    Args:
        chats: The service.
        identities: Who browsers are.
        handlers: Of the conversation.
    """

    def __init__(self, chats: ChatService, identities: Identities, handlers: PageHandlers) -> None:
        self._chats = chats
        self._identities = identities
        self._handlers = handlers

    async def inspect(self, kept: Kept, place: Place, turn_id: str, part: str) -> str:
        """A part of a turn's inspector: `exact` is its prompt, anything else what stands at once in it.

        What cannot be read says so in its place.

        Raises:
            Refused: The turn is gone.
        """
        user_id = self._identities.require(kept)
        try:
            if part == "exact":
                return part_html(turn_id, "exact", exact_html(await self._chats.prompt(user_id, place.chat, turn_id)))
            return part_html(turn_id, "inside", inside_html(await self._known(user_id, place, turn_id)))
        except NotFound as error:
            raise Refused(GONE) from error
        except ChatlabError as error:
            return part_html(turn_id, "exact" if part == "exact" else "inside", f"<p>{escape(str(refusal(error)))}</p>")

    async def attribute(self, kept: Kept, place: Place, turn_id: str) -> str:
        """What of its prompt mattered for a turn's answer; takes a while.

        Raises:
            Refused: The turn is gone, or it cannot be measured.
        """
        user_id = self._identities.require(kept)
        try:
            known = await self._known(user_id, place, turn_id)
            found = await self._chats.attribution(user_id, place.chat, turn_id)
        except NotFound as error:
            raise Refused(GONE) from error
        except ChatlabError as error:
            raise refusal(error) from error
        return part_html(turn_id, "mattered", mattered_html(found, lambda turn_ids: links_to(known, turn_ids)))

    async def _known(self, user_id: str, place: Place, turn_id: str) -> Inspected:
        known = await self._chats.conversation(user_id, place.chat)
        path = branch_to(known.turns, turn_id).turns
        at = next((i for i, turn in enumerate(path) if turn.turn_id == turn_id), None)
        if at is None:
            raise NotFound("turn", turn_id)
        lookup, entry = await self._chats.looked_up(path[at])
        shown = len(branch_to(known.turns, place.leaf).turns)
        attributes = self._chats.attributes and path[at].source == "model"
        return Inspected(path[at], path[: at + 1], shown, known.chat, known.notes, lookup, entry, attributes)

    async def wrong(self, kept: Kept, session: str, place: Place, turn_id: str) -> AsyncGenerator[View]:
        """Delete the stored answer that a turn was served, learn that it was wrong, and ask the model.

        Raises:
            Refused: The turn is gone, or no stored answer was served.
        """
        try:
            turn = await self._chats.turn(self._identities.require(kept), turn_id)
        except NotFound as error:
            raise Refused(GONE) from error
        if turn.source != "cache":
            raise Refused("This answer is not from the cache: regenerate it instead.")
        await self._handlers.rate(kept, session, place, turn_id, -1, WRONG)
        async for view in self._handlers.again(kept, session, place, turn_id):
            yield view

    async def measure(self, kept: Kept, place: Place) -> str:
        """The context meter of the chat on show; empty where there is none or nothing can be written."""
        user_id = self._identities.require(kept)
        if not place.chat or not place.leaf or place.archived:
            return ""
        try:
            return meter_html(await self._chats.outlook(user_id, place.chat, place.leaf))
        except NotFound:
            return ""
        except PromptTooLong as error:
            return no_room_html(str(error))
        except ChatlabError as error:
            return unknown_html(str(refusal(error)))
