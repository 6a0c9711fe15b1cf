"""A user's chats as things: found, archived, discarded and restored; the settings kept as presets."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from chatlab.chat import ChatService, TurnRequest
from chatlab.clock import Clock
from chatlab.errors import InvalidInput, NotFound
from chatlab.messages import CacheChoice, Chat, ChatSettings, Feedback, HistoryChoice, SamplingParams, Turn
from chatlab.settings import Settings
from chatlab.store import SearchHit
from chatlab.store.browse import EXCERPT_CHARS
from chatlab.wiring import Parts, wire
from tests.conftest import ScriptedEngine


@pytest.fixture
async def chats(parts: Parts) -> AsyncIterator[ChatService]:
    yield parts.chats
    await parts.jobs.close()


def impatient(parts: Parts, undo_seconds: float = 0.05) -> ChatService:
    """The service of the parts, with little time to undo."""
    clock = Clock(parts.store.latest_time())
    new_id = lambda: uuid.uuid4().hex  # noqa: E731
    return ChatService(
        parts.store,
        parts.jobs,
        parts.engine,
        parts.recall,
        parts.answers,
        parts.metrics,
        clock,
        new_id,
        10_000,
        undo_seconds,
    )


async def new_chat(chats: ChatService, user_id: str = "u", **fields: Any) -> str:
    return (await chats.create_chat(lambda chat: replace(chat, **fields), user_id)).chat_id


async def ask(chats: ChatService, chat_id: str, message: str, user_id: str = "u") -> Turn:
    turn = await chats.begin(user_id, chat_id, TurnRequest(message))
    return await chats.wait(user_id, turn.turn_id)


def found(hit: SearchHit) -> str:
    return hit.excerpt[hit.start : hit.end]


# Finding


async def test_the_list_is_filtered_by_state(chats: ChatService) -> None:
    ids = {
        (archived, pinned): await new_chat(chats, archived=archived, pinned=pinned)
        for archived in (False, True)
        for pinned in (False, True)
    }

    async def listed(archived: bool | None = None, pinned: bool | None = None) -> set[str]:
        return {chat.chat_id for chat in (await chats.chats("u", 10, archived=archived, pinned=pinned)).chats}

    assert await listed() == set(ids.values())
    assert await listed(archived=False) == {ids[False, False], ids[False, True]}
    assert await listed(pinned=True) == {ids[False, True], ids[True, True]}
    assert await listed(archived=True, pinned=False) == {ids[True, False]}
    first = await chats.chats("u", 1, archived=False)
    second = await chats.chats("u", 1, first.next_cursor, archived=False)
    assert [*first.chats, *second.chats] == [*(await chats.chats("u", 2, archived=False)).chats]
    assert second.next_cursor is None


async def test_a_search_says_where_it_found(chats: ChatService) -> None:
    titled = await new_chat(chats, title="A trip to PARIS")
    asked = await new_chat(chats, title="Food")
    await ask(chats, asked, "paris first")
    newest = await ask(chats, asked, f"{'before ' * 40}in  Paris\n{'after ' * 40}")
    await ask(chats, asked, "something else")
    await new_chat(chats, title="Rome")
    both = await new_chat(chats, title="Paris again", archived=True)
    await ask(chats, both, "Paris")

    hits = await chats.search("u", "paris")
    assert [(hit.chat.chat_id, hit.turn_id) for hit in hits] == [(both, None), (asked, newest.turn_id), (titled, None)]
    assert [found(hit) for hit in hits] == ["Paris", "Paris", "PARIS"]
    assert hits[2].excerpt == "A trip to PARIS"
    excerpt = hits[1].excerpt
    assert excerpt.startswith("…before ")
    assert excerpt.endswith(" after…")
    assert "in  Paris after" in excerpt
    assert len(excerpt) <= EXCERPT_CHARS + 2
    assert [hit.chat.chat_id for hit in await chats.search("u", "paris", archived=False)] == [asked, titled]
    assert [hit.chat.chat_id for hit in await chats.search("u", "paris", limit=1)] == [both]
    listed = await chats.chats("u", 10, q="paris")
    assert [hit.chat for hit in hits] == [*listed.chats]
    assert await chats.search("u", "") == ()
    assert await chats.search("eve", "paris") == ()


async def test_a_search_finds_what_only_the_model_said(settings: Settings) -> None:
    with wire(settings, ScriptedEngine(["The capital ", "is Paris."])) as parts:
        chat_id = await new_chat(parts.chats)
        turn = await ask(parts.chats, chat_id, "What is it?")
        (hit,) = await parts.chats.search("u", "PARIS")
        assert (hit.turn_id, hit.excerpt, found(hit)) == (turn.turn_id, "The capital is Paris.", "Paris")
        await parts.jobs.close()


@pytest.mark.parametrize(
    ("text", "q", "match"),
    [
        ("İİİİ and İstanbul at last", "istanbul at", None),  # lower() makes each İ two characters
        ("İİİİ and Istanbul at last", "ISTANBUL AT", "Istanbul at"),
        ("İİİİ and İstanbul", "İstanbul", "İstanbul"),
        ("100% sure", "%", "%"),
        ("a_b and axb", "A_B", "a_b"),
        ("back\\slash", "K\\S", "k\\s"),
        ("a.b*c(d[e", ".b*c(d[", ".b*c(d["),
        ("ΟΔΟΣ", "οδος", "ΟΔΟΣ"),
        ("ÉCLAIR", "éclair", "ÉCLAIR"),
        ("das Straßenfest", "STRASSE", None),
        ("漢字を書く", "字を", "字を"),
        ("Eine GRÖSSE, eine Größe", "größe", "Größe"),
        ("Größenordnung", "RÖ", "rö"),
        ("привет, МИР 42", "мир 42", "МИР 42"),
        ("1 + 1 = 2", "1 = 2", "1 = 2"),
        ("one\ntwo", "ONE\nTWO", "one two"),
        ("x" * 400, "X" * 200, "x" * 80),
    ],
)
async def test_a_match_is_where_the_search_says(chats: ChatService, text: str, q: str, match: str | None) -> None:
    chat_id = await new_chat(chats)
    await ask(chats, chat_id, text)
    hits = await chats.search("u", q)
    assert [hit.chat for hit in hits] == [*(await chats.chats("u", 10, q=q)).chats]
    if match is None:
        assert hits == ()
    else:
        (hit,) = hits
        assert 0 <= hit.start <= hit.end <= len(hit.excerpt)
        assert found(hit).startswith(match)


@pytest.mark.parametrize("q", ["a\x00", "\ud800"])
async def test_what_no_text_contains_is_refused(chats: ChatService, q: str) -> None:
    for refused in (chats.search("u", q), chats.chats("u", 5, q=q)):
        with pytest.raises(InvalidInput):
            await refused


# Feedback


async def test_a_verdict_is_read_back(settings: Settings) -> None:
    with wire(settings) as parts:
        chat_id = await new_chat(parts.chats)
        turn, other = [await ask(parts.chats, chat_id, "hello") for _ in range(2)]
        await parts.chats.rate("u", chat_id, turn.turn_id, 1, None)
        await parts.chats.rate("u", chat_id, turn.turn_id, -1, "wrong")
        in_memory = await parts.chats.conversation("u", chat_id)
        with pytest.raises(NotFound):
            await parts.chats.rate("eve", chat_id, other.turn_id, -1, None)
        await parts.jobs.close()
    assert [each.feedback for each in in_memory.turns] == [Feedback(-1, "wrong"), None]
    with wire(settings) as parts:
        assert await parts.chats.conversation("u", chat_id) == in_memory
        assert (await parts.chats.turn("u", turn.turn_id)).feedback == Feedback(-1, "wrong")


async def test_a_verdict_on_a_running_turn_outlives_its_end(settings: Settings) -> None:
    goes_on = asyncio.Event()
    with wire(settings, ScriptedEngine(pause=goes_on.wait)) as parts:
        chat_id = await new_chat(parts.chats)
        turn = await parts.chats.begin("u", chat_id, TurnRequest("hello"))
        await parts.chats.rate("u", chat_id, turn.turn_id, 1, None)
        goes_on.set()
        await parts.chats.wait("u", turn.turn_id)
        (ended,) = (await parts.chats.conversation("u", chat_id)).turns
        assert (ended.status, ended.feedback) == ("done", Feedback(1, None))
        await parts.jobs.close()


# Discarding


async def test_a_discarded_chat_is_nowhere_until_it_is_restored(chats: ChatService) -> None:
    chat_id = await new_chat(chats, title="Secret")
    turn = await ask(chats, chat_id, "secret words")
    before = await chats.conversation("u", chat_id)
    await chats.discard_chat("u", chat_id)
    for refused in (
        chats.conversation("u", chat_id),
        chats.turn("u", turn.turn_id),
        chats.turn_of_chat("u", chat_id, turn.turn_id),
        chats.events("u", turn.turn_id),
        chats.stop("u", turn.turn_id),
        chats.prompt("u", chat_id, turn.turn_id),
        chats.rate("u", chat_id, turn.turn_id, 1, None),
        chats.begin("u", chat_id, TurnRequest("hello")),
        chats.change_chat("u", chat_id, lambda chat: chat),
        chats.titled("u", chat_id),
        chats.discard_chat("u", chat_id),
        chats.delete_chat("u", chat_id),
        chats.restore_chat("eve", chat_id),
    ):
        with pytest.raises(NotFound):
            await refused
    assert (await chats.chats("u", 10)).chats == ()
    assert (await chats.chats("u", 10, q="secret")).chats == ()
    assert await chats.search("u", "secret") == ()
    assert await chats.restore_chat("u", chat_id) == before.chat
    assert await chats.conversation("u", chat_id) == before
    with pytest.raises(NotFound):
        await chats.restore_chat("u", chat_id)


async def test_discarding_stops_the_answer_and_is_the_owners(settings: Settings) -> None:
    never = asyncio.Event()
    with wire(settings, ScriptedEngine(pause=never.wait)) as parts:
        chat_id = await new_chat(parts.chats)
        turn = await parts.chats.begin("u", chat_id, TurnRequest("hello"))
        with pytest.raises(NotFound):
            await parts.chats.discard_chat("eve", chat_id)
        assert (await parts.chats.turn("u", turn.turn_id)).live
        await parts.chats.discard_chat("u", chat_id)
        assert parts.jobs.n_live == 0
        await parts.chats.restore_chat("u", chat_id)
        assert (await parts.chats.turn("u", turn.turn_id)).status == "stopped"
        await parts.jobs.close()


async def test_a_discarded_chat_is_deleted_when_its_time_is_over(parts: Parts) -> None:
    chats = impatient(parts)
    gone, kept = await new_chat(chats), await new_chat(chats)
    for chat_id in (gone, kept):
        await ask(chats, chat_id, "hello")
        await chats.discard_chat("u", chat_id)
    await chats.restore_chat("u", kept)
    rows: list[tuple[str]] = []
    for _ in range(200):
        rows = parts.store._cursor().execute("SELECT DISTINCT chat_id FROM turns").fetchall()
        if len(rows) == 1:
            break
        await asyncio.sleep(0.02)
    assert rows == [(kept,)]
    with pytest.raises(NotFound):
        await chats.restore_chat("u", gone)
    await asyncio.sleep(0.1)
    assert len((await chats.conversation("u", kept)).turns) == 1
    await parts.jobs.close()


async def test_the_next_start_deletes_what_was_discarded(settings: Settings) -> None:
    with wire(settings) as parts:
        gone, kept = await new_chat(parts.chats), await new_chat(parts.chats)
        await ask(parts.chats, gone, "hello")
        await parts.chats.discard_chat("u", gone)
        await asyncio.wait_for(parts.jobs.close(), timeout=3)
    with wire(settings) as parts:
        assert parts.store._cursor().execute("SELECT chat_id FROM chats").fetchall() == [(kept,)]
        assert parts.store._cursor().execute("SELECT count(*) FROM turns").fetchone() == (0,)
        with pytest.raises(NotFound):
            await parts.chats.restore_chat("u", gone)


# Presets


def given(settings: Chat) -> Chat:
    return replace(
        settings,
        system_prompt="Be brief.",
        history=HistoryChoice("direct", 99),
        cache=CacheChoice("off"),
        params=SamplingParams(temperature=0.5, stop=("END",)),
    )


async def test_presets_are_kept_by_name(settings: Settings) -> None:
    with wire(settings) as parts:
        chats = parts.chats
        chat = await chats.create_chat(given, "u")
        saved = await chats.save_preset("u", "  Zed ", ChatSettings.of(chat))
        assert (saved.name, saved.user_id) == ("Zed", "u")
        assert (saved.system_prompt, saved.history, saved.cache, saved.params) == (
            chat.system_prompt,
            chat.history,
            chat.cache,
            chat.params,
        )
        other = await chats.save_preset("u", "another", ChatSettings.of(replace(chat, system_prompt=None)))
    with wire(settings) as parts:
        assert await parts.chats.presets("u") == (other, saved)
        replaced = await parts.chats.save_preset("u", "Zed", ChatSettings.of(replace(chat, system_prompt="Be kind.")))
        assert replaced == replace(saved, system_prompt="Be kind.")
        assert await parts.chats.presets("u") == (other, replaced)
        await parts.chats.delete_preset("u", other.preset_id)
        assert await parts.chats.presets("u") == (replaced,)


async def test_a_name_is_taken_once_however_often_it_is_saved_at_once(chats: ChatService) -> None:
    chat = await chats.create_chat(given, "u")
    await asyncio.gather(*(chats.save_preset("u", "Mine", ChatSettings.of(chat)) for _ in range(5)))
    assert len(await chats.presets("u")) == 1


async def test_presets_are_their_users(chats: ChatService) -> None:
    chat = await chats.create_chat(given, "u")
    mine = await chats.save_preset("u", "Mine", ChatSettings.of(chat))
    theirs = await chats.save_preset("eve", "Mine", ChatSettings.of(replace(chat, system_prompt="Theirs.")))
    assert await chats.presets("u") == (mine,)
    assert await chats.presets("eve") == (theirs,)
    for preset_id in (mine.preset_id, "nope"):
        with pytest.raises(NotFound):
            await chats.delete_preset("eve", preset_id)
    assert await chats.presets("u") == (mine,)


@pytest.mark.parametrize("name", ["", "  ", "x" * 61, "two\nlines", "a\x00b", "\ud800"])
async def test_a_bad_name_is_refused(chats: ChatService, name: str) -> None:
    chat = await chats.create_chat(given, "u")
    with pytest.raises(InvalidInput) as refused:
        await chats.save_preset("u", name, ChatSettings.of(chat))
    assert [error.field for error in refused.value.errors] == ["name"]
    assert await chats.presets("u") == ()
