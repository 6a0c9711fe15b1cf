"""Chats as one Markdown document for people. A message's code cannot swallow what follows it."""

import re
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from chatlab.exchange.branches import paths_of
from chatlab.exchange.exported import ExportedChat
from chatlab.messages import Chat, Turn

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})(.*)")
UNTITLED = "Untitled chat"


def write(chats: Iterable[ExportedChat]) -> Iterator[str]:
    """The document, in pieces of a branch."""
    for index, exported in enumerate(chats):
        chat, turns = exported.conversation.chat, exported.conversation.turns
        yield ("\n---\n\n" if index else "") + _head(chat)
        numbers = {turn.turn_id: number for number, turn in enumerate(turns, 1)}
        shown: set[str] = set()
        for branch, path in enumerate(paths_of(turns)):
            new = [turn for turn in path if turn.turn_id not in shown]
            if branch:
                after = numbers.get(new[0].parent_turn_id or "")
                yield f"\n## Another branch {f'after {after}' if after else 'from the beginning'}\n"
            for turn in new:
                shown.add(turn.turn_id)
                yield _turn(turn, numbers[turn.turn_id])


def _head(chat: Chat) -> str:
    title = " ".join((chat.title or UNTITLED).split())
    lines = [f"# {_line(title)}", "", f"Begun {_time(chat.created_at)}, last changed {_time(chat.updated_at)}"]
    if chat.system_prompt:
        lines += ["", "**System prompt**", "", _quoted(chat.system_prompt)]
    return "\n".join(lines) + "\n"


def _turn(turn: Turn, number: int) -> str:
    facts = [_time(turn.created_at)]
    if turn.provenance.model:
        facts.append(_line(turn.provenance.model))
    if turn.source == "cache":
        facts.append("from the cache")
    if turn.status != "done":
        facts.append(turn.status)
    answer = "*No answer*" if turn.assistant_message is None else closed(turn.assistant_message)
    return f"\n### {number}. User\n\n{_quoted(turn.user_message)}\n\n**Assistant** ({', '.join(facts)})\n\n{answer}\n"


def _time(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _line(text: str) -> str:
    """A text in which no Markdown begins."""
    return re.sub(r"([\\`*_<>\[\]#|])", r"\\\1", text)


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}" if line else ">" for line in closed(text).splitlines())


def closed(text: str) -> str:
    """The text with its last block of code ended, and no HTML comment begun."""
    lines: list[str] = []
    fence = ""
    for line in text.splitlines():
        found = _FENCE.fullmatch(line)
        if fence:
            if found and found[1].startswith(fence) and not found[2].strip():
                fence = ""
        elif found and not (found[1].startswith("`") and "`" in found[2]):
            fence = found[1]
        else:
            line = line.replace("<!--", "\\<!--")
        lines.append(line)
    return "\n".join([*lines, *([fence] if fence else [])])
