"""Finding and opening chats, over the API: a search through all messages, a page of a long list, a long chat.

All in one data dir: a user with 100,000 messages in 5,000 chats, one with 10,000 chats, one with chats of 200 turns.
Each long chat is opened once, so that it comes from disk.
"""

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import TypeVar

import duckdb
from fastapi import FastAPI
from fastapi.testclient import TestClient

from benchmarks.report import p50, p95, write
from chatlab.api import install
from chatlab.messages import Chat, PromptPart, PromptProvenance, Provenance, StoredMessage, Timing, Turn, Usage
from chatlab.settings import Settings
from chatlab.store.duckdb import FILE, INSERT_CHAT
from chatlab.store.migrate import migrate, migrations
from chatlab.store.rows import TURN_COLUMNS, chat_row, turn_row
from chatlab.store.statements import Statement
from chatlab.wiring import wire

ROUNDS = 9
WORDS = 40  # of a text: 200 to 400 characters
VOCABULARY = 5_000
# user -> chats, turns of each
USERS = {"reader": (5_000, 10), "lister": (10_000, 1), "opener": (ROUNDS, 200)}
RARE, FREQUENT, ABSENT = "xylophone", "the", "quetzalcoatlus"
SQL_ROWS = 5_000
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)

T = TypeVar("T")


def main(json_file: Path | None = None) -> None:
    """Measure, print, and write the result."""
    with tempfile.TemporaryDirectory(dir=Path.cwd()) as folder:
        _fill(Path(folder))
        times = _measure(Settings(data_dir=Path(folder), engine="echo"))
    print(f"milliseconds over the API, {ROUNDS} rounds")
    for name, values in times.items():
        print(f"  {name:48} p50 {p50(values):7.1f}   p95 {p95(values):7.1f}")
    write({"browse_ms": {name: {"p50": p50(values), "p95": p95(values)} for name, values in times.items()}}, json_file)


def _measure(settings: Settings) -> dict[str, list[float]]:
    asked: dict[str, tuple[str, str, dict[str, str]]] = {
        "search 100,000 messages, in one chat": ("reader", "/chats", {"q": RARE}),
        "search 100,000 messages, in no chat": ("reader", "/chats", {"q": ABSENT}),
        "search 100,000 messages, in most chats": ("reader", "/chats", {"q": FREQUENT}),
        "search 100,000 messages, not only ASCII": ("reader", "/chats", {"q": "éclair"}),
        "search 100,000 messages, Cyrillic": ("reader", "/chats", {"q": "привет"}),
        "search 100,000 messages, Chinese": ("reader", "/chats", {"q": "你好"}),
        "50 of 5,000 chats with 50,000 turns": ("reader", "/chats", {}),
        "50 of 10,000 chats": ("lister", "/chats", {}),
    }
    times: dict[str, list[float]] = {}
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    with wire(settings) as parts:
        install(app, parts)
        with TestClient(app) as client:
            client.get("/chats")
            for number in range(ROUNDS):
                for name, (user, path, query) in asked.items():  # interleaved: noise hits all
                    times.setdefault(name, []).append(_ms(client, user, path, query))
                opened = _ms(client, "opener", f"/chat/opener-{number}", {})
                times.setdefault("open a chat of 200 turns from disk", []).append(opened)
    return times


def _ms(client: TestClient, user: str, path: str, query: dict[str, str]) -> float:
    started = time.perf_counter()
    client.get(path, params=query, headers={"X-User-ID": user}).raise_for_status()
    return (time.perf_counter() - started) * 1e3


def _fill(folder: Path) -> None:
    """Store everything at once, as a year of use would have left it."""
    chance = random.Random(0)
    words = ["the", "of", *("".join(chance.choices("abcdefghijklmnoprstuvwé", k=6)) for _ in range(VOCABULARY))]
    insert_turn = Statement("insert", "turns", TURN_COLUMNS)
    chats, turns = _chats(), (_turn(chat, number, words, chance) for chat, n in _sizes() for number in range(n))
    with duckdb.connect(folder / FILE) as connection:
        migrate(connection, migrations())
        for statement, rows in ((INSERT_CHAT, map(chat_row, chats)), (insert_turn, map(turn_row, turns))):
            for some in _in_lots(rows, SQL_ROWS):
                connection.execute(*statement.render(some))


def _chats() -> Iterator[Chat]:
    for chat, _ in _sizes():
        yield chat


def _sizes() -> Iterator[tuple[Chat, int]]:
    """Every chat and how many turns it has."""
    for user_id, (n_chats, n_turns) in USERS.items():
        for number in range(n_chats):
            begun = BEGIN + timedelta(hours=number)
            yield Chat(f"{user_id}-{number}", user_id, f"Chat {number}", begun, begun), n_turns


def _turn(chat: Chat, number: int, words: Sequence[str], chance: random.Random) -> Turn:
    begun = chat.created_at + timedelta(seconds=30 * number)
    turn = Turn(
        turn_id=f"{chat.chat_id}-{number}",
        chat_id=chat.chat_id,
        user_id=chat.user_id,
        parent_turn_id=f"{chat.chat_id}-{number - 1}" if number else None,
        user_message=" ".join(chance.choices(words, k=WORDS)),
        created_at=begun,
        status="done",
        source="model",
        finished_at=begun + timedelta(seconds=5),
        finish_reason="stop",
    )
    provenance = Provenance(
        prompt=PromptProvenance("truncate", 8_192, 1_200, (PromptPart("question", (turn.turn_id,), 60),)),
        usage=Usage(1_200, 60, 1_100, 0),
        timing=Timing(1.5, None, 12.25, 104.5, 5_000.0, 12.5),
        model="echo",
        engine="echo",
    )
    earlier = [
        StoredMessage(role, f"{chat.chat_id}-{other}") for other in range(number) for role in ("user", "assistant")
    ]
    answer = [*chance.choices(words, k=WORDS), *([RARE] if turn.turn_id == "reader-2500-5" else [])]
    prompt = (*earlier, StoredMessage("user", turn.turn_id))
    return replace(turn, assistant_message=" ".join(answer), provenance=provenance, prompt=prompt)


def _in_lots(rows: Iterator[T], size: int) -> Iterator[list[T]]:
    while lot := list(islice(rows, size)):
        yield lot
