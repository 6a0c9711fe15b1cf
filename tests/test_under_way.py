"""Turns under way: the moments between two states, where things go wrong."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from chatlab.chat import TurnRequest
from chatlab.errors import ChatBusy, InvalidInput, NotFound, QueueFull
from chatlab.jobs.events import EventLog
from chatlab.jobs.local import KEPT_EVENTS, LocalJobs
from chatlab.messages import DeltaEvent, ErrorEvent, StatusEvent, Turn
from chatlab.problems import INTERRUPTED
from chatlab.settings import Settings
from chatlab.wiring import Parts, wire
from tests.conftest import ScriptedEngine

TURN = Turn("t", "c", "u", None, "question", datetime(2026, 1, 1, tzinfo=UTC))


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[Parts]:
    settings = Settings(data_dir=tmp_path / "slow", engine="echo", echo_tokens_per_second=100, queue_limit=2)
    with wire(settings) as parts:
        yield parts
        await parts.jobs.close()


async def new_chat(parts: Parts, **fields: Any) -> str:
    return (await parts.chats.create_chat(lambda chat: replace(chat, **fields), "u")).chat_id


async def test_two_changes_at_once_both_count(parts: Parts) -> None:
    chat_id = await new_chat(parts)
    await asyncio.gather(
        parts.chats.change_chat("u", chat_id, lambda chat: replace(chat, title="title")),
        parts.chats.change_chat("u", chat_id, lambda chat: replace(chat, system_prompt="prompt")),
    )
    chat = (await parts.chats.conversation("u", chat_id)).chat
    assert (chat.title, chat.system_prompt) == ("title", "prompt")


async def test_a_chat_deleted_while_its_prompt_is_built_is_gone(slow: Parts) -> None:
    chat_id = await new_chat(slow)
    long = "word " * 20_000  # built in a thread
    begun = asyncio.create_task(slow.chats.begin("u", chat_id, TurnRequest(long)))
    await asyncio.sleep(0)
    await asyncio.wait_for(slow.chats.delete_chat("u", chat_id), timeout=3)
    await asyncio.gather(begun, return_exceptions=True)
    with pytest.raises(NotFound):
        await slow.chats.conversation("u", chat_id)
    assert slow.jobs.n_live == 0


async def test_nothing_starts_after_the_close(slow: Parts) -> None:
    chat_id = await new_chat(slow)
    begun = asyncio.create_task(slow.chats.begin("u", chat_id, TurnRequest("word " * 20_000)))
    await asyncio.sleep(0)
    await asyncio.wait_for(slow.jobs.close(), timeout=3)
    await asyncio.gather(begun, return_exceptions=True)
    assert slow.jobs.n_live == 0
    (turn,) = (await slow.chats.conversation("u", chat_id)).turns
    assert turn.status == "failed"
    with pytest.raises(QueueFull):
        await slow.chats.begin("u", chat_id, TurnRequest("again"))


async def test_the_place_in_the_queue_counts_those_ahead(tmp_path: Path) -> None:
    waiting = asyncio.Event()
    engine = ScriptedEngine(pause=waiting.wait)
    with wire(Settings(data_dir=tmp_path / "q", engine="echo"), engine) as parts:
        chats = [await new_chat(parts) for _ in range(3)]
        turns = await asyncio.gather(*(parts.chats.begin("u", chat, TurnRequest("hi")) for chat in chats))
        firsts = [await anext(await parts.chats.events("u", turn.turn_id)) for turn in turns]
        statuses = [first[0].body for first in firsts if isinstance(first[0].body, StatusEvent)]
        assert [(status.state, status.position) for status in statuses] == [
            ("running", 0),
            ("queued", 1),
            ("queued", 2),
        ]
        waiting.set()
        assert [(await parts.chats.wait("u", turn.turn_id)).status for turn in turns] == ["done"] * 3
        await parts.jobs.close()


async def test_an_end_that_cannot_be_stored_is_told_the_same_way_everywhere(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full_disk(turn: Turn) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(parts.store, "finish_turn", full_disk)
    chat_id = await new_chat(parts)
    turn = await parts.chats.begin("u", chat_id, TurnRequest("hello"))
    events = [event async for batch in await parts.chats.events("u", turn.turn_id) for event in batch]
    assert isinstance(events[-1].body, ErrorEvent)
    ended = await parts.chats.wait("u", turn.turn_id)
    assert ended.status == "failed"
    assert ended.assistant_message == "hello"
    assert await parts.chats.turn("u", turn.turn_id) == ended
    assert (await parts.chats.conversation("u", chat_id)).turns == (ended,)


async def test_a_message_that_cannot_be_stored_is_an_error_and_frees_the_chat(
    parts: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full_disk(turn: Turn) -> None:
        raise OSError("no space left on device")

    chat_id = await new_chat(parts)
    with monkeypatch.context() as broken:
        broken.setattr(parts.store, "add_turn", full_disk)
        with pytest.raises(OSError, match="no space"):
            await parts.chats.begin("u", chat_id, TurnRequest("hello"))
    turn = await parts.chats.begin("u", chat_id, TurnRequest("hello"))
    assert (await parts.chats.wait("u", turn.turn_id)).status == "done"
    assert len((await parts.chats.conversation("u", chat_id)).turns) == 1


async def test_the_same_limits_hold_whichever_way_a_message_comes(parts: Parts) -> None:
    chat_id = await new_chat(parts)
    for message in ("", " \n", "a\x00b", "\ud800", "x" * 200_001):
        with pytest.raises(InvalidInput):
            await parts.chats.begin("u", chat_id, TurnRequest(message))
    assert parts.jobs.n_live == 0


async def test_events_reach_every_reader_from_every_place() -> None:
    log = EventLog()

    async def read(after: int) -> list[int]:
        return [event.id async for batch in log.read(after) for event in batch]

    readers = [asyncio.create_task(read(after)) for after in (0, 2, 5)]
    for text in "abc":
        log.append(DeltaEvent(text))
        await asyncio.sleep(0)
    log.append(ErrorEvent(TURN, INTERRUPTED))
    assert [await reader for reader in readers] == [[1, 2, 3, 4], [3, 4], []]
    assert log.text == "abc"


async def test_what_comes_while_a_reader_is_busy_is_not_lost() -> None:
    log = EventLog()
    log.append(DeltaEvent("a"))
    reader = log.read()
    assert [event.id for event in await anext(reader)] == [1]
    log.append(DeltaEvent("b"))
    log.append(ErrorEvent(TURN, INTERRUPTED))
    assert [event.id for event in await anext(reader)] == [2, 3]
    assert await anext(reader, None) is None


async def test_kept_events_are_bounded() -> None:
    jobs = LocalJobs(limit=10)
    for i in range(3):
        job = jobs.reserve("u", f"c{i}", f"t{i}")
        for _ in range(KEPT_EVENTS // 2 - 1):
            job.log.append(DeltaEvent("x"))
        job.log.append(ErrorEvent(TURN, INTERRUPTED))
        jobs.release(job)
    assert [jobs.find("u", f"t{i}") is not None for i in range(3)] == [False, True, True]
    assert jobs.find("eve", "t2") is None


async def test_a_chat_has_one_place() -> None:
    jobs = LocalJobs(limit=2)
    jobs.reserve("u", "c", "t1")
    with pytest.raises(ChatBusy, match="t1"):
        jobs.reserve("u", "c", "t2")
    jobs.take_slot()
    with pytest.raises(QueueFull):
        jobs.reserve("u", "d", "t3")
