"""LibreChat's export: a conversation a file, its messages flat with their parents or nested as children."""

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
    an_object,
    id_or_none,
    text_or_none,
    time_or_none,
)
from chatlab.messages import Chat, Feedback
from chatlab.store.recent import Conversation

NO_PARENT = "00000000-0000-0000-0000-000000000000"
RATINGS = {"thumbsUp": 1, "thumbsDown": -1}
_OMITTED = {"think": "reasoning", "tool_call": "calls of tools"}


def read(entry: JsonObject, place: str, fallback_id: str, left_out: Counter[str]) -> Conversation:
    """A conversation.

    Raises:
        ExchangeError: Something in it is not what it must be.
    """
    chat_id = id_or_none(entry.get("conversationId"), f"{place}.conversationId") or fallback_id
    options = an_object(entry.get("options") or {}, f"{place}.options")
    model = text_or_none(options.get("model"), f"{place}.options.model", left_out)
    tree = "messages" if "messages" in entry else "messagesTree"
    messages = a_list(entry[tree], f"{place}.{tree}")
    nodes = [*_nodes(messages, f"{place}.{tree}", entry.get("branches") is False, model, left_out)]
    created_at = time_or_none(entry.get("createdAt"), f"{place}.createdAt")
    turns = turns_of(nodes, chat_id, created_at, left_out)
    updated_at = time_or_none(entry.get("updatedAt"), f"{place}.updatedAt")
    begun_at, moved_at = span_of(created_at, updated_at, turns)
    chat = Chat(
        chat_id=chat_id,
        user_id="",
        title=text_or_none(entry.get("title"), f"{place}.title", left_out),
        created_at=begun_at,
        updated_at=moved_at,
        archived=entry.get("isArchived") is True,
        system_prompt=text_or_none(options.get("promptPrefix"), f"{place}.options.promptPrefix", left_out) or None,
    )
    return Conversation(chat, turns)


def _nodes(
    messages: Iterable[Any], place: str, one_branch: bool, model: str | None, left_out: Counter[str]
) -> Iterable[Node]:
    """Every message; nested ones follow the one that they are in, those of a file with one branch the one before."""
    waiting = [(message, f"{place}[{index}]", None) for index, message in enumerate(messages)]
    waiting.reverse()
    n, before = 0, None
    while waiting:
        value, at, inside = waiting.pop()
        message = an_object(value, at)
        node_id = id_or_none(message.get("messageId"), f"{at}.messageId") or f"message-{n}"
        n += 1
        parent_id = id_or_none(message.get("parentMessageId"), f"{at}.parentMessageId")
        if inside is not None:
            parent_id = inside
        elif one_branch:
            parent_id = before
        yield _node(message, node_id, None if parent_id == NO_PARENT else parent_id, model, at, left_out)
        before = node_id
        children = a_list(message.get("children") or [], f"{at}.children")
        waiting += [
            (child, f"{at}.children[{index}]" if len(at) < MAX_PLACE_CHARS else f"message {node_id!r}", node_id)
            for index, child in reversed([*enumerate(children)])
        ]


MAX_PLACE_CHARS = 300


def _node(
    message: JsonObject, node_id: str, parent_id: str | None, model: str | None, place: str, left_out: Counter[str]
) -> Node:
    by_user = message.get("isCreatedByUser")
    if not isinstance(by_user, bool):
        raise fault(f"{place}.isCreatedByUser", f"must be true or false, got {kind_of(by_user)}")
    at = time_or_none(message.get("createdAt"), f"{place}.createdAt")
    own_model = text_or_none(message.get("model"), f"{place}.model", left_out)
    return Node(
        node_id=node_id,
        parent_id=parent_id,
        role="user" if by_user else "assistant",
        text="\n\n".join(each for each in (_text(message, place, left_out), *_files(message, place, left_out)) if each),
        place=place,
        at=at,
        until=time_or_none(message.get("updatedAt"), f"{place}.updatedAt") or at,
        model=own_model or model,
        status="failed" if message.get("error") is True else "stopped" if message.get("unfinished") is True else "done",
        feedback=_feedback(message, place, left_out),
    )


def _text(message: JsonObject, place: str, left_out: Counter[str]) -> str:
    """What it says: its text, or the texts of its parts."""
    if message.get("content") is None:
        return a_text(message.get("text"), f"{place}.text", left_out)
    texts: list[str] = []
    for index, part in enumerate(a_list(message["content"], f"{place}.content")):
        at = f"{place}.content[{index}]"
        part = an_object(part, at)
        kind = part.get("type")
        if kind in _OMITTED:
            left_out[_OMITTED[kind]] += 1
        elif kind in ("text", "error"):
            said = part.get("text") if part.get("text") is not None else part.get("error")
            if isinstance(said, dict):  # as assistants answer
                said, at = said.get("value"), f"{at}.text"
            texts.append(a_text(said, f"{at}.text", left_out))
        else:
            what = "image" if isinstance(kind, str) and kind.startswith("image") else "attachment"
            left_out[f"{what}s"] += 1
            texts.append(omitted(what))
    return (
        "\n\n".join(text for text in texts if text)
        or text_or_none(message.get("text"), f"{place}.text", left_out)
        or ""
    )


def _files(message: JsonObject, place: str, left_out: Counter[str]) -> Iterable[str]:
    for name in ("files", "attachments"):
        for index, file in enumerate(a_list(message.get(name) or [], f"{place}.{name}")):
            file = an_object(file, f"{place}.{name}[{index}]")
            what = "image" if str(file.get("type", "")).startswith("image") else "file"
            left_out[f"{what}s"] += 1
            filename = file.get("filename")
            known = isinstance(filename, str) and "\x00" not in filename
            yield omitted(what, " ".join(filename.split()) if known else "")


def _feedback(message: JsonObject, place: str, left_out: Counter[str]) -> Feedback | None:
    given = message.get("feedback")
    if not isinstance(given, dict) or given.get("rating") not in RATINGS:
        return None
    return Feedback(RATINGS[given["rating"]], text_or_none(given.get("text"), f"{place}.feedback.text", left_out))
