"""What the cache learns: answers compared, hits audited, what people say; shadow mode, answers to similar questions."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from chatlab.cache.bound import CLOSED, shipped
from chatlab.cache.verifier import NAME
from chatlab.chat import TurnRequest
from chatlab.errors import NotFound
from chatlab.messages import CacheLookup, DeltaEvent, DoneEvent, RestartEvent, StatusEvent, Turn
from chatlab.settings import Settings
from chatlab.wiring import Parts, wire
from tests.conftest import ScriptedEngine, api_client, new_chat
from tests.test_cache import a_chat, asked, fresh

STAIN = "How do I get a wine stain out of a white shirt?"
NEAR = "What removes red wine from a white shirt?"  # near STAIN: served at a bound of 5 %, not at 0.5 %
STRICT = 0.005
SALT = ["Pour salt on it, ", "then wash it cold."]


def strict(tmp_path: Path, **more: Any) -> Settings:
    return Settings(data_dir=tmp_path / "data", engine="echo", cache_max_error=STRICT, **more)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing goes by how fast a machine loads the embedder."""
    monkeypatch.setattr("chatlab.cache.answers.LOADING_SECONDS", 30.0)
    monkeypatch.setattr("chatlab.cache.answers.SECONDS", 60.0)


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine([*SALT])


@pytest.fixture
async def parts(tmp_path: Path, engine: ScriptedEngine) -> AsyncIterator[Parts]:
    """Strict: nothing in other words is served, but some of it is similar."""
    with wire(strict(tmp_path), engine) as parts:
        yield parts
        await parts.jobs.close()


async def noted(parts: Parts, turn: Turn) -> CacheLookup:
    found = await parts.store.answers.lookup(turn.turn_id)
    assert found is not None
    return found


# Answers compared


async def test_a_miss_is_compared_with_what_was_near(parts: Parts, engine: ScriptedEngine) -> None:
    await fresh(parts, STAIN)
    same = await noted(parts, await fresh(parts, NEAR))
    assert (same.outcome, same.same, same.label_weight, same.label_source, same.own) == (
        "miss",
        True,
        1.0,
        "miss",
        True,
    )
    engine.pieces = ["Do not pour salt on it, then wash it cold."]
    other = await noted(parts, await fresh(parts, "Which thing removes a red wine stain from white shirts?"))
    assert other.same is False
    assert (await parts.answers.recalibration()).n_labels == 2


async def test_what_was_not_answered_says_nothing(parts: Parts, engine: ScriptedEngine) -> None:
    await fresh(parts, STAIN)
    engine.pieces = ["I'm sorry, I cannot help with that."]
    assert (await noted(parts, await fresh(parts, NEAR))).same is None


async def test_hits_are_audited_while_idle(tmp_path: Path, engine: ScriptedEngine) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine="echo", cache_audit_share=1.0)
    with wire(settings, engine) as parts:
        await fresh(parts, STAIN)
        engine.pieces = ["Do not pour salt on it, then wash it cold."]
        hit = await fresh(parts, NEAR)
        assert (hit.source, hit.assistant_message) == ("cache", "".join(SALT))
        assert len(engine.seen) == 2, "the model was asked, too, for nobody"
        assert engine.seen[1].messages[-1]["content"] == NEAR
        lookup = await noted(parts, hit)
        assert (lookup.outcome, lookup.same, lookup.label_source, lookup.label_weight) == ("hit", False, "audit", 1.0)
        assert lookup.renewed is True
        assert (await fresh(parts, STAIN)).provenance.cache.tier == "exact"
        assert len(engine.seen) == 2, "the same words are not audited"
        again = await fresh(parts, NEAR)
        assert (again.provenance.cache.tier, again.assistant_message) == ("exact", "".join(map(str, engine.pieces)))
        await parts.jobs.close()


