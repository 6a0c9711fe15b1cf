"""The turns of an export in the order in which they were asked, each with the conversation before it.

A turn counts once, whatever branch it is on; the path to it is its history. The same question again at the same place
is an answer that was asked for anew: a cache does not answer it.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from chatlab.cache.reading import normalised
from chatlab.exchange.tree import NO_QUESTIONS
from chatlab.messages import UNKNOWN_TIME, Turn
from chatlab.store.recent import Conversation

FIRST_YEAR = 2000  # of times that mean something: an export without any has the epoch's


@dataclass(frozen=True, slots=True)
class Request:
    """A question that was asked.

    Attributes:
        turn: With its answer.
        chat: The place of its chat.
        before: The place of the request before it in its conversation; None of a first question.
        said: Of all that was said before, the same for the same words.
        same_words: Equal for questions that count as the same.
        anew: Whether it asks for another answer to what was just asked, or is no question of a person's at all.
    """

    turn: Turn
    chat: int
    before: int | None
    said: str
    same_words: str
    anew: bool

    @property
    def at(self) -> datetime | None:
        """When, if the export says so."""
        return self.turn.created_at if self.turn.created_at.year >= FIRST_YEAR else None

    @property
    def answer(self) -> str:
        """What was answered; empty without an answer."""
        return self.turn.assistant_message or ""


@dataclass(frozen=True, slots=True)
class ChatHead:
    """What is known of a chat beside its turns; its id is its own even where the file has one twice."""

    chat_id: str
    user_id: str
    title: str
    system_prompt: str | None


@dataclass(frozen=True, slots=True)
class Requests:
    """All of an export, oldest first.

    Attributes:
        chats: Those with turns, in the order of the file.
        asked: Every turn; one stands after the one before it in its conversation.
        n_empty: Chats without turns.
    """

    chats: Sequence[ChatHead]
    asked: Sequence[Request]
    n_empty: int = 0

    @property
    def users(self) -> tuple[str, ...]:
        """Whose chats they are."""
        return tuple(dict.fromkeys(chat.user_id for chat in self.chats))

    def path(self, place: int) -> list[int]:
        """The places of the requests before one in its conversation, the first one first."""
        found: list[int] = []
        before = self.asked[place].before
        while before is not None:
            found.append(before)
            before = self.asked[before].before
        return found[::-1]


def requests_of(conversations: Iterable[Conversation], most_chats: int | None = None) -> Requests:
    """Read conversations, in the order in which their turns were asked.

    Args:
        conversations: Of one export.
        most_chats: Take no more, the newest; None takes all.
    """
    kept = [*conversations]
    n_empty = sum(not each.turns for each in kept)
    kept = [each for each in kept if each.turns]
    if most_chats is not None:
        newest = sorted(range(len(kept)), key=lambda i: kept[i].chat.updated_at, reverse=True)[:most_chats]
        kept = [kept[i] for i in sorted(newest)]
    turns = sorted(
        ((at, chat, place, turn) for chat, each in enumerate(kept) for place, (at, turn) in enumerate(_timed(each))),
        key=lambda each: each[:3],
    )
    asked: list[Request] = []
    places: dict[tuple[int, str], int] = {}
    known: set[tuple[int, int | None, str]] = set()
    for _, chat, _, turn in turns:
        parent = turn.parent_turn_id
        before = None if parent is None else places.get((chat, parent))
        words = normalised(turn.user_message)
        anew = (chat, before, words) in known or turn.user_message in NO_QUESTIONS
        known.add((chat, before, words))
        said = "" if before is None else _said(asked[before])
        places[chat, turn.turn_id] = len(asked)
        asked.append(Request(turn, chat, before, said, words, anew))
    heads = [
        ChatHead(f"{i}/{chat.chat_id}", chat.user_id, chat.title or "", chat.system_prompt)
        for i, chat in enumerate(each.chat for each in kept)
    ]
    return Requests(heads, asked, n_empty)


def _timed(conversation: Conversation) -> list[tuple[datetime, Turn]]:
    """The turns of a chat, each no earlier than the one before it in its conversation."""
    at: dict[str, datetime] = {}
    found: list[tuple[datetime, Turn]] = []
    left = [*conversation.turns]
    ids = {turn.turn_id for turn in left}
    while left:
        later: list[Turn] = []
        for turn in left:
            if turn.parent_turn_id is None or turn.parent_turn_id in at or turn.parent_turn_id not in ids:
                before = UNKNOWN_TIME if turn.parent_turn_id is None else at.get(turn.parent_turn_id, UNKNOWN_TIME)
                at[turn.turn_id] = max(before, turn.created_at)
                found.append((at[turn.turn_id], turn))
            else:
                later.append(turn)
        assert len(later) < len(left), "turns that follow each other in a circle"
        left = later
    return found


def _said(request: Request) -> str:
    """Of a conversation's words up to and with a request, as `history_key` compares them."""
    digest = hashlib.sha256(request.said.encode())
    for text in (request.same_words, normalised(request.answer)):
        digest.update(f"{len(text)} {text}".encode())
    return digest.hexdigest()
