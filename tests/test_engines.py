"""One contract suite on every engine, then what is the Transformers engine's own."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from chatlab.engines.base import Engine, Finished, GenerationRequest, Piece, Started
from chatlab.engines.echo import TOKEN, EchoEngine
from chatlab.engines.fair_queue import FairQueue
from chatlab.engines.text import StopStrings
from chatlab.engines.transformers import MAX_WARMS, TransformersEngine
from chatlab.errors import EngineError, PromptTooLong
from chatlab.messages import Message, SamplingParams

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=24)
SHORT = SamplingParams(temperature=0.0, max_new_tokens=8)
QUESTION: list[Message] = [{"role": "user", "content": "List the first ten even numbers, one after the other."}]


@pytest.fixture(
    params=[
        "echo",
        "transformers_engine",
        "zero_gpu_engine",
        "forked_engine",
        pytest.param("served_by_transformers", marks=pytest.mark.live),
        pytest.param("served_by_llama_cpp", marks=pytest.mark.live),
        pytest.param("served_by_chatlab", marks=pytest.mark.live),
    ]
)
def engine(request: pytest.FixtureRequest) -> Engine:
    return EchoEngine() if request.param == "echo" else request.getfixturevalue(request.param)


async def take(engine: Engine, request: GenerationRequest) -> tuple[Started, list[Piece], Finished]:
    chunks = [chunk async for chunk in engine.stream(request)]
    started, *pieces, finished = chunks
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    return started, [piece for piece in pieces if isinstance(piece, Piece)], finished


def text(pieces: list[Piece]) -> str:
    return "".join(piece.text for piece in pieces)


class TestContract:
    async def test_a_stream_starts_has_pieces_and_ends(self, engine: Engine) -> None:
        started, pieces, finished = await take(engine, GenerationRequest(QUESTION, GREEDY))
        assert started.prompt_tokens == engine.count(QUESTION)
        if finished.usage is not None and engine.facts.counting != "estimate":
            assert finished.usage.prompt_tokens == started.prompt_tokens, "as the server counts"
        assert text(pieces)
        assert 0 < sum(piece.tokens for piece in pieces) <= 24
        assert finished.reason in ("stop", "length")

    async def test_the_limit_is_exact(self, engine: Engine) -> None:
        _, pieces, finished = await take(engine, GenerationRequest(QUESTION, SamplingParams(0.0, max_new_tokens=3)))
        assert sum(piece.tokens for piece in pieces) == 3
        assert finished.reason == "length"

    async def test_greedy_and_seeded_answers_repeat(self, engine: Engine) -> None:
        for params in (GREEDY, SamplingParams(temperature=1.0, top_p=0.95, seed=7, max_new_tokens=12)):
            started, pieces, finished = await take(engine, GenerationRequest(QUESTION, params))
            again = await take(engine, GenerationRequest(QUESTION, params))
            assert (again[0].prompt_tokens, again[1], again[2].reason) == (
                started.prompt_tokens,
                pieces,
                finished.reason,
            )

    async def test_closing_frees_the_slot(self, engine: Engine) -> None:
        async with aclosing(engine.stream(GenerationRequest(QUESTION))) as chunks:
            async for chunk in chunks:
                if isinstance(chunk, Piece):
                    break
        for _ in range(100):
            if engine.load.running == engine.load.waiting == 0:
                break
            await asyncio.sleep(0.02)
        assert engine.load.running == engine.load.waiting == 0
        assert (await take(engine, GenerationRequest(QUESTION, GREEDY)))[1]

    async def test_a_stop_string_ends_and_stays_out(self, engine: Engine) -> None:
        whole = text((await take(engine, GenerationRequest(QUESTION, GREEDY)))[1])
        stop = whole[5:9]
        params = SamplingParams(temperature=0.0, max_new_tokens=24, stop=(stop,))
        _, pieces, finished = await take(engine, GenerationRequest(QUESTION, params))
        assert text(pieces) == whole[: whole.index(stop)]
        assert finished.reason == "stop"

    async def test_what_does_not_fit_is_refused(self, engine: Engine) -> None:
        params = SamplingParams(max_new_tokens=engine.facts.context_tokens)
        with pytest.raises(PromptTooLong):
            await take(engine, GenerationRequest(QUESTION, params))

    async def test_many_at_once_all_get_theirs(self, engine: Engine) -> None:
        # No near tie among the bundled model's answers to these: a batch's sums may differ in their last bit.
        places = ("Japan", "Germany", "Greece", "Poland")
        prompts: list[list[Message]] = [[{"role": "user", "content": f"What is the capital of {p}?"}] for p in places]
        alone = [await take(engine, GenerationRequest(p, SHORT, f"user{i}")) for i, p in enumerate(prompts)]
        together = await asyncio.gather(
            *(take(engine, GenerationRequest(p, SHORT, f"user{i}")) for i, p in enumerate(prompts))
        )
        assert [text(t[1]) for t in together] == [text(t[1]) for t in alone]

    async def test_warming_is_not_seen(self, engine: Engine) -> None:
        engine.warm(GenerationRequest([*QUESTION, {"role": "assistant", "content": "2, 4"}], GREEDY, "dan"))
        assert engine.load.running == engine.load.waiting == 0
        assert (await take(engine, GenerationRequest(QUESTION, SHORT, "not dan")))[0].reused_prefix_tokens == 0
        assert engine.alive

    def test_count_is_that_of_the_rendered_prompt(self, engine: Engine) -> None:
        longer: list[Message] = [
            *QUESTION,
            {"role": "assistant", "content": "2, 4"},
            {"role": "user", "content": "Go on"},
        ]
        assert engine.count(longer) > engine.count(QUESTION) > 0
        assert "Go on" in engine.render(longer)


@given(st.text(max_size=200))
def test_echo_tokens_are_the_text(message: str) -> None:
    engine = EchoEngine()
    assert "".join(TOKEN.findall(message)) == message
    messages: list[Message] = [{"role": "user", "content": message}]
    assert engine.count(messages) == len(TOKEN.findall(engine.render(messages)))


async def test_echo_keeps_its_pace() -> None:
    loop = asyncio.get_running_loop()
    started = loop.time()
    await take(
        EchoEngine(tokens_per_second=100), GenerationRequest([{"role": "user", "content": "a b c d e f g h i j k"}])
    )
    assert loop.time() - started >= 0.1


@given(st.text("ab", max_size=40), st.lists(st.text("ab", min_size=1, max_size=4), max_size=3), st.integers(1, 5))
def test_stop_strings_cut_at_the_first(whole: str, stop: list[str], size: int) -> None:
    stops = StopStrings(stop)
    out = ""
    for i in range(0, len(whole), size):
        out += stops.feed(whole[i : i + size])
        if stops.hit:
            break
    else:
        out += stops.flush()
    found = [whole.find(each) for each in stop if each in whole]
    # A stop string that is complete earlier wins, even if another began before it.
    assert whole.startswith(out)
    assert bool(found) == stops.hit
    assert found or out == whole
    assert not any(each in out for each in stop)


def test_the_queue_is_fair() -> None:
    queue: FairQueue[str] = FairQueue()
    for item in ("a1", "a2", "a3", "b1", "b2", "c1"):
        queue.put(item[0], item)
    assert queue.remove("a", "a2")
    assert not queue.remove("a", "a2")
    assert [queue.take() for _ in range(len(queue))] == ["a1", "b1", "c1", "a3", "b2"]


class TestTransformers:
    async def test_a_known_prefix_is_not_computed_again(self, transformers_engine: TransformersEngine) -> None:
        _, pieces, _ = await take(transformers_engine, GenerationRequest(QUESTION, GREEDY, "ann"))
        answered: list[Message] = [
            *QUESTION,
            {"role": "assistant", "content": text(pieces)},
            {"role": "user", "content": "What is the capital of Japan?"},
        ]
        second, with_prefix, _ = await take(transformers_engine, GenerationRequest(answered, GREEDY, "ann"))
        assert second.reused_prefix_tokens >= transformers_engine.count(QUESTION)
        other_user, without, _ = await take(transformers_engine, GenerationRequest(answered, GREEDY, "bob"))
        assert other_user.reused_prefix_tokens == 0, "a prefix must never cross users"
        assert text(with_prefix)[:20] == text(without)[:20]

    async def test_another_chat_of_the_user_reuses_the_system_prompt(
        self, transformers_engine: TransformersEngine
    ) -> None:
        system: Message = {"role": "system", "content": "You are a careful assistant who counts."}
        other: Message = {"role": "user", "content": "What is the capital of Japan?"}
        await take(transformers_engine, GenerationRequest([system, *QUESTION], GREEDY, "eve"))
        started, pieces, _ = await take(transformers_engine, GenerationRequest([system, other], GREEDY, "eve"))
        assert 0 < started.reused_prefix_tokens < started.prompt_tokens
        _, alone, _ = await take(transformers_engine, GenerationRequest([system, other], GREEDY, "nobody else"))
        assert text(pieces)[:20] == text(alone)[:20]

    async def test_answers_run_side_by_side(self, transformers_engine: TransformersEngine) -> None:
        long = GenerationRequest(QUESTION, SamplingParams(temperature=0.0, max_new_tokens=60), "ann")
        running = asyncio.create_task(take(transformers_engine, long))
        await asyncio.sleep(0.1)
        await take(transformers_engine, GenerationRequest(QUESTION, SHORT, "bob"))
        assert not running.done()
        assert text((await running)[1])

    async def test_the_memory_of_keys_and_values_is_reported(self, transformers_engine: TransformersEngine) -> None:
        await take(transformers_engine, GenerationRequest(QUESTION, SHORT, "ann"))
        await settled(transformers_engine)
        load = transformers_engine.load
        assert 0 < load.kv_bytes <= load.kv_limit_bytes
        assert load.preempted == 0

    async def test_a_tiny_temperature_is_greedy(self, transformers_engine: TransformersEngine) -> None:
        answers = [
            await take(transformers_engine, GenerationRequest(QUESTION, SamplingParams(temperature, max_new_tokens=4)))
            for temperature in (0.0, 1e-38)
        ]
        assert answers[0][1:] == answers[1][1:]


async def settled(engine: Engine) -> None:
    """Wait until nothing is under way."""
    for _ in range(500):
        if engine.load.running == engine.load.waiting == 0:
            return
        await asyncio.sleep(0.02)
    raise AssertionError(engine.load)


def asked(i: int, max_new_tokens: int) -> GenerationRequest:
    messages: list[Message] = [{"role": "user", "content": f"Question {i}: {'why ' * (i % 50)}?"}]
    return GenerationRequest(messages, SamplingParams(temperature=0.0, max_new_tokens=max_new_tokens), f"user{i}")


async def left(engine: Engine, i: int) -> None:
    """Ask and go away, with the start or with the first piece."""
    async with aclosing(engine.stream(asked(i % 30, 500))) as chunks:
        async for chunk in chunks:
            if i % 3 == 0 or isinstance(chunk, Piece):
                return


class TestUnderLoad:
    async def test_a_waiting_request_can_leave(self, start_small: Callable[..., TransformersEngine]) -> None:
        engine = start_small(slots=1)
        running = asyncio.create_task(take(engine, asked(0, 400)))
        waiting = asyncio.create_task(take(engine, asked(1, 4)))
        while engine.load != replace(engine.load, running=1, waiting=1):
            await asyncio.sleep(0.01)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert engine.load.waiting == 0
        assert (await running)[2].reason == "length"

    async def test_a_user_with_many_does_not_hold_up_another(
        self, start_small: Callable[..., TransformersEngine]
    ) -> None:
        engine = start_small(slots=1)
        order: list[str] = []

        async def one(user: str) -> None:
            await take(engine, GenerationRequest(QUESTION, SamplingParams(0.0, max_new_tokens=40), user))
            order.append(user)

        many = [asyncio.create_task(one("ann")) for _ in range(6)]
        while engine.load.waiting < 4:
            await asyncio.sleep(0.001)
        await one("bob")
        await asyncio.gather(*many)
        assert order.index("bob") <= 2

    async def test_64_at_once_get_their_own(self, start_small: Callable[..., TransformersEngine]) -> None:
        engine = start_small()
        came = await asyncio.gather(*(take(engine, asked(i, 20)) for i in range(64)))
        assert all(sum(piece.tokens for piece in pieces) == 20 for _, pieces, _ in came)
        assert [started.prompt_tokens for started, _, _ in came] == [
            engine.count(asked(i, 20).messages) for i in range(64)
        ]
        await settled(engine)

    async def test_a_thousand_starts_and_stops_leave_nothing(
        self, start_small: Callable[..., TransformersEngine]
    ) -> None:
        engine = start_small(kv_cache_bytes=2_000_000)

        memory: list[int] = []
        for _ in range(4):
            for at in range(0, 250, 50):
                await asyncio.gather(*(left(engine, at + i) for i in range(50)))
            await settled(engine)
            memory.append(psutil.Process().memory_info().rss)
        assert engine.load.kv_bytes <= 2_000_000
        assert memory[-1] - memory[1] < 50_000_000
        assert (await take(engine, asked(1, 8)))[2].reason == "length"

    async def test_a_slow_reader_holds_up_nobody(self, start_small: Callable[..., TransformersEngine]) -> None:
        engine = start_small()
        slow = engine.stream(asked(0, 300))
        assert isinstance(await anext(slow), Started)
        for i in range(1, 4):
            await take(engine, asked(i, 50))
        await settled(engine)  # its place is free, too
        assert sum([chunk.tokens async for chunk in slow if isinstance(chunk, Piece)]) == 300

    async def test_closing_amid_16_answers_ends_each_with_what_it_has(
        self, start_small: Callable[..., TransformersEngine]
    ) -> None:
        engine = start_small()
        n_tokens = [0] * 16

        async def follow(i: int) -> None:
            async for chunk in engine.stream(asked(i, 1_500)):
                n_tokens[i] += chunk.tokens if isinstance(chunk, Piece) else 0

        following = [asyncio.create_task(follow(i)) for i in range(16)]
        while min(n_tokens) < 5:
            await asyncio.sleep(0.01)
        await asyncio.to_thread(engine.close)
        ended = await asyncio.gather(*following, return_exceptions=True)
        assert all(isinstance(each, EngineError) and "closed" in str(each) for each in ended)
        assert not engine.alive
        with pytest.raises(EngineError, match="closed"):
            await take(engine, asked(0, 4))

    async def test_broken_weights_fail_the_request_and_not_the_engine(
        self, start_small: Callable[..., TransformersEngine]
    ) -> None:
        engine = start_small()
        runner: Any = engine._scheduler._runner
        kept = runner._embedding.clone()
        runner._embedding.fill_(torch.nan)
        with pytest.raises(EngineError, match="not numbers"):
            await take(engine, asked(0, 4))
        runner._embedding.copy_(kept)
        assert (await take(engine, asked(0, 4)))[2].reason == "length"

    async def test_a_defect_of_ours_leaves_nobody_waiting(
        self, start_small: Callable[..., TransformersEngine], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = start_small(slots=1)
        following = [asyncio.create_task(take(engine, asked(i, 2_000))) for i in range(3)]
        while engine.load.waiting < 2:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(engine._scheduler, "step", lambda: 1 / 0)
        ended = await asyncio.gather(*following, return_exceptions=True)
        assert all("the engine failed" in str(each) for each in ended)
        assert not engine.alive

    async def test_a_conversation_that_memory_cannot_hold_fails_with_the_reason(
        self, start_small: Callable[..., TransformersEngine]
    ) -> None:
        engine = start_small(kv_cache_bytes=200_000)
        with pytest.raises(EngineError, match="CHATLAB_KV_CACHE_MB"):
            await take(engine, asked(0, 4))
        assert engine.load.running == 0


def so_far(user_id: str = "ann", n_words: int = 5) -> GenerationRequest:
    """A conversation that waits for its next question."""
    answer = " ".join(f"answer {i}" for i in range(n_words))
    return GenerationRequest([*QUESTION, {"role": "assistant", "content": answer}], SHORT, user_id)


def next_turn(request: GenerationRequest, user_id: str = "ann") -> GenerationRequest:
    return GenerationRequest(
        [*request.messages, {"role": "user", "content": "What is the capital of Japan?"}], GREEDY, user_id
    )


class Gate:
    """Holds up the first step of an engine's model; what each step computes: its sequences' tokens."""

    def __init__(self, engine: TransformersEngine, held: bool = True) -> None:
        runner: Any = engine._scheduler._runner
        self.steps: list[list[list[int]]] = []
        self.reached, self.opened = threading.Event(), threading.Event()
        self._step, runner.step = runner.step, self
        if not held:
            self.opened.set()

    def __call__(self, feeds: Any) -> torch.Tensor:
        self.steps.append([[*feed.token_ids] for feed in feeds])
        self.reached.set()
        assert self.opened.wait(30)
        return self._step(feeds)


async def idle(engine: TransformersEngine) -> None:
    """Wait until the engine has warmed everything and sleeps."""
    asleep, wait = threading.Event(), engine._wake.wait

    def watched(timeout: float | None = None) -> bool:
        asleep.set()
        return wait(timeout)

    engine._wake.wait = watched  # type: ignore[method-assign]
    with engine._wake:
        engine._wake.notify_all()
    assert await asyncio.to_thread(asleep.wait, 30)
    engine._wake.wait = wait  # type: ignore[method-assign]


class TestWarming:
    async def test_the_next_turn_begins_where_the_warming_ended(self, transformers_engine: TransformersEngine) -> None:
        request = so_far()
        transformers_engine.warm(replace(request, user_id="warm"))
        await idle(transformers_engine)
        n_known = len(transformers_engine._template.prefix_ids(request.messages))
        warm, pieces, _ = await take(transformers_engine, next_turn(request, "warm"))
        assert warm.reused_prefix_tokens == n_known
        cold, without, _ = await take(transformers_engine, next_turn(request, "cold"))
        assert cold.reused_prefix_tokens == 0, "a prefix must never cross users"
        assert text(pieces)[:20] == text(without)[:20]

    async def test_a_request_is_in_the_step_after_it_came(self, start_small: Callable[..., TransformersEngine]) -> None:
        engine = start_small()
        gate = Gate(engine)
        engine.warm(so_far(n_words=1_500))
        await asyncio.to_thread(gate.reached.wait, 30)
        assert engine.load.running == 0
        asked_for = asyncio.create_task(take(engine, asked(1, 3)))
        while engine.load.waiting == 0:
            await asyncio.sleep(0.001)
        gate.opened.set()
        started, pieces, _ = await asked_for
        await idle(engine)
        prompt_ids = engine._template.encode(engine.render(asked(1, 3).messages))
        assert len(prompt_ids) == started.prompt_tokens
        assert gate.steps[1] == [prompt_ids]
        assert [len(step) for step in gate.steps[:4]] == [1] * 4
        assert [len(step[0]) for step in gate.steps[2:4]] == [1, 1], "its other tokens"
        assert len(pieces) == 3
        started, _, _ = await take(engine, next_turn(so_far(n_words=1_500)))
        assert started.reused_prefix_tokens == len(engine._template.prefix_ids(so_far(n_words=1_500).messages))

    async def test_one_a_user_and_so_many_in_all(self, start_small: Callable[..., TransformersEngine]) -> None:
        engine = start_small()
        gate = Gate(engine)
        engine.warm(so_far("first"))
        await asyncio.to_thread(gate.reached.wait, 30)
        for i in range(MAX_WARMS + 10):
            engine.warm(so_far(f"user{i}", 3))
            engine.warm(so_far(f"user{i}", 4))
        engine.warm(so_far("first", 6))
        assert len(engine._warms) == MAX_WARMS
        gate.opened.set()
        await idle(engine)
        assert not engine._warms
        for user, n_words, known in (("user72", 4, True), ("first", 6, True), ("user5", 4, False)):
            started, _, _ = await take(engine, next_turn(so_far(user, n_words), user))
            n_known = len(engine._template.prefix_ids(so_far(user, n_words).messages))
            assert (started.reused_prefix_tokens == n_known) == known

    async def test_what_fails_is_forgotten(
        self, start_small: Callable[..., TransformersEngine], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        engine = start_small()
        runner: Any = engine._scheduler._runner
        with monkeypatch.context() as patched:
            patched.setattr(runner, "step", lambda feeds: 1 / 0)
            engine.warm(so_far())
            await idle(engine)
        with monkeypatch.context() as patched:
            patched.setattr(engine._template, "prefix_ids", lambda messages: 1 / 0)
            engine.warm(so_far())
            await idle(engine)
        assert engine.alive
        assert engine.load.kv_bytes == 0
        assert (await take(engine, next_turn(so_far())))[0].reused_prefix_tokens == 0

    async def test_what_exceeds_the_context_or_the_memory_is_forgotten(
        self, start_small: Callable[..., TransformersEngine]
    ) -> None:
        for kv_cache_bytes, n_words in ((0, 10_000), (200_000, 100)):
            engine = start_small(kv_cache_bytes=kv_cache_bytes)
            gate = Gate(engine, held=False)
            engine.warm(so_far(n_words=n_words))
            await idle(engine)
            assert gate.steps == []
            assert engine.load.kv_bytes == 0
            assert engine.alive

    async def test_a_thousand_and_stops_between_leave_nothing(
        self, start_small: Callable[..., TransformersEngine]
    ) -> None:
        engine = start_small(kv_cache_bytes=2_000_000)

        memory: list[int] = []
        for _ in range(4):
            for i in range(250):
                engine.warm(so_far(f"user{i % 30}", 1 + i % 90))
                if i % 5 == 0:
                    await left(engine, i)
            await settled(engine)
            await idle(engine)
            memory.append(psutil.Process().memory_info().rss)
            assert engine.load.kv_bytes <= 2_000_000
        assert (len(engine._scheduler), engine._scheduler._runner.n_bytes, len(engine._warms)) == (0, 0, 0)
        assert memory[-1] - memory[1] < 50_000_000

    async def test_closing_ends_it_with_the_step(self, start_small: Callable[..., TransformersEngine]) -> None:
        engine = start_small()
        gate = Gate(engine)
        engine.warm(so_far(n_words=1_500))
        engine.warm(so_far("bob"))
        await asyncio.to_thread(gate.reached.wait, 30)
        closing = asyncio.create_task(asyncio.to_thread(engine.close))
        while not engine._closed:
            await asyncio.sleep(0.001)
        gate.opened.set()
        await closing
        assert len(gate.steps) == 1
        assert not engine.alive
