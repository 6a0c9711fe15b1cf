"""Answers side by side: streamed, stopped, failed apart, voted on; nothing kept but the votes."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace

import pytest

from chatlab.chat import TurnRequest
from chatlab.comparison import Comparison, wins_of
from chatlab.errors import InvalidInput, NotFound
from chatlab.messages import CacheChoice, ChatSettings, HistoryChoice, Message
from chatlab.settings import Settings
from chatlab.ui.compare import configurations_from, prices_from
from chatlab.ui.panel import values_of
from chatlab.ui.refusal import Refused
from chatlab.ui.sides import Prices, diff_html, sides_html, wins_html
from chatlab.wiring import Parts, wire
from tests.conftest import ScriptedEngine

OFF = ChatSettings(cache=CacheChoice("off"))
TERSE = replace(OFF, system_prompt="Be terse.")


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(["Hello", " there"])


@pytest.fixture
def parts(settings: Settings, engine: ScriptedEngine) -> Iterator[Parts]:
    with wire(settings, engine=engine) as parts:
        yield parts


@pytest.fixture(autouse=True)
async def closed(parts: Parts) -> AsyncGenerator[None]:
    yield
    await parts.jobs.close()


async def ended(made: Comparison) -> Comparison:
    await asyncio.gather(*made.tasks)
    return made


async def test_sides_answer_the_same_and_leave_no_trace(parts: Parts, engine: ScriptedEngine) -> None:
    own = ChatSettings(cache=CacheChoice("user"))
    made = await ended(await parts.comparisons.begin("ada", "Hi?", [own, TERSE], blind=False))
    assert [(side.state, side.text) for side in made.sides] == [("done", "Hello there")] * 2
    assert made.sides[0].provenance.usage.prompt_tokens == len("user:Hi?\n")
    assert made.sides[1].messages[0] == Message(role="system", content="Be terse.")
    assert (await parts.answers.entries("ada", 10)).n == 0
    assert (await parts.chats.chats("ada", 10)).chats == ()
    assert await parts.store.answers.latest(10, "") == []
    html = sides_html(made, blind=False, prices=Prices(2.0, 4.0))
    assert "0 only in A, 1 only in B, 1 in both" in html
    assert f"{(2.0 * 9 + 4.0 * 2) / 1e6:.6f}" in html


async def test_a_stored_answer_is_looked_at_and_not_counted(parts: Parts, engine: ScriptedEngine) -> None:
    chat = await parts.chats.create_chat(lambda chat: replace(chat, cache=CacheChoice("user")), "ada")
    turn = await parts.chats.begin("ada", chat.chat_id, TurnRequest("What is a fjord?"))
    await parts.chats.wait("ada", turn.turn_id)
    before = (await parts.answers.entries("ada", 9)).entries[0]
    own = ChatSettings(cache=CacheChoice("user"))
    made = await ended(await parts.comparisons.begin("ada", "What is a fjord?", [own, OFF], blind=False))
    assert [side.provenance.cache.outcome for side in made.sides] == ["hit", "off"]
    assert (await parts.answers.entries("ada", 9)).entries[0] == before
    assert len(engine.seen) == 2


async def test_a_stored_conversation_goes_before_and_is_its_owners(parts: Parts, engine: ScriptedEngine) -> None:
    chat = await parts.chats.create_chat(lambda chat: chat, "ada")
    for message in ("One?", "Two?"):
        turn = await parts.chats.begin("ada", chat.chat_id, TurnRequest(message))
        await parts.chats.wait("ada", turn.turn_id)
    direct = replace(OFF, history=HistoryChoice("direct"))
    made = await ended(await parts.comparisons.begin("ada", " ", [OFF, direct], chat.chat_id))
    assert made.question == "Two?"
    assert [each["content"] for each in made.sides[1].messages] == ["One?", "Hello there", "Two?"]
    with pytest.raises(NotFound):
        await parts.comparisons.begin("eve", "Hi?", [OFF, TERSE], chat.chat_id)
    await parts.comparisons.vote(made, 0)
    await parts.chats.delete_chat("ada", chat.chat_id)
    assert await parts.store.votes.of_user("ada") == []


async def test_one_side_fails_and_the_other_goes_on(parts: Parts) -> None:
    small = replace(OFF, system_prompt="word " * 400)
    made = await ended(await parts.comparisons.begin("ada", "Hi?", [small, OFF], blind=False))
    assert [side.state for side in made.sides] == ["failed", "done"]
    html = sides_html(made, blind=True, prices=Prices())
    assert "This side failed" in html
    assert "data-do=vote" not in html.replace('"', "")
    with pytest.raises(InvalidInput, match="needs all answers"):
        await parts.comparisons.vote(made, 0)


async def test_stopping_keeps_what_there_is(parts: Parts, engine: ScriptedEngine) -> None:
    reached = asyncio.Event()

    async def pause() -> None:
        if engine.n_open == 2:
            reached.set()
        await asyncio.Event().wait()

    engine.pause = pause
    made = await parts.comparisons.begin("ada", "Hi?", [OFF, TERSE])
    await reached.wait()
    await made.stop()
    assert {side.state for side in made.sides} <= {"stopped"}
    assert engine.n_open == 0
    at_once = await parts.comparisons.begin("ada", "Hi?", [OFF, TERSE])
    await at_once.stop()
    assert not at_once.live


async def test_a_blind_vote_is_stored_once_and_summed_up(parts: Parts) -> None:
    made = await ended(await parts.comparisons.begin("ada", "Hi?", [OFF, TERSE]))
    hidden = sides_html(made, blind=True, prices=Prices())
    assert "terse" not in hidden
    assert "configuration" not in hidden
    await parts.comparisons.vote(made, 1)
    assert "configuration 2" in sides_html(made, blind=True, prices=Prices())
    with pytest.raises(InvalidInput, match="given already"):
        await parts.comparisons.vote(made, 0)
    (vote,) = await parts.store.votes.of_user("ada")
    assert (vote.settings, vote.answers, vote.winner) == ((OFF, TERSE), ("Hello there", "Hello there"), 1)
    same = replace(vote, settings=(OFF, OFF))
    best, other = wins_of([vote, vote, replace(vote, winner=None), same])
    assert (best.settings, best.wins, best.equal, best.votes) == (TERSE, 2, 1, 3)
    assert (best.share.value, other.share.value) == (1.0, 0.0)
    assert best.share.low == pytest.approx(0.342, abs=1e-3)  # Wilson, 2 of 2
    assert "Be terse." in wins_html([best, other])
    assert await parts.comparisons.wins("eve") == []


async def test_what_cannot_be_used_is_named(parts: Parts) -> None:
    with pytest.raises(InvalidInput, match="question"):
        await parts.comparisons.begin("ada", " ", [OFF, OFF])
    with pytest.raises(InvalidInput, match="configurations"):
        await parts.comparisons.begin("ada", "Hi?", [OFF])
    values = [*values_of(OFF), *values_of(OFF), *values_of(OFF), *values_of(OFF)]
    values[len(values) // 4 + 5] = 9.0
    with pytest.raises(Refused, match="Configuration 2: Temperature: must be between 0 and 2"):
        configurations_from(2, values)
    with pytest.raises(Refused, match="Price of a million answer tokens"):
        prices_from(1, -1)


def test_a_difference_is_told_in_words_and_escaped() -> None:
    a = [Message(role="user", content="<b>One</b>"), Message(role="user", content="Two")]
    html = diff_html("A", a, "B", [a[1], Message(role="assistant", content="Three")])
    assert "&lt;b&gt;One" in html
    assert "only in A · You" in html
    assert "only in B · Answer" in html
    assert "in A and B · You" in html
    assert "saw the same 2 messages" in diff_html("A", a, "B", a)
