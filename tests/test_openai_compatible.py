"""The engine for another server: what it sends, what it makes of what comes back, and a server that misbehaves.

That it keeps the contract with real servers is in `test_engines.py`.
"""

import asyncio
import json
import logging
import re
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, aclosing, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from chatlab.engines.base import Engine, Finished, GenerationRequest, Piece
from chatlab.engines.openai_compatible import ATTEMPTS, DEFAULT_CONTEXT_TOKENS, OpenAICompatibleEngine
from chatlab.engines.remote.answer import Answer
from chatlab.engines.remote.server import Patience, words_of_body
from chatlab.engines.remote.tokenizer import CONTROL_TOKENS, Estimate
from chatlab.engines.template import load_template
from chatlab.errors import ConfigError, EngineError, InvalidInput, PromptTooLong
from chatlab.markdown import split_reasoning
from chatlab.messages import Message, SamplingParams, Usage
from chatlab.settings import Settings
from chatlab.wiring import wire
from tests.conftest import ROOT, StartServer, api_client, ask, free_port, new_chat, text_of, wait_ready
from tests.scripted_server import (
    ScriptedServer,
    chunk,
    drops,
    refuses,
    resets,
    says,
    scripted_server,
    sends,
    stalls,
    then,
)

HELLO: list[Message] = [{"role": "user", "content": "Hello"}]
QUICK = Patience(connect=1.0, ask=1.0, first_token=5.0, next_token=5.0, pause=0.01)


@contextmanager
def engine_of(server: ScriptedServer, patience: Patience = QUICK, **options: Any) -> Generator[OpenAICompatibleEngine]:
    engine = OpenAICompatibleEngine(server.url, patience=patience, chance=lambda: 0.5, **options)
    try:
        yield engine
    finally:
        engine.close()


@pytest.fixture
def engine(scripted: ScriptedServer) -> Iterator[OpenAICompatibleEngine]:
    with engine_of(scripted) as engine:
        yield engine


async def answer(
    engine: Engine, params: SamplingParams | None = None, user_id: str = "ann"
) -> tuple[str, int, Finished]:
    """The whole text, its tokens as they were counted on the way, and the end."""
    text, tokens = "", 0
    async for each in engine.stream(GenerationRequest(HELLO, params or SamplingParams(), user_id)):
        if isinstance(each, Piece):
            text, tokens = text + each.text, tokens + each.tokens
        if isinstance(each, Finished):
            return text, tokens, each
    raise AssertionError("it did not end")


def fails(engine: Engine, params: SamplingParams | None = None) -> tuple[str, Exception]:
    """The text until then, and the error."""
    text = ""

    async def run() -> None:
        nonlocal text
        async for each in engine.stream(GenerationRequest(HELLO, params or SamplingParams())):
            text += each.text if isinstance(each, Piece) else ""

    with pytest.raises((EngineError, InvalidInput)) as failed:
        asyncio.run(run())
    return text, failed.value


