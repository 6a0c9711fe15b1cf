"""BEAM (Tavakoli et al. 2025): long chats with an assistant, a folder each, with probing questions by ability.

Questions that cannot be answered (abstention) are left out: they have no answer whose words could be found. Those on
following instructions and preferences have evidence, but no answer: an empty one.
"""

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, TypeAdapter

from chatlab.evaluation.dialogues import Dialogue, Question, Said, assemble
from chatlab.evaluation.readers.records import malformed, parse_json, read_text, validated

CHAT_FILE, QUESTIONS_FILE = "chat.json", "probing_questions.json"
UNANSWERABLE = "abstention"
_ANSWERS = ("answer", "ideal_answer", "ideal_summary", "ideal_response")
_DATE = "%B-%d-%Y"
_UNDATED = datetime(2024, 1, 1, tzinfo=UTC)


class _Message(BaseModel):
    role: Literal["user", "assistant"]
    id: int
    content: str
    time_anchor: str | None = None


class _Batch(BaseModel):
    turns: list[list[_Message]]


_chat = TypeAdapter(list[_Batch])
_questions = TypeAdapter(dict[str, list[dict[str, Any]]])


def is_chat(folder: Path) -> bool:
    """Whether a folder holds one chat."""
    return (folder / CHAT_FILE).is_file() and (folder / QUESTIONS_FILE).is_file()


def read(folder: Path) -> Dialogue:
    """The chat of a folder; its name is the sample's."""
    file = folder / CHAT_FILE
    said = list(_said(validated(_chat, parse_json(file, read_text(file)), file, "the list of batches"), file))
    turns, utterances = assemble(folder.name, said)
    known = {each.utterance_id for each in said}
    return Dialogue(folder.name, turns, utterances, tuple(_asked(folder / QUESTIONS_FILE, known)))


def _said(batches: list[_Batch], file: Path) -> Iterator[Said]:
    said_at = _UNDATED
    for number, batch in enumerate(batches):
        for message in (message for turn in batch.turns for message in turn):
            if message.time_anchor:
                try:
                    said_at = datetime.strptime(message.time_anchor, _DATE).replace(tzinfo=UTC)
                except ValueError as error:
                    what = f"time_anchor: {message.time_anchor!r} is no date like March-15-2024"
                    raise malformed(file, f"message {message.id}", what) from error
            yield Said(str(message.id), message.role, message.content, said_at, session=number)


def _asked(file: Path, known: set[str]) -> Iterator[Question]:
    by_category = validated(_questions, parse_json(file, read_text(file)), file, "the questions by category")
    numbered = enumerate((category, entry) for category, entries in by_category.items() for entry in entries)
    for index, (category, entry) in numbered:
        if category == UNANSWERABLE:
            continue
        if not isinstance(entry.get("question"), str):
            raise malformed(file, f"question {index} ({category})", "needs `question`")
        answer = next((entry[name] for name in _ANSWERS if entry.get(name) is not None), "")
        evidence = tuple(dict.fromkeys(map(str, _flat(entry.get("source_chat_ids")))))
        usable = evidence if evidence and known.issuperset(evidence) else None
        yield Question(index, entry["question"], str(answer), usable, category)


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from _flat(each)
    elif value is not None:
        yield value
