"""Turns as other tools have them: messages of a tree, versions below one question, or one branch after the other."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from chatlab.messages import Turn


@dataclass(frozen=True, slots=True)
class Said:
    """A message of a turn.

    Attributes:
        message_id: The answer's, or that of a question without an answer, is the turn's id.
        parent_id: Of the message that it follows; None begins the chat.
        role: Who wrote it.
        text: What it says.
        turn: That it is of; of several versions, a question's is the first.
        children: The ids of the messages that follow it, oldest first.
    """

    message_id: str
    parent_id: str | None
    role: Literal["user", "assistant"]
    text: str
    turn: Turn
    children: list[str]


def messages_of(turns: Sequence[Turn]) -> dict[str, Said]:
    """The messages of a chat by id, parents first: answers to the same question follow one message.

    Args:
        turns: Of one chat, parents first.
    """
    messages: dict[str, Said] = {}
    questions: dict[tuple[str | None, str], str] = {}

    def say(said: Said) -> None:
        messages[said.message_id] = said
        if said.parent_id is not None:
            messages[said.parent_id].children.append(said.message_id)

    for turn in turns:
        if turn.assistant_message is None:
            say(Said(turn.turn_id, turn.parent_turn_id, "user", turn.user_message, turn, []))
            continue
        key = (turn.parent_turn_id, turn.user_message)
        if key not in questions:
            questions[key] = question_id(turn)
            say(Said(questions[key], turn.parent_turn_id, "user", turn.user_message, turn, []))
        say(Said(turn.turn_id, questions[key], "assistant", turn.assistant_message, turn, []))
    return messages


def question_id(turn: Turn) -> str:
    """The id of an answered turn's question."""
    return f"{turn.turn_id}/user"


def paths_of(turns: Sequence[Turn]) -> Iterator[tuple[Turn, ...]]:
    """Every branch from its root to its last turn, the one that was begun first first.

    Args:
        turns: Of one chat, parents first.
    """
    by_id = {turn.turn_id: turn for turn in turns}
    children: defaultdict[str | None, list[str]] = defaultdict(list)
    for turn in turns:
        children[turn.parent_turn_id].append(turn.turn_id)
    waiting = children[None][::-1]
    while waiting:
        turn_id = waiting.pop()
        below = children.get(turn_id)
        if below:
            waiting += below[::-1]
            continue
        path: list[Turn] = []
        at: str | None = turn_id
        while at is not None:
            path.append(by_id[at])
            at = by_id[at].parent_turn_id
        yield tuple(path[::-1])