class TestRequest:
    async def test_what_is_unset_is_not_sent(self, scripted: ScriptedServer, engine: Engine) -> None:
        await answer(engine)
        assert scripted.requests == [
            {
                "model": "m",
                "messages": HELLO,
                "stream": True,
                "stream_options": {"include_usage": True},
                "max_tokens": 250,
            }
        ]
        assert "Authorization" not in scripted.headers[0]

    async def test_what_is_set_is_sent_under_the_servers_names(self, scripted: ScriptedServer) -> None:
        params = SamplingParams(0.5, 0.9, 0, 7, ("a", "b", "c", "d", "e"), 3, 1.1)
        sent: dict[str, dict[str, Any]] = {}
        for owner in ("vllm", "llamacpp", "sglang"):
            scripted.models = [{"id": "m", "owned_by": owner, "max_model_len": 1_000}]
            with engine_of(scripted, api_key="the-key") as engine:
                await answer(engine, params)
            sent[owner] = scripted.requests[-1]
        known = {"temperature": 0.5, "top_p": 0.9, "max_tokens": 7, "stop": ["a", "b", "c", "d"], "seed": 3}
        assert known.items() <= sent["vllm"].items()
        assert (sent["vllm"]["top_k"], sent["vllm"]["repetition_penalty"]) == (0, 1.1)
        assert sent["vllm"]["stream_options"]["continuous_usage_stats"] is True
        assert (sent["llamacpp"]["repeat_penalty"], sent["sglang"]["top_k"]) == (1.1, -1)
        assert "repetition_penalty" not in sent["llamacpp"]
        assert scripted.headers[-1]["Authorization"] == "Bearer the-key"

    async def test_the_salt_tells_users_apart_and_not_who_they_are(self, scripted: ScriptedServer) -> None:
        for key in (b"one", b"two"):
            with engine_of(scripted, salt_key=key) as engine:
                for user in ("ann", "bob", "ann"):
                    await answer(engine, user_id=user)
        ann, bob, again, elsewhere, *_ = [request["cache_salt"] for request in scripted.requests]
        assert ann == again
        assert len({ann, bob, elsewhere}) == 3
        assert len(ann) == 43
        assert "ann" not in json.dumps(scripted.requests)

    async def test_what_the_server_does_not_know_is_left_out_from_then_on(self, scripted: ScriptedServer) -> None:
        scripted.script = [
            refuses(422, {"detail": "Unexpected fields in the request: {'cache_salt'}"}),
            refuses(422, {"detail": [{"loc": ["body", "stream_options"], "msg": "Extra inputs are not permitted"}]}),
            refuses(400, {"error": {"message": "'max_tokens' is not supported. Use 'max_completion_tokens' instead."}}),
            says("Hello"),
        ]
        with engine_of(scripted, salt_key=b"key") as engine:
            assert (await answer(engine))[0] == "Hello"
            await answer(engine)
        assert scripted.requests[-1] == scripted.requests[-2]
        assert len(scripted.requests) == 5
        assert scripted.requests[-1].keys() == {"model", "messages", "stream", "max_completion_tokens"}

    def test_what_the_caller_sent_and_the_server_refuses_is_the_callers_mistake(
        self, scripted: ScriptedServer, engine: Engine
    ) -> None:
        scripted.script = [refuses(400, {"error": {"message": "Unrecognized request argument supplied: top_k"}})]
        _, error = fails(engine, SamplingParams(top_k=5))
        assert isinstance(error, InvalidInput)
        assert error.errors[0].field == "params.topK"
        assert "Unrecognized" in str(error)
        assert isinstance(fails(engine)[1], EngineError), "nobody asked for it"

    @pytest.mark.parametrize(
        "problem",
        [
            {"error": {"message": "This model's maximum context length is 9 tokens.", "code": 400}},
            {
                "error": {
                    "type": "exceed_context_size_error",
                    "message": "exceeds the available context size (9 tokens)",
                }
            },
            {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 9", "error_type": "x"},
            {"error": {"message": "messages: 12 prompt and 7 answer tokens exceed the context of 9"}},
        ],
    )
    def test_a_prompt_that_the_server_finds_too_long(
        self, scripted: ScriptedServer, engine: Engine, problem: object
    ) -> None:
        scripted.script = [refuses(400, problem)]
        assert isinstance(fails(engine)[1], PromptTooLong)
        assert len(scripted.requests) == 1


class TestAnswer:
    async def test_the_servers_count_is_the_one_that_counts(self, scripted: ScriptedServer, settings: Settings) -> None:
        scripted.script = [says("Two tokens", " and one", usage=(11, 3, 5))]
        with engine_of(scripted) as engine:
            text, tokens, finished = await answer(engine)
            assert (text, tokens) == ("Two tokens and one", 3)
            assert finished == Finished("stop", Usage(11, 3, 5))
            with wire(settings, engine) as parts, api_client(parts) as client:
                usage = ask(client, new_chat(client), "Hi")[-1].data["provenance"]["usage"]
                assert usage == {
                    "promptTokens": 11, "completionTokens": 3, "reusedPrefixTokens": 5, "savedTokens": None
                }  # fmt: skip
                said = client.post("/v1/chat/completions", json={"model": "m", "messages": HELLO}).json()["usage"]
                assert (said["prompt_tokens"], said["prompt_tokens_details"]["cached_tokens"]) == (11, 5)

    async def test_tokens_counted_on_the_way_belong_to_their_text(
        self, scripted: ScriptedServer, engine: Engine
    ) -> None:
        counted = [{"prompt_tokens": 4, "completion_tokens": n} for n in (3, 4)]
        scripted.script = [
            sends(
                chunk({"content": "Three at once"}, usage=counted[0]),
                chunk({"content": "!"}, "stop", usage=counted[1]),
                "[DONE]",
            )
        ]
        pieces = [each async for each in engine.stream(GenerationRequest(HELLO)) if isinstance(each, Piece)]
        assert pieces == [Piece("Three at once", 3), Piece("!", 1)]

    @pytest.mark.parametrize("name", ["reasoning_content", "reasoning"])
    async def test_reasoning_that_comes_apart_is_shown_as_such(
        self, scripted: ScriptedServer, engine: Engine, name: str
    ) -> None:
        both = {name: " twice.", "content": None}
        scripted.script = [
            sends(chunk({name: "Think"}), chunk(both), chunk({"content": "So"}), chunk({"content": "."}, "stop"))
        ]
        thought = split_reasoning((await answer(engine))[0])
        assert (thought.reasoning, thought.answer, thought.closed) == ("Think twice.", "So.", True)
        scripted.script = [sends(chunk({name: "Only thought"}), chunk({}, "length"))]
        text, _, finished = await answer(engine)
        assert split_reasoning(text).reasoning == "Only thought"
        assert finished.reason == "length"

    async def test_stop_strings_hold_with_a_server_that_ignores_them(
        self, scripted: ScriptedServer, engine: Engine
    ) -> None:
        scripted.script = [says("one t", "wo three", "never", pause=0.05)]
        text, _, finished = await answer(engine, SamplingParams(stop=("two",)))
        assert (text, finished.reason) == ("one ", "stop")

    async def test_line_separators_in_a_text_are_text(self, scripted: ScriptedServer, engine: Engine) -> None:
        scripted.script = [says("a\u2028b\u0085c", "\r\nd")]
        assert (await answer(engine))[0] == "a\u2028b\u0085c\r\nd"

    @pytest.mark.parametrize("reason", ["stop", None])
    async def test_it_ends_with_a_reason_or_a_mark(
        self, scripted: ScriptedServer, engine: Engine, reason: str | None
    ) -> None:
        ends = sends(chunk({}, reason)) if reason else sends("[DONE]")
        scripted.script = [then(says("Hello", reason=None), ends)]
        assert (await answer(engine))[0] == "Hello"

    async def test_leaving_ends_the_request(self, scripted: ScriptedServer, engine: Engine) -> None:
        scripted.script = [then(says("Hello", reason=None), stalls)]
        async with aclosing(engine.stream(GenerationRequest(HELLO))) as chunks:
            async for each in chunks:
                if isinstance(each, Piece):
                    break
        assert await asyncio.to_thread(scripted.left.wait, 2.0)
        await until(lambda: engine.load.running == 0)


@given(st.lists(st.text("ab<>", max_size=6), max_size=8), st.lists(st.booleans(), min_size=8, max_size=8))
def test_no_text_is_lost_on_the_way(texts: list[str], thoughts: list[bool]) -> None:
    taken = Answer(())
    out = ""
    for text, thought in zip(texts, thoughts, strict=False):
        event = chunk({"reasoning" if thought else "content": text})
        out += "".join(piece.text for piece in taken.take(json.dumps(event)))
    out += "".join(each.text for each in taken.end() if isinstance(each, Piece))
    for mark in ("<think>\n", "\n</think>\n\n"):
        out = out.replace(mark, "")
    assert out == "".join(text for text, _ in zip(texts, thoughts, strict=False))


class TestFaults:
    @pytest.mark.parametrize(
        "fault",
        [refuses(503, {"error": "busy"}), refuses(429, "slow down", retry_after="0.01"), refuses(502, "<html>"), drops],
        ids=["503", "429", "502", "dropped"],
    )
    async def test_it_is_asked_again_while_nothing_has_come_out(
        self, scripted: ScriptedServer, engine: Engine, fault: Any
    ) -> None:
        scripted.script = [fault, fault, says("Hello")]
        assert (await answer(engine))[0] == "Hello"
        assert len(scripted.requests) == 3
        assert engine.alive

    async def test_a_stream_without_text_is_asked_for_again(self, scripted: ScriptedServer, engine: Engine) -> None:
        scripted.script = [sends(chunk({"role": "assistant", "content": ""})), says("Hello")]
        assert (await answer(engine))[0] == "Hello"

    async def test_the_server_says_when(self, scripted: ScriptedServer, engine: Engine) -> None:
        scripted.script = [refuses(429, "slow down", retry_after="1"), says("Hello")]
        started = time.monotonic()
        await answer(engine)
        assert time.monotonic() - started >= 1.0

    def test_it_does_not_wait_longer_than_for_a_first_token(self, scripted: ScriptedServer, engine: Engine) -> None:
        scripted.script = [refuses(429, {"error": {"message": "come tomorrow"}}, retry_after="80000")]
        _, error = fails(engine)
        assert "come tomorrow; it asks to wait 80000 s" in str(error)
        assert len(scripted.requests) == 1

    def test_it_gives_up(self, scripted: ScriptedServer, engine: Engine) -> None:
        scripted.script = [refuses(503, {"error": {"message": "overloaded"}})]
        _, error = fails(engine)
        assert str(error) == f"the server at {scripted.url} refused (503): overloaded"
        assert len(scripted.requests) == ATTEMPTS
        assert not engine.alive

    @pytest.mark.parametrize("status", [400, 401, 404, 500])
    def test_a_refusal_is_a_refusal(self, scripted: ScriptedServer, engine: Engine, status: int) -> None:
        scripted.script = [refuses(status, {"object": "error", "message": "no"})]
        assert f"({status}): no" in str(fails(engine)[1])
        assert len(scripted.requests) == 1
        assert engine.alive

    @pytest.mark.parametrize(
        ("end", "words"),
        [
            (lambda _: None, "broke in the middle of the answer"),
            (resets, "broke in the middle of the answer"),
            (sends({"error": {"message": "out of memory", "code": 500}}), "the server broke off: out of memory"),
            (sends({"error": "out of memory"}), "the server broke off: out of memory"),
            (sends({"object": "error", "message": "out of memory"}), "the server broke off: out of memory"),
            (sends('{"error": "say "no""}'), 'no part of an answer: {"error": "say "no""}'),
            (sends(chunk({}, "content_filter")), "the server broke off: content_filter"),
        ],
        ids=["ends", "resets", "openai", "tgi", "old vllm", "no json", "filtered"],
    )
    def test_after_text_it_is_never_asked_again(
        self, scripted: ScriptedServer, engine: Engine, end: Any, words: str
    ) -> None:
        scripted.script = [then(says("Half an", " answer", reason=None), end)]
        text, error = fails(engine)
        assert text == "Half an answer"
        assert words in str(error)
        assert len(scripted.requests) == 1

    def test_silence_has_an_end(self, scripted: ScriptedServer) -> None:
        with engine_of(scripted, Patience(first_token=0.2, next_token=0.3)) as engine:
            scripted.script = [stalls]
            text, error = fails(engine)
            assert (text, "did not begin to answer: nothing within 0.2 s" in str(error)) == ("", True)
            scripted.script = [then(says("Half", reason=None), stalls)]
            text, error = fails(engine)
            assert (text, "fell silent in the middle of the answer" in str(error)) == ("Half", True)

    async def test_what_stays_open_after_the_end_does_no_harm(self, scripted: ScriptedServer) -> None:
        scripted.script = [then(says("All of it"), stalls)]
        with engine_of(scripted, Patience(next_token=0.2)) as engine:
            assert (await answer(engine))[0] == "All of it"

    def test_the_text_so_far_stays_with_the_turn(self, scripted: ScriptedServer, settings: Settings) -> None:
        broken = sends({"error": {"message": "out of memory"}})
        scripted.script = [then(says("Half an", " answer", reason=None), broken)]
        with engine_of(scripted) as engine, wire(settings, engine) as parts, api_client(parts) as client:
            *_, last = sent = ask(client, new_chat(client), "Hi")
            assert (last.name, text_of(sent)) == ("error", "Half an answer")
            turn = client.get(f"/completions/{last.data['turnID']}").json()
            assert (turn["status"], turn["assistantMessage"]) == ("failed", "Half an answer")
            assert (turn["error"]["status"], turn["error"]["detail"]) == (502, "the server broke off: out of memory")

    def test_a_server_that_is_gone_is_not_ready_until_it_is_back(self, settings: Settings) -> None:
        with ExitStack() as stack:
            first = ExitStack()
            server = first.enter_context(scripted_server())
            engine = stack.enter_context(engine_of(server))
            client = stack.enter_context(api_client(stack.enter_context(wire(settings, engine))))
            assert client.get("/readyz").status_code == 200
            first.close()
            *_, last = ask(client, new_chat(client), "Hi")
            assert "is it running?" in last.data["detail"]
            answer = client.get("/readyz")
            assert (answer.status_code, answer.json()["checks"]["engine"]) == (503, "not answering")
            stack.enter_context(scripted_server(server, int(server.root.rpartition(":")[2])))
            wait_until(lambda: client.get("/readyz").status_code == 200)
            assert text_of(ask(client, new_chat(client), "Hi")) == "Hello there"

    def test_nobody_need_ask_for_an_answer_to_find_it_gone(
        self, scripted: ScriptedServer, engine: OpenAICompatibleEngine
    ) -> None:
        scripted.models = 401
        engine._server.heard_at -= 60
        assert engine.alive, "as far as is known"
        wait_until(lambda: not engine.alive)

    def test_the_key_is_in_no_message(
        self, scripted: ScriptedServer, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        address = scripted.url.replace("http://", "http://ann:pass-word@")
        with pytest.raises(ConfigError, match="404") as refused:
            OpenAICompatibleEngine(address.replace("/v1", "/v2"), "secret-key", patience=QUICK)
        scripted.script = [drops]
        engine = OpenAICompatibleEngine(address, "secret-key", patience=QUICK)
        _, error = fails(engine)
        engine.close()
        seen = f"{error} {refused.value} {engine.facts} {capfd.readouterr()} {caplog.text}"
        assert "127.0.0.1" in seen
        assert "secret-key" not in seen
        assert "pass-word" not in seen


class TestQueue:
    async def test_users_take_turns_within_the_limit(self, scripted: ScriptedServer) -> None:
        scripted.script = [says("Hello", pause=0.02)]
        order: list[str] = []
        with engine_of(scripted, slots=1) as engine:

            async def one(user: str) -> None:
                await answer(engine, user_id=user)
                order.append(user)

            many = [asyncio.create_task(one("ann")) for _ in range(5)]
            await until(lambda: engine.load.waiting == 4)
            assert engine.load.running == 1
            await one("bob")
            await asyncio.gather(*many)
        assert order.index("bob") <= 2

    async def test_who_waits_can_leave(self, scripted: ScriptedServer) -> None:
        scripted.script = [then(says("Hello", reason=None), stalls), says("Hello")]
        with engine_of(scripted, slots=1) as engine:
            first, second = (asyncio.create_task(answer(engine)) for _ in range(2))
            await until(lambda: engine.load.waiting == 1)
            second.cancel()
            await until(lambda: engine.load.waiting == 0)
            first.cancel()
            await asyncio.gather(first, second, return_exceptions=True)
            assert (await answer(engine))[0] == "Hello"
        assert len(scripted.requests) == 2, "the second was never asked"

    def test_several_loops_share_it(self, scripted: ScriptedServer, engine: Engine) -> None:
        for _ in range(2):
            assert asyncio.run(answer(engine))[0] == "Hello there"

    async def test_closing_ends_all(self, scripted: ScriptedServer) -> None:
        scripted.script = [then(says("Hello", reason=None), stalls)]
        with engine_of(scripted, slots=1) as engine:
            tasks = [asyncio.create_task(answer(engine)) for _ in range(2)]
            await until(lambda: engine.load.waiting == 1)
            await asyncio.to_thread(engine.close)
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            assert [str(error) for error in ended] == ["the engine was closed"] * 2
            assert not engine.alive
            with pytest.raises(EngineError, match="closed"):
                await answer(engine)


class TestCounting:
    def check(self, server: ScriptedServer, rendered: str) -> None:
        """A server that counts a token a message."""
        with engine_of(server) as engine:
            two: list[Message] = [*HELLO, {"role": "assistant", "content": "Hi"}]
            assert engine.facts.counting == "remote"
            assert engine.facts.context_tokens == 77
            assert (engine.count(HELLO), engine.count(two)) == (1, 2)
            assert engine.render(HELLO) == rendered
            assert engine.facts.control_tokens == CONTROL_TOKENS
            asked = len(server.asked)
            engine.count(two)
            assert len(server.asked) == asked, "known"
            for path in list(server.routes):
                server.routes[path] = 500
            three = [*two, *HELLO]
            assert engine.count(three) == Estimate().count(three), "too high rather than no answer"

    def test_vllm(self, scripted: ScriptedServer) -> None:
        def tokenize(body: Any) -> Any:
            assert body["add_generation_prompt"] is True
            return {"count": len(body["messages"]), "max_model_len": 9, "tokens": [0] * len(body["messages"])}

        scripted.models = [{"id": "m", "owned_by": "vllm", "max_model_len": 77}]
        scripted.routes = {"/tokenize": tokenize, "/detokenize": lambda body: {"prompt": "x" * len(body["tokens"])}}
        self.check(scripted, "x")

    def test_llama_cpp(self, scripted: ScriptedServer) -> None:
        def tokenize(body: Any) -> Any:
            assert body.get("parse_special") is True or "messages" in body
            return {"tokens": [0] * len(body.get("content", ""))}

        scripted.models = [{"id": "m", "owned_by": "llamacpp", "meta": {"n_ctx_train": 8_192}}]
        scripted.routes = {
            "/tokenize": tokenize,
            "/apply-template": lambda body: {"prompt": "x" * len(body["messages"])},
            "/props": {"default_generation_settings": {"n_ctx": 77}},
        }
        self.check(scripted, "x")

    def test_tgi(self, scripted: ScriptedServer) -> None:
        scripted.models = [{"id": "m", "owned_by": "m"}]
        scripted.routes = {
            "/tokenize": 422,
            "/chat_tokenize": lambda body: {"tokenize_response": body["messages"], "templated_text": "x"},
            "/info": {"max_total_tokens": 77},
        }
        self.check(scripted, "x")

    def test_without_any_it_is_an_estimate_that_refuses_nothing(
        self, scripted: ScriptedServer, settings: Settings
    ) -> None:
        with engine_of(scripted, context_tokens=300) as engine, wire(settings, engine) as parts:
            assert engine.facts.counting == "estimate"
            with api_client(parts) as client:
                body = {"model": "m", "messages": [{"role": "user", "content": "word " * 200}]}
                assert client.post("/v1/chat/completions", json=body).status_code == 200
                too_much = client.post("/v1/chat/completions", json={**body, "max_tokens": 300})
                assert too_much.json()["error"]["code"] == "context_length_exceeded"
                chat_id = new_chat(client)
                turn_id = ask(client, chat_id, "Hi")[-1].data["turnID"]
                assert client.get(f"/chat/{chat_id}/turns/{turn_id}/prompt").json()["rendered"] is None

    def test_a_tokenizer_of_our_own(self, scripted: ScriptedServer, bundled_model: Path) -> None:
        scripted.models = [{"id": "m"}]
        with engine_of(scripted, tokenizer=str(bundled_model)) as engine:
            assert engine.facts.counting == "here"
            assert engine.facts.context_tokens == 8_192, "of its configuration"
            assert engine.render(HELLO).endswith("Hello<|im_end|>\n<|im_start|>assistant\n")
            assert "<|im_end|>" in engine.facts.control_tokens
            scripted.script = [says("Hello", usage=(9, 1, 0))]
            with structlog.testing.capture_logs() as logs:
                for _ in range(2):
                    asyncio.run(answer(engine))
            (warning,) = [each for each in logs if each["log_level"] == "warning"]
            assert (warning["server"], warning["ours"]) == (9, engine.count(HELLO))
        assert scripted.asked[:2] == ["/v1/models", "/v1/chat/completions"]

    def test_estimates_are_high_and_not_too_high(self, bundled_model: Path) -> None:
        template, _ = load_template(str(bundled_model))
        texts = [path.read_text() for path in (ROOT / "README.md", ROOT / "docs/log.md", ROOT / "chatlab/chat.py")]
        texts += ["Où est la gare ? Trois cafés, s'il vous plaît.", "これは短い文です。", "0123456789 " * 20]
        texts += ["Die Versicherungsgesellschaft muss die Reparaturkosten des Fahrzeugs vollständig erstatten. " * 20]
        estimate = Estimate()
        fixed = estimate.count([]) + 8
        for text in texts:
            message: list[Message] = [{"role": "user", "content": text}]
            true = template.count(message)
            assert estimate.count(message) >= true
            assert estimate.count(message) - fixed <= 2.5 * true


class TestStart:
    @pytest.mark.parametrize("url", ["", "127.0.0.1:8000/v1", "ftp://host/v1", "http://", "http://[", "no url"])
    def test_no_address(self, url: str) -> None:
        with pytest.raises(ConfigError, match="CHATLAB_OPENAI_BASE_URL="):
            OpenAICompatibleEngine(url)

    def test_nothing_there(self) -> None:
        started = time.monotonic()
        with pytest.raises(ConfigError, match=r"CHATLAB_OPENAI_BASE_URL=.*nothing answers there"):
            OpenAICompatibleEngine(f"http://127.0.0.1:{free_port()}/v1")
        assert time.monotonic() - started < 2, "a person sees it at once"

    def test_something_else_there(self, scripted: ScriptedServer) -> None:
        for models, words in (([], "none that it lists"), (404, "ends in /v1"), (302, "redirects to")):
            scripted.models = models
            with pytest.raises(ConfigError, match=words), engine_of(scripted):
                pass
        scripted.routes = {"/models": ["no list"]}
        with pytest.raises(ConfigError, match="no list of models"):
            OpenAICompatibleEngine(scripted.root)

    def test_a_wrong_key(self, scripted: ScriptedServer) -> None:
        scripted.models = 401
        with pytest.raises(ConfigError, match="CHATLAB_OPENAI_API_KEY"), engine_of(scripted, api_key="wrong"):
            pass

    async def test_an_address_without_v1(self, scripted: ScriptedServer) -> None:
        engine = OpenAICompatibleEngine(scripted.root + "/", patience=QUICK)
        assert (await answer(engine))[0] == "Hello there"
        engine.close()

    def test_which_model(self, scripted: ScriptedServer) -> None:
        scripted.models = [{"id": "a"}, {"id": "b"}]
        with pytest.raises(ConfigError, match="CHATLAB_MODEL to one of the server's models: a, b"):
            OpenAICompatibleEngine(scripted.url)
        with engine_of(scripted, model="b") as engine:
            assert (engine.facts.model, engine.facts.context_tokens) == ("b", DEFAULT_CONTEXT_TOKENS)
        with engine_of(scripted, model="loaded when asked for") as engine:
            assert engine.facts.model == "loaded when asked for"
        scripted.models = [{"id": "chat", "max_model_len": 500}, {"id": "embedder", "max_model_len": None}]
        with engine_of(scripted) as engine:
            assert (engine.facts.model, engine.facts.context_tokens) == ("chat", 500)
            assert engine.facts.default_max_new_tokens == 125
        with engine_of(scripted, context_tokens=100) as engine:
            assert engine.facts.context_tokens == 100
        scripted.models = 500
        with engine_of(scripted, model="named") as engine:
            assert engine.facts.model == "named"

    async def test_a_server_that_loads_is_waited_for(self) -> None:
        loading = ScriptedServer()
        loading.models = 503
        with scripted_server(loading):
            asyncio.get_running_loop().call_later(0.3, setattr, loading, "models", [{"id": "m"}])
            engine = await asyncio.to_thread(OpenAICompatibleEngine, loading.url)
            assert engine.facts.model == "m"
            engine.close()

    def test_no_tokenizer_there(self, scripted: ScriptedServer, tmp_path: Path) -> None:
        with (
            pytest.raises(ConfigError, match="CHATLAB_OPENAI_TOKENIZER="),
            engine_of(scripted, tokenizer=str(tmp_path)),
        ):
            pass

    def test_no_weights_no_torch(self, scripted: ScriptedServer, tmp_path: Path) -> None:
        program = (
            "import sys; from chatlab.wiring import wire; from chatlab.settings import load_settings\n"
            "import chatlab.serve\n"
            "with wire(load_settings()) as parts: print(parts.engine.facts.model)\n"
            "print([name for name in ('torch', 'transformers', 'openai') if name in sys.modules])\n"
        )
        variables = {
            "PATH": "/usr/bin:/bin",
            "PYTHONPATH": str(ROOT),
            "CHATLAB_ENGINE": "openai",
            "CHATLAB_OPENAI_BASE_URL": scripted.url,
            "CHATLAB_LOG_LEVEL": "error",
        }
        ran = subprocess.run(
            [sys.executable, "-c", program], env=variables, cwd=tmp_path, capture_output=True, text=True, check=True
        )
        assert ran.stdout.splitlines()[-2:] == ["m", "[]"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"error": {"message": "a"}}', "a"),
        ('{"error": "a", "error_type": "b"}', "a"),
        ('{"object": "error", "message": "a"}', "a"),
        ('{"detail": [{"loc": ["body", "x"], "msg": "a"}, {"loc": [], "msg": "b"}]}', "body.x: a; : b"),
        ('{"error": null, "code": 1}', '{"error": null, "code": 1}'),
        ("<h1>Bad\n Gateway</h1>", "<h1>Bad Gateway</h1>"),
        ("x" * 1_000, "x" * 500),
    ],
)
def test_what_a_server_says(body: str, words: str) -> None:
    assert words_of_body(body) == words


