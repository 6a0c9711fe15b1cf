"""The REST routes: their answers, their failures, and what a stream looks like."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from chatlab.settings import Settings
from chatlab.wiring import Parts, wire
from tests.conftest import ScriptedEngine, api_client, ask, events, new_chat, text_of

SLOW = " ".join(["slow"] * 400)


@pytest.fixture
def slow_client(tmp_path: Path) -> Iterator[TestClient]:
    """A server whose answers take their time, with room for three."""
    settings = Settings(data_dir=tmp_path / "data", engine="echo", echo_tokens_per_second=50, queue_limit=3)
    with wire(settings) as parts, api_client(parts) as client:
        yield client


def begin(client: TestClient, chat_id: str, message: str = SLOW) -> str:
    """Begin a turn without waiting for it; its id."""
    answer = client.post(
        f"/chat/{chat_id}/completion", json={"userMessage": message}, headers={"Prefer": "respond-async"}
    )
    assert answer.status_code == 202, answer.text
    assert answer.headers["Location"] == f"/completions/{answer.json()['turnID']}"
    return answer.json()["turnID"]


def wait(client: TestClient, turn_id: str, text: str = "") -> dict[str, Any]:
    """The turn once it has text, or has ended."""
    for _ in range(200):
        turn = client.get(f"/completions/{turn_id}").json()
        if turn["status"] not in ("queued", "running") or (text and text in (turn["assistantMessage"] or "")):
            return turn
        time.sleep(0.02)
    raise TimeoutError(turn_id)


def test_a_chat_has_its_defaults(client: TestClient) -> None:
    answer = client.post("/chat", json={})
    assert answer.status_code == 201
    chat = answer.json()
    assert chat["userID"] == "local"
    assert chat["history"] == {"strategy": "truncate", "budgetTokens": None}
    assert chat["cache"] == {"scope": "off"}
    assert chat["pinned"] is False
    assert chat["archived"] is False
    assert set(chat["params"].values()) == {None}
    assert chat["createdAt"] == chat["updatedAt"]
    assert chat["createdAt"].endswith("Z")
    assert client.get(f"/chat/{chat['chatID']}").json() == {**chat, "turns": []}


def test_a_turn_says_where_it_came_from(client: TestClient) -> None:
    chat_id = new_chat(client, systemPrompt="Be brief.")
    turn = client.post(f"/chat/{chat_id}/completion", json={"userMessage": "hello  there"}).json()
    assert turn["assistantMessage"] == "hello  there"
    assert (turn["status"], turn["source"], turn["finishReason"], turn["error"]) == ("done", "model", "stop", None)
    provenance = turn["provenance"]
    assert (provenance["model"], provenance["engine"]) == ("echo", "echo")
    assert [part["kind"] for part in provenance["prompt"]["parts"]] == ["system", "question"]
    assert sum(part["tokens"] for part in provenance["prompt"]["parts"]) == provenance["prompt"]["promptTokens"]
    assert provenance["usage"]["completionTokens"] == 2
    assert 0 < provenance["timing"]["ttftMs"] <= provenance["timing"]["totalMs"]
    prompt = client.get(f"/chat/{chat_id}/turns/{turn['turnID']}/prompt").json()
    assert prompt["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hello  there"},
    ]
    assert prompt["promptTokens"] == provenance["prompt"]["promptTokens"]


def test_a_stream_has_a_status_deltas_and_one_end(client: TestClient) -> None:
    chat_id = new_chat(client)
    sent = ask(client, chat_id, "one two  three\nfour ")
    assert [event.id for event in sent] == list(range(1, len(sent) + 1))
    assert [event.name for event in sent] == ["status", *["delta"] * 5, "done"]
    assert sent[0].data == {
        "turnID": sent[-1].data["turnID"],
        "chatID": chat_id,
        "state": "running",
        "position": 0,
    }
    assert text_of(sent) == "one two  three\nfour "
    assert sent[-1].data == client.get(f"/completions/{sent[-1].data['turnID']}").json()


def test_events_resume_and_replay(client: TestClient) -> None:
    chat_id = new_chat(client)
    sent = ask(client, chat_id, "a b c")
    turn_id = sent[-1].data["turnID"]
    for after in range(len(sent) + 1):
        with client.stream("GET", f"/completions/{turn_id}/events", headers={"Last-Event-ID": str(after)}) as answer:
            assert list(events(answer.iter_lines())) == sent[after:]
    assert client.get(f"/completions/{turn_id}/events", headers={"Last-Event-ID": "x"}).status_code == 422


def test_a_replay_after_the_log_is_gone_begins_again(settings: Settings) -> None:
    with wire(settings) as parts, api_client(parts) as client:
        sent = ask(client, new_chat(client), "a b c")
    turn_id = sent[-1].data["turnID"]
    with wire(settings) as parts, api_client(parts) as client:
        for after, names in ((0, ["status", "delta", "done"]), (3, ["restart", "delta", "done"])):
            with client.stream(
                "GET", f"/completions/{turn_id}/events", headers={"Last-Event-ID": f"{after}"}
            ) as answer:
                replay = list(events(answer.iter_lines()))
            assert [event.name for event in replay] == names
            assert [event.id for event in replay] == [after + 1, after + 2, after + 3]
            assert text_of(replay) == "a b c"


def test_stop_keeps_the_text_and_is_idempotent(slow_client: TestClient) -> None:
    chat_id = new_chat(slow_client)
    turn_id = begin(slow_client, chat_id)
    wait(slow_client, turn_id, "slow slow")
    stopped = slow_client.post(f"/completions/{turn_id}/stop").json()
    assert stopped["status"] == "stopped"
    assert 0 < len(stopped["assistantMessage"]) < len(SLOW)
    assert SLOW.startswith(stopped["assistantMessage"])
    assert slow_client.post(f"/completions/{turn_id}/stop").json() == stopped
    with slow_client.stream("GET", f"/completions/{turn_id}/events") as answer:
        *_, last = events(answer.iter_lines())
    assert (last.name, last.data) == ("done", stopped)
    # The chat goes on with the partial text in its history.
    following = begin(slow_client, chat_id, "go on")
    assert wait(slow_client, following)["status"] == "done"
    prompt = slow_client.get(f"/chat/{chat_id}/turns/{following}/prompt").json()
    assert prompt["messages"][1] == {"role": "assistant", "content": stopped["assistantMessage"]}


def test_a_busy_chat_is_409_and_a_full_queue_429(slow_client: TestClient) -> None:
    chats = [new_chat(slow_client) for _ in range(4)]
    begin(slow_client, chats[0])
    answer = slow_client.post(f"/chat/{chats[0]}/completion", json={"userMessage": "again"})
    assert answer.status_code == 409
    assert answer.headers["content-type"] == "application/problem+json"
    begin(slow_client, chats[1])
    begin(slow_client, chats[2])
    full = slow_client.post(f"/chat/{chats[3]}/completion", json={"userMessage": "one too many"})
    assert full.status_code == 429
    assert int(full.headers["Retry-After"]) > 0
    assert slow_client.get(f"/chat/{chats[3]}").json()["turns"] == [], "a refused message must not be stored"
    compatible = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    assert slow_client.post("/v1/chat/completions", json=compatible).status_code == 429


def test_deleting_a_chat_ends_its_answer(slow_client: TestClient) -> None:
    chat_id = new_chat(slow_client)
    turn_id = begin(slow_client, chat_id)
    assert slow_client.delete(f"/chat/{chat_id}").status_code == 204
    assert slow_client.delete(f"/chat/{chat_id}").status_code == 404
    for path in (f"/chat/{chat_id}", f"/completions/{turn_id}", f"/completions/{turn_id}/events"):
        assert slow_client.get(path).status_code == 404
    assert slow_client.get("/readyz").status_code == 200


def test_a_failing_engine_is_502_and_an_error_event(settings: Settings, failing_engine: ScriptedEngine) -> None:
    with wire(settings, failing_engine) as parts, api_client(parts) as client:
        chat_id = new_chat(client)
        answer = client.post(f"/chat/{chat_id}/completion", json={"userMessage": "hello"})
        assert answer.status_code == 502
        assert answer.json()["detail"] == "the model went away"
        turn = client.get(f"/completions/{answer.json()['turnID']}").json()
        assert (turn["status"], turn["assistantMessage"]) == ("failed", "Half")
        sent = ask(client, chat_id, "again")
        assert [event.name for event in sent] == ["status", "delta", "error"]
        assert sent[-1].data["turnID"] == sent[0].data["turnID"]
        assert sent[-1].data["status"] == 502
        compatible = {"model": "scripted", "messages": [{"role": "user", "content": "hi"}]}
        assert client.post("/v1/chat/completions", json=compatible).status_code == 502


def test_branches(client: TestClient) -> None:
    chat_id = new_chat(client)
    first = ask(client, chat_id, "first")[-1].data
    second = ask(client, chat_id, "second")[-1].data
    other = ask(client, chat_id, "other second", parentTurnID=first["turnID"])[-1].data
    root = ask(client, chat_id, "new root", parentTurnID=None)[-1].data
    newest = ask(client, chat_id, "newest")[-1].data
    assert [t["parentTurnID"] for t in (first, second, other, root, newest)] == [
        None,
        first["turnID"],
        first["turnID"],
        None,
        root["turnID"],
    ]
    turns = client.get(f"/chat/{chat_id}").json()["turns"]
    assert [t["userMessage"] for t in turns] == ["first", "second", "other second", "new root", "newest"]
    prompt = client.get(f"/chat/{chat_id}/turns/{other['turnID']}/prompt").json()
    assert [m["content"] for m in prompt["messages"]] == ["first", "first", "other second"]
    refused = client.post(f"/chat/{chat_id}/completion", json={"userMessage": "x", "parentTurnID": "nowhere"})
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["field"] == "parentTurnID"


def test_patch_changes_what_is_sent(client: TestClient) -> None:
    chat_id = new_chat(client, title="One", systemPrompt="Be kind.", params={"topK": 3, "stop": ["END"]})
    path = f"/chat/{chat_id}"
    changed = client.patch(path, json={"title": "Two", "pinned": True, "history": {"budgetTokens": 99}}).json()
    assert (changed["title"], changed["pinned"], changed["systemPrompt"]) == ("Two", True, "Be kind.")
    assert changed["history"] == {"strategy": "truncate", "budgetTokens": 99}
    assert changed["params"]["stop"] == ["END"]
    again = client.patch(path, json={"history": {"strategy": "direct"}, "systemPrompt": None, "params": None}).json()
    assert again["history"] == {"strategy": "direct", "budgetTokens": 99}
    assert again["systemPrompt"] is None
    assert set(again["params"].values()) == {None}
    assert client.get(path).json() == {**again, "turns": []}
    for body in ({"userID": "eve"}, {"pinned": None}, {"params": {"topK": -1}}):
        assert client.patch(path, json=body).status_code == 422


def test_chats_are_listed_newest_first_in_pages(client: TestClient) -> None:
    ids = [new_chat(client, title=f"Chat {i}") for i in range(7)]
    ask(client, ids[2], "this one moves up")
    expected = [ids[2], *reversed([i for i in ids if i != ids[2]])]
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = client.get("/chats", params={"limit": 3, **({"cursor": cursor} if cursor else {})}).json()
        found += [chat["chatID"] for chat in page["chats"]]
        if (cursor := page["nextCursor"]) is None:
            break
    assert found == expected


@pytest.mark.parametrize(
    ("q", "n"),
    [("paris", 1), ("PARIS", 1), ("100%", 1), ("%", 1), ("a_b", 1), ("titled", 1), ("nothing", 0), ("\\", 0)],
)
def test_search_finds_titles_and_messages(client: TestClient, q: str, n: int) -> None:
    ask(client, new_chat(client), "I went to Paris, 100% sure")
    ask(client, new_chat(client), "the name is a_b, not axb")
    new_chat(client, title="Titled")
    assert len(client.get("/chats", params={"q": q}).json()["chats"]) == n


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"userMessage": ""}, "userMessage"),
        ({"userMessage": " \n"}, "userMessage"),
        ({"userMessage": 7}, "userMessage"),
        ({"userMessage": "a\x00b"}, "userMessage"),
        ({}, "userMessage"),
        ({"userMessage": "x", "unknown": 1}, "unknown"),
        ({"userMessage": "x", "parent_turn_id": None}, "parent_turn_id"),
        ({"userMessage": "x", "history": {"budget_tokens": 9}}, "history.budget_tokens"),
        ({"userMessage": "x", "stream": "yes"}, "stream"),
        ({"userMessage": "x", "params": {"temperature": 3}}, "params.temperature"),
        ({"userMessage": "x", "params": {"topP": -0.1}}, "params.topP"),
        ({"userMessage": "x", "params": {"maxNewTokens": 0}}, "params.maxNewTokens"),
        ({"userMessage": "x", "params": {"stop": [""]}}, "params.stop.0"),
        ({"userMessage": "x", "params": {"seed": "1"}}, "params.seed"),
        ({"userMessage": "x", "history": {"strategy": "magic"}}, "history.strategy"),
        ({"userMessage": "x", "history": {"budgetTokens": 0}}, "history.budgetTokens"),
        ({"userMessage": "x", "cache": {"scope": "everyone"}}, "cache.scope"),
        ({"userMessage": "x" * 200_001}, "userMessage"),
    ],
)
def test_bad_input_names_the_field(client: TestClient, body: dict[str, object], field: str) -> None:
    chat_id = new_chat(client)
    answer = client.post(f"/chat/{chat_id}/completion", json=body)
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert [error["field"] for error in answer.json()["errors"]] == [field]
    assert client.get(f"/chat/{chat_id}").json()["turns"] == []


def test_a_lone_surrogate_and_broken_json_are_422(client: TestClient) -> None:
    chat_id = new_chat(client)
    for content in (b'{"userMessage": "\\ud800"}', b'{"userMessage": ', b"\xff\xfe"):
        headers = {"Content-Type": "application/json"}
        answer = client.post(f"/chat/{chat_id}/completion", content=content, headers=headers)
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["field"] in ("body", "userMessage")


def test_a_large_body_is_413_however_it_is_sent(client: TestClient) -> None:
    content = json.dumps({"title": "x" * 5_000_000}).encode()
    headers = {"Content-Type": "application/json"}
    assert client.post("/chat", content=content, headers=headers).status_code == 413
    pieces = (content[i : i + 65_536] for i in range(0, len(content), 65_536))
    answer = client.post("/chat", content=pieces, headers=headers)
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert client.get("/chats").json()["chats"] == []


def test_direct_that_no_longer_fits_is_422_before_anything_runs(client: TestClient) -> None:
    chat_id = new_chat(client, history={"strategy": "direct", "budgetTokens": 30})
    ask(client, chat_id, "ten words " * 5)
    answer = client.post(f"/chat/{chat_id}/completion", json={"userMessage": "ten words " * 5})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"] == "history.strategy"
    assert len(client.get(f"/chat/{chat_id}").json()["turns"]) == 1
    truncated = ask(client, chat_id, "ten words " * 5, history={"strategy": "truncate"})[-1].data
    assert len(truncated["provenance"]["prompt"]["droppedTurnIDs"]) == 1
    assert truncated["provenance"]["prompt"]["promptTokens"] <= 30


def test_feedback(client: TestClient, settings: Settings) -> None:
    chat_id = new_chat(client)
    turn_id = ask(client, chat_id, "hello")[-1].data["turnID"]
    path = f"/chat/{chat_id}/turns/{turn_id}/feedback"
    assert client.post(path, json={"rating": 1}).status_code == 204
    assert client.post(path, json={"rating": -1, "reason": "wrong"}).status_code == 204
    assert client.post(path, json={"rating": 0}).status_code == 422
    assert client.post(f"/chat/{chat_id}/turns/nope/feedback", json={"rating": 1}).status_code == 404
    verdict = {"rating": -1, "reason": "wrong"}
    assert client.get(f"/completions/{turn_id}").json()["feedback"] == verdict
    other = ask(client, chat_id, "unrated")[-1].data
    assert other["feedback"] is None
    turns = client.get(f"/chat/{chat_id}").json()["turns"]
    assert [turn["feedback"] for turn in turns] == [verdict, None]


def test_archived_and_pinned_chats_are_listed_apart(client: TestClient) -> None:
    archived, pinned, plain = (new_chat(client) for _ in range(3))
    assert client.patch(f"/chat/{archived}", json={"archived": True}).json()["archived"] is True
    client.patch(f"/chat/{pinned}", json={"pinned": True})

    def listed(**query: str) -> list[str]:
        return [chat["chatID"] for chat in client.get("/chats", params=query).json()["chats"]]

    assert set(listed()) == {archived, pinned, plain}
    assert listed(archived="true") == [archived]
    assert listed(archived="false") == [pinned, plain]
    assert listed(archived="false", pinned="false") == [plain]
    assert client.get("/chats", params={"archived": "maybe"}).status_code == 422
    assert client.patch(f"/chat/{archived}", json={"archived": None}).status_code == 422
    assert client.patch(f"/chat/{archived}", json={"archived": False}).json()["archived"] is False


def test_a_discarded_chat_is_not_found(parts: Parts, client: TestClient) -> None:
    chat_id = new_chat(client)
    turn_id = ask(client, chat_id, "hello")[-1].data["turnID"]
    assert client.portal is not None
    client.portal.call(parts.chats.discard_chat, "local", chat_id)
    for path in (f"/chat/{chat_id}", f"/completions/{turn_id}", f"/completions/{turn_id}/events"):
        assert client.get(path).status_code == 404
    assert client.delete(f"/chat/{chat_id}").status_code == 404
    assert client.get("/chats").json()["chats"] == []


def test_health_metrics_and_docs(client: TestClient) -> None:
    ask(client, new_chat(client), "count me")
    assert client.get("/healthz").json()["status"] == "ok"
    assert client.get("/readyz").json()["checks"] == {"store": "ok", "engine": "ok"}
    metrics = client.get("/metrics").text
    counted = [line for line in metrics.splitlines() if line.startswith("chatlab_turns_total{")]
    assert len(counted) == 1
    assert counted[0].endswith(" 1.0")
    assert "gen_ai_server_time_to_first_token_seconds_bucket" in metrics
    assert 'gen_ai_token_type="output"' in metrics
    paths = client.get("/openapi.json").json()["paths"]
    assert "/chat/{chatID}/completion" in paths
    assert not [path for path in paths if "gradio" in path]
    assert client.get("/docs/assets/swagger-ui-bundle.js").status_code == 200
    assert "//cdn" not in client.get("/docs").text
