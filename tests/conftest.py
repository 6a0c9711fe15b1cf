"""Real parts on temporary paths. Servers are processes of their own; the bundled model is converted once a run."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
import structlog
from fastapi import FastAPI
from fastapi.testclient import TestClient

from chatlab.api import install
from chatlab.embedding import Embedder
from chatlab.engines.base import Chunk, Engine, EngineLoad, Finished, GenerationRequest, ModelFacts, Piece, Started
from chatlab.engines.models import BUNDLED_NAME, ModelSource, bundled_gguf, convert_bundled
from chatlab.errors import EngineError
from chatlab.history import Recall
from chatlab.messages import Message
from chatlab.settings import Settings, quieten_libraries
from chatlab.store import Store
from chatlab.vectors import Vectors
from chatlab.wiring import Parts, wire
from tests.gpu_process import here, in_process
from tests.scripted_server import ScriptedServer, scripted_server

pytest.register_assert_rewrite("tests.browser")
quieten_libraries()
START_SECONDS = 60.0
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No setting of the person's shell or folder reaches a test, nor how an earlier one logged."""
    for name in list(os.environ):
        if name.startswith("CHATLAB_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("CHATLAB_CACHE_SCOPE", "off")  # what asks twice wants two answers, but in the cache's own tests
    monkeypatch.setenv("CHATLAB_CACHE_AUDIT_SHARE", "0")  # nor chance: an audit is one more run of the engine
    monkeypatch.chdir(tmp_path)
    yield
    structlog.reset_defaults()  # a command logs to the standard error of its test


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", engine="echo", notes="ledger")


@pytest.fixture
def parts(settings: Settings) -> Iterator[Parts]:
    with wire(settings) as parts:
        yield parts


@pytest.fixture
def client(parts: Parts) -> Iterator[TestClient]:
    with api_client(parts) as client:
        yield client


@contextmanager
def api_client(parts: Parts) -> Generator[TestClient]:
    """The API alone, on an event loop that lives as long as the client."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    install(app, parts)
    with TestClient(app) as client:
        yield client
        assert client.portal is not None
        client.portal.call(parts.jobs.close)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "data") as store:
        yield store


@pytest.fixture(scope="session")
def bundled_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The converted bundled model."""
    return convert_bundled(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def transformers_engine(bundled_model: Path) -> Iterator[Engine]:
    import torch

    from chatlab.engines.transformers import TransformersEngine

    engine = TransformersEngine(ModelSource(BUNDLED_NAME, str(bundled_model), on_hub=False), torch.device("cpu"))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def zero_gpu_engine(bundled_model: Path) -> Iterator[Engine]:
    """Where `spaces.GPU` does nothing."""
    yield from _zero_gpu_engine(bundled_model, here)


@pytest.fixture(scope="session")
def forked_engine(bundled_model: Path) -> Iterator[Engine]:
    """Where `spaces.GPU` runs a task in another process."""
    yield from _zero_gpu_engine(bundled_model, in_process)


def _zero_gpu_engine(model: Path, gpu: Any) -> Iterator[Engine]:
    import torch

    from chatlab.engines.zerogpu import ZeroGpuEngine

    engine = ZeroGpuEngine(ModelSource(BUNDLED_NAME, str(model), on_hub=False), gpu, torch.device("cpu"))
    yield engine
    engine.close()


@pytest.fixture(scope="session")
def served_by_transformers(bundled_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """`transformers serve`: knows neither `stream_options` nor other makes' fields, and counts nothing for us."""
    port = free_port()
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path_factory.mktemp("hub"))}
    command = ["-m", "transformers.cli.transformers", "serve", str(bundled_model), "--port", str(port)]
    command += ["--host", "127.0.0.1", "--device", "cpu"]
    with serving_process(command, f"http://127.0.0.1:{port}/health", environment):
        yield from remote_engine(f"http://127.0.0.1:{port}", model=str(bundled_model), tokenizer=str(bundled_model))


@pytest.fixture(scope="session")
def served_by_llama_cpp() -> Iterator[Engine]:
    """llama.cpp's server, which counts by routes of its own."""
    port, model = free_port(), bundled_gguf()
    with serving_process(
        [str(ROOT / "tests/llama_server.py"), str(model), str(port)], f"http://127.0.0.1:{port}/health"
    ):
        yield from remote_engine(f"http://127.0.0.1:{port}/v1")


@pytest.fixture(scope="session")
def served_by_chatlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Our own `/v1`, behind which the echo answers."""
    with server_starter(tmp_path_factory.mktemp("backend")) as start:
        yield from remote_engine(start().url + "/v1")


def remote_engine(url: str, **options: Any) -> Iterator[Engine]:
    from chatlab.engines.openai_compatible import OpenAICompatibleEngine

    engine = OpenAICompatibleEngine(url, salt_key=b"secret", **options)
    yield engine
    engine.close()


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    """A server that misbehaves as told."""
    with scripted_server() as server:
        yield server


@pytest.fixture(scope="session")
def small_folder(bundled_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with the bundled one's tokenizer and two layers of random weights: quick, and never done talking."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    folder = tmp_path_factory.mktemp("small") / "small"
    shutil.copytree(bundled_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    config = AutoConfig.from_pretrained(bundled_model)
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 72, 96, 2
    config.head_dim = 8
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)
    generation = GenerationConfig.from_pretrained(bundled_model)
    generation.eos_token_id = None
    generation.save_pretrained(folder)
    return folder


@pytest.fixture
def start_small(small_folder: Path) -> Iterator[Callable[..., Any]]:
    """Starts Transformers engines on it."""
    import torch

    from chatlab.engines.transformers import TransformersEngine

    engines: list[Engine] = []

    def start(**options: Any) -> Engine:
        source = ModelSource("small", str(small_folder), on_hub=False)
        engines.append(TransformersEngine(source, torch.device("cpu"), **options))
        return engines[-1]

    yield start
    for engine in engines:
        engine.close()


@pytest.fixture(scope="session")
def embedder() -> Iterator[Embedder]:
    embedder = Embedder()
    yield embedder
    embedder.close()


@pytest.fixture
def recall(embedder: Embedder, tmp_path: Path) -> Iterator[Recall]:
    """Over vectors of its own."""
    vectors = Vectors(str(tmp_path / "vectors"), embedder.name)
    yield Recall(embedder, vectors)
    vectors.close()


@dataclass
class ScriptedEngine:
    """Says a text piece by piece, waits or fails where the script says so."""

    pieces: list[str | Exception] = field(default_factory=lambda: ["Hello", " there"])
    pause: Callable[[], Any] | None = None
    context_tokens: int = 1_000
    seen: list[GenerationRequest] = field(default_factory=list[GenerationRequest])
    n_open: int = 0
    warmed: list[GenerationRequest] = field(default_factory=list[GenerationRequest])

    @property
    def facts(self) -> ModelFacts:
        return ModelFacts("scripted", "scripted", "cpu", self.context_tokens, 10, ("<|im_start|>", "<|im_end|>"))

    @property
    def load(self) -> EngineLoad:
        return EngineLoad(self.n_open, 0)

    @property
    def alive(self) -> bool:
        return True

    def render(self, messages: Sequence[Message]) -> str:
        return "".join(f"{m['role']}:{m['content']}\n" for m in messages)

    def count(self, messages: Sequence[Message]) -> int:
        return len(self.render(messages))

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        self.seen.append(request)
        self.n_open += 1
        try:
            yield Started(self.count(request.messages), 0)
            for piece in self.pieces:
                if self.pause is not None:
                    await self.pause()
                if isinstance(piece, Exception):
                    raise piece
                yield Piece(piece)
            yield Finished("stop")
        finally:
            self.n_open -= 1

    def warm(self, request: GenerationRequest) -> None:
        self.warmed.append(request)

    def close(self) -> None:
        pass


@pytest.fixture
def failing_engine() -> ScriptedEngine:
    return ScriptedEngine(["Half", EngineError("the model went away")])


@dataclass
class Server:
    """A chatlab process."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """As a power cut would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(timeout=40)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


StartServer = Callable[..., Server]


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """Starts `python -m chatlab serve` on a data dir; keyword arguments are settings."""
    with server_starter(tmp_path) as start:
        yield start


@contextmanager
def server_starter(folder: Path) -> Generator[StartServer]:
    """Starts servers in a folder and ends them."""
    servers: list[Server] = []

    def start(data_dir: Path | None = None, port: int = 0, **settings: object) -> Server:
        port = port or free_port()
        values = {"engine": "echo", "data_dir": data_dir or folder / "data", "port": port, **settings}
        environment = {
            **os.environ,
            "PYTHONPATH": str(Path(__file__).parents[1]),
            **{f"CHATLAB_{name.upper()}": str(value) for name, value in values.items()},
        }
        process = subprocess.Popen([sys.executable, "-m", "chatlab", "serve"], env=environment, cwd=folder)
        server = Server(f"http://127.0.0.1:{port}", process)
        servers.append(server)
        wait_ready(server)
        return server

    yield start
    kill_all(servers)


def kill_all(servers: Sequence[Server]) -> None:
    """Those that still run."""
    for server in servers:
        if server.process.poll() is None:
            server.kill()


# The documented "helper environment variables", and what the image of Gradio Spaces is known to set.
SPACE_VARIABLES = {
    "SYSTEM": "spaces",
    "SPACE_ID": "ann/chatlab",
    "SPACE_AUTHOR_NAME": "ann",
    "SPACE_REPO_NAME": "chatlab",
    "SPACE_TITLE": "chatlab",
    "SPACE_HOST": "ann-chatlab.hf.space",
    "GRADIO_SERVER_NAME": "0.0.0.0",
    "GRADIO_NUM_PORTS": "1",
    "GRADIO_ALLOW_FLAGGING": "never",
    "GRADIO_THEME": "huggingface",
    "PYTHONUNBUFFERED": "1",
}


@dataclass
class Space(Server):
    """A running Space: its home holds the app in `app`; `temporary` is the temporary folder, `log` its output."""

    home: Path
    temporary: Path
    log: Path


class StartSpace(Protocol):
    def __call__(self, command: Sequence[str], *, ready: bool = True, **variables: str) -> Space: ...


@pytest.fixture
def start_space(tmp_path: Path) -> Iterator[StartSpace]:
    """Starts a command in a copy of what the platform clones, with nothing else in its environment."""
    spaces: list[Space] = []

    def start(command: Sequence[str], *, ready: bool = True, **variables: str) -> Space:
        home, temporary, log = tmp_path / "home", tmp_path / "tmp", tmp_path / "log"
        app = home / "app"
        shutil.copytree(ROOT / "chatlab", app / "chatlab", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "app.py", app)
        temporary.mkdir()
        port = free_port()
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(home),
            "TMPDIR": str(temporary),
            "PYTHONPATH": os.pathsep.join([str(app), *_installed_beside()]),
            "PYTHONDONTWRITEBYTECODE": "1",
            **SPACE_VARIABLES,
            "CHATLAB_PORT": str(port),
            **variables,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=environment, cwd=app, stdout=output, stderr=subprocess.STDOUT)
        # Reached by an address that a server on 127.0.0.1 alone would not answer at.
        space = Space(f"http://127.0.0.2:{port}", process, home, temporary, log)
        spaces.append(space)
        if ready:
            wait_ready(space)
        return space

    yield start
    kill_all(spaces)


