"""ZeroGPU: the engine's own edges, then the whole app on the platform's own package.

That package runs as on the platform (stand-in CUDA, scheduling over HTTP, a forked process a call), except that the
device API is ours and that the weights are moved to the CPU, since there is no GPU.
"""

import base64
import contextvars
import importlib.util
import json
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import aclosing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
import torch

from chatlab.engines.base import Engine, GenerationRequest, Piece
from chatlab.engines.models import BUNDLED_NAME, ModelSource
from chatlab.engines.zerogpu import MAX_SECONDS, MIN_SECONDS, SPARE_SECONDS, ZeroGpuEngine, gpu_seconds
from chatlab.errors import EngineError
from chatlab.messages import Message, SamplingParams
from tests.conftest import Space, StartSpace, ask, new_chat, text_of
from tests.gpu_process import here
from tests.test_engines import GREEDY, QUESTION, take, text

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def source(bundled_model: Path) -> ModelSource:
    return ModelSource(BUNDLED_NAME, str(bundled_model), on_hub=False)


def test_the_duration_follows_the_request() -> None:
    def asked(n_prompt: int, limit: int) -> int:
        return gpu_seconds([0] * n_prompt, SamplingParams(), limit)

    assert asked(20, 1) == MIN_SECONDS
    assert MIN_SECONDS < asked(20, 400) < asked(20, 800) < asked(20_000, 800) < MAX_SECONDS
    assert asked(200_000, 8_000) == MAX_SECONDS


async def test_the_tokens_are_those_of_the_reference(forked_engine: ZeroGpuEngine, transformers_engine: Engine) -> None:
    request = GenerationRequest(QUESTION, GREEDY, "ann")
    assert text((await take(forked_engine, request))[1]) == text((await take(transformers_engine, request))[1])


async def test_nothing_is_kept_between_turns(zero_gpu_engine: ZeroGpuEngine) -> None:
    assert not zero_gpu_engine.facts.writes_titles, "a GPU call for a title would be the visitor's quota"
    for _ in range(2):
        started, _, _ = await take(zero_gpu_engine, GenerationRequest(QUESTION, GREEDY, "ann"))
        assert started.reused_prefix_tokens == 0


async def test_what_leaves_early_closes_the_call(source: ModelSource) -> None:
    ended: list[str] = []

    def watched(*, duration: Callable[..., int]) -> Callable[[Any], Any]:
        def decorate(task: Callable[..., Generator[Any]]) -> Callable[..., Generator[Any]]:
            def call(*args: Any) -> Generator[Any]:
                try:
                    yield from task(*args)
                except GeneratorExit:
                    ended.append("closed")
                    raise

            return call

        return decorate

    engine = ZeroGpuEngine(source, watched, CPU)
    async with aclosing(engine.stream(GenerationRequest(QUESTION, SamplingParams(0.0, stop=("2",))))) as chunks:
        assert [chunk async for chunk in chunks]
    assert ended == ["closed"], "a stop string ends the call, which costs by the second"
    async with aclosing(engine.stream(GenerationRequest(QUESTION))) as chunks:
        async for chunk in chunks:
            if isinstance(chunk, Piece):
                break
    engine.close()
    assert ended == ["closed"] * 2


async def test_an_answer_ends_before_its_call_is_killed(source: ModelSource) -> None:
    ticks = iter(range(1_000))  # a second a look
    engine = ZeroGpuEngine(source, here, CPU, lambda *_: 12, lambda: float(next(ticks)))
    _, pieces, finished = await take(engine, GenerationRequest(QUESTION, SamplingParams(0.0, max_new_tokens=100)))
    assert finished.reason == "length"
    assert len([piece for piece in pieces if piece.tokens]) == 12 - SPARE_SECONDS
    engine.close()


