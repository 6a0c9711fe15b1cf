"""ShareGPT's form and its like: a list of messages an entry, `from` and `value` or `role` and `content`.

It has no branches. chatlab writes a branch as an entry, with the chat's id in each entry and the turn's in each
message, so that the branches grow together again when they are read.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from chatlab.exchange.faults import fault, kind_of
from chatlab.exchange.texts import omitted
from chatlab.exchange.tree import Node, span_of, turns_of
from chatlab.exchange.values import (
    JsonObject,
    a_text,
    an_object,
    id_or_none,
    text_or_none,
    time_or_none,
)
from chatlab.messages import Chat
from chatlab.store.recent import Conversation

LISTS = ("conversations", "conversation", "messages", "items")
USERS = ("human", "user", "prompter")
ASSISTANTS = ("gpt", "assistant", "chatgpt", "bing", "bard", "model", "claude", "gemini", "ai", "bot")
TOOLS = ("tool", "function", "function_call", "observation", "tool_call", "tool_response")


def messages_of(entry: JsonObject) -> str | None:
    """The key of an entry's messages, if it has any."""
    return next((key for key in LISTS if isinstance(entry.get(key), list)), None)


def chat_of(entry: JsonObject) -> str | None:
    """The chat that an entry is a branch of, as chatlab writes it."""
    named = entry.get("chatID")
    return named if isinstance(named, str) and named and messages_of(entry) == "conversations" else None


def read(entry: JsonObject, place: str, fallback_id: str, left_out: Counter[str]) -> Conversation:
    """An entry as a chat of its own.

    Raises:
        ExchangeError: Something in it is not what it must be.
    """
    chat_id = id_or_none(entry.get("id"), f"{place}.id") or fallback_id
    return _conversation([(place, entry)], chat_id, left_out)


def read_branches(parts: Sequence[tuple[str, JsonObject]], left_out: Counter[str]) -> Conversation:
    """Entries with their places, each a branch of one chat.

    Raises:
        ExchangeError: Something in them is not what it must be.
    """
    return _conversation(parts, parts[0][1]["chatID"], left_out)


def _conversation(parts: Sequence[tuple[str, JsonObject]], chat_id: str, left_out: Counter[str]) -> Conversation:
    system: list[str] = []
    nodes: dict[str, Node] = {}
    for place, entry in parts:
        key = messages_of(entry) or ""
        before: str | None = None
        for index, value in enumerate(entry[key]):
            at = f"{place}.{key}[{index}]"
            message = an_object(value, at)
            role = _role(message, at, left_out)
            text = _text(message, at, left_out)
            if role == "system":
                if not before and text.strip() and text not in system:
                    system.append(text)
                elif before:
                    left_out["system messages"] += 1
                continue
            turn_id = id_or_none(message.get("turnID"), f"{at}.turnID")
            node_id = f"message-{index}" if turn_id is None else turn_id if role == "assistant" else f"{turn_id}/user"
            if node_id not in nodes:
                nodes[node_id] = _node(message, node_id, before, role, text, at, entry, left_out)
            before = node_id
    place, entry = parts[0]
    created_at = time_or_none(_first(entry, "createdAt", "create_time", "created_at"), f"{place}.createdAt")
    turns = turns_of([*nodes.values()], chat_id, created_at, left_out)
    updated_at = time_or_none(_first(entry, "updatedAt", "update_time", "updated_at"), f"{place}.updatedAt")
    begun_at, moved_at = span_of(created_at, updated_at, turns)
    chat = Chat(
        chat_id=chat_id,
        user_id="",
        title=text_or_none(entry.get("title"), f"{place}.title", left_out),
        created_at=begun_at,
        updated_at=moved_at,
        system_prompt=_system_prompt(entry, place, system, left_out),
    )
    return Conversation(chat, turns)


def _node(
    message: JsonObject,
    node_id: str,
    before: str | None,
    role: Any,
    text: str,
    place: str,
    entry: JsonObject,
    left_out: Counter[str],
) -> Node:
    at = time_or_none(_first(message, "createdAt", "timestamp", "created_at"), f"{place}.createdAt")
    model = _first(message, "model") or _first(entry, "model")
    return Node(
        node_id=node_id,
        parent_id=before,
        role=None if role == "tool" else role,
        text=text,
        place=place,
        at=at,
        until=time_or_none(message.get("finishedAt"), f"{place}.finishedAt") or at,
        model=model if isinstance(model, str) else None,
    )


def _role(message: JsonObject, place: str, left_out: Counter[str]) -> str:
    key = "from" if "from" in message else "role"
    said = message.get(key)
    if not isinstance(said, str):
        raise fault(f"{place}.{key}", f"must say who wrote it (human, gpt, system), got {kind_of(said)}")
    name = said.strip().lower()
    if name in USERS:
        return "user"
    if name in ASSISTANTS:
        return "assistant"
    if name in ("system", "developer"):
        return "system"
    if name in TOOLS:
        left_out["messages of tools"] += 1
        return "tool"
    raise fault(f"{place}.{key}", f"must be human or user, gpt or assistant, system or tool, got {said[:40]!r}")


def _text(message: JsonObject, place: str, left_out: Counter[str]) -> str:
    key = next((key for key in ("value", "content", "text") if key in message), "value")
    content = message.get(key)
    if content is None and key in message:
        return ""
    if not isinstance(content, list):
        return a_text(content, f"{place}.{key}", left_out)
    texts: list[str] = []
    for index, part in enumerate(content):
        part = an_object(part, f"{place}.{key}[{index}]")
        if part.get("text") is not None:
            texts.append(a_text(part["text"], f"{place}.{key}[{index}].text", left_out))
        else:
            left_out["images"] += 1
            texts.append(omitted("image"))
    return "\n\n".join(texts)


def _system_prompt(entry: JsonObject, place: str, system: Sequence[str], left_out: Counter[str]) -> str | None:
    given = text_or_none(entry.get("system"), f"{place}.system", left_out)
    return "\n\n".join([*([given] if given else []), *system]) or None


def _first(entry: JsonObject, *keys: str) -> Any:
    return next((entry[key] for key in keys if entry.get(key) is not None), None)
