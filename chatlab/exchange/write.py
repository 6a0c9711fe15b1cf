"""Chats into a file, one at a time, in any of the formats."""

import json
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import IO, Any, Literal

from chatlab.exchange import chatgpt, librechat, markdown, open_webui, own, parquet, sharegpt
from chatlab.exchange.exported import ExportedChat

FormatName = Literal["json", "markdown", "parquet", "chatgpt", "openwebui", "librechat", "sharegpt"]
JSON_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Format:
    """How a file is called and sent."""

    suffix: str
    media_type: str


FORMATS: dict[FormatName, Format] = {
    "json": Format(".json", JSON_TYPE),
    "markdown": Format(".md", "text/markdown; charset=utf-8"),
    "parquet": Format(".parquet", "application/vnd.apache.parquet"),
    "chatgpt": Format(".json", JSON_TYPE),
    "openwebui": Format(".json", JSON_TYPE),
    "librechat": Format(".zip", "application/zip"),
    "sharegpt": Format(".json", JSON_TYPE),
}
_ONE_LIBRECHAT = Format(".json", JSON_TYPE)


def format_of(name: FormatName, one_chat: bool) -> Format:
    """The format; LibreChat takes a chat a file, so several are an archive of such files."""
    return _ONE_LIBRECHAT if name == "librechat" and one_chat else FORMATS[name]


@dataclass(slots=True)
class Count:
    """What was written."""

    chats: int = 0
    turns: int = 0

    def of(self, chats: Iterable[ExportedChat]) -> Iterator[ExportedChat]:
        """The chats, counted as they pass."""
        for exported in chats:
            self.chats += 1
            self.turns += len(exported.conversation.turns)
            yield exported


def write_chats(
    chats: Iterable[ExportedChat], name: FormatName, file: IO[bytes], exported_at: datetime, one_chat: bool = False
) -> Count:
    """Write chats into an open file.

    Args:
        chats: Each is written before the next is asked for.
        name: Of the format.
        file: Need not be seekable.
        exported_at: Now.
        one_chat: Whether it is about one chat, of which LibreChat has a plain file.
    """
    count = Count()
    counted = count.of(chats)
    if name == "parquet":
        parquet.write(counted, file)
    elif name == "librechat" and not one_chat:
        _archive(counted, file, exported_at)
    else:
        for piece in _pieces(counted, name, exported_at):
            file.write(piece.encode(errors="replace"))
    return count


def _pieces(chats: Iterable[ExportedChat], name: FormatName, exported_at: datetime) -> Iterator[str]:
    if name == "json":
        return own.write(chats, exported_at)
    if name == "markdown":
        return markdown.write(chats)
    if name == "librechat":
        return (dump(librechat.chat_json(each.conversation, exported_at)) + "\n" for each in chats)
    return _listed(_entries(chats, name))


def _entries(chats: Iterable[ExportedChat], name: FormatName) -> Iterator[dict[str, Any]]:
    for exported in chats:
        if name == "sharegpt":
            yield from sharegpt.entries_json(exported.conversation)
        elif name == "chatgpt":
            yield chatgpt.chat_json(exported.conversation)
        else:
            yield open_webui.chat_json(exported.conversation)


def _listed(entries: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield "["
    for index, entry in enumerate(entries):
        yield ("," if index else "") + "\n" + dump(entry)
    yield "\n]\n"


def _archive(chats: Iterable[ExportedChat], file: IO[bytes], exported_at: datetime) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for index, exported in enumerate(chats, 1):
            text = dump(librechat.chat_json(exported.conversation, exported_at))
            archive.writestr(f"librechat-{index:05d}.json", text.encode(errors="replace"))


def dump(value: object) -> str:
    """JSON on one line."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
