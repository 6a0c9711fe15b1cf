"""Hugging Face Spaces: the app starts under the platform's variables, as the platform starts it."""

import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest

from chatlab.errors import ConfigError
from chatlab.settings import _data_dir, import_spaces, load_settings
from tests.conftest import Space, StartSpace, ask, new_chat, text_of

ROOT = Path(__file__).parents[1]
SECRET = "hf_not_a_real_token_0123456789"


def files(*folders: Path) -> set[Path]:
    return {file for folder in folders for file in folder.rglob("*") if file.is_file()}


def check_conversation(space: Space, question: str, expected: str) -> None:
    with httpx.Client(base_url=space.url, timeout=120) as client:
        page = client.get("/")
        assert page.status_code == 200
        assert "chatlab" in page.text
        sent = ask(client, new_chat(client), question)
        assert sent[-1].name == "done"
        assert expected in text_of(sent)


@pytest.mark.live
def test_a_space_serves_everyone_and_writes_to_its_data_dir_alone(start_space: StartSpace) -> None:
    space = start_space([sys.executable, "app.py"], CHATLAB_ENGINE="echo", HF_TOKEN=SECRET)
    check_conversation(space, "Are you there?", "Are you there?")
    assert space.stop() == 0
    assert (space.home / "app/.chatlab/secret").is_file()
    assert outside(space) == set()
    assert SECRET not in space.log.read_text()


def outside(space: Space) -> set[str]:
    """Files that are neither the app's nor in its data dir."""
    app = space.home / "app"
    ours = {app / file.relative_to(ROOT) for file in files(ROOT / "chatlab")} | {app / "app.py"}
    found = files(space.home, space.temporary) - ours
    return {str(file) for file in found if not file.is_relative_to(app / ".chatlab")}


@pytest.mark.slow
def test_requirements_alone_run_a_space(start_space: StartSpace, bundled_model: Path, tmp_path: Path) -> None:
    """A fresh environment with what the platform installs; pip takes its index, or its find-links, from the shell."""
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    torch = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("torch=="))
    for wanted in ([torch], ["-r", ROOT / "requirements.txt"]):
        subprocess.run([venv / "bin/python", "-m", "pip", "install", "-q", *wanted], check=True)
    space = start_space([str(venv / "bin/python"), "app.py"], CHATLAB_MODEL=str(bundled_model))
    check_conversation(space, "What is the capital of France?", "Paris")
    assert space.stop() == 0
    assert outside(space) == set()


@pytest.mark.live
def test_the_token_goes_to_the_hub_and_not_to_the_log(start_space: StartSpace) -> None:
    seen: list[str | None] = []

    class Hub(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_response(401)
            self.send_header("X-Error-Code", "GatedRepo")
            self.end_headers()

        do_GET = do_HEAD

        def log_message(self, format: str, *args: object) -> None:
            pass

    hub = HTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        space = start_space(
            [sys.executable, "app.py"],
            ready=False,
            HF_TOKEN=SECRET,
            HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}",
            CHATLAB_MODEL="org/gated",
            CHATLAB_LOG_LEVEL="debug",
        )
        assert space.process.wait(timeout=60) == 2
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
    assert seen
    assert set(seen) == {f"Bearer {SECRET}"}
    log = space.log.read_text()
    assert "a gated model needs HF_TOKEN" in log
    assert SECRET not in log


def test_the_data_dir_is_where_a_space_can_write(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere"
    assert _data_dir(nowhere) == Path(".chatlab")
    monkeypatch.setenv("SPACE_ID", "ann/chatlab")
    assert _data_dir(tmp_path) == Path(".chatlab")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert _data_dir(nowhere) == tmp_path / "chatlab"
    assert load_settings().port == 7860
    monkeypatch.setenv("CHATLAB_DATA_DIR", "/data/chatlab")
    assert load_settings().data_dir == Path("/data/chatlab")


def test_zero_gpu_without_its_package_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not load_settings().on_zero_gpu
    monkeypatch.setenv("SPACES_ZERO_GPU", "true")
    assert load_settings().on_zero_gpu
    monkeypatch.setitem(sys.modules, "spaces", None)
    with pytest.raises(ConfigError, match="SPACES_ZERO_GPU"):
        import_spaces()