def _installed_beside() -> list[str]:
    """Folders of packages that this run was given beside its virtual environment."""
    return [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry and Path(entry) != ROOT]


@contextmanager
def serving_process(
    command: Sequence[str], health: str, environment: dict[str, str] | None = None
) -> Generator[subprocess.Popen[bytes]]:
    """A server of another make, started with this Python; ends it."""
    process = subprocess.Popen([sys.executable, *command], env=environment, stdout=subprocess.DEVNULL)
    try:
        wait_ready(Server(health, process), "")
        yield process
    finally:
        process.kill()
        process.wait()


def wait_ready(server: Server, path: str = "/readyz") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert server.process.poll() is None, "the server ended at its start"
        try:
            if httpx.get(server.url + path).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise TimeoutError("the server did not get ready")


@dataclass(frozen=True)
class Sent:
    """A server-sent event as received."""

    id: int
    name: str
    data: dict[str, Any]


def events(lines: Iterator[str]) -> Iterator[Sent]:
    """Server-sent events from the lines of a body."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if not line:
            if fields:
                yield Sent(int(fields["id"]), fields["event"], json.loads(fields["data"]))
            fields = {}
            continue
        name, _, value = line.partition(": ")
        fields[name] = value


def ask(client: httpx.Client | TestClient, chat_id: str, message: str, **body: Any) -> list[Sent]:
    """Send a message and take all events of its answer."""
    request = {"userMessage": message, "stream": True, **body}
    with client.stream("POST", f"/chat/{chat_id}/completion", json=request) as response:
        assert response.status_code == 200, response.read()
        return list(events(response.iter_lines()))


def text_of(sent: list[Sent]) -> str:
    return "".join(event.data["text"] for event in sent if event.name == "delta")


def new_chat(client: httpx.Client | TestClient, **body: Any) -> str:
    response = client.post("/chat", json=body)
    assert response.status_code == 201, response.text
    return response.json()["chatID"]
