"""Answers side by side: streamed, stopped, failed apart, voted on; nothing kept but the votes."""

import asyncio
from collections.abc import AsyncGenerator, Iterator
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from chatlab.chat import TurnRequest
from chatlab.comparison import Comparison, Side, wins_of
from chatlab.errors import InvalidInput, NotFound
from chatlab.messages import CacheChoice, ChatSettings, HistoryChoice, Message, Provenance, Usage
from chatlab.settings import Settings
from chatlab.store import Vote
from chatlab.ui.ballots import Ballots
from chatlab.ui.compare import CHATS_OFFERED, choices_of, configurations_from, position_from, prices_from
from chatlab.ui.panel import values_of
from chatlab.ui.refusal import Refused
from chatlab.ui.sides import Prices, diff_html, figures_of, sides_html, wins_html
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
    html = sides_html(made, prices=Prices(2.0, 4.0))
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
    made = await ended(await parts.comparisons.begin("ada", "Hi?", [small, OFF]))
    assert [side.state for side in made.sides] == ["failed", "done"]
    html = sides_html(made, prices=Prices())
    assert "This side failed" in html
    assert 'data-do="vote"' not in html
    assert 'data-do="reveal"' in html
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
    assert 'data-do="vote"' not in sides_html(made, Prices())
    with pytest.raises(InvalidInput, match="needs all answers"):
        await parts.comparisons.vote(made, 0)
    parts.comparisons.reveal(made)
    costs = figures_of([("A", made.sides[0])], Prices(2.0, 4.0))[-1]
    assert costs == ("Cost", "–")
    assert engine.n_open == 0
    at_once = await parts.comparisons.begin("ada", "Hi?", [OFF, TERSE])
    await at_once.stop()
    assert not at_once.live


async def test_a_blind_vote_is_stored_once_and_summed_up(parts: Parts) -> None:
    made = await ended(await parts.comparisons.begin("ada", "Hi?", [OFF, TERSE]))
    hidden = sides_html(made, prices=Prices())
    assert "terse" not in hidden
    assert "configuration" not in hidden
    await parts.comparisons.vote(made, made.shown.index(1))
    assert "configuration 2" in sides_html(made, prices=Prices())
    with pytest.raises(InvalidInput, match="given already"):
        await parts.comparisons.vote(made, 0)
    (vote,) = await parts.store.votes.of_user("ada")
    assert (vote.settings, vote.answers, vote.winner) == ((OFF, TERSE), ("Hello there", "Hello there"), 1)
    assert vote.shown == made.shown
    same = replace(vote, settings=(OFF, OFF))
    best, other = wins_of([vote, vote, replace(vote, winner=None), same])
    assert (best.settings, best.wins, best.equal, best.votes) == (TERSE, 2, 1, 3)
    assert (best.share.value, other.share.value) == (1.0, 0.0)
    assert best.share.low == pytest.approx(0.342, abs=1e-3)  # Wilson, 2 of 2
    assert "Be terse." in wins_html([best, other])
    assert await parts.comparisons.wins("eve") == []


async def test_two_votes_at_once_are_one(parts: Parts) -> None:
    made = await ended(await parts.comparisons.begin("ada", "Hi?", [OFF, TERSE]))
    found = await asyncio.gather(
        parts.comparisons.vote(made, 0), parts.comparisons.vote(made, 1), return_exceptions=True
    )
    assert isinstance(found[1], InvalidInput)
    assert len(await parts.store.votes.of_user("ada")) == 1


async def test_a_vote_is_for_what_was_shown_and_blind(parts: Parts) -> None:
    made = await ended(await parts.comparisons.begin("ada", "Hi?", [OFF, TERSE]))
    made.shown = (1, 0)
    assert 'data-winner="0">A is better' in sides_html(made, Prices())
    assert (await parts.comparisons.vote(made, 0)).winner == 1
    seen = await ended(await parts.comparisons.begin("ada", "Hi?", [OFF, TERSE], blind=False))
    told = await ended(await parts.comparisons.begin("ada", "Hi?", [OFF, TERSE]))
    parts.comparisons.reveal(told)
    for each in (seen, told):
        assert 'data-do="vote"' not in sides_html(each, Prices())
        with pytest.raises(InvalidInput, match="must be blind"):
            await parts.comparisons.vote(each, 0)
    assert (position_from("1"), position_from("equal")) == (1, None)
    for wrong in ("", "-1", "two", None, 1.5):
        with pytest.raises(Refused, match="choose one"):
            position_from(wrong)