async def test_failures_come_with_their_words(forked_engine: ZeroGpuEngine, source: ModelSource) -> None:
    norm = forked_engine._model.model.norm.weight
    kept = norm.detach().clone()
    try:
        with torch.no_grad():
            norm.fill_(float("nan"))
        with pytest.raises(EngineError, match="not numbers"):
            await take(forked_engine, GenerationRequest(QUESTION, GREEDY))
    finally:
        with torch.no_grad():
            norm.copy_(kept)
    assert text((await take(forked_engine, GenerationRequest(QUESTION, GREEDY)))[1])

    class Refusal(Exception):
        message = "You have exceeded your ZeroGPU quota (47s requested vs. 3s left)."

    def refusing(*, duration: Callable[..., int]) -> Callable[[Any], Any]:
        def call(*args: Any) -> Generator[Any]:
            raise Refusal
            yield

        return lambda task: call

    engine = ZeroGpuEngine(source, refusing, CPU)
    with pytest.raises(EngineError, match="47s requested vs. 3s left"):
        await take(engine, GenerationRequest(QUESTION, GREEDY))
    engine.close()


async def test_the_call_runs_in_the_askers_context(source: ModelSource) -> None:
    visitor = contextvars.ContextVar("visitor", default="nobody")
    seen: list[str] = []

    def noting(*, duration: Callable[..., int]) -> Callable[[Any], Any]:
        def decorate(task: Callable[..., Generator[Any]]) -> Callable[..., Generator[Any]]:
            def call(*args: Any) -> Generator[Any]:
                seen.append(visitor.get())
                yield from task(*args)

            return call

        return decorate

    engine = ZeroGpuEngine(source, noting, CPU)
    visitor.set("ann")
    await take(engine, GenerationRequest(QUESTION, SamplingParams(0.0, max_new_tokens=1)))
    assert seen == ["ann"]
    engine.close()


PLATFORM = """
import runpy
import torch
from chatlab.settings import quieten_libraries
quieten_libraries()
if torch.version.cuda is None:  # a build for CPUs: the names that are patched must be there
    torch.version.cuda, torch._C._cuda_init, torch.cuda._is_in_bad_fork = "13.0", None, bool
import spaces.zero
from spaces.zero import torch as platform
from spaces.zero.torch import patching

def move(callback=None):
    for stand_in, original in patching.cuda_aliases.items():
        if original is not None:
            stand_in.data = original

platform.pack, platform.init, platform.move = (lambda: 0), (lambda uuid: None), move
runpy.run_path("app.py", run_name="__main__")
"""
needs_spaces = pytest.mark.skipif(
    importlib.util.find_spec("spaces") is None, reason="the package spaces is not installed (requirements-dev.txt)"
)


