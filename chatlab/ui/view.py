"""Chats and turns as what the page shows. Plain values: tested without Gradio."""

from collections.abc import Sequence
from typing import TypedDict

from chatlab.messages import Chat, Turn, path_to

TITLE_CHARS = 60


class Bubble(TypedDict):
    """A message of the chatbot component."""

    role: str
    content: str


def title_of(message: str) -> str:
    """A title for a chat that begins with this message: its first line, shortened."""
    line = " ".join(message.split())
    return line if len(line) <= TITLE_CHARS else line[: TITLE_CHARS - 1].rstrip() + "…"


def choices(chats: Sequence[Chat]) -> list[tuple[str, str]]:
    """Label and id of each chat, for a list."""
    return [(chat.title or "Untitled chat", chat.chat_id) for chat in chats]


def newest_branch(turns: Sequence[Turn]) -> tuple[Turn, ...]:
    """The branch that ends in the newest turn."""
    return path_to(turns, turns[-1].turn_id if turns else None)


def bubbles(turns: Sequence[Turn]) -> list[Bubble]:
    """A branch as messages, each answer with its line."""
    shown: list[Bubble] = []
    for turn in turns:
        shown.append({"role": "user", "content": turn.user_message})
        shown.append({"role": "assistant", "content": answer(turn)})
    return shown


def answer(turn: Turn) -> str:
    """An answer with one honest line under it."""
    text = turn.assistant_message or ""
    line = _line(turn)
    return f"{text}\n\n<small>{line}</small>" if line else text or "…"


def _line(turn: Turn) -> str:
    """Source, tokens, time to first token, rate; what is unknown is left out."""
    if turn.live:
        return "" if turn.assistant_message or turn.status == "running" else "waiting for a free slot…"
    usage, timing = turn.provenance.usage, turn.provenance.timing
    facts = [
        {"model": turn.provenance.model or "model", "cache": "from the cache", None: ""}[turn.source],
        f"{usage.prompt_tokens} → {usage.completion_tokens} tokens" if usage.prompt_tokens is not None else "",
        f"first token {timing.ttft_ms:.0f} ms" if timing.ttft_ms is not None else "",
        f"{timing.tokens_per_second:.0f} tokens/s" if timing.tokens_per_second is not None else "",
    ]
    if turn.status == "stopped":
        facts.append("stopped")
    if turn.finish_reason == "length":
        facts.append("cut at the token limit")
    if turn.error is not None:
        facts.append(f"⚠ {turn.error.title}: {turn.error.detail}")
    return " · ".join(fact for fact in facts if fact)
