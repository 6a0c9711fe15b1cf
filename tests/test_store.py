"""The store: durable, in order, one process a data dir, old data readable, new data refused."""

import asyncio
import os
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from chatlab.clock import Clock
from chatlab.errors import ConfigError, DataDirHeld, InvalidInput, NotFound
from chatlab.messages import (
    Chat,
    Feedback,
    Problem,
    PromptPart,
    PromptProvenance,
    Provenance,
    SamplingParams,
    StoredMessage,
    Timing,
    Turn,
    Usage,
)
from chatlab.problems import INTERRUPTED
from chatlab.store import Store
from chatlab.store.duckdb import FILE
from chatlab.store.migrate import migrate, migrations
from chatlab.store.recent import Conversation, RecentChats
from chatlab.store.rows import CHAT_COLUMNS, TURN_COLUMNS, chat_row, turn_row
from chatlab.store.statements import Statement

clock = Clock()


def chat(chat_id: str = "c", user_id: str = "u") -> Chat:
    now = clock()
    params = SamplingParams(temperature=0.5, stop=("END", "\n"), seed=2**62)
    return Chat(chat_id, user_id, "Tïtle 漢字", now, now, system_prompt="Be brief.", params=params)


def turn(turn_id: str, chat_id: str = "c", user_id: str = "u", parent: str | None = None) -> Turn:
    return Turn(turn_id, chat_id, user_id, parent, f"question {turn_id}", clock())


def done(begun: Turn) -> Turn:
    return replace(
        begun,
        assistant_message="answer 🎉",
        status="done",
        source="model",
        finished_at=clock(),
        finish_reason="stop",
        provenance=Provenance(
            prompt=PromptProvenance("truncate", 100, 12, (PromptPart("question", (begun.turn_id,), 12),), ("x",)),
            usage=Usage(12, 3, 0),
            timing=Timing(ttft_ms=1.5, total_ms=20.25),
            model="echo",
            engine="echo",
        ),
        prompt=(StoredMessage("user", begun.turn_id), StoredMessage("user", text="cut")),
    )


async def test_everything_comes_back_as_it_was_stored(tmp_path: Path) -> None:
    made, begun = chat(), turn("t1")
    ended = done(begun)
    with Store(tmp_path) as store:
        await store.add_chat(made)
        await store.add_turn(replace(begun, prompt=ended.prompt))
        await store.finish_turn(ended)
        in_memory = await store.conversation("u", "c")
    with Store(tmp_path) as store:
        from_disk = await store.conversation("u", "c")
        assert from_disk.turns == (replace(ended, prompt=()),), "recipes are read one at a time"
        assert from_disk == in_memory
        assert from_disk.chat == replace(made, updated_at=ended.finished_at)
        assert await store.turn("u", "t1") == ended
        assert store.latest_time() == ended.finished_at


async def test_what_is_anothers_is_not_there(store: Store) -> None:
    await store.add_chat(chat())
    await store.add_turn(turn("t1"))
    for refused in (store.conversation("eve", "c"), store.turn("eve", "t1"), store.conversation("u", "nope")):
        with pytest.raises(NotFound):
            await refused


