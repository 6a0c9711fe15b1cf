"""Finding evicted turns: by meaning and by words, those of the path alone; without them when something is broken."""

import asyncio
import shutil
import sys
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from chatlab.chat import ChatService, TurnRequest
from chatlab.engines.base import Engine
from chatlab.errors import ModelUnavailable, VectorsUnavailable
from chatlab.history import Recall, lexical
from chatlab.history import recall as recall_module
from chatlab.history.lexical import LexicalIndex, terms
from chatlab.history.passages import LONG_CHARS, passages_of, split
from chatlab.history.quotes import line_of
from chatlab.history.recall import combined
from chatlab.messages import CacheChoice, HistoryChoice, PromptProvenance, SamplingParams, StrategyName, Turn
from chatlab.settings import Settings
from chatlab.wiring import Parts, wire
from tests.conftest import ScriptedEngine, ask, new_chat, text_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SAID = [
    ("My sister Ana moved to Lisbon last spring.", "How nice! Does she like the city?"),
    ("What is a good soup for winter?", "Try leek and potato."),
    ("I adopted a puppy, a beagle called Biscuit.", "Congratulations! Beagles love to sniff around."),
    ("How do I sort a list in Python?", "Use sorted(values) or values.sort()."),
    ("My dentist appointment is on the 14th at nine.", "I will keep that in mind."),
    ("Recommend a film about the sea.", "Master and Commander, perhaps."),
]


def turns(said: list[tuple[str, str]] = SAID) -> list[Turn]:
    return [
        Turn(f"t{i}", "c", "u", f"t{i - 1}" if i else None, asked, NOW, assistant_message=answer, status="done")
        for i, (asked, answer) in enumerate(said)
    ]


# What is searched


def test_a_long_message_is_parted_without_a_loss() -> None:
    text = "\n\n".join(f"Paragraph {i}. " + "Some words follow here. " * (i % 40) for i in range(40)) + "x" * 3_000
    parts = split(text)
    assert "".join(parts) == text
    assert max(map(len, parts)) <= LONG_CHARS
    assert split("short") == ("short",)


def test_terms_are_stems_without_stop_words_in_any_script() -> None:
    assert terms("The painted paintings, and what did she paint?") == ["paint", "paint", "paint"]
    assert terms("Größe über 12") == ["größe", "über", "12"]
    assert terms("猫が好き") == ["猫が", "が好", "好き"]
    assert terms("Python怎么用 猫") == ["python", "怎么", "么用", "猫"]
    assert terms("नमस्ते दुनिया") == ["नमस्ते", "दुनिया"]
    assert terms("and you?") == []


def test_searches_at_the_same_time_agree_on_words() -> None:
    """The stemmer keeps the word that it works on."""
    words = [f"{stem}{ending}{i}ings" for i in range(400) for stem in ("walk", "paint") for ending in ("ed", "al")]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(terms, [" ".join(words[i:] + words[:i]) for i in range(0, 1_600, 200)]))
    finally:
        sys.setswitchinterval(before)
    lexical._stem.cache_clear()
    alone = sorted(terms(" ".join(words)))
    assert all(sorted(each) == alone for each in found)


@pytest.mark.parametrize("text", ["<" + " " * 100_000, "< " * 50_000, "\n \t" * 50_000 + "x", " " * 100_000 + "\n"])
def test_no_text_takes_long_to_quote(text: str) -> None:
    passage = replace(next(passages_of(turns()[0])), text="a" + text + "b")
    began = time.process_time()
    line_of(passage)
    assert time.process_time() - began < 0.5, "it would be minutes if it grew with the square"


def test_bm25_is_okapis() -> None:
    """Computed by hand: idf ln(1 + (3 - 1 + .5) / (1 + .5)), one occurrence in 2 of 2 average terms."""
    index = LexicalIndex()
    for text in ("red house", "blue house", "green tree"):
        index.add(terms(text))
    idf = np.log(1 + 2.5 / 1.5)
    assert index.scores(terms("tree")) == pytest.approx([0, 0, idf])
    assert index.scores(terms("nothing of it")) == pytest.approx([0, 0, 0])


