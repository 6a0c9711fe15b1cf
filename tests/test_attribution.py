"""What of its prompt mattered for an answer: the real model, a planted fact, the plain computation beside it."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chatlab.attribution import MAX_PARTS, MAX_TOKENS, Attribution, Effect
from chatlab.chat import TurnRequest
from chatlab.engines.base import GenerationRequest, Scorer
from chatlab.engines.models import ModelSource
from chatlab.errors import EngineError, InvalidInput, NotFound
from chatlab.evaluation.scoring import load_scorer
from chatlab.messages import Message, SamplingParams, Turn
from chatlab.settings import Settings
from chatlab.ui.mattered import mattered_html
from chatlab.wiring import Parts, wire
from tests.conftest import ScriptedEngine, api_client

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=12)
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)
TALK = [
    ("The weather in Oslo is grey today.", "That sounds dull."),
    ("My dog is called Biscuit and she is four years old.", "What a lovely name."),
    ("I like long walks along the river.", "Walks are good for you."),
]
ASKED = "What is my dog called?"


class Borrowed:
    """An engine that goes on after who borrowed it."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def score(self, request: GenerationRequest, answer: str, most_tokens: int) -> tuple[float, ...]:
        return await self._engine.score(request, answer, most_tokens)

    def close(self) -> None:
        """Its owner will."""


@pytest.fixture
def engine(transformers_engine: Any) -> Any:
    return Borrowed(transformers_engine)


@pytest.fixture
async def parts(tmp_path: Path, engine: Any) -> AsyncIterator[Parts]:
    with wire(Settings(data_dir=tmp_path / "data", cache_scope="off"), engine) as parts:
        yield parts
        await parts.jobs.close()


async def answered(parts: Parts, talk: list[tuple[str, str]], question: str, system: str | None = None) -> Turn:
    """The model's turn after a talk that was made up."""
    chat = await parts.chats.create_chat(lambda made: replace(made, system_prompt=system), "ann")
    parent: str | None = None
    for i, (asked, said) in enumerate(talk):
        at = BEGIN + timedelta(minutes=i)
        turn_id = f"{chat.chat_id}-{i}"
        await parts.store.add_turn(
            Turn(turn_id, chat.chat_id, "ann", parent, asked, at, said, "done", "model", finished_at=at)
        )
        parent = turn_id
    begun = await parts.chats.begin("ann", chat.chat_id, TurnRequest(question, params=GREEDY))
    return await parts.chats.wait("ann", begun.turn_id)


async def attributed(parts: Parts, turn: Turn) -> Attribution:
    return await parts.chats.attribution("ann", turn.chat_id, turn.turn_id)


async def test_the_turn_that_holds_the_fact_matters_most(parts: Parts) -> None:
    asked = await answered(parts, TALK, ASKED, "You are a helpful assistant.")
    turn = replace(await parts.store.turn("ann", asked.turn_id), assistant_message="Your dog is called Biscuit.")
    await parts.store.finish_turn(turn)
    found = await attributed(parts, turn)
    assert [part.kind for part in found.parts] == ["system", "verbatim", "verbatim", "verbatim"]
    by_turn = {part.turn_ids: part.change for part in found.parts}
    fact = (f"{turn.chat_id}-1",)
    assert min(by_turn, key=lambda turn_ids: by_turn[turn_ids]) == fact
    assert by_turn[fact] < -3
    assert found.tokens == len(["Your", "dog", "is", "called", "B", "isc", "uit", "."])
    assert all(part.tokens > 0 for part in found.parts)
    again = await attributed(parts, turn)
    assert [part.change for part in again.parts] == pytest.approx([part.change for part in found.parts], abs=0.5)


async def test_scores_are_those_of_the_plain_computation(parts: Parts, bundled_model: Path) -> None:
    plain = load_scorer(ModelSource("bundled", str(bundled_model), on_hub=False), "cpu")
    messages: list[Message] = [{"role": "user", "content": "Name the capital of France, and say why."}]
    engine = parts.engine
    assert isinstance(engine, Scorer)
    answers = ["Paris.", "The capital of France is Paris, since it was chosen long ago.", "It is <|im_end|> over"]
    scored = await asyncio.gather(*(engine.score(GenerationRequest(messages), each, 99) for each in answers))
    for each, found in zip(scored, plain.score(messages, answers), strict=True):
        assert len(each) == found.tokens
        assert sum(each) == pytest.approx(found.log_likelihood, rel=0.03)  # bf16, other shapes
    assert len(await engine.score(GenerationRequest(messages), answers[1], 3)) == 3


