"""LoCoMo (Maharana et al. 2024): very long talks between two people over many sessions, with questions and evidence.

Roles alternate by position, whoever speaks, so that every turn has an answer. Adversarial questions (category 5) are
left out, and so is what an audit file in the same folder names: there the gold answer or the citation is wrong.
"""

import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from chatlab.evaluation.dialogues import Dialogue, Question, Said, assemble
from chatlab.evaluation.readers.records import malformed, parse_json, read_text, validated

AUDIT_FILE = "locomo_errors.json"
ADVERSARIAL = 5
_DATE = "%I:%M %p on %d %B, %Y"
_DIALOGUE_ID = re.compile(r"D\d+:\d+")


class _Said(BaseModel):
    speaker: str
    dia_id: str
    text: str
    blip_caption: str | None = None

    @property
    def content(self) -> str:
        image = f" [image: {self.blip_caption}]" if self.blip_caption else ""
        return f"{self.speaker}: {self.text}{image}"


class _Question(BaseModel):
    question: str
    answer: str | int | float | None = None
    evidence: list[str] = []
    category: int


class _Sample(BaseModel):
    sample_id: str
    conversation: dict[str, Any]
    qa: list[_Question]


class _Audited(BaseModel):
    question_id: str
    question: str


_sample = TypeAdapter(_Sample)
_session = TypeAdapter(list[_Said])
_audit = TypeAdapter(list[_Audited])


def looks_like(value: Any) -> bool:
    """Whether a parsed file has this shape."""
    return isinstance(value, list) and any(isinstance(e, dict) and {"conversation", "qa"} <= e.keys() for e in value)


def looks_like_audit(value: Any) -> bool:
    """Whether it is the file that names wrong questions."""
    return isinstance(value, list) and any(
        isinstance(e, dict) and {"question_id", "error_type"} <= e.keys() for e in value
    )


def read(file: Path, value: list[Any]) -> Iterator[Dialogue]:
    """The talks of a parsed file."""
    wrong = _audited(file.parent / AUDIT_FILE)
    for number, entry in enumerate(value):
        sample = validated(_sample, entry, file, f"entry {number}")
        said = list(_said(sample, file))
        turns, utterances = assemble(sample.sample_id, said)
        known = {each.utterance_id for each in said}
        questions = tuple(
            Question(i, q.question, str(q.answer), _evidence(q.evidence, known), str(q.category))
            for i, q in enumerate(sample.qa)
            if q.category != ADVERSARIAL and q.question not in wrong
        )
        yield Dialogue(sample.sample_id, turns, utterances, questions)


def _audited(file: Path) -> frozenset[str]:
    """Texts of the questions that an audit found wrong. Its ids count in the full file, which this may be a part of."""
    if not file.is_file():
        return frozenset()
    found = validated(_audit, parse_json(file, read_text(file)), file, "the list of questions")
    return frozenset(each.question for each in found)


def _said(sample: _Sample, file: Path) -> Iterator[Said]:
    found: list[tuple[int, datetime, _Said]] = []
    number = 1
    while (key := f"session_{number}") in sample.conversation:
        date = sample.conversation.get(f"{key}_date_time")
        try:
            said_at = datetime.strptime(str(date), _DATE).replace(tzinfo=UTC)
        except ValueError as error:
            raise malformed(
                file, sample.sample_id, f"{key}_date_time: {date!r} is no date like 1:56 pm on 8 May, 2023"
            ) from error
        session = validated(_session, sample.conversation[key], file, f"{sample.sample_id}, {key}")
        found += [(number - 1, said_at, each) for each in session]
        number += 1
    if not found:
        raise malformed(file, sample.sample_id, "conversation: there is no session_1")
    for i, (session_index, said_at, each) in enumerate(found):
        unanswered = i == len(found) - 1 and i > 0  # joins the message before
        role = "assistant" if i % 2 or unanswered else "user"
        yield Said(each.dia_id, role, each.content, said_at, each.text, session_index)


def _evidence(cited: list[str], known: set[str]) -> tuple[str, ...] | None:
    """The ids cited, some several in one string; None where there are none or one does not exist."""
    ids = [found for text in cited for found in (_DIALOGUE_ID.findall(text) or [text])]
    return tuple(dict.fromkeys(ids)) if ids and known.issuperset(ids) else None
