"""chatlab's own file: `{"chatlab": {"version": 1, "exportedAt": …}, "chats": [...]}`.

A chat is as the REST API has it, with `turns`, `notes` and `lookups`. Nothing is lost but the recipes of prompts.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from chatlab.errors import InvalidInput
from chatlab.exchange.exported import ExportedChat
from chatlab.exchange.faults import fault
from chatlab.exchange.values import JsonObject, a_list, an_object
from chatlab.messages import CacheLookup, Chat, Note, Turn
from chatlab.store.recent import Conversation
from chatlab.wire import camel, from_wire, time_text, to_wire

VERSION = 1
PARTS = ("turns", "notes", "lookups")

T = TypeVar("T")


def read(entry: JsonObject, place: str) -> ExportedChat:
    """A chat.

    Raises:
        ExchangeError: Something in it is not what it must be.
    """
    chat = _value(Chat, {key: value for key, value in entry.items() if key not in PARTS}, place)
    turns = _values(Turn, entry.get("turns"), f"{place}.turns")
    notes = _values(Note, entry.get("notes"), f"{place}.notes")
    lookups = _values(CacheLookup, entry.get("lookups"), f"{place}.lookups")
    _check_tree(turns, f"{place}.turns")
    return ExportedChat(Conversation(chat, turns, notes), lookups)


def write(chats: Iterable[ExportedChat], exported_at: datetime) -> Iterator[str]:
    """The file, in pieces of a chat."""
    head = json.dumps({"version": VERSION, "exportedAt": time_text(exported_at)})
    yield f'{{"chatlab": {head}, "chats": ['
    for index, exported in enumerate(chats):
        yield ("," if index else "") + "\n" + json.dumps(chat_json(exported), ensure_ascii=False, allow_nan=False)
    yield "\n]}\n"


def chat_json(exported: ExportedChat) -> dict[str, Any]:
    """A chat of the file."""
    known = exported.conversation
    turns = [to_wire(turn) for turn in known.turns]
    for turn in turns:
        del turn["prompt"]
    return {
        **to_wire(known.chat),
        "turns": turns,
        "notes": to_wire(known.notes),
        "lookups": to_wire(exported.lookups),
    }


def _check_tree(turns: Sequence[Turn], place: str) -> None:
    """Every turn must follow one that comes before it, so that none follows itself."""
    known: set[str] = set()
    for index, turn in enumerate(turns):
        if turn.turn_id in known:
            raise fault(f"{place}[{index}].turnID", f"is that of another turn, {turn.turn_id!r}: each needs its own")
        if turn.parent_turn_id is not None and turn.parent_turn_id not in known:
            raise fault(
                f"{place}[{index}].parentTurnID", f"must be that of a turn before it, got {turn.parent_turn_id!r}"
            )
        known.add(turn.turn_id)


def _values(kind: type[T], value: Any, place: str) -> tuple[T, ...]:
    if value is None:
        return ()
    return tuple(_value(kind, each, f"{place}[{index}]") for index, each in enumerate(a_list(value, place)))


def _value(kind: type[T], value: Any, place: str) -> T:
    try:
        return _adapter(kind).validate_python(from_wire(an_object(value, place)))
    except ValidationError as error:
        first = error.errors()[0]
        inside = "".join(f"[{each}]" if isinstance(each, int) else f".{camel(each)}" for each in first["loc"])
        raise fault(place + inside, f"{first['msg'][:1].lower()}{first['msg'][1:]}") from error
    except InvalidInput as error:
        first_error = error.errors[0]
        raise fault(f"{place}.params.{camel(first_error.field)}", first_error.message) from error


@cache
def _adapter(kind: type[T]) -> TypeAdapter[T]:
    return TypeAdapter(kind)
