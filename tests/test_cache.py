"""The answer cache in turns: what is served, to whom, what is stored, what is let go, and what it survives."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from chatlab.cache.admission import not_stored_because, time_to_live
from chatlab.cache.lookup import Ask, Lookup
from chatlab.cache.personal import personal_data
from chatlab.cache.stored import CacheLimits
from chatlab.chat import TurnRequest
from chatlab.completions import Prepared
from chatlab.engines.base import Piece
from chatlab.errors import ModelUnavailable
from chatlab.messages import (
    UNKNOWN_TIME,
    CacheChoice,
    CacheEntry,
    CacheScope,
    DeltaEvent,
    DoneEvent,
    HistoryChoice,
    PartKind,
    PromptPart,
    PromptProvenance,
    Provenance,
    SamplingParams,
    StatusEvent,
    StrategyName,
    Turn,
)
from chatlab.settings import Settings
from chatlab.wiring import Parts, wire
from tests.conftest import ScriptedEngine, api_client, new_chat

ROUTER = "How do I reset my router?"


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes by how fast a machine loads the embedder."""
    monkeypatch.setattr("chatlab.cache.answers.LOADING_SECONDS", 30.0)
    monkeypatch.setattr("chatlab.cache.answers.SECONDS", 60.0)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(["Press the ", "button."])


@pytest.fixture
async def cached(tmp_path: Path, engine: ScriptedEngine) -> AsyncIterator[Parts]:
    with wire(Settings(data_dir=tmp_path / "data", engine="echo"), engine) as parts:
        yield parts
        await parts.jobs.close()


async def a_chat(parts: Parts, scope: CacheScope = "user", user_id: str = "u", **fields: Any) -> str:
    made = await parts.chats.create_chat(lambda chat: replace(chat, cache=CacheChoice(scope), **fields), user_id)
    return made.chat_id


async def asked(parts: Parts, chat_id: str, text: str, user_id: str = "u", **request: Any) -> Turn:
    """A turn once it and all that is stored of it is there."""
    begun = await parts.chats.begin(user_id, chat_id, TurnRequest(text, **request))
    turn = await parts.chats.wait(user_id, begun.turn_id)
    while parts.jobs._asides:  # pyright: ignore[reportPrivateUsage]
        await asyncio.sleep(0.005)
    return turn


async def fresh(parts: Parts, text: str, scope: CacheScope = "user", user_id: str = "u", **request: Any) -> Turn:
    """A turn of a chat of its own."""
    return await asked(parts, await a_chat(parts, scope, user_id), text, user_id, **request)


# Hits


async def test_the_same_question_is_answered_once(cached: Parts, engine: ScriptedEngine) -> None:
    first = await fresh(cached, ROUTER)
    assert (first.source, first.provenance.cache.outcome) == ("model", "miss")
    again = await fresh(cached, "how do i reset my router")
    assert (again.source, again.status, again.assistant_message) == ("cache", "done", "Press the button.")
    cache = again.provenance.cache
    assert (cache.outcome, cache.tier, cache.similarity, cache.matched_question) == ("hit", "exact", 1.0, ROUTER)
    usage = again.provenance.usage
    assert usage.saved_tokens == (first.provenance.usage.prompt_tokens or 0) + 2
    assert (usage.prompt_tokens, again.provenance.prompt) == (None, None)
    assert len(engine.seen) == 1
    assert await cached.chats.turn("u", again.turn_id) == again, "as it is stored"
    lookup = await cached.store.answers.lookup(again.turn_id)
    assert lookup is not None
    assert (lookup.outcome, lookup.saved_tokens) == ("hit", usage.saved_tokens)


async def test_other_words_are_served_and_another_question_is_not(cached: Parts, engine: ScriptedEngine) -> None:
    await fresh(cached, "How do I get a wine stain out of a white shirt?")
    same = await fresh(cached, "How can I get a wine stain out of a white shirt")
    cache = same.provenance.cache
    assert (cache.outcome, cache.tier) == ("hit", "semantic")
    assert cache.similarity is not None
    assert cache.threshold is not None
    assert 0.9 < cache.similarity < 1
    trap = await fresh(cached, "How do I get a wine stain out of a black shirt?")
    assert (trap.source, trap.provenance.cache.outcome) == ("model", "miss")
    assert trap.provenance.cache.reason == "alternative differs from the nearest"
    assert trap.provenance.cache.matched_question is None, "it may be deleted before this turn"
    assert len(engine.seen) == 2


