"""Files and folders as dialogues, recognised by what is in them.

A folder may hold several data sets. What is none in it is named in the log and left out; a file asked for by name
must be one.
"""

from collections.abc import Iterator
from pathlib import Path

import structlog

from chatlab.errors import ConfigError
from chatlab.evaluation.dialogues import Dialogue
from chatlab.evaluation.readers import beam, chats, locomo, questions, talks
from chatlab.evaluation.readers.records import parse_json, parse_lines, read_text

SHAPES = (
    "a list of LoCoMo samples, a BEAM folder (chat.json, probing_questions.json), MSC or DialogSum lines, "
    "the JSON of GET /chat/{chatID}, a data dir of chatlab, or a question file (sample_id, messages, questions)"
)
_SUFFIXES = (".json", ".jsonl", ".jsonl.gz", ".json.gz", ".txt")

log = structlog.get_logger(__name__)


def read_dialogues(place: Path) -> tuple[Dialogue, ...]:
    """All dialogues of a file or a folder, in the order of names.

    Raises:
        ConfigError: There are none, an entry is malformed, or two have the same id; names the file and the entry.
    """
    if not place.exists():
        raise ConfigError(f"{place}: there is no such file or folder")
    found = tuple(_of_folder(place) if place.is_dir() else _of_file(place, asked=True))
    if not found:
        raise ConfigError(f"{place}: no conversations there; what can be read is {SHAPES}")
    seen: set[str] = set()
    for dialogue in found:
        if dialogue.sample_id in seen:
            raise ConfigError(f"{place}: two conversations have the id {dialogue.sample_id!r}")
        seen.add(dialogue.sample_id)
    return found


def _of_folder(folder: Path) -> Iterator[Dialogue]:
    if chats.is_data_dir(folder):
        yield from chats.read_data_dir(folder)
    elif beam.is_chat(folder):
        yield beam.read(folder)
    else:
        for place in sorted(folder.iterdir()):
            if place.is_dir():
                yield from _of_folder(place)
            elif place.name.endswith(_SUFFIXES):
                yield from _of_file(place, asked=False)


def _of_file(file: Path, asked: bool) -> Iterator[Dialogue]:
    if asked and file.name in {beam.CHAT_FILE, beam.QUESTIONS_FILE} and beam.is_chat(file.parent):
        yield beam.read(file.parent)
        return
    text = read_text(file)
    if file.name.endswith((".json", ".json.gz")):
        value = parse_json(file, text)
        if locomo.looks_like(value):
            yield from locomo.read(file, value)
        elif chats.looks_like(value):
            yield from chats.read(file, value)
        elif not locomo.looks_like_audit(value):
            _unknown(file, asked)
        return
    if not asked and not text.lstrip().startswith("{"):
        _unknown(file, asked)
        return
    for number, value in parse_lines(file, text):
        if talks.looks_like_msc(value):
            yield talks.read_msc(file, number, value)
        elif talks.looks_like_dialogsum(value):
            yield talks.read_dialogsum(file, number, value)
        elif questions.looks_like(value):
            yield questions.read(file, number, value)
        elif number == 1:
            _unknown(file, asked)
            return
        else:
            raise ConfigError(f"{file}: line {number}: it has another shape than the lines before")


def _unknown(file: Path, asked: bool) -> None:
    if asked:
        raise ConfigError(f"{file}: none of the shapes that can be read: {SHAPES}")
    log.warning("left out: no conversations in a known shape", file=str(file))
