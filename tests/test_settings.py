"""Settings and the command line: a wrong value ends the start with one line that names it."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from chatlab.cli import main
from chatlab.errors import ConfigError
from chatlab.settings import load_settings


def test_arguments_win_over_variables_over_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "chatlab.toml").write_text('port = 1111\nmodel = "org/name"\nengine = "echo"\n')
    monkeypatch.setenv("CHATLAB_PORT", "2222")
    monkeypatch.setenv("CHATLAB_ENGINE", "transformers")
    settings = load_settings({"port": 3333, "host": None})
    assert (settings.port, settings.engine, settings.model) == (3333, "transformers", "org/name")
    assert settings.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CHATLAB_PORT", "many", "CHATLAB_PORT='many'"),
        ("CHATLAB_PORT", "70000", "CHATLAB_PORT='70000'"),
        (
            "CHATLAB_ENGINE",
            "magic",
            "CHATLAB_ENGINE='magic': Input should be 'auto', 'transformers', 'openai' or 'echo'",
        ),
        ("CHATLAB_HOST", "0.0.0.0", "CHATLAB_ALLOW_OPEN"),
        ("CHATLAB_CACHE_SCOPE", "world", "CHATLAB_CACHE_SCOPE='world'"),
    ],
)
def test_a_bad_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError) as refused:
        load_settings()
    assert message in str(refused.value)


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "chatlab.toml").write_text("port = = 1")
    with pytest.raises(ConfigError, match=r"chatlab\.toml"):
        load_settings()


def test_an_unknown_variable_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATLAB_PROT", "1")
    with pytest.warns(UserWarning, match="CHATLAB_PROT"):
        load_settings()


def test_open_reaches_beyond_loopback_only_when_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings({"host": "0.0.0.0", "allow_open": True}).host == "0.0.0.0"
    monkeypatch.setenv("SPACE_ID", "someone/space")
    assert load_settings().host == "0.0.0.0"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"CHATLAB_MODEL": "no such thing!"}, "CHATLAB_MODEL='no such thing!'"),
        ({"CHATLAB_MODEL": "org/name", "HF_HUB_OFFLINE": "1"}, "hf download org/name"),
        ({"CHATLAB_DEVICE": "cuda:9"}, "CHATLAB_DEVICE='cuda:9'"),
        ({"CHATLAB_ENGINE": "echo", "CHATLAB_PORT": "taken"}, "Another program has the port"),
        ({"CHATLAB_ENGINE": "openai"}, "CHATLAB_OPENAI_BASE_URL=''"),
        ({"CHATLAB_ENGINE": "openai", "CHATLAB_OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}, "nothing answers there"),
    ],
)
def test_a_start_that_cannot_be_ends_with_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, variables: dict[str, str], message: str
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(tmp_path),
            "PYTHONPATH": str(Path(__file__).parents[1]),
            **{name: str(taken.getsockname()[1]) if value == "taken" else value for name, value in variables.items()},
        }
        ended = subprocess.run(
            [sys.executable, "-m", "chatlab", "serve"], env=environment, capture_output=True, text=True, check=False
        )
    assert ended.returncode == 2
    (line,) = [line for line in ended.stderr.splitlines() if line.startswith("chatlab: ")]
    assert message in line
    assert "Traceback" not in ended.stderr


def test_help_is_quick_and_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    assert "serve" in capsys.readouterr().out