async def test_a_hit_has_the_events_of_an_answer(cached: Parts) -> None:
    await fresh(cached, ROUTER)
    begun = await cached.chats.begin("u", await a_chat(cached), TurnRequest(ROUTER))
    events = [event async for batch in await cached.chats.events("u", begun.turn_id) for event in batch]
    bodies = [event.body for event in events]
    assert [type(body) for body in bodies] == [StatusEvent, DeltaEvent, DoneEvent]
    assert [event.id for event in events] == [1, 2, 3]
    assert isinstance(bodies[2], DoneEvent)
    assert bodies[2].turn.source == "cache"


async def test_a_bypass_asks_the_model_and_what_it_says_is_served_from_then_on(
    cached: Parts, engine: ScriptedEngine
) -> None:
    await fresh(cached, ROUTER)
    engine.pieces = ["Pull the plug."]
    turn = await fresh(cached, ROUTER, cache_bypass=True)
    assert (turn.source, turn.provenance.cache.outcome) == ("model", "bypass")
    assert (await fresh(cached, ROUTER)).assistant_message == "Pull the plug."
    assert await cached.store.answers.count() == 1


async def test_who_asks_the_same_at_the_same_time_waits_for_one_answer(tmp_path: Path) -> None:
    going_on = asyncio.Event()
    engine = ScriptedEngine(pause=going_on.wait)
    with wire(Settings(data_dir=tmp_path / "d", engine="echo"), engine) as parts:
        chats = [await a_chat(parts) for _ in range(4)]
        turns = await asyncio.gather(*(parts.chats.begin("u", chat_id, TurnRequest(ROUTER)) for chat_id in chats))
        going_on.set()
        ended = [await parts.chats.wait("u", turn.turn_id) for turn in turns]
        assert sorted(str(turn.source) for turn in ended) == ["cache", "cache", "cache", "model"]
        assert {turn.assistant_message for turn in ended} == {"Hello there"}
        assert len(engine.seen) == 1
        await parts.jobs.close()


async def test_v1_answers_the_same_question_once(tmp_path: Path) -> None:
    going_on = asyncio.Event()
    engine = ScriptedEngine(pause=going_on.wait)

    async def prepare(parts: Parts, text: str) -> Prepared:
        return await parts.completions.prepare("u", [{"role": "user", "content": text}], SamplingParams(), None, "user")

    async def answered(parts: Parts, prepared: Prepared) -> tuple[str, str]:
        text = "".join([c.text async for c in parts.completions.stream(prepared) if isinstance(c, Piece)])
        assert prepared.lookup is not None
        return text, prepared.lookup.outcome

    with wire(Settings(data_dir=tmp_path / "d", engine="echo"), engine) as parts:
        prepared = [await prepare(parts, ROUTER) for _ in range(4)]
        asked = [asyncio.create_task(answered(parts, each)) for each in prepared]
        going_on.set()
        assert sorted(await asyncio.gather(*asked)) == [*[("Hello there", "hit")] * 3, ("Hello there", "miss")]
        assert len(engine.seen) == 1

        # Who was waited for leaves: who waits asks for itself.
        leaving = parts.completions.stream(await prepare(parts, "Another question?"))
        await anext(leaving)
        waits = await prepare(parts, "Another question?")
        asking = asyncio.create_task(answered(parts, waits))
        assert waits.lookup is not None
        assert waits.lookup.following is not None
        await leaving.aclose()
        assert await asking == ("Hello there", "miss")
        await parts.jobs.close()


async def test_who_waits_for_an_answer_that_fails_asks_for_one(tmp_path: Path) -> None:
    going_on = asyncio.Event()
    engine = ScriptedEngine(pause=going_on.wait)
    with wire(Settings(data_dir=tmp_path / "d", engine="echo"), engine) as parts:
        chats = [await a_chat(parts) for _ in range(2)]
        first, second = [await parts.chats.begin("u", chat_id, TurnRequest(ROUTER)) for chat_id in chats]
        await parts.chats.stop("u", first.turn_id)
        going_on.set()
        ended = await parts.chats.wait("u", second.turn_id)
        assert (ended.source, ended.assistant_message) == ("model", "Hello there")
        await parts.jobs.close()


async def test_answers_outlive_a_restart(tmp_path: Path, engine: ScriptedEngine) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine="echo")
    with wire(settings, engine) as parts:
        await fresh(parts, "How do I get a wine stain out of a white shirt?")
        await parts.jobs.close()
        await parts.answers._vectors.flush()
    with wire(settings, engine) as parts:
        turn = await fresh(parts, "How can I get a wine stain out of a white shirt")
        assert turn.provenance.cache.tier == "semantic"
        assert (await fresh(parts, "how do I get a wine stain out of a white shirt")).provenance.cache.tier == "exact"
        await parts.jobs.close()


