"""Files of chats into the store and out of it: by REST and by command, all of it or nothing."""

import io
import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from chatlab.cli import main
from chatlab.clock import Clock
from chatlab.exchange import ExportedChat, read_chats, read_export
from chatlab.history.notes import source_hash
from chatlab.importing import import_chats, owned
from chatlab.settings import Settings
from chatlab.store import Store
from chatlab.store.recent import Conversation
from chatlab.wiring import wire
from tests.conftest import api_client

EXPORTS = Path(__file__).parents[1] / "data" / "exports"
NOW = datetime(2026, 6, 1, tzinfo=UTC)


def ids() -> Iterator[str]:
    return (f"id{number}" for number in count())


def texts(known: Conversation) -> list[tuple[str, str | None]]:
    return [(turn.user_message, turn.assistant_message) for turn in known.turns]


def upload(client: TestClient, content: bytes, user: str = "ann") -> Any:
    return client.post("/chats/import", content=content, headers={"X-User-ID": user})


def test_an_imported_chat_is_listed_searched_and_goes_on(client: TestClient) -> None:
    answer = upload(client, (EXPORTS / "chatgpt.json").read_bytes())
    assert answer.status_code == 201
    assert answer.json() == {
        "chats": 2,
        "turns": 6,
        "leftOut": {"reasoning": 1, "calls of tools": 1, "messages of tools": 1},
    }
    mine = {"X-User-ID": "ann"}
    listed = client.get("/chats", headers=mine).json()["chats"]
    assert [chat["title"] for chat in listed] == ["富士山", "Moving average"]
    assert listed[0]["updatedAt"].startswith("2026-01-01T00:01:52")
    assert client.get("/chats", headers={"X-User-ID": "bob"}).json()["chats"] == []
    assert [each["title"] for each in client.get("/chats?q=convolve", headers=mine).json()["chats"]] == [
        "Moving average"
    ]
    for strategy in ("direct", "truncate", "summarize", "hybrid"):
        said = client.post(
            f"/chat/{listed[1]['chatID']}/completion",
            json={"userMessage": f"And with {strategy}?", "history": {"strategy": strategy}},
            headers=mine,
        )
        assert (said.status_code, said.json()["status"]) == (200, "done")


@pytest.mark.parametrize("name", ["json", "chatgpt", "openwebui", "librechat", "sharegpt"])
def test_what_is_exported_can_be_imported(client: TestClient, name: str) -> None:
    upload(client, (EXPORTS / "open_webui.json").read_bytes())
    sent = client.get(f"/chats/export?format={name}", headers={"X-User-ID": "ann"})
    suffix = "zip" if name == "librechat" else "json"
    assert sent.headers["content-disposition"] == f'attachment; filename="chatlab-{name}.{suffix}"'
    assert upload(client, sent.content, "bob").json()["chats"] == 2
    both = [client.get("/chats", headers={"X-User-ID": user}).json()["chats"] for user in ("ann", "bob")]
    for ours, theirs in zip(*both, strict=True):
        assert ours["title"] == theirs["title"]
        assert ours["chatID"] != theirs["chatID"]
        turns = [
            client.get(f"/chat/{chat['chatID']}", headers={"X-User-ID": chat["userID"]}).json()["turns"]
            for chat in (ours, theirs)
        ]
        assert [(turn["userMessage"], turn["assistantMessage"], turn["createdAt"][:19]) for turn in turns[0]] == [
            (turn["userMessage"], turn["assistantMessage"], turn["createdAt"][:19]) for turn in turns[1]
        ]


def test_a_chat_of_somebody_else_is_not_exported(client: TestClient) -> None:
    upload(client, (EXPORTS / "chatgpt.json").read_bytes())
    chat_id = client.get("/chats", headers={"X-User-ID": "ann"}).json()["chats"][0]["chatID"]
    mine = client.get(f"/chats/export?format=markdown&chatID={chat_id}", headers={"X-User-ID": "ann"})
    assert "# 富士山" in mine.text
    assert client.get(f"/chats/export?chatID={chat_id}", headers={"X-User-ID": "bob"}).status_code == 404
    assert client.get("/chats/export?format=docx").status_code == 422


def test_a_file_that_fails_late_leaves_nothing(client: TestClient, parts: Any) -> None:
    entries = json.loads((EXPORTS / "chatgpt.json").read_bytes()) * 400
    entries[-1] = {**entries[-1], "title": "The bad one", "mapping": {"a": {"parent": 7.5}}}
    refused = upload(client, json.dumps(entries).encode())
    assert refused.status_code == 422
    assert refused.headers["content-type"] == "application/problem+json"
    (error,) = refused.json()["errors"]
    assert error["field"] == 'conversations[799].mapping["a"].parent'
    assert 'entry 800, "The bad one"' in error["message"]
    assert client.get("/chats", headers={"X-User-ID": "ann"}).json()["chats"] == []
    assert client.portal is not None
    assert client.portal.call(parts.store.chat_ids) == set()


