"""Short talks with notes that people wrote: MSC (Xu et al. 2022) and DialogSum (Chen et al. 2021). No questions."""

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, TypeAdapter

from chatlab.evaluation.dialogues import Dialogue, Said, Speaker, assemble
from chatlab.evaluation.readers.records import malformed, validated

_UNDATED = datetime(2024, 1, 1, tzinfo=UTC)
_LINE = re.compile(r"#?(Person\d+)#?:\s*(.*)", re.DOTALL)
_ROLES: tuple[Speaker, Speaker] = ("user", "assistant")


class _Text(BaseModel):
    text: str


class _Session(BaseModel):
    dialog: list[_Text]
    personas: list[list[str]] = []


class _MultiSession(BaseModel):
    previous_dialogs: list[_Session]
    dialog: list[_Text]
    metadata: dict[str, Any] = {}


class _Summarised(BaseModel):
    dialogue: str
    summary: str
    fname: str | None = None


_multi_session = TypeAdapter(_MultiSession)
_summarised = TypeAdapter(_Summarised)


def looks_like_msc(value: Any) -> bool:
    """Whether a line is a talk of several sessions."""
    return isinstance(value, dict) and {"previous_dialogs", "dialog"} <= value.keys()


def looks_like_dialogsum(value: Any) -> bool:
    """Whether a line is a talk with its summary."""
    return isinstance(value, dict) and {"dialogue", "summary"} <= value.keys()


def read_msc(file: Path, number: int, value: Any) -> Dialogue:
    """A talk of several sessions, a week apart; who speaks first in each is the user.

    The notes are what people noted of each side in the sessions before the last.
    """
    talk = validated(_multi_session, value, file, f"line {number}")
    sample_id = f"{talk.metadata.get('initial_data_id', 'msc')}:{number}"
    sessions = [*(before.dialog for before in talk.previous_dialogs), talk.dialog]
    said = [
        Said(f"S{s + 1}:{i + 1}", _ROLES[i % 2], each.text, _UNDATED + timedelta(weeks=s), session=s)
        for s, session in enumerate(sessions)
        for i, each in enumerate(session)
    ]
    turns, utterances = assemble(sample_id, said)
    notes = dict.fromkeys(
        f"{role}: {line}"
        for before in talk.previous_dialogs
        for role, lines in zip(_ROLES, before.personas, strict=False)
        for line in lines
    )
    last = len(sessions) - 1
    # The turn that begins the last session may begin with the end of the one before.
    notes_turn = next((u.turn_index for u in utterances if u.session == last), len(turns))
    return Dialogue(sample_id, turns, utterances, notes=tuple(notes), notes_turn=notes_turn)


def read_dialogsum(file: Path, number: int, value: Any) -> Dialogue:
    """A talk whose first speaker is the user; the note is its summary, which has seen the last turn, too."""
    talk = validated(_summarised, value, file, f"line {number}")
    sample_id = talk.fname or f"dialogsum:{number}"
    said = list(_lines(talk.dialogue, file, number))
    turns, utterances = assemble(sample_id, said)
    return Dialogue(sample_id, turns, utterances, notes=(talk.summary,), notes_turn=len(turns) - 1)


def _lines(dialogue: str, file: Path, number: int) -> Iterator[Said]:
    first: str | None = None
    for i, line in enumerate(filter(str.strip, dialogue.splitlines())):
        if (found := _LINE.fullmatch(line.strip())) is None:
            raise malformed(file, f"line {number}", f"dialogue: {line[:40]!r} does not begin like '#Person1#: '")
        first = first or found[1]
        yield Said(str(i), "user" if found[1] == first else "assistant", found[2], _UNDATED)
    if first is None:
        raise malformed(file, f"line {number}", "dialogue: it is empty")