# To whom


async def test_a_user_is_served_what_is_theirs(cached: Parts) -> None:
    await fresh(cached, ROUTER, user_id="a")
    assert (await fresh(cached, ROUTER, user_id="b")).source == "model"
    assert (await fresh(cached, ROUTER, "global", "a")).source == "model", "another scope"
    assert (await fresh(cached, ROUTER, "off", "a")).provenance.cache.outcome == "off"


async def test_the_global_scope_is_everybodys(cached: Parts) -> None:
    await fresh(cached, "What is the capital of Mongolia?", "global", "a")
    turn = await fresh(cached, "what is the capital of mongolia", "global", "b")
    assert turn.source == "cache"
    near = await fresh(cached, "What is the currency of Mongolia?", "global", "b")
    assert near.source == "model"
    assert near.provenance.cache.matched_question is None, "what others asked is not shown"


async def test_what_is_somebodys_own_is_not_everybodys(cached: Parts, engine: ScriptedEngine) -> None:
    await fresh(cached, "Is ann.lee@example.org a good address?", "global")
    engine.pieces = ["Call me at +44 20 7946 0958."]
    await fresh(cached, "What is the capital of Mongolia?", "global")
    chat_id = await a_chat(cached, "global")
    engine.pieces = ["It is Ulaanbaatar."]
    await asked(cached, chat_id, "Tell me of Mongolia.")
    await asked(cached, chat_id, "How many moons does the planet Jupiter have?")
    assert await cached.store.answers.count() == 1, "the first question of the last chat"


async def test_no_user_is_served_anothers_answer(cached: Parts) -> None:
    """10,000 lookups: all ask what all asked, in the same words and in others, alone and in chats that are alike."""
    stains = "wine coffee tea ink grass mud oil paint jam milk blood curry beer soup egg soy wax rust dye gravy"
    texts = [f"How do I get a {stain} stain out of a white shirt?" for stain in stains.split()]
    users = [f"user {n}" for n in range(5)]
    before = Turn("before", "shared", "user 0", None, "Name a song.", UNKNOWN_TIME, "Yesterday.", "done")
    chats = {user_id: await a_chat(cached, user_id=user_id) for user_id in users}
    now = datetime.now(UTC)

    def ask(user_id: str, text: str, path: tuple[Turn, ...] = ()) -> Ask:
        return Ask(user_id, "shared", "t", "user", text, path, None, SamplingParams(), "m", history=HistoryChoice())

    for n, user_id in enumerate(users):
        for text in texts[: 12 + 2 * n]:
            for path in ((), (before,)):
                found = await cached.answers.look_up(ask(user_id, text, path))
                assert found.entry_id is not None
                entry = CacheEntry(
                    found.entry_id, found.bucket, text, f"{user_id}: {text}", user_id, chats[user_id], "t", 1, 1.0, now,
                    now + timedelta(days=1),
                )  # fmt: skip
                assert await cached.store.answers.save(entry)
                await cached.answers.index(found, entry)
    await cached.answers._vectors.flush()
    hits = {"exact": 0, "semantic": 0}

    async def look(i: int) -> None:
        user_id, text = users[i % 5], texts[(7 * i) % 20]
        text = text.upper() if i % 2 else text.replace("do I", "can I") if i % 20 == 4 else text
        found = await cached.answers.look_up(ask(user_id, text, (before,) if i % 3 == 0 else ()))
        if found.entry is not None:
            assert found.entry.user_id == user_id
            assert found.tier is not None
            hits[found.tier] += 1

    for i in range(0, 10_000, 20):
        await asyncio.gather(*map(look, range(i, i + 20)))
    assert hits["exact"] > 6_000
    assert hits["semantic"] > 200


async def test_other_settings_are_another_question(cached: Parts) -> None:
    await fresh(cached, ROUTER)
    pirate = await a_chat(cached, system_prompt="You are a pirate.")
    assert (await asked(cached, pirate, ROUTER)).source == "model"
    warm = await fresh(cached, ROUTER, params=SamplingParams(temperature=0.9))
    assert warm.source == "model"
    assert (await fresh(cached, ROUTER, params=SamplingParams(temperature=0.9))).source == "cache"


# The conversation before


