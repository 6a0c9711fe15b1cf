"""ChatGPT's `conversations.json`: each conversation is a tree of nodes, most of which a person never saw."""

from collections import Counter
from typing import Any

from chatlab.exchange.faults import fault, kind_of
from chatlab.exchange.texts import fenced, omitted
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
from chatlab.messages import Chat
from chatlab.store.recent import Conversation

STOPPED = ("finished_partial_completion", "in_progress")
HIDDEN, TOOL, SYSTEM, CALLS = "hidden messages", "messages of tools", "system messages", "calls of tools"
REASONING = "reasoning"
THOUGHTS = ("thoughts", "reasoning_recap")
CONTEXT = ("user_editable_context", "model_editable_context")
ASSETS = {"image_asset_pointer": "image", "audio_asset_pointer": "audio", "video_container_asset_pointer": "video"}
RECIPIENTS = (None, "all", "")


def read(entry: JsonObject, place: str, fallback_id: str, left_out: Counter[str]) -> Conversation:
    """A conversation.

    Raises:
        ExchangeError: Something in it is not what it must be.
    """
    chat_id = id_or_none(entry.get("conversation_id") or entry.get("id"), f"{place}.id") or fallback_id
    created_at = time_or_none(entry.get("create_time"), f"{place}.create_time")
    updated_at = time_or_none(entry.get("update_time"), f"{place}.update_time")
    model = text_or_none(entry.get("default_model_slug"), f"{place}.default_model_slug", left_out)
    system: list[str] = []
    nodes: list[Node] = []
    for key, value in an_object(entry["mapping"], f"{place}.mapping").items():
        nodes.append(_node(key, value, f'{place}.mapping["{key}"]', model, system, left_out))
    turns = turns_of(nodes, chat_id, created_at, left_out)
    begun_at, moved_at = span_of(created_at, updated_at, turns)
    chat = Chat(
        chat_id=chat_id,
        user_id="",
        title=text_or_none(entry.get("title"), f"{place}.title", left_out),
        created_at=begun_at,
        updated_at=moved_at,
        pinned=entry.get("is_starred") is True,
        archived=entry.get("is_archived") is True,
        system_prompt="\n\n".join(system) or None,
    )
    return Conversation(chat, turns)


def _node(key: str, value: object, place: str, model: str | None, system: list[str], left_out: Counter[str]) -> Node:
    node = an_object(value, place)
    parent_id = id_or_none(node.get("parent"), f"{place}.parent")
    passed_over = Node(an_id(key, place), parent_id, None, "", place)
    if node.get("message") is None:
        return passed_over
    message = an_object(node["message"], f"{place}.message")
    place = f"{place}.message"
    author = an_object(message.get("author"), f"{place}.author")
    role = a_text(author.get("role"), f"{place}.author.role", left_out)
    content = an_object(message.get("content"), f"{place}.content")
    metadata = an_object(message.get("metadata") or {}, f"{place}.metadata")
    reason = _why_not(role, message, content, metadata)
    text = "" if reason else _text(content, f"{place}.content", left_out)
    if reason is None and role == "system":
        if text.strip():
            system.append(text)
        return passed_over
    if reason is not None or (
        role == "assistant" and not text.strip() and parent_id is not None and not _ends(message)
    ):
        if reason is not None and _says_something(content):
            left_out[reason] += 1
        return passed_over
    begun_at = time_or_none(message.get("create_time"), f"{place}.create_time")
    slug = text_or_none(metadata.get("model_slug"), f"{place}.metadata.model_slug", left_out)
    return Node(
        node_id=passed_over.node_id,
        parent_id=parent_id,
        role="user" if role == "user" else "assistant",
        text=text,
        place=place,
        at=begun_at,
        until=time_or_none(message.get("update_time"), f"{place}.update_time") or begun_at,
        model=slug or model,
        status="stopped" if message.get("status") in STOPPED else "done",
    )


def _ends(message: JsonObject) -> bool:
    return message.get("end_turn") is True or message.get("status") in STOPPED


def _why_not(role: str, message: JsonObject, content: JsonObject, metadata: JsonObject) -> str | None:
    """Why a message is passed over; None if it is not."""
    kind = content.get("content_type")
    if kind in CONTEXT or metadata.get("is_user_system_message") is True:
        return "custom instructions"
    if metadata.get("is_visually_hidden_from_conversation") is True:
        return SYSTEM if role == "system" else HIDDEN
    if kind in THOUGHTS:
        return REASONING
    if role == "assistant" and message.get("recipient") not in RECIPIENTS and kind != "code":
        return CALLS
    if role not in ("user", "assistant", "system"):
        return TOOL
    return None


def _says_something(content: JsonObject) -> bool:
    """Whether a message that is passed over had anything in it."""
    return any(
        content.get(key) not in (None, "", [], [""]) for key in ("parts", "text", "result", "thoughts", "content")
    ) or (content.get("content_type") in CONTEXT)


def _text(content: JsonObject, place: str, left_out: Counter[str]) -> str:
    kind = content.get("content_type")
    if kind == "code":
        language = content.get("language")
        code = a_text(content.get("text"), f"{place}.text", left_out)
        return fenced(code, language if isinstance(language, str) else "")
    if content.get("parts") is not None:
        parts = [
            _part(part, f"{place}.parts[{index}]", left_out)
            for index, part in enumerate(a_list(content["parts"], f"{place}.parts"))
        ]
        return "\n\n".join(part for part in parts if part)
    if content.get("text") is not None:
        return a_text(content["text"], f"{place}.text", left_out)
    if not isinstance(kind, str):
        raise fault(f"{place}.content_type", f"must be a text, got {kind_of(kind)}")
    left_out[f"content of the type {kind[:40]}"] += 1
    return omitted(kind[:40])


def _part(part: Any, place: str, left_out: Counter[str]) -> str:
    """A part of a message: a text, or what stands for something that is none."""
    if isinstance(part, str):
        return a_text(part, place, left_out)
    if isinstance(part, dict):
        if isinstance(part.get("text"), str):  # what was said aloud
            return a_text(part["text"], f"{place}.text", left_out)
        kind = part.get("content_type")
        what = ASSETS.get(kind, "attachment") if isinstance(kind, str) else "attachment"
        left_out[f"{what}s" if what != "audio" else "audio"] += 1
        return omitted(what)
    raise fault(place, f"must be a text or an object, got {kind_of(part)}")
