"""What every data set becomes: conversations as stored turns, with questions about them.

An utterance is what one side said at one time, under the id that the data set cites it by. Several may stand in one
message, so an utterance knows the turn it became a part of.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal

from chatlab.messages import Provenance, Turn

USER_ID = "eval"

Speaker = Literal["user", "assistant"]


@dataclass(frozen=True, slots=True)
class Said:
    """One utterance as a reader found it.

    Attributes:
        utterance_id: As evidence cites it.
        role: Whose message it becomes a part of.
        content: As it stands in that message.
        said_at: With a timezone.
        text: By which it is recognised in a prompt; `content` where the reader added nothing.
        session: Counted from 0; utterances of different sessions are no neighbours.
    """

    utterance_id: str
    role: Speaker
    content: str
    said_at: datetime
    text: str = ""
    session: int = 0


@dataclass(frozen=True, slots=True)
class Utterance:
    """One utterance and the turn that holds it."""

    utterance_id: str
    turn_index: int
    role: Speaker
    content: str
    text: str
    session: int
    said_at: datetime


@dataclass(frozen=True, slots=True)
class Question:
    """A question about the whole conversation.

    Attributes:
        index: Its place in the file's own list, from 0, those left out counted.
        question: Asked as the next user message.
        answer: The gold answer.
        evidence: Ids of the utterances that hold it; None leaves it out of evidence recall.
        category: The data set's own.
        stale: What the answer was before it changed, where the data set says it.
    """

    index: int
    question: str
    answer: str
    evidence: tuple[str, ...] | None = None
    category: str | None = None
    stale: str | None = None


@dataclass(frozen=True, slots=True)
class Dialogue:
    """A conversation.

    Attributes:
        sample_id: Unique among the data evaluated together; the chat id of its turns.
        turns: Root first, one branch.
        utterances: In order, each within one turn.
        questions: Asked after the last turn.
        notes: Lines that people wrote about the turns before `notes_turn`.
        notes_turn: The first turn that the notes do not stand for.
        system_prompt: Of the chat.
    """

    sample_id: str
    turns: tuple[Turn, ...]
    utterances: tuple[Utterance, ...]
    questions: tuple[Question, ...] = ()
    notes: tuple[str, ...] = ()
    notes_turn: int = 0
    system_prompt: str | None = None


def assemble(sample_id: str, said: Sequence[Said]) -> tuple[tuple[Turn, ...], tuple[Utterance, ...]]:
    """Turns from utterances: what one side says in a row is one message, a line each.

    A turn's time is that of its first utterance. What the assistant says first answers an empty message.
    """
    grouped: list[list[Said]] = []
    for each in said:
        if not grouped or (each.role == "user" and grouped[-1][-1].role == "assistant"):
            grouped.append([])
        grouped[-1].append(each)
    turns: list[Turn] = []
    for i, group in enumerate(grouped):
        answer = "\n".join(each.content for each in group if each.role == "assistant")
        turns.append(
            Turn(
                turn_id=f"{sample_id}:t{i}",
                chat_id=sample_id,
                user_id=USER_ID,
                parent_turn_id=turns[-1].turn_id if turns else None,
                user_message="\n".join(each.content for each in group if each.role == "user"),
                created_at=group[0].said_at,
                assistant_message=answer or None,
                status="done",
                source="model",
                finished_at=group[-1].said_at,
            )
        )
    utterances = tuple(
        Utterance(e.utterance_id, i, e.role, e.content, e.text or e.content, e.session, e.said_at)
        for i, group in enumerate(grouped)
        for e in group
    )
    return tuple(turns), utterances


def from_turns(
    sample_id: str, turns: Sequence[Turn], system_prompt: str | None = None, questions: Sequence[Question] = ()
) -> Dialogue:
    """A conversation that has turns already; an utterance a message, `<turn id>:<role>`.

    How the turns' own prompts were made is left out: it would decide where other prompts begin.
    """
    turns = [replace(turn, provenance=Provenance(), prompt=()) for turn in turns]
    utterances: list[Utterance] = []
    for i, turn in enumerate(turns):
        texts: list[tuple[Speaker, str]] = [("user", turn.user_message), ("assistant", turn.assistant_message or "")]
        utterances += [
            Utterance(f"{turn.turn_id}:{role}", i, role, text, text, 0, turn.created_at) for role, text in texts if text
        ]
    return Dialogue(sample_id, tuple(turns), tuple(utterances), tuple(questions), system_prompt=system_prompt)