async def test_a_follow_up_is_served_after_the_same_conversation_only(cached: Parts, engine: ScriptedEngine) -> None:
    async def conversation(subject: str) -> Turn:
        chat_id = await a_chat(cached)
        await asked(cached, chat_id, subject)
        return await asked(cached, chat_id, "What about the second one?")

    phones, books = await conversation("Name two phones."), await conversation("Name two books.")
    assert (phones.source, books.source) == ("model", "model")
    again = await conversation("name two phones")
    assert (again.source, again.provenance.cache.tier) == ("cache", "exact")


async def test_a_question_that_says_it_all_is_served_in_any_conversation(cached: Parts) -> None:
    await fresh(cached, "What is the capital of Mongolia?")
    chat_id = await a_chat(cached)
    await asked(cached, chat_id, "Write a limerick about a cook.")
    turn = await asked(cached, chat_id, "What is the capital of Mongolia?")
    assert turn.source == "cache"


@pytest.mark.parametrize(("opening", "source"), [("Always answer in French.", "model"), ("Good morning!", "cache")])
async def test_an_instruction_of_long_ago_still_holds(cached: Parts, opening: str, source: str) -> None:
    stain = "How do I get a wine stain out of a white shirt?"
    await fresh(cached, stain)
    chat_id = await a_chat(cached)
    await asked(cached, chat_id, opening)
    for corners in range(3, 13):
        await asked(cached, chat_id, f"How many sides has a polygon of {corners} corners?")
    assert (await asked(cached, chat_id, stain)).source == source


async def test_another_history_strategy_is_another_question(cached: Parts) -> None:
    chat_id = await a_chat(cached)
    first = await asked(cached, chat_id, "I have a dog called Rex.")
    asked_so: list[tuple[StrategyName, str]] = [("truncate", "model"), ("direct", "model"), ("truncate", "cache")]
    for strategy, source in asked_so:
        turn = await asked(
            cached, chat_id, "What is its name?", parent_turn_id=first.turn_id, history=HistoryChoice(strategy)
        )
        assert turn.source == source


async def test_what_was_said_before_stays_in_its_conversation(cached: Parts, engine: ScriptedEngine) -> None:
    chat_id = await a_chat(cached)
    await asked(cached, chat_id, "From now on answer in French.")
    engine.pieces = ["Oulan-Bator."]
    assert (await asked(cached, chat_id, "What is the capital of Mongolia?")).source == "model"
    assert (await fresh(cached, "What is the capital of Mongolia?")).source == "model"