async def test_an_audit_that_may_not_be_stored_is_a_label_alone(tmp_path: Path, engine: ScriptedEngine) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine="echo", cache_scope="global", cache_audit_share=1.0)
    with wire(settings, engine) as parts:
        await fresh(parts, STAIN, "global")
        engine.pieces = ["Do not pour salt on it, then wash it cold. Or ask ann@example.com."]
        lookup = await noted(parts, await fresh(parts, NEAR, "global"))
        assert (lookup.outcome, lookup.same, lookup.renewed) == ("hit", False, False)
        assert (await fresh(parts, NEAR, "global")).provenance.cache.tier == "semantic"
        await parts.jobs.close()


async def test_a_refusal_says_nothing_of_what_was_served(tmp_path: Path, engine: ScriptedEngine) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine="echo", cache_audit_share=1.0)
    with wire(settings, engine) as parts:
        await fresh(parts, STAIN)
        engine.pieces = ["I'm sorry, I cannot help with that."]
        lookup = await noted(parts, await fresh(parts, NEAR))
        assert (lookup.outcome, lookup.same, lookup.renewed) == ("hit", None, None)
        assert len(engine.seen) == 2
        await parts.jobs.close()


async def test_an_audit_that_fails_is_counted_and_no_label(tmp_path: Path, engine: ScriptedEngine) -> None:
    from chatlab.errors import EngineError

    settings = Settings(data_dir=tmp_path / "data", engine="echo", cache_audit_share=1.0)
    with wire(settings, engine) as parts:
        await fresh(parts, STAIN)
        engine.pieces = [EngineError("gone")]
        hit = await fresh(parts, NEAR)
        assert (hit.status, hit.source) == ("done", "cache")
        assert (await noted(parts, hit)).same is None
        assert 'chatlab_faults_total{chatlab_part="audit"' in parts.metrics.prometheus().decode()
        await parts.jobs.close()


async def test_no_share_is_no_audit(tmp_path: Path, engine: ScriptedEngine) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine="echo", cache_audit_share=0.0)
    with wire(settings, engine) as parts:
        await fresh(parts, STAIN)
        assert (await fresh(parts, NEAR)).source == "cache"
        assert len(engine.seen) == 1
        await parts.jobs.close()


# The threshold


async def test_wrong_answers_close_what_is_served_by_meaning(tmp_path: Path, engine: ScriptedEngine) -> None:
    with wire(Settings(data_dir=tmp_path / "data", engine="echo"), engine) as parts:
        await fresh(parts, STAIN)
        rated = 0
        for n in range(60):
            turn = await fresh(parts, NEAR)
            if turn.source != "cache":
                break
            await parts.chats.rate("u", turn.chat_id, turn.turn_id, -1, None)
            await fresh(parts, STAIN, cache_bypass=True)  # the thumb evicted it
            rated = n + 1
        assert 0 < rated < 60
        recalibration = await parts.answers.recalibration()
        assert recalibration.threshold > shipped().threshold(0.05)
        await parts.jobs.close()
    with wire(Settings(data_dir=tmp_path / "data", engine="echo"), engine) as again:
        restored = await again.answers.recalibration()
        assert restored.n_labels >= rated
        assert restored.threshold > shipped().threshold(0.05), "labels outlive the process"
        await again.jobs.close()


async def test_a_closed_tier_says_so(tmp_path: Path, engine: ScriptedEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with wire(Settings(data_dir=tmp_path / "data", engine="echo"), engine) as parts:
        await fresh(parts, STAIN)

        async def closed() -> float:
            return CLOSED

        monkeypatch.setattr(parts.answers._labels, "threshold", closed)
        turn = await fresh(parts, NEAR)
        assert turn.source == "model"
        assert "would be wrong" in (turn.provenance.cache.reason or "")
        await parts.jobs.close()


# What people say


async def test_a_thumb_on_a_served_answer_is_a_label(tmp_path: Path, engine: ScriptedEngine) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine="echo", cache_audit_share=0.0)
    with wire(settings, engine) as parts:
        await fresh(parts, STAIN)
        good = await fresh(parts, NEAR)
        await parts.chats.rate("u", good.chat_id, good.turn_id, 1, None)
        lookup = await noted(parts, good)
        assert (lookup.same, lookup.label_source) == (True, "person")
        await parts.chats.rate("u", good.chat_id, good.turn_id, -1, "about red wine")
        assert (await noted(parts, good)).same is False
        assert await parts.store.answers.count() == 0, "evicted"
        await parts.jobs.close()