def test_a_file_that_is_too_large_is_413(settings: Settings) -> None:
    with wire(settings.model_copy(update={"max_import_bytes": 2_000})) as parts, api_client(parts) as client:
        assert upload(client, (EXPORTS / "chatgpt.json").read_bytes()).status_code == 413
        bomb = io.BytesIO()
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("conversations.json", b"[" + b" " * 1_000_000 + b"]")
        assert "unpacks to more than" in upload(client, bomb.getvalue()).json()["detail"]


async def test_times_turns_and_notes_are_those_of_new_chats(tmp_path: Path) -> None:
    *_, exported = read_export(EXPORTS / "chatlab.json")
    known = exported.conversation
    (note,) = known.notes
    known = replace(known, notes=(replace(note, source_hash=source_hash(known.turns[:1])),))
    late = [
        replace(turn, created_at=NOW + timedelta(days=300_000 * index), status="running", finished_at=None)
        for index, turn in enumerate(known.turns)
    ]
    chat = replace(known.chat, updated_at=late[-1].created_at)
    fresh = iter(ids())
    with Store(tmp_path) as store:
        clock = Clock(None, lambda: NOW)
        future = ExportedChat(Conversation(chat, tuple(late)))
        await import_chats(store, clock, lambda: next(fresh), "ann", iter([ExportedChat(known), future, future]))
        first, second, third = [found for found, _ in store.whole_chats("ann")]
        assert store.latest_time() == NOW
        assert texts(first) == texts(known)
        (stored,) = first.notes
        assert stored.turn_ids == (first.turns[0].turn_id,)
        assert stored.source_hash == source_hash(first.turns[:1])
        assert [turn.created_at for turn in second.turns] == sorted({turn.created_at for turn in second.turns})
        assert {turn.status for turn in second.turns} == {"failed"}
        assert second.turns[0].error is not None
        assert second.turns[0].error.type.endswith("interrupted")
        assert second.chat.chat_id != third.chat.chat_id
        assert await store.answers.ids() == set()


def test_a_chat_without_times_is_of_now() -> None:
    (_, chat, *_) = read_chats(EXPORTS / "sharegpt.jsonl")
    fresh = iter(ids())
    moved = owned(chat, "ann", NOW, lambda: next(fresh))
    assert moved.chat.updated_at == NOW
    assert NOW - timedelta(seconds=1) < moved.turns[0].created_at < moved.turns[1].created_at <= NOW


def test_a_process_killed_in_the_middle_of_an_import_leaves_nothing_to_be_seen(tmp_path: Path) -> None:
    script = f"""
import asyncio, os, signal, uuid
from pathlib import Path
from chatlab.clock import Clock
from chatlab.exchange import read_export
from chatlab.importing import import_chats
from chatlab.store import Store

def chats():
    for number in range(300):
        yield from read_export(Path({str(EXPORTS / "chatgpt.json")!r}))
    os.kill(os.getpid(), signal.SIGKILL)

with Store(Path({str(tmp_path)!r})) as store:
    asyncio.run(import_chats(store, Clock(), lambda: uuid.uuid4().hex, "ann", chats()))
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[1], capture_output=True)
    assert ended.returncode == -signal.SIGKILL
    with Store(tmp_path) as store:
        assert list(store.whole_chats("ann")) == []
        assert store.purge_discarded() > 0
        assert list(store.all_conversations()) == []


def test_commands_take_in_and_give_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = ["--data-dir", str(tmp_path / "data"), "--user", "ann"]
    assert main(["import", str(EXPORTS / "librechat.json"), *data]) == 0
    assert "imported 1 chats with 4 turns for ann\n  left out: 1 reasoning" in capsys.readouterr().err
    out = tmp_path / "out.parquet"
    assert main(["export", "--format", "chatgpt", "--out", str(out), *data]) == 0
    assert "exported 1 chats with 4 turns of ann" in capsys.readouterr().err
    (back,) = read_chats(out)
    (original,) = read_chats(EXPORTS / "librechat.json")
    assert texts(back) == texts(original)
    bad = tmp_path / "bad.json"
    bad.write_text('[{"mapping": 3}]')
    assert main(["import", str(bad), *data]) == 2
    said = capsys.readouterr().err
    assert "conversations[0].mapping: must be an object, got a number" in said
    assert "Nothing was imported" in said
    with Store(tmp_path / "data"):
        assert main(["import", str(EXPORTS / "librechat.json"), *data]) == 2
        assert "--url http" in capsys.readouterr().err
