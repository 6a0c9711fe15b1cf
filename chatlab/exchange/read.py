"""The chats of a file, one at a time: which format it is, where each entry begins, and what of it has no place here.

Memory is that of the largest chat. Formats are told apart by content, an entry at a time.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import ijson

from chatlab.errors import ExchangeError
from chatlab.exchange import chatgpt, librechat, open_webui, own, sharegpt
from chatlab.exchange.exported import ExportedChat
from chatlab.exchange.faults import EXPORT_AGAIN, fault, kind_of
from chatlab.exchange.source import Document, Progress, documents
from chatlab.exchange.values import JsonObject
from chatlab.store.recent import Conversation

HEAD_BYTES = 512
MAX_SHOWN_CHARS = 60  # of a title in an error
OWN_HEAD = re.compile(rb'\s*\{\s*"(?:chatlab|chats)"\s*:')
OWN_VERSION = re.compile(rb'\s*\{\s*"chatlab"\s*:\s*\{[^{}]*"version"\s*:\s*([^,}\s]+)')
FORMATS = "ChatGPT, Open WebUI, LibreChat, ShareGPT or chatlab"

Read = Callable[[JsonObject, str, str, Counter[str]], Conversation]


def read_chats(file: Path, progress: Progress | None = None) -> Iterator[Conversation]:
    """The chats of a file, in its order; see `read_export`."""
    return (each.conversation for each in read_export(file, progress))


def read_export(file: Path, progress: Progress | None = None) -> Iterator[ExportedChat]:
    """The chats of a file, in its order, with all that the file says of them.

    Args:
        file: An export of ChatGPT (also the .zip), Open WebUI, LibreChat, chatlab, or in ShareGPT's form; JSON or
            JSON lines, perhaps in gzip or zip.
        progress: Told the bytes read, and all of them.

    Raises:
        ExchangeError: Something cannot be used: names the entry, the place in it, and the fix. What was given until
            then is whole; what follows is not read.
    """
    for document in documents(file, progress):
        for exported in _chats(document):
            if document.left_out:
                together = Counter(exported.left_out) + document.left_out
                exported = replace(exported, left_out=dict(together))
                document.left_out.clear()
            yield exported


def _chats(document: Document) -> Iterator[ExportedChat]:
    prefix = f"{document.name}: " if document.name else ""
    parts: list[tuple[str, JsonObject]] = []  # entries that are branches of one chat
    for index, (place, entry) in enumerate(_entries(document, prefix)):
        if parts and sharegpt.chat_of(parts[0][1]) != sharegpt.chat_of(entry):
            yield _joined(parts)
            parts = []
        if sharegpt.chat_of(entry) is not None:
            parts.append((place, entry))
        else:
            yield _read(entry, place, index)
    if parts:
        yield _joined(parts)


def _entries(document: Document, prefix: str) -> Iterator[tuple[str, JsonObject]]:
    """The entries of a document with their places."""
    head = document.peek(HEAD_BYTES).lstrip()
    if not head:
        raise fault(prefix.rstrip(": "), "is empty: it must hold chats as JSON")
    if head.startswith(b"["):
        path, many, root = "item", False, f"{prefix}conversations"
    elif OWN_HEAD.match(head):
        version = OWN_VERSION.match(head)
        if version is not None and version.group(1) != str(own.VERSION).encode():
            said = version.group(1)[:20].decode(errors="replace")
            raise fault(f"{prefix}chatlab.version", f"must be {own.VERSION}, got {said}: update chatlab")
        path, many, root = "chats.item", False, f"{prefix}chats"
    elif head.startswith(b"{"):
        path, many, root = "", True, f"{prefix}conversations"
    else:
        raise fault(prefix.rstrip(": "), f"is no JSON: choose an export of {FORMATS}")
    found = ijson.items(document, path, multiple_values=many)
    index = 0
    while True:
        place = f"{root}[{index}]"
        try:
            entry = next(found)
        except StopIteration:
            return
        except ijson.JSONError as error:
            raise _broken(error, place, index) from error
        except (UnicodeDecodeError, ValueError, OverflowError) as error:
            raise ExchangeError(place, f"cannot be decoded: {error}", f"entry {index + 1}") from error
        if not isinstance(entry, dict):
            raise ExchangeError(place, f"must be a conversation, an object, got {kind_of(entry)}", f"entry {index + 1}")
        yield place, entry
        index += 1


def _broken(error: ijson.JSONError, place: str, index: int) -> ExchangeError:
    words = " ".join(str(error).split("\n")[0].split()).removeprefix("parse error: ")
    if "premature EOF" in words or "Incomplete" in words or "incomplete" in words:
        return ExchangeError(place, f"the file ends in the middle of it: {EXPORT_AGAIN}", f"entry {index + 1}")
    return ExchangeError(place, f"is no valid JSON ({words}): {EXPORT_AGAIN}", f"entry {index + 1}")


def _read(entry: JsonObject, place: str, index: int) -> ExportedChat:
    """One entry, whichever format it is in."""
    left_out: Counter[str] = Counter()
    try:
        if "chatID" in entry and "turns" in entry:
            return own.read(entry, place)
        conversation = _reader(entry, place)(entry, place, f"entry-{index + 1}", left_out)
    except ExchangeError as error:
        raise ExchangeError(error.place, error.problem, error.entry or _named(entry, index)) from error
    return ExportedChat(conversation, left_out=dict(left_out))


def _reader(entry: JsonObject, place: str) -> Read:
    if "mapping" in entry:
        return chatgpt.read
    if isinstance(entry.get("chat"), dict) or isinstance(entry.get("history"), dict):
        return open_webui.read
    if "conversationId" in entry and ("messages" in entry or "messagesTree" in entry):
        return librechat.read
    if sharegpt.messages_of(entry) is not None:
        return sharegpt.read
    keys = ", ".join(repr(str(key)[:MAX_SHOWN_CHARS]) for key in list(entry)[:6]) or "nothing"
    raise fault(place, f"is no chat of {FORMATS}: it has {keys}, but no messages in a form that they use")


def _joined(parts: list[tuple[str, JsonObject]]) -> ExportedChat:
    left_out: Counter[str] = Counter()
    try:
        conversation = sharegpt.read_branches(parts, left_out)
    except ExchangeError as error:
        raise ExchangeError(error.place, error.problem, error.entry or _named(parts[0][1], None)) from error
    return ExportedChat(conversation, left_out=dict(left_out))


def _named(entry: JsonObject, index: int | None) -> str:
    """An entry for a person: its number and its title."""
    names: list[Any] = [entry.get(key) for key in ("title", "id", "conversation_id", "conversationId", "chatID")]
    name = next((each for each in names if isinstance(each, str) and each.strip()), None)
    words = [] if index is None else [f"entry {index + 1}"]
    return ", ".join([*words, *([] if name is None else [f'"{" ".join(name.split())[:MAX_SHOWN_CHARS]}"'])])
