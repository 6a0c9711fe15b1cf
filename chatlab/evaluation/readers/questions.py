"""Our own question files: one conversation a line, with questions that cite its messages.

    {"sample_id", "messages": [{"role", "content", "id"?, "date"?}], "questions": [{"question", "answer",
    "evidence": [message ids], "category"?, "stale"?}]}

`date` is ISO 8601 and holds until the next one; a message without an id has its place, from 0, as one. `stale` is the
value that the answer replaced.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from chatlab.evaluation.dialogues import Dialogue, Question, Said, assemble
from chatlab.evaluation.readers.records import malformed, validated

_UNDATED = datetime(2024, 1, 1, tzinfo=UTC)


class _Message(BaseModel):
    role: Literal["system", "user", "assistant"]
    content: str
    id: str | int | None = None
    date: datetime | None = None


class _Question(BaseModel):
    question: str
    answer: str | int | float
    evidence: list[str | int] = []
    category: str | int | None = None
    stale: str | int | float | None = None


class _Sample(BaseModel):
    sample_id: str | int
    messages: list[_Message]
    questions: list[_Question] = []


_sample = TypeAdapter(_Sample)


def looks_like(value: Any) -> bool:
    """Whether a line has this shape."""
    return isinstance(value, dict) and {"sample_id", "messages"} <= value.keys()


def read(file: Path, number: int, value: Any) -> Dialogue:
    """The conversation of a line; a system message is allowed in the first place."""
    sample = validated(_sample, value, file, f"line {number}")
    sample_id = str(sample.sample_id)
    said = list(_said(sample, file, number))
    if not said:
        raise malformed(file, f"line {number}", "messages: there is none of the user or the assistant")
    turns, utterances = assemble(sample_id, said)
    known = {each.utterance_id for each in said}
    questions: list[Question] = []
    for i, asked in enumerate(sample.questions):
        evidence = tuple(map(str, asked.evidence))
        if missing := [each for each in evidence if each not in known]:
            raise malformed(file, f"line {number}", f"questions.{i}.evidence: no message has the id {missing[0]!r}")
        category = None if asked.category is None else str(asked.category)
        stale = None if asked.stale is None else str(asked.stale)
        if stale == str(asked.answer):
            raise malformed(file, f"line {number}", f"questions.{i}.stale: {stale!r} is the answer itself")
        questions.append(Question(i, asked.question, str(asked.answer), evidence or None, category, stale))
    system = sample.messages[0].content if sample.messages[0].role == "system" else None
    return Dialogue(sample_id, turns, utterances, tuple(questions), system_prompt=system)


def _said(sample: _Sample, file: Path, number: int) -> Iterator[Said]:
    said_at, session, ids = _UNDATED, -1, set[str]()
    for i, message in enumerate(sample.messages):
        if message.role == "system":
            if i:
                raise malformed(file, f"line {number}", f"messages.{i}.role: 'system' is only the first message's")
            continue
        if message.date is not None or session < 0:
            said_at, session = _aware(message.date or said_at), session + 1
        utterance_id = str(i if message.id is None else message.id)
        if utterance_id in ids:
            raise malformed(file, f"line {number}", f"messages.{i}.id: {utterance_id!r} is there twice")
        ids.add(utterance_id)
        yield Said(utterance_id, message.role, message.content, said_at, session=session)


def _aware(time: datetime) -> datetime:
    return time if time.tzinfo else time.replace(tzinfo=UTC)