def test_votes_among_more_sides_count_by_pairs() -> None:
    four = tuple(replace(OFF, system_prompt=str(i)) for i in range(4))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    votes = [Vote(str(i), "ada", "", now, "Hi?", four, ("Yes",) * 4, (0, 1, 2, 3), i) for i in range(4)]
    assert [each.share.value for each in wins_of(votes)] == pytest.approx([0.5] * 4)  # chance, though one in four wins
    assert all(each.share.n == pytest.approx(3.0) for each in wins_of(votes))
    pair = replace(votes[0], settings=four[:2], answers=("Yes", "Yes"), shown=(0, 1))
    often = [replace(pair, settings=(OFF, TERSE)), *[pair] * 8, replace(pair, winner=1)]
    assert wins_of(often)[0].settings == four[0]  # eight of nine say more than one of one


async def test_half_an_answer_that_is_under_way_is_not_said(parts: Parts, engine: ScriptedEngine) -> None:
    chat = await parts.chats.create_chat(lambda chat: chat, "ada")
    turn = await parts.chats.begin("ada", chat.chat_id, TurnRequest("One?"))
    await parts.chats.wait("ada", turn.turn_id)
    n_pauses, halfway, on = 0, asyncio.Event(), asyncio.Event()

    async def pause() -> None:
        nonlocal n_pauses
        n_pauses += 1
        if n_pauses == 2:
            halfway.set()
            await on.wait()

    engine.pause = pause
    turn = await parts.chats.begin("ada", chat.chat_id, TurnRequest("Two?"))
    await halfway.wait()
    direct = replace(OFF, history=HistoryChoice("direct"))
    made = await ended(await parts.comparisons.begin("ada", "Three?", [direct, OFF], chat.chat_id))
    assert [each["content"] for each in made.sides[0].messages] == ["One?", "Hello there", "Three?"]
    on.set()
    await parts.chats.wait("ada", turn.turn_id)


async def test_an_older_chat_is_offered_where_it_is_asked_for(parts: Parts) -> None:
    old = await parts.chats.create_chat(lambda chat: chat, "ada")
    for _ in range(CHATS_OFFERED):
        await parts.chats.create_chat(lambda chat: chat, "ada")
    offered = {chat_id for _, chat_id in await choices_of(parts.chats, "ada", "")}
    assert old.chat_id not in offered
    assert (await choices_of(parts.chats, "ada", old.chat_id))[-1][1] == old.chat_id
    assert await choices_of(parts.chats, "eve", old.chat_id) == [("None: the question alone", "")]


async def test_what_pages_compare_is_kept_within_bounds() -> None:
    long = [Comparison("ada", "", "Hi?", [Side(OFF, "done", "x" * 60)], (0,)) for _ in range(3)]
    ballots = Ballots(most=2, most_chars=130)
    for page, made in zip("abc", long, strict=True):
        await ballots.put(page, made)
    assert [ballots.of(page, "ada") for page in "abc"] == [None, *long[1:]]
    assert ballots.of("c", "eve") is None
    long[2].sides[0].text += "x" * 60
    ballots.trim()
    assert ballots.of("b", "ada") is None
    ballots.drop("c", long[0])
    assert ballots.of("c", "ada") is long[2]
    ballots.drop("c", long[2])
    assert ballots.of("c", "ada") is None


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


def test_a_late_difference_of_a_long_message_is_shown() -> None:
    one, other = ([Message(role="user", content=f"{'word ' * 900}{name}")] for name in ("Oslo", "Bergen"))
    html = diff_html("A", one, "B", other)
    assert "Oslo" in html
    assert "Bergen" in html
    assert len(html) < 3_000


def test_a_missing_price_is_said() -> None:
    side = Side(OFF, "done", "Yes", provenance=Provenance(usage=Usage(1_000, 10)))
    assert Prices(2.0, None).cost(side) == "0.002000, without the answer: its price is missing"
    assert Prices().cost(side) == "type a price"