def test_neighbours_share_a_score_within_a_sitting() -> None:
    words = np.array([0, 0, 0, 9.0, 0, 0, 0, 0])
    nothing = np.full(8, np.nan)
    scores = combined(words, nothing, np.array([0, 0, 0, 0, 1, 1, 1, 1]))
    assert scores[2] == pytest.approx(scores[3] / 2)
    assert scores[1] == pytest.approx(scores[3] / 4)
    assert not scores[4:].any()


def test_nothing_bears_on_a_question_that_nothing_is_like() -> None:
    assert not combined(np.array([0, 0.4, 0]), np.array([0.1, 0.2, np.nan]), np.zeros(3, int)).any()


# Searching


async def test_by_meaning_and_by_words(recall: Recall) -> None:
    path = turns()
    await recall.index("c", path)
    for question, expected in (
        ("Where does my sibling live now?", "t0"),  # no word in common
        ("When must I see the dentist?", "t4"),
        ("What is my dog's name?", "t2"),
    ):
        found = await recall.search("c", path, question)
        assert found[0].ref.turn_id == expected, question


async def test_by_words_alone_where_there_are_no_vectors(recall: Recall) -> None:
    for chat_id in (None, "never indexed"):
        found = await recall.search(chat_id, turns(), "When must I see the dentist?")
        assert found[0].ref.turn_id == "t4"


async def test_only_the_turns_asked_about_are_found(recall: Recall) -> None:
    path = turns()
    await recall.index("c", path)
    other = replace(path[2], turn_id="edited", user_message="I adopted a kitten called Socks.")
    await recall.index("c", [*path[:2], other])
    for branch in (path, [*path[:2], other], path):
        found = await recall.search("c", branch, "What is my pet's name?")
        assert found[0].ref.turn_id == branch[2].turn_id
        assert {passage.ref.turn_id for passage in found} <= {turn.turn_id for turn in branch}
    assert "t2" not in {p.ref.turn_id for p in await recall.search("c", [*path[:2], *path[3:]], "A beagle puppy?")}


async def test_a_turn_is_embedded_once_and_unanswered_ones_not_at_all(recall: Recall) -> None:
    path = [
        *turns(),
        replace(turns()[0], turn_id="failed", assistant_message=""),
        replace(turns()[0], turn_id="live", status="running"),
    ]
    await recall.index("c", path)
    n = len(recall._vectors._waiting)
    assert n == sum(len(list(passages_of(turn))) for turn in turns())
    await recall.index("c", path)
    again = Recall(recall.embedder, recall._vectors)
    await again.index("c", path)
    assert len(recall._vectors._waiting) == n


