"""The one endpoint that Gradio's clients may call by name: `/ask`. What else a program wants, REST has.

    client = gradio_client.Client(url)
    client.predict("Hello", api_name="/ask")  # {"chat_id": ..., "token": ..., "answer": ..., ...}

Send `token` and `chat_id` back to go on with a chat: the token is who you are, so keep it to yourself.
"""

from collections.abc import AsyncGenerator
from typing import TypedDict

import gradio as gr

from chatlab.ui.conversation import line_of
from chatlab.ui.handlers import PageHandlers
from chatlab.ui.identity import Identities
from chatlab.ui.refusal import Refused
from chatlab.ui.view import plain


class Answer(TypedDict):
    """An answer so far, and at last the whole one.

    Attributes:
        token: Who asks; a new one for an empty token.
        chat_id: The chat that the question went into.
        turn_id: The turn.
        answer: Its text.
        status: As of a turn in REST.
        line: Source, tokens, time to first token, rate; empty until the end.
    """

    token: str
    chat_id: str
    turn_id: str
    answer: str
    status: str
    line: str


class Endpoint:
    """Asks like the page does, for programs."""

    def __init__(self, handlers: PageHandlers, identities: Identities) -> None:
        self._handlers = handlers
        self._identities = identities

    async def ask(self, message: str, chat_id: str = "", token: str = "") -> AsyncGenerator[Answer]:
        """Send a message and stream its answer.

        Args:
            message: What to say.
            chat_id: The chat to go on with; empty begins one.
            token: Who asks, from an earlier answer; empty is somebody new.

        Raises:
            gr.Error: It cannot be answered; says why.
        """
        message = plain(message)
        token, chat_id = plain(token) or self._identities.new(), plain(chat_id)
        if (user_id := self._identities.user_id(token)) is None:
            raise gr.Error("token: not one of this server's; leave it empty to get a new one", print_exception=False)
        try:
            async for turn in self._handlers.turns(user_id, chat_id, message):
                yield Answer(
                    token=token,
                    chat_id=turn.chat_id,
                    turn_id=turn.turn_id,
                    answer=turn.assistant_message or "",
                    status=turn.status,
                    line="" if turn.live else line_of(turn),
                )
        except Refused as error:
            raise gr.Error(str(error), print_exception=False) from error
