"""Open WebUI's export: a list of chats, each with a tree of messages; older ones have one branch as a list."""

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from chatlab.exchange.faults import fault, kind_of
from chatlab.exchange.texts import omitted
from chatlab.exchange.tree import Node, span_of, turns_of
from chatlab.exchange.values import (
    JsonObject,
    a_list,
    a_text,
    an_id,
    an_object,
    id_or_none,
    text_or_none,
    time_or_none,
)
from chatlab.messages import Chat, Feedback
from chatlab.store.recent import Conversation

_DETAILS = re.compile(r'<details type="(reasoning|tool_calls|code_interpreter)".*?</details>\s*', re.DOTALL)
_OMITTED = {"reasoning": "reasoning", "tool_calls": "calls of tools", "code_interpreter": "calls of tools"}


def read(entry: JsonObject, place: str, fallback_id: str, left_out: Counter[str]) -> Conversation:
    """A chat, as exported or only its inner part.

    Raises:
        ExchangeError: Something in it is not what it must be.
    """
    inside = place if "chat" not in entry else f"{place}.chat"
    chat = an_object(entry.get("chat", entry), inside)
    chat_id = id_or_none(entry.get("id"), f"{place}.id") or fallback_id
    nodes = [*_nodes(chat, inside, left_out)]
    created_at = time_or_none(entry.get("created_at", chat.get("timestamp")), f"{place}.created_at")
    turns = turns_of(nodes, chat_id, created_at, left_out)
    updated_at = time_or_none(entry.get("updated_at"), f"{place}.updated_at")
    begun_at, moved_at = span_of(created_at, updated_at, turns)
    title = entry.get("title") if entry.get("title") is not None else chat.get("title")
    read_chat = Chat(
        chat_id=chat_id,
        user_id="",
        title=text_or_none(title, f"{place}.title", left_out),
        created_at=begun_at,
        updated_at=moved_at,
        pinned=entry.get("pinned") is True,
        archived=entry.get("archived") is True,
        system_prompt=_system_prompt(chat, inside, left_out),
    )
    return Conversation(read_chat, turns)


def _nodes(chat: JsonObject, place: str, left_out: Counter[str]) -> Iterable[Node]:
    models = chat.get("models")
    model = models[0] if isinstance(models, list) and models and isinstance(models[0], str) else None
    if isinstance(chat.get("history"), dict) and chat["history"].get("messages"):
        place = f"{place}.history.messages"
        for key, message in an_object(chat["history"]["messages"], place).items():
            at = f'{place}["{key}"]'
            message = an_object(message, at)
            parent_id = id_or_none(message.get("parentId"), f"{at}.parentId")
            yield _node(message, an_id(key, at), parent_id, model, at, left_out)
    else:
        before: str | None = None
        place = f"{place}.messages"
        for index, message in enumerate(a_list(chat.get("messages", []), place)):
            at = f"{place}[{index}]"
            message = an_object(message, at)
            node_id = id_or_none(message.get("id"), f"{at}.id") or f"message-{index}"
            yield _node(message, node_id, before, model, at, left_out)
            before = node_id


def _node(
    message: JsonObject, node_id: str, parent_id: str | None, model: str | None, place: str, left_out: Counter[str]
) -> Node:
    role = a_text(message.get("role"), f"{place}.role", left_out)
    text = _text(message.get("content"), f"{place}.content", left_out)
    if role not in ("user", "assistant"):
        left_out["system messages" if role == "system" else "messages of tools"] += 1
        return Node(node_id, parent_id, None, "", place)
    if role == "assistant":
        text = _DETAILS.sub(lambda found: _leave_out(found.group(1), left_out), text)
    failed = message.get("error")
    at = time_or_none(message.get("timestamp"), f"{place}.timestamp")
    own_model = text_or_none(message.get("model"), f"{place}.model", left_out)
    return Node(
        node_id=node_id,
        parent_id=parent_id,
        role="user" if role == "user" else "assistant",
        text="\n\n".join(each for each in (text, *_files(message, place, left_out)) if each),
        place=place,
        at=at,
        until=time_or_none(message.get("completedAt"), f"{place}.completedAt") or at,
        model=own_model or model,
        status="failed" if failed else "stopped" if message.get("done") is False else "done",
        feedback=_feedback(message, place, left_out),
    )


def _leave_out(kind: str, left_out: Counter[str]) -> str:
    left_out[_OMITTED[kind]] += 1
    return ""


def _text(content: Any, place: str, left_out: Counter[str]) -> str:
    """A message's text, which may be in parts as OpenAI has them."""
    if isinstance(content, str):
        return a_text(content, place, left_out)
    if content is None:
        return ""
    if not isinstance(content, list):
        raise fault(place, f"must be a text or a list of parts, got {kind_of(content)}")
    texts: list[str] = []
    for index, part in enumerate(content):
        part = an_object(part, f"{place}[{index}]")
        if part.get("text") is not None:
            texts.append(a_text(part["text"], f"{place}[{index}].text", left_out))
        else:
            left_out["images"] += 1
            texts.append(omitted("image"))
    return "\n\n".join(texts)


def _files(message: JsonObject, place: str, left_out: Counter[str]) -> Iterable[str]:
    for index, file in enumerate(a_list(message.get("files") or [], f"{place}.files")):
        file = an_object(file, f"{place}.files[{index}]")
        what = "image" if file.get("type") == "image" else "file"
        left_out[f"{what}s"] += 1
        name = file.get("name")
        yield omitted(what, " ".join(name.split()) if isinstance(name, str) and "\x00" not in name else "")


def _feedback(message: JsonObject, place: str, left_out: Counter[str]) -> Feedback | None:
    annotation = message.get("annotation")
    if not isinstance(annotation, dict) or annotation.get("rating") not in (1, -1):
        return None
    reason = text_or_none(annotation.get("comment"), f"{place}.annotation.comment", left_out)
    return Feedback(int(annotation["rating"]), reason or None)


def _system_prompt(chat: JsonObject, place: str, left_out: Counter[str]) -> str | None:
    params = chat.get("params")
    system = params.get("system") if isinstance(params, dict) else chat.get("system")
    return text_or_none(system, f"{place}.params.system", left_out) or None
