"""chatlab's own chats: the JSON of `GET /chat/{chatID}`, and the folder in which everything is stored.

Of a chat with branches the one is read that ends in its newest turn.
"""

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import AliasGenerator, BaseModel, ConfigDict, TypeAdapter

from chatlab.evaluation.dialogues import Dialogue, from_turns
from chatlab.evaluation.readers.records import malformed, validated
from chatlab.messages import Turn, TurnStatus, path_to
from chatlab.store import Store

STORE_FILE = "chatlab.duckdb"


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join("ID" if part == "id" else part.capitalize() for part in rest)


class _Body(BaseModel):
    model_config = ConfigDict(alias_generator=AliasGenerator(validation_alias=_camel))


class _Turn(_Body):
    turn_id: str
    parent_turn_id: str | None = None
    user_message: str
    assistant_message: str | None = None
    status: TurnStatus = "done"
    created_at: datetime
    pinned: bool = False


class _Chat(_Body):
    chat_id: str
    user_id: str = ""
    system_prompt: str | None = None
    turns: list[_Turn]


_chat = TypeAdapter(_Chat)


def looks_like(value: Any) -> bool:
    """Whether a parsed file is a chat or a list of chats."""
    first = value[0] if isinstance(value, list) and value else value
    return isinstance(first, dict) and {"chatID", "turns"} <= first.keys()


def read(file: Path, value: Any) -> Iterator[Dialogue]:
    """The chats of a parsed file; those without turns are left out."""
    for number, entry in enumerate(value if isinstance(value, list) else [value]):
        chat = validated(_chat, entry, file, f"chat {number}")
        turns = [
            Turn(
                each.turn_id,
                chat.chat_id,
                chat.user_id,
                each.parent_turn_id,
                each.user_message,
                each.created_at,
                each.assistant_message,
                each.status,
                pinned=each.pinned,
            )
            for each in chat.turns
        ]
        known = {turn.turn_id for turn in turns}
        for i, turn in enumerate(turns):
            if turn.parent_turn_id is not None and turn.parent_turn_id not in known:
                raise malformed(file, f"chat {number}", f"turns.{i}.parentTurnID: no turn {turn.parent_turn_id!r}")
        if turns:
            yield from_turns(chat.chat_id, _newest_branch(turns), chat.system_prompt)


def is_data_dir(folder: Path) -> bool:
    """Whether chatlab stores in this folder."""
    return (folder / STORE_FILE).is_file()


def read_data_dir(folder: Path) -> Iterator[Dialogue]:
    """Every user's chats of a data dir, which must be open nowhere else.

    Raises:
        DataDirHeld: It is.
    """
    with Store(folder) as store:
        for conversation in store.all_conversations():
            if conversation.turns:
                chat = conversation.chat
                yield from_turns(chat.chat_id, _newest_branch(conversation.turns), chat.system_prompt)


def _newest_branch(turns: list[Turn] | tuple[Turn, ...]) -> tuple[Turn, ...]:
    return path_to(turns, max(turns, key=lambda turn: turn.created_at).turn_id)