async def test_many_turns_are_left_out_together(parts: Parts) -> None:
    talk = [(f"Number {i} is green.", "Yes.") for i in range(30)]
    found = await attributed(parts, await answered(parts, talk, "Which colour is number 3?"))
    assert len(found.parts) == MAX_PARTS
    assert [i for part in found.parts for i in part.turn_ids] == [
        f"{found.parts[0].turn_ids[0].rpartition('-')[0]}-{i}" for i in range(30)
    ]


async def test_giving_up_frees_the_place(parts: Parts) -> None:
    turn = await answered(parts, TALK, ASKED)
    asking = asyncio.create_task(attributed(parts, turn))
    while not parts.engine.load.running:
        await asyncio.sleep(0.001)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    while parts.engine.load.running:
        await asyncio.sleep(0.01)
    assert (await attributed(parts, turn)).parts


async def test_what_cannot_be_measured_says_why(tmp_path: Path) -> None:
    with wire(Settings(data_dir=tmp_path / "data", cache_scope="off"), ScriptedEngine()) as parts:
        assert not parts.chats.attributes
        turn = await answered(parts, TALK, ASKED)
        with pytest.raises(InvalidInput, match="'scripted' does not say how likely"):
            await attributed(parts, turn)
        with pytest.raises(NotFound):
            await parts.chats.attribution("another", turn.chat_id, turn.turn_id)
        await parts.jobs.close()


async def test_an_answer_of_another_model_is_not_measured(parts: Parts) -> None:
    turn = await answered(parts, TALK, ASKED)
    provenance = replace(turn.provenance, model="another")
    await parts.store.finish_turn(replace(await parts.store.turn("ann", turn.turn_id), provenance=provenance))
    with pytest.raises(InvalidInput, match="another answered it"):
        await attributed(parts, turn)


def test_it_is_said_where_only_the_beginning_of_an_answer_was_scored() -> None:
    effects = (Effect("system", (), 9, -1.0),)
    whole, cut = (Attribution(effects, -9.0, n, "m", 1.0) for n in (12, MAX_TOKENS))
    assert "answer&#8217;s 12 tokens" in mattered_html(whole, ", ".join)
    assert "answer&#8217;s first 256 tokens" in mattered_html(cut, ", ".join)


class Failing(ScriptedEngine):
    """Scores the whole prompt, and fails on those without a part."""

    n_scored = 0

    async def score(self, request: GenerationRequest, answer: str, most_tokens: int) -> tuple[float, ...]:
        self.n_scored += 1
        if self.n_scored > 1:
            raise EngineError("the model went away")
        return (-1.0,)


def test_a_failure_of_the_model_is_told_as_one(tmp_path: Path) -> None:
    with (
        wire(Settings(data_dir=tmp_path / "data", cache_scope="off"), Failing()) as parts,
        api_client(parts) as client,
    ):
        chat_id = client.post("/chat", json={"systemPrompt": "Be brief."}).json()["chatID"]
        turn = client.post(f"/chat/{chat_id}/completion", json={"userMessage": "Hi?"}).json()
        failed = client.get(f"/chat/{chat_id}/turns/{turn['turnID']}/attribution")
        assert (failed.status_code, failed.json()["detail"]) == (502, "the model went away")


def test_over_rest(tmp_path: Path, engine: Any) -> None:
    with (
        wire(Settings(data_dir=tmp_path / "data", cache_scope="off"), engine) as parts,
        api_client(parts) as client,
    ):
        chat_id = client.post("/chat", json={"systemPrompt": "Answer in one word."}).json()["chatID"]
        ask = {"userMessage": "What is the capital of France?", "params": {"temperature": 0, "maxNewTokens": 8}}
        turn = client.post(f"/chat/{chat_id}/completion", json=ask).json()
        path = f"/chat/{chat_id}/turns/{turn['turnID']}/attribution"
        found = client.get(path).json()
        assert [(part["kind"], part["turnIDs"]) for part in found["parts"]] == [("system", [])]
        assert found["logLikelihood"] < 0
        assert client.get(path, headers={"X-User-ID": "another"}).status_code == 404