async def test_what_an_interrupted_turn_lacks_is_embedded_later(
    recall: Recall, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = replace(turns()[0], assistant_message="A sentence of some length about whales. " * 400)
    passages = [passage.ref.key for passage in passages_of(long)]
    add, calls = recall._vectors.add, 0

    async def failing(*args: Any) -> None:
        nonlocal calls
        if (calls := calls + 1) == 3:
            raise VectorsUnavailable("the disk is full")
        await add(*args)

    monkeypatch.setattr(recall._vectors, "add", failing)
    with pytest.raises(VectorsUnavailable):
        await recall.index("c", [long])
    assert 0 < len(await recall._vectors.keys("c")) < len(passages)
    await recall.index("c", [long])
    assert await recall._vectors.keys("c") == set(passages)
    assert len(recall._vectors._waiting) + await stored(recall) == len(passages), "none of them twice"


async def stored(recall: Recall) -> int:
    table = await recall._vectors._opened()
    return 0 if table is None else await table.count_rows()


async def test_vectors_that_went_missing_are_noticed_and_made_again(recall: Recall, tmp_path: Path) -> None:
    await recall.index("c", turns())
    await recall._vectors.flush()
    shutil.rmtree(tmp_path / "vectors")
    with pytest.raises(VectorsUnavailable):
        await recall.search("c", turns(), "What is my dog's name?")
    await recall.index("c", turns())
    await recall._vectors.flush()
    found = await recall.search("c", turns(), "Where does my sibling live now?")
    assert found[0].ref.turn_id == "t0"
    assert len(await recall._vectors.keys("c")) == 2 * len(SAID)


async def test_an_embedder_that_does_not_answer_is_not_waited_for(
    recall: Recall, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recall_module, "EMBED_SECONDS", 0.05)

    async def embed(texts: object) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(recall.embedder, "embed", embed)
    with pytest.raises(ModelUnavailable, match="has not answered"):
        await recall.search("c", turns(), "What is my dog's name?")


# In a chat


def prompt_of(turn: Turn) -> PromptProvenance:
    assert turn.provenance.prompt is not None
    return turn.provenance.prompt


@pytest.fixture
def engine() -> ScriptedEngine:
    return ScriptedEngine(["Noted."], context_tokens=1_800)


@pytest.fixture
async def talking(settings: Settings, engine: ScriptedEngine) -> AsyncIterator[Parts]:
    with wire(settings, engine) as parts:
        yield parts
        await parts.jobs.close()


async def said(parts: Parts, chat_id: str, message: str, history: HistoryChoice | None = None) -> Turn:
    turn = await parts.chats.begin("u", chat_id, TurnRequest(message, history=history))
    ended = await parts.chats.wait("u", turn.turn_id)
    await quiet(parts.chats)
    return ended


async def quiet(chats: ChatService) -> None:
    while not chats._preparation.idle:
        await asyncio.sleep(0.01)


async def long_chat(parts: Parts, strategy: StrategyName = "hybrid") -> str:
    """A chat whose first turn, on a beagle, is evicted."""
    history = HistoryChoice(strategy)
    chat = await parts.chats.create_chat(lambda chat: replace(chat, history=history, cache=CacheChoice("off")), "u")
    await said(parts, chat.chat_id, "I adopted a puppy, a beagle called Biscuit.")
    for i in range(9):
        await said(parts, chat.chat_id, f"Tell me more of subject {i}. " + "Please. " * 20)
    return chat.chat_id


async def test_an_evicted_turn_comes_back_when_it_matters(talking: Parts, engine: ScriptedEngine) -> None:
    chat_id = await long_chat(talking)
    turn = await said(talking, chat_id, "What is the name of my dog?")
    prompt = prompt_of(turn)
    first = (await talking.chats.conversation("u", chat_id)).turns[0].turn_id
    kinds = [part.kind for part in prompt.parts if part.kind != "summary"]  # there may be a note by now
    assert kinds == ["verbatim", "retrieved", "question"]
    assert first in prompt.turn_ids_in("retrieved")
    assert first not in prompt.dropped_turn_ids
    assert "Biscuit" in engine.seen[-1].messages[-1]["content"]
    seen = await talking.chats.prompt("u", chat_id, turn.turn_id)
    assert seen.messages == tuple(engine.seen[-1].messages)
    # The next prompt carries the question without the quotes.
    await said(talking, chat_id, "Thanks!")
    assert "What is the name of my dog?" in [message["content"] for message in engine.seen[-1].messages]


async def test_the_strategy_is_chosen_a_request_and_at_any_time(talking: Parts, engine: ScriptedEngine) -> None:
    chat_id = await long_chat(talking, "truncate")
    assert not (talking.settings.data_dir / "vectors").exists()
    question = "What is the name of my beagle?"
    choices: list[tuple[StrategyName, bool]] = [("hybrid", True), ("truncate", False), ("hybrid", True)]
    for strategy, found in choices:
        turn = await said(talking, chat_id, question, history=HistoryChoice(strategy))
        assert prompt_of(turn).strategy == strategy
        assert ("Biscuit" in engine.seen[-1].messages[-1]["content"]) == found


async def test_the_next_prompts_beginning_is_prepared(talking: Parts, engine: ScriptedEngine) -> None:
    chat_id = await long_chat(talking)
    for question in ("What is the name of my dog?", "And its breed?", "x" * 300, "Thanks!"):
        await said(talking, chat_id, question)
        prepared = engine.warmed[-1].messages
        await said(talking, chat_id, "What was my beagle called?")
        sent = engine.seen[-1].messages
        assert list(sent[: len(prepared)]) == list(prepared)
        assert len(sent) == len(prepared) + 1
        assert engine.warmed[-1].user_id == "u"


async def test_an_engine_computes_little_more_than_quotes_and_question(
    settings: Settings, start_small: Callable[..., Engine]
) -> None:
    """With real keys and values: whatever was recalled, and evicted, the rest of the prompt is there already."""
    with wire(settings, start_small()) as parts:
        history = HistoryChoice("hybrid", 600)
        chat = await parts.chats.create_chat(
            lambda chat: replace(chat, history=history, params=SamplingParams(max_new_tokens=20)), "u"
        )
        await said(parts, chat.chat_id, "I adopted a puppy, a beagle called Biscuit.")
        recalled, evicted = 0, set[str]()
        for i in range(16):
            question = f"More of subject {i}. " + "Please. " * 20 if i % 3 else "What is the name of my beagle?"
            turn = await said(parts, chat.chat_id, question)
            while parts.engine._warms or parts.engine._scheduler.warming:  # pyright: ignore[reportAttributeAccessIssue]
                await asyncio.sleep(0.01)
            prompt = prompt_of(turn)
            known = sum(part.tokens for part in prompt.parts if part.kind == "verbatim")
            assert (turn.provenance.usage.reused_prefix_tokens or 0) >= 0.9 * known
            recalled += "retrieved" in {part.kind for part in prompt.parts}
            evicted |= {*prompt.dropped_turn_ids}
        assert recalled >= 2
        assert evicted
        await parts.jobs.close()


async def test_a_deleted_chats_vectors_go_with_it(talking: Parts) -> None:
    chat_id, other = await long_chat(talking), await long_chat(talking)
    vectors = talking.recall._vectors
    await vectors.flush()
    await talking.chats.delete_chat("u", chat_id)
    assert await vectors.keys(chat_id) == set()
    assert len(await vectors.keys(other)) == 20


async def test_what_a_crash_left_is_swept_after_the_next_start(talking: Parts) -> None:
    await talking.recall.index("deleted before the crash", turns())
    await talking.recall._vectors.flush()
    await long_chat(talking)
    assert await talking.recall._vectors.keys("deleted before the crash") == set()


async def test_a_chat_deleted_while_it_is_indexed_leaves_nothing(talking: Parts) -> None:
    vectors = talking.recall._vectors
    for i in range(12):
        chat = await talking.chats.create_chat(lambda chat: replace(chat, history=HistoryChoice("hybrid")), "u")
        turn = await talking.chats.begin("u", chat.chat_id, TurnRequest("A word about whales. " * 400))
        await talking.chats.wait("u", turn.turn_id)
        await asyncio.sleep(0.02 * i)
        await talking.chats.delete_chat("u", chat.chat_id)
        assert await vectors.keys(chat.chat_id) == set()
    await quiet(talking.chats)
    await vectors.flush()
    assert await stored(talking.recall) == 0


@pytest.mark.parametrize("broken", ["corrupt", "unwritable"])
async def test_a_broken_vector_store_makes_it_truncate(talking: Parts, engine: ScriptedEngine, broken: str) -> None:
    if broken == "unwritable":
        (talking.settings.data_dir / "vectors").write_text("in the way")
    chat_id = await long_chat(talking)
    vectors = talking.recall._vectors
    with suppress(VectorsUnavailable):  # as it does by itself after a second
        await vectors.flush()
    if broken == "corrupt":
        for file in (talking.settings.data_dir / "vectors").rglob("*"):
            if file.is_file():
                file.write_bytes(b"broken")
        vectors._table = None
    turn = await said(talking, chat_id, "What is the name of my dog?")
    assert turn.status == "done"
    prompt = prompt_of(turn)
    assert prompt.strategy == "truncate"
    assert prompt.fault is not None
    assert prompt.fault.startswith("hybrid: LanceDB cannot ")
    assert "retrieved" not in {part.kind for part in prompt.parts}
    assert b'chatlab_faults_total{chatlab_part="recall"' in talking.metrics.prometheus()


async def test_an_embedder_that_cannot_be_loaded_does_so_too(settings: Settings, engine: ScriptedEngine) -> None:
    with wire(settings.model_copy(update={"embedder": "/nowhere"}), engine) as parts:
        chat_id = await long_chat(parts)
        prompt = prompt_of(await said(parts, chat_id, "What is the name of my dog?"))
        assert prompt.strategy == "truncate"
        assert prompt.fault == "hybrid: the embedder cannot be loaded"
        await parts.jobs.close()


# Pinning


async def test_a_pinned_turn_is_seen_by_every_later_one(talking: Parts, engine: ScriptedEngine) -> None:
    chat_id = await long_chat(talking, "truncate")
    first = (await talking.chats.conversation("u", chat_id)).turns[0]
    assert first.turn_id in prompt_of(await said(talking, chat_id, "Well?")).dropped_turn_ids
    pinned = await talking.chats.pin("u", chat_id, first.turn_id, True)
    assert pinned.pinned
    prompt = prompt_of(await said(talking, chat_id, "Well?"))
    assert next(part.turn_ids for part in prompt.parts if part.kind == "pinned") == (first.turn_id,)
    assert engine.seen[-1].messages[0]["content"] == first.user_message
    await talking.chats.pin("u", chat_id, first.turn_id, False)
    assert first.turn_id in prompt_of(await said(talking, chat_id, "Well?")).dropped_turn_ids


def test_pinning_over_http(client: TestClient) -> None:
    chat_id = new_chat(client)
    turn_id = ask(client, chat_id, "Hello")[-1].data["turnID"]
    url = f"/chat/{chat_id}/turns/{turn_id}"
    assert client.get(f"/chat/{chat_id}").json()["turns"][0]["pinned"] is False
    assert client.patch(url, json={"pinned": True}).json()["pinned"] is True
    assert client.get(f"/completions/{turn_id}").json()["pinned"] is True
    assert client.patch(url, json={"pinned": 1}).status_code == 422
    assert client.patch(url, json={}).status_code == 422
    assert client.patch(url, json={"pinned": True}, headers={"X-User-ID": "other"}).status_code == 404


def test_hybrid_over_http(client: TestClient) -> None:
    chat_id = new_chat(client, history={"strategy": "hybrid", "budgetTokens": 300})
    ask(client, chat_id, "I adopted a puppy, a beagle called Biscuit.")
    for i in range(12):
        assert ask(client, chat_id, f"Tell me more of subject {i}. " + "Please. " * 8)[-1].name == "done"
    sent = ask(client, chat_id, "Which beagle did I adopt?")
    assert text_of(sent) == "Which beagle did I adopt?", "the echo says the user's words alone"
    prompt = sent[-1].data["provenance"]["prompt"]
    assert prompt["strategy"] == "hybrid"
    assert prompt["fault"] is None
    assert prompt["promptTokens"] <= 300
    assert "retrieved" in {part["kind"] for part in prompt["parts"]}


def test_hybrid_over_v1(client: TestClient) -> None:
    model = client.get("/v1/models").json()["data"][0]["id"]
    messages = [
        {"role": "user", "content": "I adopted a puppy, a beagle called Biscuit."},
        {"role": "assistant", "content": "Nice"},
    ]
    for i in range(12):
        messages += [
            {"role": "user", "content": f"More of {i}. " + "Please. " * 8},
            {"role": "assistant", "content": "Fine"},
        ]
    messages.append({"role": "user", "content": "Which beagle did I adopt?"})
    body = {"model": model, "messages": messages, "chatlab": {"history": {"strategy": "hybrid", "budget_tokens": 100}}}
    answer = client.post("/v1/chat/completions", json=body).json()
    prompt = answer["chatlab"]["provenance"]["prompt"]
    assert "retrieved" in {part["kind"] for part in prompt["parts"]}
    assert "0" in next(part["turn_ids"] for part in prompt["parts"] if part["kind"] == "retrieved")