# Shadow mode


async def test_in_shadow_mode_the_model_answers_and_what_would_have_been_served_is_noted(
    tmp_path: Path, engine: ScriptedEngine
) -> None:
    settings = Settings(data_dir=tmp_path / "data", engine="echo", cache_shadow=True)
    with wire(settings, engine) as parts:
        await fresh(parts, STAIN)
        for text, tier in ((NEAR, "semantic"), (STAIN, "exact")):
            turn = await fresh(parts, text)
            assert (turn.source, turn.provenance.cache.outcome) == ("model", "miss")
            assert turn.provenance.cache.reason == f"shadow mode: the {tier} tier would have answered"
            lookup = await noted(parts, turn)
            assert (lookup.outcome, lookup.tier) == ("shadow", tier)
            assert lookup.saved_tokens > 0
        assert len(engine.seen) == 3
        await parts.jobs.close()


# Answers to similar questions


class Slow(ScriptedEngine):
    """Says `n_free` pieces, then goes on when it is told to."""

    def __init__(self) -> None:
        super().__init__([*SALT])
        self.go_on = asyncio.Event()
        self.go_on.set()
        self.n_free = 0
        self.pause = self.hold

    async def hold(self) -> None:
        if self.n_free:
            self.n_free -= 1
        else:
            await self.go_on.wait()


async def begun(parts: Parts, text: str = NEAR) -> tuple[Turn, StatusEvent]:
    turn = await parts.chats.begin("u", await a_chat(parts), TurnRequest(text))
    async for batch in await parts.chats.events("u", turn.turn_id):
        assert isinstance(batch[0].body, StatusEvent)
        return turn, batch[0].body
    raise AssertionError("no event")


async def settled(parts: Parts, turn: Turn) -> Turn:
    ended = await parts.chats.wait("u", turn.turn_id)
    while parts.jobs._asides:
        await asyncio.sleep(0.005)
    return ended


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[tuple[Parts, Slow]]:
    engine = Slow()
    with wire(strict(tmp_path), engine) as parts:
        await fresh(parts, STAIN)
        engine.go_on.clear()
        yield parts, engine
        engine.go_on.set()
        await parts.jobs.close()


async def test_the_answer_to_a_similar_question_is_shown_and_taken(slow: tuple[Parts, Slow]) -> None:
    parts, _ = slow
    turn, status = await begun(parts)
    assert status.similar is not None
    assert (status.similar.question, status.similar.answer) == (STAIN, "".join(SALT))
    assert 0.2 <= status.similar.score < shipped().threshold(STRICT)
    taken = await parts.chats.judge_similar("u", turn.turn_id, same=True)
    assert (taken.status, taken.source, taken.assistant_message) == ("done", "cache", "".join(SALT))
    assert taken.provenance.cache.tier == "semantic"
    assert taken.provenance.cache.matched_question == STAIN
    ended = await settled(parts, turn)
    assert ended == await parts.chats.turn("u", turn.turn_id)
    events = [event.body for batch in [b async for b in await parts.chats.events("u", turn.turn_id)] for event in batch]
    assert [type(body) for body in events] == [StatusEvent, DeltaEvent, DoneEvent]
    lookup = await noted(parts, turn)
    assert (lookup.outcome, lookup.same, lookup.label_source) == ("hit", True, "person")


async def test_what_the_model_wrote_before_is_discarded(slow: tuple[Parts, Slow]) -> None:
    parts, engine = slow
    engine.n_free = 1
    turn, _ = await begun(parts)
    job = parts.jobs.find("u", turn.turn_id)
    assert job is not None
    while not job.log.text:
        await asyncio.sleep(0)
    await parts.chats.judge_similar("u", turn.turn_id, same=True)
    assert job.log.text == "".join(SALT)
    bodies = [event.body for batch in [each async for each in job.log.read(0)] for event in batch]
    assert [type(body) for body in bodies] == [StatusEvent, DeltaEvent, RestartEvent, DeltaEvent, DoneEvent]