class DeviceApi(ThreadingHTTPServer):
    """What ZeroGPU asks for GPUs; grants each and remembers the calls."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _DeviceApiHandler)
        self.calls: list[tuple[str, dict[str, str]]] = []
        self.left_seconds: int | None = None

    def named(self, path: str) -> list[dict[str, str]]:
        return [query for called, query in self.calls if called == path]


class _DeviceApiHandler(BaseHTTPRequestHandler):
    server: DeviceApi  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        url = urlsplit(self.path)
        self.server.calls.append((url.path, {name: values[0] for name, values in parse_qs(url.query).items()}))
        status, body = 200, {}
        if url.path == "/schedule" and self.server.left_seconds is not None:
            status, body = 429, {"left": self.server.left_seconds, "wait": 600}
        elif url.path == "/schedule":
            body = {"idle": False, "nvidiaIndex": 0, "nvidiaUUID": "GPU-0", "allowToken": str(len(self.server.calls))}
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def device_api() -> Iterator[DeviceApi]:
    api = DeviceApi()
    thread = threading.Thread(target=api.serve_forever)
    thread.start()
    yield api
    api.shutdown()
    api.server_close()
    thread.join()


@pytest.fixture
def zero_gpu_space(start_space: StartSpace, device_api: DeviceApi, bundled_model: Path) -> Space:
    return start_space(
        [sys.executable, "-c", PLATFORM],
        SPACES_ZERO_GPU="true",
        SPACES_ZERO_DEVICE_API_URL=f"http://127.0.0.1:{device_api.server_port}",
        CHATLAB_MODEL=str(bundled_model),
        CHATLAB_THREADS="1",
    )


def address(space: Space) -> tuple[str, int]:
    url = httpx.URL(space.url)
    return url.host, url.port or 0


def token() -> str:
    """A visitor's, as the platform's proxy adds it to each request."""
    return f"x.{base64.urlsafe_b64encode(b'{}').decode().rstrip('=')}.x"


@needs_spaces
@pytest.mark.live
def test_the_app_on_the_platforms_own_package(zero_gpu_space: Space, device_api: DeviceApi) -> None:
    # 1. The platform has seen a decorated function at the start.
    assert len(device_api.named("/startup-report")) == 1
    assert device_api.named("/schedule") == []
    bystander = socket.create_connection(address(zero_gpu_space), timeout=20)
    bystander.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert bystander.recv(12) == b"HTTP/1.1 200"

    with httpx.Client(base_url=zero_gpu_space.url, timeout=60, headers={"X-IP-Token": token()}) as client:
        # 2. An answer: one call, as long as its limit needs, in the visitor's name, given back at the end.
        chat_id = new_chat(client)
        sent = ask(client, chat_id, "What is the capital of France?", params={"maxNewTokens": 32})
        assert "Paris" in text_of(sent)
        turn = sent[-1].data
        assert (turn["provenance"]["engine"], turn["status"]) == ("zerogpu", "done")
        (scheduled,) = device_api.named("/schedule")
        assert int(scheduled["durationSeconds"]) == MIN_SECONDS
        assert scheduled["token"] == token()
        assert [call["fail"] for call in device_api.named("/release")] == ["false"]
        assert int(device_api.named("/allow")[0]["pid"]) != zero_gpu_space.process.pid

        # 3. A longer limit asks for more; stopping gives the GPU back at once.
        accepted = client.post(
            f"/chat/{chat_id}/completion",
            json={
                "userMessage": "Write a long story about a river.",
                "parentTurnID": None,
                "params": {"maxNewTokens": 700, "temperature": 0},
            },
            headers={"Prefer": "respond-async"},
        )
        turn_id = accepted.json()["turnID"]
        wait_for(lambda: bool(client.get(f"/completions/{turn_id}").json()["assistantMessage"]))
        stopped = client.post(f"/completions/{turn_id}/stop").json()
        assert stopped["status"] == "stopped"
        wait_for(lambda: len(device_api.named("/release")) == 2)
        assert MIN_SECONDS < int(device_api.named("/schedule")[1]["durationSeconds"]) < MAX_SECONDS

        # 4. No quota left: the turn fails with the platform's words.
        device_api.left_seconds = 3
        failed = ask(client, chat_id, "And of Italy?", params={"maxNewTokens": 32})[-1]
        assert failed.name == "error"
        assert "3s left" in json.dumps(failed.data)

    # 5. A GPU process that still runs does not hold a connection open that the server has closed.
    with bystander:
        bystander.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        while bystander.recv(100_000):
            pass
    zero_gpu_space.process.send_signal(signal.SIGTERM)
    assert zero_gpu_space.process.wait(timeout=40) == 0


def wait_for(condition: Callable[[], bool], seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


async def test_a_prompt_is_counted_without_a_gpu(source: ModelSource) -> None:
    def none(*, duration: Callable[..., int]) -> Callable[[Any], Any]:
        return lambda task: None

    engine = ZeroGpuEngine(source, none, CPU)
    messages: list[Message] = [{"role": "user", "content": "Hello"}]
    assert engine.count(messages) > 0
    assert "Hello" in engine.render(messages)
    engine.close()