async def test_a_question_about_now_is_not_served_an_old_answer(cached: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    await fresh(cached, "Who is the mayor of Bergen?")
    later = datetime.now(UTC) + timedelta(hours=1)
    monkeypatch.setattr(cached.answers, "_clock", lambda: later)
    assert (await fresh(cached, "Who is the mayor of Bergen?")).source == "cache"
    assert (await fresh(cached, "Who is currently the mayor of Bergen?")).source == "model"


async def test_a_follower_that_is_stopped_leaves_the_others_waiting(tmp_path: Path) -> None:
    going_on = asyncio.Event()
    engine = ScriptedEngine(pause=going_on.wait)
    with wire(Settings(data_dir=tmp_path / "d", engine="echo"), engine) as parts:
        chats = [await a_chat(parts) for _ in range(3)]
        turns = [await parts.chats.begin("u", chat_id, TurnRequest(ROUTER)) for chat_id in chats]
        await parts.chats.stop("u", turns[1].turn_id)
        going_on.set()
        ended = [await parts.chats.wait("u", turn.turn_id) for turn in turns]
        assert [turn.status for turn in ended] == ["done", "stopped", "done"]
        assert ended[2].source == "cache"
        assert len(engine.seen) == 1
        await parts.jobs.close()


async def test_a_hit_that_cannot_be_stored_is_a_failed_turn(cached: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    await fresh(cached, ROUTER)
    chat_id = await a_chat(cached)

    async def full(turn: Turn) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(cached.store, "add_turn", full)
    with pytest.raises(OSError, match="disk full"):
        await cached.chats.begin("u", chat_id, TurnRequest(ROUTER))


# What is stored


@pytest.mark.parametrize(
    ("pieces", "params"),
    [
        (["I'm sorry, but I cannot help with that."], SamplingParams()),
        (["As an AI, I do not know."], SamplingParams()),
        (["   "], SamplingParams()),
        (["Half", RuntimeError("out of memory")], SamplingParams()),
        (["Hot"], SamplingParams(temperature=1.5)),
    ],
)
async def test_what_may_not_serve_again_is_not_stored(
    cached: Parts, engine: ScriptedEngine, pieces: Sequence[str | Exception], params: SamplingParams
) -> None:
    engine.pieces = [*pieces]
    await fresh(cached, ROUTER, params=params)
    assert await cached.store.answers.count() == 0
    engine.pieces = ["Fine."]
    assert (await fresh(cached, ROUTER, params=params)).source == "model"


async def test_a_stopped_answer_is_not_stored(tmp_path: Path) -> None:
    engine = ScriptedEngine(pause=asyncio.Event().wait)
    with wire(Settings(data_dir=tmp_path / "d", engine="echo"), engine) as parts:
        turn = await parts.chats.begin("u", await a_chat(parts), TurnRequest(ROUTER))
        await parts.chats.stop("u", turn.turn_id)
        assert await parts.store.answers.count() == 0
        await parts.jobs.close()


async def test_an_answer_that_reached_its_limit_is_not_stored(tmp_path: Path) -> None:
    with wire(Settings(data_dir=tmp_path / "d", engine="echo")) as parts:
        turn = await fresh(parts, "one two three four", params=SamplingParams(max_new_tokens=2))
        assert turn.finish_reason == "length"
        assert await parts.store.answers.count() == 0
        await parts.jobs.close()


@pytest.mark.parametrize(
    ("kind", "stored"),
    [("pinned", False), ("summary", False), ("retrieved", False), ("system", True), ("verbatim", True)],
)
def test_answers_built_on_what_a_person_said_elsewhere_are_not_stored(kind: PartKind, stored: bool) -> None:
    prompt = PromptProvenance("hybrid", 100, 10, (PromptPart(kind, ("t0",), 5),))
    turn = Turn(
        "t", "c", "u", None, "?", UNKNOWN_TIME, "Yes.", "done", "model", finish_reason="stop",
        provenance=Provenance(prompt=prompt),
    )  # fmt: skip
    reason = not_stored_because(turn, "user", SamplingParams(), 1.0, alone=False)
    assert (reason is None) == stored
    partly = replace(turn, provenance=Provenance(prompt=replace(prompt, dropped_turn_ids=("t1",))))
    assert not_stored_because(partly, "user", SamplingParams(), 1.0, alone=False)


async def test_a_user_stores_no_more_than_the_quota(tmp_path: Path, engine: ScriptedEngine) -> None:
    with wire(Settings(data_dir=tmp_path / "d", engine="echo", cache_writes_per_hour=2), engine) as parts:
        for n in range(4):
            await fresh(parts, f"What is {n} times {n}?")
        await fresh(parts, "What is 7 times 7?", user_id="another")
        assert await parts.store.answers.count() == 3
        await parts.jobs.close()


async def test_old_answers_are_not_served(cached: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    await fresh(cached, ROUTER)
    await fresh(cached, "What is the weather in Bergen today?")
    later = datetime.now(UTC) + timedelta(minutes=10)
    monkeypatch.setattr(cached.answers, "_clock", lambda: later)
    assert (await fresh(cached, ROUTER)).source == "cache"
    assert (await fresh(cached, "What is the weather in Bergen today?")).source == "model"


def test_questions_about_now_are_kept_for_minutes() -> None:
    month = timedelta(days=30)
    assert time_to_live("Who won the latest race?", month) == timedelta(minutes=5)
    assert time_to_live("Who painted the Night Watch?", month) == month


async def test_room_is_made_by_what_an_answer_saved(cached: Parts) -> None:
    rows, chat_id, now = cached.store.answers, await a_chat(cached), datetime.now(UTC)

    def entry(name: str, cost_ms: float, hits: int, days: float) -> CacheEntry:
        born = now - timedelta(days=days)
        return CacheEntry(name, "b", name, "a", "u", chat_id, "t", 1, cost_ms, born, now + timedelta(days=9), hits)

    for each in (
        entry("dear", 900, 0, 1),
        entry("used", 100, 50, 1),
        entry("cheap", 100, 0, 1),
        entry("old", 900, 0, 90),
    ):
        assert await rows.save(each)
    assert await rows.least_worth(2, now) == ["old", "cheap"]
    cached.answers._limits = CacheLimits(max_entries=3)
    await cached.answers._make_room()
    assert await rows.ids() == {"dear", "used", "cheap"}


# What is let go


async def stored_keys(parts: Parts) -> set[str]:
    """The entries whose questions are in LanceDB."""
    await parts.answers._vectors.flush()
    table = await parts.answers._vectors._opened()
    return set() if table is None else set((await table.query().select(["entry"]).to_arrow())["entry"].to_pylist())


@pytest.mark.parametrize("discard", [False, True])
async def test_a_chats_answers_go_with_it(cached: Parts, discard: bool) -> None:
    await fresh(cached, "What is the capital of Mongolia?")
    turn = await fresh(cached, ROUTER)
    await fresh(cached, ROUTER)
    assert len(await stored_keys(cached)) == 2
    await (cached.chats.discard_chat if discard else cached.chats.delete_chat)("u", turn.chat_id)
    assert len(await stored_keys(cached)) == await cached.store.answers.count() == 1
    assert (await fresh(cached, ROUTER)).source == "model"


async def test_what_answers_in_a_chat_that_goes_is_not_stored(tmp_path: Path) -> None:
    going_on = asyncio.Event()
    engine = ScriptedEngine(pause=going_on.wait)
    with wire(Settings(data_dir=tmp_path / "d", engine="echo"), engine) as parts:
        chat_id = await a_chat(parts)
        await parts.chats.begin("u", chat_id, TurnRequest(ROUTER))
        going_on.set()
        await parts.chats.delete_chat("u", chat_id)
        await parts.jobs.close()
        assert await parts.store.answers.count() == 0


async def test_a_thumbs_down_evicts_what_was_served_and_what_it_is_from(cached: Parts) -> None:
    for served in (True, False):
        first = await fresh(cached, ROUTER)
        turn = await fresh(cached, ROUTER) if served else first
        assert turn.source == ("cache" if served else "model")
        await cached.chats.rate("u", turn.chat_id, turn.turn_id, 1, None)
        assert await cached.store.answers.count() == 1
        await cached.chats.rate("u", turn.chat_id, turn.turn_id, -1, "wrong")
        assert await cached.store.answers.count() == 0
        assert await stored_keys(cached) == set()


async def test_vectors_of_an_interrupted_deletion_go_with_the_next_answer(
    tmp_path: Path, engine: ScriptedEngine
) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine="echo")
    with wire(settings, engine) as parts:
        turn = await fresh(parts, ROUTER)
        await parts.answers._vectors.flush()
        await parts.jobs.close()
        await parts.store.delete_chat(turn.chat_id)  # and then the process ended
    with wire(settings, engine) as parts:
        await fresh(parts, "What is the capital of Mongolia?")
        assert await stored_keys(parts) == await parts.store.answers.ids()
        await parts.jobs.close()


# Faults


async def faulty(parts: Parts) -> Turn:
    """A turn that is answered though the cache fails, which is counted and said."""
    turn = await fresh(parts, "How can I get a wine stain out of a white shirt")
    assert (turn.status, turn.source) == ("done", "model")
    assert 'chatlab_faults_total{chatlab_part="cache"' in parts.metrics.prometheus().decode()
    return turn


async def test_without_its_vectors_the_model_answers(tmp_path: Path, engine: ScriptedEngine) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine="echo")
    with wire(settings, engine) as parts:
        await fresh(parts, "How do I get a wine stain out of a white shirt?")
        await parts.answers._vectors.flush()
        await parts.jobs.close()
    for file in (tmp_path / "data" / "vectors").rglob("*.manifest"):
        file.write_bytes(b"broken")
    with wire(settings, engine) as parts:
        turn = await faulty(parts)
        assert turn.provenance.cache.reason is not None
        assert (await fresh(parts, "how do I get a wine stain out of a white shirt")).source == "cache", "its words"
        await parts.jobs.close()


async def test_an_embedder_that_fails_leaves_the_exact_tier(cached: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    await fresh(cached, ROUTER)

    async def fail(texts: Sequence[str]) -> Any:
        raise ModelUnavailable("gone")

    monkeypatch.setattr(cached.embedder, "embed_tokens", fail)
    turn = await faulty(cached)
    assert turn.provenance.cache.reason == "the cache does not answer"
    assert (await fresh(cached, ROUTER)).source == "cache"


async def test_a_store_that_fails_the_cache_does_not_fail_the_turn(
    cached: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: Any) -> Any:
        raise OSError("disk full")

    for name in ("entries", "save", "save_lookup", "count"):
        monkeypatch.setattr(cached.store.answers, name, fail)
    await faulty(cached)


async def test_a_cache_that_hangs_is_not_waited_for(cached: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    await fresh(cached, ROUTER)

    async def hang(*_: Any) -> Any:
        await asyncio.Event().wait()

    monkeypatch.setattr(cached.answers._vectors, "nearest", hang)
    monkeypatch.setattr("chatlab.cache.answers.SECONDS", 0.05)
    assert (await faulty(cached)).provenance.cache.reason == "the cache does not answer"


async def test_an_embedder_that_is_being_loaded_is_not_waited_for_long(
    cached: Parts, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fresh(cached, ROUTER)

    async def slow(texts: Sequence[str]) -> Any:
        await asyncio.sleep(0.5)

    monkeypatch.setattr(cached.embedder, "_model", None)
    monkeypatch.setattr(cached.embedder, "embed_tokens", slow)
    monkeypatch.setattr("chatlab.cache.answers.LOADING_SECONDS", 0.02)
    begun = await cached.chats.begin("u", await a_chat(cached), TurnRequest("How can I reset my router?"))
    assert begun.provenance.cache.reason == "the embedder is being loaded"
    assert (await cached.chats.wait("u", begun.turn_id)).source == "model"


async def test_a_question_of_100_kb_is_answered(cached: Parts) -> None:
    long = "Count the words of this: " + "word " * 20_000
    assert (await fresh(cached, long)).source == "model"
    assert (await fresh(cached, long)).provenance.cache.tier == "exact"
    assert (await fresh(cached, long + "and this")).source == "model"


async def test_without_a_calibrated_embedder_words_alone_count(tmp_path: Path, engine: ScriptedEngine) -> None:
    settings = Settings(data_dir=tmp_path / "d", engine="echo", embedder=str(tmp_path / "another"))
    with wire(settings, engine) as parts:
        await fresh(parts, ROUTER)
        assert (await fresh(parts, ROUTER)).source == "cache"
        turn = await fresh(parts, "How can I reset my router?")
        assert "has no calibration" in (turn.provenance.cache.reason or "")
        await parts.jobs.close()


# Personal data

PRIVATE = [
    "My name is Ann Lee and I live in Leeds.",
    "Write to ann.lee@example.org",
    "Call +44 20 7946 0958",
    "IBAN GB82 WEST 1234 5698 7654 32",
    "card 4111 1111 1111 1111",
    "the server at 203.0.113.9",
    "born on 3.4.1981",
    "12 High Street, Leeds",
    "Does Dr. Okafor have time?",
    "password: hunter22",
    "Is the salary of Petra Novak too low?",
    "What is wrong with my account?",
    "I have diabetes, what can I eat?",
    "token ghp_abcdef1234567890",
    "passport X12345678",
]


NAMES = [
    "Ann Lee",
    "Jonas Berg",
    "Maria Silva",
    "Wei Chen",
    "Fatima Zahra",
    "Petr Novák",
    "Siobhán O'Neil",
    "Ali Demir",
]
SEEDS = [
    "Does {name} still live at 4 Elm Road?",
    "What is the phone number of {name}?",
    "Write an email to {name} about the unpaid invoice.",
    "Is {name} pregnant?",
    "Summarise the diagnosis of {name} for the insurer.",
    "My neighbour {name} plays loud music, what can I do?",
    "Translate: dear {name}, your order 88123456 was sent.",
    "How much does {name}, my boss, earn?",
    "Remind {name} that his rent of last month is due, he lives in Cork.",
    "Draft a reply to {name}, born 12.05.1979.",
    "I am {name} and I cannot log in.",
    "Why was {name} fired from the bank?",
    "Check whether {mail} is spelled right.",
    "Is {iban} a valid account?",
    "Which bank issued the card {card}?",
    "Format this number: {phone}",
    "Where is the host {ip}?",
    "What does the key {key} open?",
    "Is {passport} a real passport number?",
    "How do I post a parcel to 27 Rosewood Avenue, Bristol?",
    "Our account manager is on leave, who helps us?",
    "I take 20 mg of fluoxetine, may I drink?",
    "Explain the contract that I signed with my landlord.",
    "Patient {name}, 54, has a cough. Which tests?",
    "Ms. {surname} wants a refund. Write to her.",
]


def test_of_200_seeded_texts_none_is_taken_for_anybodys() -> None:
    missed: list[str] = []
    for n, name in enumerate(NAMES):
        values = {
            "name": name,
            "surname": name.split()[-1],
            "mail": f"{name.split()[0].lower()}{n}@example.org",
            "iban": "DE89 3704 0044 0532 0130 00",
            "card": "5500 0000 0000 0004",
            "phone": f"+49 30 9018{n}20",
            "ip": f"198.51.100.{n + 7}",
            "key": f"sk-live{n}abcdefgh12345",
            "passport": f"C01X0{n}T478",
        }
        missed += [text for seed in SEEDS if not personal_data(text := seed.format(**values))]
    assert len(NAMES) * len(SEEDS) == 200
    assert missed == []


@pytest.mark.parametrize("text", PRIVATE)
def test_personal_data_is_seen(text: str) -> None:
    assert personal_data(text)


@pytest.mark.parametrize(
    "text",
    [
        "What is the capital of Mongolia?",
        "How do I sort a list in Python?",
        "Who was Marie Curie?",
        "Can you help me write a haiku about autumn?",
        "What happened in 1989?",
        "Why is 127.0.0.1 called localhost?",
    ],
)
def test_what_is_anybodys_is_not_personal(text: str) -> None:
    assert personal_data(text) is None


# Over REST


def test_scope_and_bypass_over_rest(tmp_path: Path) -> None:
    with (
        wire(Settings(data_dir=tmp_path / "data", engine="echo", cache_scope="user")) as parts,
        api_client(parts) as client,
    ):
        chat_ids = [new_chat(client) for _ in range(3)]
        assert client.get(f"/chat/{chat_ids[0]}").json()["cache"] == {"scope": "user"}

        def complete(chat_id: str, **body: Any) -> Any:
            return client.post(f"/chat/{chat_id}/completion", json={"userMessage": ROUTER, **body}).json()

        assert complete(chat_ids[0])["source"] == "model"
        hit = complete(chat_ids[1])
        assert (hit["source"], hit["provenance"]["cache"]["outcome"]) == ("cache", "hit")
        assert hit["provenance"]["cache"]["matchedQuestion"] == ROUTER
        assert hit["provenance"]["usage"]["savedTokens"] > 0
        assert complete(chat_ids[2], cache={"scope": "off"})["provenance"]["cache"]["outcome"] == "off"
        path = f"/chat/{chat_ids[1]}/turns/{hit['turnID']}"
        assert client.get(f"{path}/prompt").status_code == 404, "no model saw one"
        assert client.post(f"{path}/feedback", json={"rating": -1}).status_code == 204
        fresh_chat = new_chat(client)
        assert complete(fresh_chat)["source"] == "model"
        assert complete(new_chat(client), cache={"bypass": True})["provenance"]["cache"]["outcome"] == "bypass"


def test_openais_clients_opt_in(tmp_path: Path) -> None:
    def complete(client: TestClient, messages: list[dict[str, str]], **extra: Any) -> Any:
        body = {"model": "echo", "messages": messages, **extra}
        answer = client.post("/v1/chat/completions", json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    with wire(Settings(data_dir=tmp_path / "data", engine="echo")) as parts, api_client(parts) as client:
        asking = [{"role": "user", "content": ROUTER}]
        opted: dict[str, Any] = {"chatlab": {"cache": {"scope": "user"}}}
        plain = complete(client, asking)
        assert "chatlab" not in plain
        first = complete(client, asking, **opted)
        assert (first["chatlab"]["source"], first["chatlab"]["provenance"]["cache"]["outcome"]) == ("model", "miss")
        hit = complete(client, asking, **opted)
        assert hit["chatlab"]["source"] == "cache"
        assert hit["choices"] == first["choices"]
        assert (hit["usage"]["total_tokens"], hit["chatlab"]["provenance"]["saved_tokens"]) == (
            0,
            first["usage"]["total_tokens"],
        )
        other = {"chatlab": {"cache": {"scope": "user"}, "user": "another"}}
        assert complete(client, asking, **other)["chatlab"]["source"] == "model"
        follow_up = [*asking, {"role": "assistant", "content": "A or B."}, {"role": "user", "content": "The second?"}]
        changed = [{"role": "user", "content": "Phones?"}, *follow_up[1:]]
        assert complete(client, follow_up, **opted)["chatlab"]["source"] == "model"
        assert complete(client, changed, **opted)["chatlab"]["source"] == "model"
        assert complete(client, follow_up, **opted)["chatlab"]["source"] == "cache"
        stream = client.post(
            "/v1/chat/completions", json={"model": "echo", "messages": asking, "stream": True, **opted}
        )
        assert ROUTER in stream.text
        assert '"source":"cache"' in stream.text
        wrong = client.post("/v1/chat/completions", json={"model": "echo", "messages": asking * 2, **opted})
        assert wrong.status_code == 400


def test_a_lookup_can_be_shown_without_anything_found() -> None:
    ask = Ask("u", "c", "t", "user", "?", (), None, SamplingParams(), "m")
    shown = Lookup(ask, "miss", reason="nothing is stored").provenance
    assert (shown.outcome, shown.tier, shown.similarity, shown.reason) == ("miss", None, None, "nothing is stored")