async def test_not_this_one_is_a_label_and_the_model_goes_on(slow: tuple[Parts, Slow]) -> None:
    parts, engine = slow
    turn, _ = await begun(parts)
    assert (await parts.chats.judge_similar("u", turn.turn_id, same=False)).live
    engine.go_on.set()
    ended = await settled(parts, turn)
    assert (ended.source, ended.status) == ("model", "done")
    lookup = await noted(parts, turn)
    assert (lookup.outcome, lookup.same, lookup.label_source) == ("miss", False, "person")


async def test_a_verdict_after_the_end_is_a_label(slow: tuple[Parts, Slow]) -> None:
    parts, engine = slow
    turn, _ = await begun(parts)
    engine.go_on.set()
    ended = await settled(parts, turn)
    assert await parts.chats.judge_similar("u", turn.turn_id, same=False) == ended
    assert (await noted(parts, turn)).label_source == "person"
    with pytest.raises(NotFound):
        await parts.chats.judge_similar("another", turn.turn_id, same=True)
    unlike = await asked(parts, await a_chat(parts), "Who painted the ceiling of the Sistine Chapel?")
    with pytest.raises(NotFound):
        await parts.chats.judge_similar("u", unlike.turn_id, same=True)


async def test_what_others_asked_is_not_shown_and_nothing_is_where_it_is_off(tmp_path: Path) -> None:
    for user_id, settings in (("v", strict(tmp_path)), ("u", strict(tmp_path / "off", cache_similar=False))):
        with wire(settings, ScriptedEngine([*SALT])) as parts:
            await fresh(parts, STAIN, "global", user_id)
            turn = await parts.chats.begin("u", await a_chat(parts, "global"), TurnRequest(NEAR))
            batches = [batch async for batch in await parts.chats.events("u", turn.turn_id)]
            status = batches[0][0].body
            assert isinstance(status, StatusEvent)
            assert status.similar is None
            await parts.jobs.close()


def test_similar_over_rest(tmp_path: Path) -> None:
    with wire(strict(tmp_path, cache_scope="user"), ScriptedEngine([*SALT])) as parts, api_client(parts) as client:
        client.post(f"/chat/{new_chat(client)}/completion", json={"userMessage": STAIN})
        text = client.post(f"/chat/{new_chat(client)}/completion", json={"userMessage": NEAR, "stream": True}).text
        assert '"similar":{"question":"How do I get' in text
        turn_id = text.split('"turnID":"')[1].split('"')[0]
        assert client.post(f"/completions/{turn_id}/similar", json={"same": True}).status_code == 200
        assert client.post(f"/completions/{turn_id}/similar", json={"same": "yes"}).status_code == 422
        assert client.post("/completions/none/similar", json={"same": True}).status_code == 404


# Without a chat


async def test_lookups_of_v1_are_noted_and_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = ScriptedEngine([*SALT])
    with wire(Settings(data_dir=tmp_path / "data", engine="echo"), engine) as parts:
        for text in (STAIN, STAIN, NEAR):
            prepared = await parts.completions.prepare(
                "u", [{"role": "user", "content": text}], _greedy(), None, "user"
            )
            _ = [chunk async for chunk in parts.completions.stream(prepared)]
            while parts.jobs._asides:
                await asyncio.sleep(0.005)
        found = await parts.store.answers.latest(10, NAME)
        assert [(each.outcome, each.tier) for each in found] == [("miss", None), ("hit", "exact"), ("hit", "semantic")]
        later = parts.answers._clock() + timedelta(days=91)
        monkeypatch.setattr(parts.answers, "_clock", lambda: later)
        await parts.answers._make_room()
        assert await parts.store.answers.latest(10, NAME) == []
        await parts.jobs.close()


def _greedy() -> Any:
    from chatlab.messages import SamplingParams

    return SamplingParams(temperature=0.0)
