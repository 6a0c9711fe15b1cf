"""Loading a model and its tokenizer, and what its configuration says. All of it is Transformers' own, loosely typed."""

import threading
from dataclasses import dataclass
from typing import Any

import structlog
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from chatlab.engines.models import ModelSource
from chatlab.engines.runtime import llama
from chatlab.engines.runtime.memory import return_freed, use_huge_pages
from chatlab.engines.runtime.reference import ReferenceRunner
from chatlab.engines.runtime.runner import Runner
from chatlab.errors import ModelUnavailable
from chatlab.messages import SamplingParams

HUGE_PAGES_AFTER_SECONDS = 10.0  # it holds up whoever takes memory meanwhile, and a start takes much

log = structlog.get_logger(__name__)


def pick_device(choice: str) -> torch.device:
    """The torch device for a setting; `auto` takes a GPU when there is one."""
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(choice)


def gpu_gib(device: torch.device) -> float:
    """Memory of a GPU, 0 for a CPU."""
    return torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else 0.0


@dataclass(frozen=True, slots=True)
class Described:
    """What a model comes with, beside its weights.

    Attributes:
        tokenizer: A fast one, with a chat template.
        defaults: Its own sampling; greedy where it asks for none.
        eos_ids: Tokens that end an answer.
        context_tokens: Its window.
    """

    tokenizer: Any
    defaults: SamplingParams
    eos_ids: frozenset[int]
    context_tokens: int


def load(source: ModelSource, device: torch.device, spread: bool = False) -> tuple[Described, Any]:
    """A model of Transformers, ready to run, and what it comes with.

    Args:
        source: Where they are.
        device: Where the model is to run.
        spread: Let `accelerate` place what exceeds one GPU over all of them.

    Raises:
        ModelUnavailable: They cannot be loaded; says which and the ways out.
    """
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from safetensors import SafetensorError

    on_gpu = device.type == "cuda"
    bf16 = on_gpu or torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 - torch offers no public question
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(source.location)
        model: Any = AutoModelForCausalLM.from_pretrained(
            source.location,
            dtype=torch.bfloat16 if bf16 else torch.float32,
            device_map="auto" if on_gpu and spread else None,
        )
    except (OSError, ValueError, SafetensorError, HTTPError, HfHubHTTPError, OfflineModeIsEnabled) as error:
        if not source.on_hub:
            raise ModelUnavailable(f"the model in {source.location} cannot be loaded: {error}") from error
        raise ModelUnavailable(
            f"CHATLAB_MODEL: {source.location!r} is neither in the local Hub cache nor could it be fetched. Either "
            f"fetch it where there is a network (`hf download {source.location}`; a gated model needs HF_TOKEN), or "
            f"set CHATLAB_MODEL to 'bundled' or to a folder that holds a model. Cause: {_first_line(error)}"
        ) from error
    if not tokenizer.is_fast:
        raise ModelUnavailable(f"{source.name}: its tokenizer has no fast version, which streaming needs")
    if not tokenizer.chat_template:
        raise ModelUnavailable(f"{source.name}: no chat template, so it is no chat model; choose an 'Instruct' one")
    if not (on_gpu and spread):
        model = model.to(device)
    described = Described(
        tokenizer=tokenizer,
        defaults=_default_params(model.generation_config),
        eos_ids=_eos_ids(model.generation_config, tokenizer),
        # The tokenizer's `model_max_length` is often a placeholder.
        context_tokens=int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2_048),
    )
    return described, model.eval()


def make_runner(source: ModelSource, device: torch.device) -> tuple[Described, Runner[Any]]:
    """What computes a model's steps: our own layers for the Llama family, else the model's.

    Raises:
        ModelUnavailable: As `load`.
    """
    described, model = load(source, device, spread=True)
    on_one_device = len(set(getattr(model, "hf_device_map", {"": device}).values())) == 1
    if not on_one_device or not llama.supported(model.config):
        return described, ReferenceRunner(model)
    if runner := llama.made_from(model):
        del model
        return_freed()
        later = threading.Timer(HUGE_PAGES_AFTER_SECONDS, use_huge_pages)
        later.daemon = True
        later.start()
        return described, runner
    log.warning("this model is not computed as its family is: using Transformers' modules", model=source.name)
    return described, ReferenceRunner(load(source, device, spread=True)[1])


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]


def _eos_ids(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    configured = generation_config.eos_token_id
    ids = [configured] if isinstance(configured, int) else list(configured or ())
    return frozenset([*ids, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])])


def _default_params(generation_config: Any) -> SamplingParams:
    if not generation_config.do_sample:
        return SamplingParams(temperature=0.0)
    return SamplingParams(
        temperature=1.0 if generation_config.temperature is None else generation_config.temperature,
        top_p=generation_config.top_p,
        top_k=generation_config.top_k,
        repetition_penalty=generation_config.repetition_penalty,
    )