@pytest.mark.live
def test_a_chatlab_behind_a_chatlab(start_server: StartServer, tmp_path: Path) -> None:
    """The whole way: a chat, a stop in the middle, the other server killed in the middle, and started again."""
    port = free_port()
    behind = start_server(tmp_path / "behind", port, echo_tokens_per_second=20)
    front = start_server(tmp_path / "front", engine="openai", openai_base_url=behind.url + "/v1")
    with httpx.Client(base_url=front.url, timeout=30) as client:
        chat_id = new_chat(client)
        *_, done = sent = ask(client, chat_id, "one two three")
        assert (text_of(sent), done.name) == ("one two three", "done")
        assert (done.data["provenance"]["model"], done.data["provenance"]["engine"]) == ("echo", "openai")

        long = "word " * 400
        later = client.post(
            f"/chat/{chat_id}/completion", json={"userMessage": long}, headers={"Prefer": "respond-async"}
        )
        turn = later.headers["location"]
        wait_until(lambda: bool(client.get(turn).json()["assistantMessage"]))
        stopped = client.post(turn + "/stop").json()
        assert stopped["status"] == "stopped"
        assert 0 < len(stopped["assistantMessage"]) < 1_000
        live = re.compile(r"^chatlab_turns_live(?:{.*?})? 0\.0$", re.MULTILINE)
        wait_until(lambda: live.search(httpx.get(behind.url + "/metrics").text) is not None)

        later = client.post(
            f"/chat/{chat_id}/completion", json={"userMessage": long}, headers={"Prefer": "respond-async"}
        )
        turn = later.headers["location"]
        wait_until(lambda: bool(client.get(turn).json()["assistantMessage"]))
        behind.kill()
        wait_until(lambda: client.get(turn).json()["status"] == "failed")
        broken = client.get(turn).json()
        assert broken["assistantMessage"].startswith("word")
        assert "broke in the middle of the answer" in broken["error"]["detail"]
        wait_until(lambda: client.get("/readyz").status_code == 503)
        *_, last = ask(client, chat_id, "Anybody?")
        assert f"the server at {behind.url}/v1 does not answer" in last.data["detail"]

        start_server(tmp_path / "behind", port)
        wait_until(lambda: client.get("/readyz").status_code == 200)
        assert text_of(ask(client, chat_id, "Again")) == "Again"
    wait_ready(front)


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
