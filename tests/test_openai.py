"""The OpenAI-compatible routes, driven by the `openai` client against a running server."""

from collections.abc import Iterator

import numpy as np
import openai
import pytest
from fastapi.testclient import TestClient
from openai.types.chat import ChatCompletionMessageParam

from tests.conftest import StartServer

MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Say this back"},
]


@pytest.fixture
def compatible(start_server: StartServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=start_server().url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.mark.live
def test_the_openai_client(compatible: openai.OpenAI) -> None:
    whole = compatible.chat.completions.create(model="echo", messages=MESSAGES)
    assert whole.choices[0].message.content == "Say this back"
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage is not None
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 3

    stream = compatible.chat.completions.create(
        model="echo", messages=MESSAGES, stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == "Say this back"
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage == whole.usage

    cut = compatible.chat.completions.create(model="echo", messages=MESSAGES, max_tokens=2)
    assert (cut.choices[0].message.content, cut.choices[0].finish_reason) == ("Say this", "length")
    stopped = compatible.chat.completions.create(model="echo", messages=MESSAGES, stop=" this")
    assert (stopped.choices[0].message.content, stopped.choices[0].finish_reason) == ("Say", "stop")

    names = [model.id for model in compatible.models.list()]
    assert names == ["echo", "all-MiniLM-L6-v2"]
    assert compatible.models.retrieve("echo").id == "echo"

    texts = ["a cat on a mat", "a kitten on a rug", "the stock market fell"]
    answer = compatible.embeddings.create(model="all-MiniLM-L6-v2", input=texts)
    vectors = np.array([each.embedding for each in answer.data])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx([1, 1, 1], abs=1e-5)
    assert vectors[0] @ vectors[1] > 0.5 > vectors[0] @ vectors[2]
    assert answer.usage.prompt_tokens == 3 * 2 + sum(len(text.split()) for text in texts)
    long = compatible.embeddings.create(model="all-MiniLM-L6-v2", input="cat " * 2_000)
    assert long.usage.prompt_tokens == 2_002, "counted uncut, though the model reads less"
    floats = compatible.embeddings.create(model="all-MiniLM-L6-v2", input=texts[0], encoding_format="float")
    assert floats.data[0].embedding == pytest.approx(answer.data[0].embedding, abs=1e-2)

    with pytest.raises(openai.NotFoundError):
        compatible.chat.completions.create(model="gpt-9", messages=MESSAGES)
    with pytest.raises(openai.BadRequestError) as refused:
        compatible.chat.completions.create(model="echo", messages=MESSAGES, temperature=9)
    assert refused.value.param == "temperature"


def test_what_cannot_be_honoured_is_refused(client: TestClient) -> None:
    good = {"model": "echo", "messages": [{"role": "user", "content": "hi"}]}
    for extra, param in (
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"max_tokens": 999_999}, "messages"),
        ({"chatlab": {"unknown": 1}}, "chatlab.unknown"),
    ):
        answer = client.post("/v1/chat/completions", json={**good, **extra})
        assert answer.status_code == 400, extra
        assert answer.json()["error"]["param"] == param
    assert client.post("/v1/chat/completions", json={**good, "user": "x", "store": False}).status_code == 200


def test_text_parts_and_the_developer_role(client: TestClient) -> None:
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "in two "}, {"type": "text", "text": "parts"}]},
    ]
    answer = client.post("/v1/chat/completions", json={"model": "echo", "messages": messages}).json()
    assert answer["choices"][0]["message"]["content"] == "in two parts"


def test_history_is_applied_on_request_only(client: TestClient) -> None:
    messages = [{"role": role, "content": f"{role} {i} words"} for i in range(20) for role in ("user", "assistant")]
    body = {"model": "echo", "messages": [*messages, {"role": "user", "content": "last"}]}
    plain = client.post("/v1/chat/completions", json=body).json()
    assert "chatlab" not in plain
    extra = {"chatlab": {"history": {"strategy": "truncate", "budget_tokens": 20}}}
    answer = client.post("/v1/chat/completions", json={**body, **extra}).json()
    prompt = answer["chatlab"]["provenance"]["prompt"]
    assert answer["usage"]["prompt_tokens"] == prompt["prompt_tokens"] <= 20
    assert prompt["parts"][-1]["kind"] == "question"
    assert len(prompt["dropped_turn_ids"]) > 10
    assert client.get("/chats").json()["chats"] == [], "nothing is stored"


def test_the_context_is_a_bound_with_its_own_code(client: TestClient) -> None:
    body = {"model": "echo", "messages": [{"role": "user", "content": "word " * 30_000}], "max_tokens": 990_000}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "context_length_exceeded"


@pytest.mark.parametrize("name", ["nothing", "a/b", "%05%0A", "a%0Ab"])
def test_any_wrong_model_name_gets_openais_error(client: TestClient, name: str) -> None:
    answer = client.get(f"/v1/models/{name}")
    assert answer.status_code == 404
    assert "error" in answer.json()