async def test_a_deleted_chat_leaves_nothing(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        for chat_id in ("c", "kept"):
            await store.add_chat(chat(chat_id))
            await store.add_turn(turn(f"t-{chat_id}", chat_id))
            await store.rate(turn(f"t-{chat_id}", chat_id), -1, "bad", clock())
        await store.delete_chat("c")
        with pytest.raises(NotFound):
            await store.conversation("u", "c")
    with duckdb.connect(tmp_path / FILE) as connection:
        for table in ("chats", "turns", "feedback"):
            assert connection.execute(f"SELECT DISTINCT chat_id FROM {table}").fetchall() == [("kept",)]


async def test_a_later_verdict_replaces_an_earlier_one(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        await store.rate(turn("t"), 1, None, clock())
        await store.rate(turn("t"), -1, "on second thought", clock())
    with duckdb.connect(tmp_path / FILE) as connection:
        assert connection.execute("SELECT rating, reason FROM feedback").fetchall() == [(-1, "on second thought")]


async def test_live_turns_are_failed_at_the_next_start(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        await store.add_chat(chat())
        running, queued = replace(turn("t1"), status="running"), replace(turn("t2"), status="queued")
        for each in (running, queued):
            await store.add_turn(each)
        await store.save_partial(running, "half an ans")
        await store.add_turn(turn("t3"))
        await store.finish_turn(done(turn("t3")))
    with Store(tmp_path) as store:
        assert store.fail_live_turns(INTERRUPTED, clock()) == 2
        assert store.fail_live_turns(INTERRUPTED, clock()) == 0
        first, second, third = (await store.conversation("u", "c")).turns
        assert (first.status, first.assistant_message, first.error) == ("failed", "half an ans", INTERRUPTED)
        assert (second.status, second.assistant_message) == ("failed", None)
        assert (third.status, third.error) == ("done", None)


async def test_a_partial_text_never_follows_the_end(store: Store) -> None:
    await store.add_chat(chat())
    for i in range(50):
        begun = turn(f"t{i}")
        await store.add_turn(begun)
        saved = store.save_partial(begun, "part")
        await asyncio.gather(saved, store.finish_turn(done(begun)))
        assert (await store.turn("u", f"t{i}")).status == "done"


async def test_many_writers_at_once(store: Store) -> None:
    async def client(number: int) -> None:
        await store.add_chat(chat(f"c{number}"))
        for i in range(10):
            begun = turn(f"t{number}-{i}", f"c{number}")
            await store.add_turn(begun)
            await store.finish_turn(done(begun))

    await asyncio.gather(*(client(number) for number in range(20)))
    for number in range(20):
        rows = store._cursor().execute(f"SELECT count(*) FROM turns WHERE chat_id = 'c{number}' AND status = 'done'")
        assert rows.fetchone() == (10,)


async def test_one_bad_change_fails_alone(store: Store) -> None:
    await store.add_chat(chat("taken"))
    outcomes = await asyncio.gather(
        *(store.add_chat(chat(chat_id)) for chat_id in ("a", "taken", "b", "d", "e", "f")), return_exceptions=True
    )
    assert [isinstance(outcome, Exception) for outcome in outcomes] == [False, True, False, False, False, False]
    page = await store.chats("u", 10)
    assert sorted(each.chat_id for each in page.chats) == ["a", "b", "d", "e", "f", "taken"]


async def test_memory_and_disk_agree_after_every_change(store: Store) -> None:
    await store.add_chat(chat())
    for i in range(5):
        ended = done(begun := turn(f"t{i}"))
        await store.add_turn(replace(begun, prompt=ended.prompt))
        await store.change_chat(
            replace((await store.conversation("u", "c")).chat, pinned=bool(i % 2), updated_at=clock())
        )
        await store.finish_turn(done(begun))
        in_memory = await store.conversation("u", "c")
        assert store._load(store._cursor(), "c") == in_memory


def test_a_load_that_was_overtaken_is_not_kept() -> None:
    recent, old = RecentChats(), Conversation(chat(), ())
    token = recent.loading("c")
    recent.change("c", lambda known: known)  # a commit while the disk was read
    recent.loaded("c", token, old)
    assert recent.get("c") is None
    recent.loaded("c", recent.loading("c"), old)
    assert recent.get("c") == old


def test_recent_chats_are_bounded() -> None:
    sizes = [Conversation(chat(f"c{i}"), tuple(turn(f"t{i}-{k}") for k in range(4))) for i in range(5)]
    recent = RecentChats(max_chars=2 * sizes[0].n_chars)
    for conversation in sizes:
        recent.add(conversation)
    assert [i for i in range(5) if recent.get(f"c{i}")] == [3, 4]


async def test_a_cursor_that_is_none_of_ours_is_refused(store: Store) -> None:
    for cursor in ("x", "====", "Zm9v", "2026", "\u00e9"):
        with pytest.raises(InvalidInput):
            await store.chats("u", 5, cursor)


def test_a_second_process_is_told_who_holds_the_data_dir(tmp_path: Path) -> None:
    code = f"from pathlib import Path; from chatlab.store import Store\nwith Store(Path({str(tmp_path)!r})): pass"
    environment = {"PYTHONPATH": str(Path(__file__).parents[1])}
    with Store(tmp_path):
        second = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False
        )
        assert second.returncode != 0
        assert f"DataDirHeld: the data dir {tmp_path} is held by process {os.getpid()}" in second.stderr.replace(
            "chatlab.errors.", ""
        )
        with pytest.raises(DataDirHeld), Store(tmp_path):
            pass
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0


def test_migrations_are_numbered_and_run_once(tmp_path: Path) -> None:
    steps = migrations()
    assert [step.number for step in steps] == list(range(1, len(steps) + 1))
    for _ in range(2):
        with Store(tmp_path):
            pass
    with duckdb.connect(tmp_path / FILE) as connection:
        assert connection.execute("SELECT number, name FROM migrations ORDER BY number").fetchall() == [
            (step.number, step.name) for step in steps
        ]
        connection.execute("INSERT INTO migrations VALUES (999, 'from the future')")
    with pytest.raises(ConfigError, match="newer chatlab"), Store(tmp_path):
        pass


async def test_data_of_the_first_schema_is_read(tmp_path: Path) -> None:
    made, ended = chat(), done(turn("t1"))
    with duckdb.connect(tmp_path / FILE) as connection:
        migrate(connection, migrations()[:1])
        names = [name for name in CHAT_COLUMNS if name != "archived"]
        values: dict[str, object] = dict(zip(CHAT_COLUMNS, chat_row(made), strict=True))
        connection.execute(*Statement("insert", "chats", tuple(names)).render([tuple(values[n] for n in names)]))
        assert TURN_COLUMNS[-1] == "pinned"
        connection.execute(*Statement("insert", "turns", TURN_COLUMNS[:-1]).render([turn_row(ended)[:-1]]))
        connection.execute("INSERT INTO feedback VALUES ('t1', 'c', 'u', TIMESTAMP '2026-01-01', -1, 'bad')")
    for _ in range(2):
        with Store(tmp_path) as store:
            known = await store.conversation("u", "c")
            assert known.chat == replace(made, updated_at=ended.finished_at, archived=False)
            assert known.turns == (replace(ended, prompt=(), feedback=Feedback(-1, "bad")),)
            assert store.purge_discarded() == 0
            await store.change_chat(replace(known.chat, archived=True))
            await store.change_chat(replace(known.chat, archived=False))
            assert await store.presets("u") == ()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    broken = replace(migrations()[0], sql="CREATE TABLE half (a TEXT); SELECT no_such_thing")
    with duckdb.connect(tmp_path / "x") as connection:
        with pytest.raises(duckdb.Error):
            migrate(connection, [broken])
        connection.execute("ROLLBACK")
        assert connection.execute("SELECT table_name FROM duckdb_tables()").fetchall() == [("migrations",)]


def test_the_clock_never_repeats_nor_goes_back() -> None:
    times = iter([datetime(2026, 1, 1, tzinfo=UTC) - timedelta(days=i) for i in range(1_000)])
    going_back = Clock(floor=datetime(2026, 6, 1, tzinfo=UTC), now=lambda: next(times))
    given = [going_back() for _ in range(100)]
    assert given == sorted(set(given))
    assert given[0] > datetime(2026, 6, 1, tzinfo=UTC)


async def test_closing_writes_what_was_handed_over(tmp_path: Path) -> None:
    await asyncio.to_thread(lambda: None)  # the loop's own threads come with the first
    before = threading.active_count()
    with Store(tmp_path) as store:
        await store.add_chat(chat())
        pending = [store.save_partial(turn("t"), "x") for _ in range(100)]
        writes = [asyncio.ensure_future(store.add_turn(turn(f"t{i}"))) for i in range(100)]
        await asyncio.sleep(0)
        await asyncio.to_thread(store.__exit__, None, None, None)
        await asyncio.gather(*pending, *writes)
    with Store(tmp_path) as store:
        assert len((await store.conversation("u", "c")).turns) == 100
    assert threading.active_count() <= before


def test_a_problem_is_kept_whole() -> None:
    from chatlab.store.rows import turn_from, turn_row

    failed = replace(turn("t"), status="failed", error=Problem("urn:x:interrupted", "T", 503, "d"))
    assert turn_from(turn_row(failed)) == failed
