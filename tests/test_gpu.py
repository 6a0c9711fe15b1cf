"""What must hold on a GPU, too: `make test-gpu`, on a machine that has one."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from chatlab.engines.base import GenerationRequest, Piece
from chatlab.engines.models import BUNDLED_NAME, ModelSource
from chatlab.engines.runtime.llama import LlamaRunner, made_from
from chatlab.engines.runtime.reference import ReferenceRunner
from chatlab.engines.runtime.runner import Feed
from chatlab.engines.runtime.scheduler import Scheduler
from chatlab.engines.transformers import TransformersEngine
from chatlab.messages import SamplingParams
from tests.test_runtime import FAMILY, OTHERS, answered, check_mixed, expected, prompt, random_model, sequence

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]


@pytest.fixture(scope="module")
def gpu_engine(bundled_model: Path) -> Iterator[TransformersEngine]:
    engine = TransformersEngine(ModelSource(BUNDLED_NAME, str(bundled_model), on_hub=False), torch.device("cuda"))
    yield engine
    engine.close()


@pytest.mark.parametrize("name", FAMILY)
def test_the_family_is_equal_to_transformers(name: str) -> None:
    model = random_model(FAMILY[name]).cuda()
    check_mixed(model, LlamaRunner(model, keep=True))
    assert made_from(model) is not None


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_equal_to_transformers(name: str) -> None:
    model = random_model(OTHERS[name]).cuda()
    check_mixed(model, ReferenceRunner(model))


def test_64_answers_are_those_of_each_alone() -> None:
    model = random_model(FAMILY["llama"]).cuda()
    scheduler = Scheduler(LlamaRunner(model, keep=True), max_bytes=2**30)
    prompts = [prompt(5 + i % 40, seed=i) for i in range(64)]
    answers = answered(scheduler, [sequence(p, f"user{i}") for i, p in enumerate(prompts)], 30)
    assert answers == [expected(model, p, 30) for p in prompts]


def test_bf16_is_as_near_to_fp32_as_the_reference(bundled_model: Path) -> None:
    exact: Any = AutoModelForCausalLM.from_pretrained(bundled_model, dtype=torch.float32)
    rounded: Any = AutoModelForCausalLM.from_pretrained(bundled_model, dtype=torch.bfloat16)
    exact, rounded = exact.eval().cuda(), rounded.eval().cuda()
    runner = LlamaRunner(rounded, keep=True)
    token_ids = torch.randint(10, 40_000, (96,), generator=torch.Generator().manual_seed(0)).tolist()
    ids: Any = torch.tensor([token_ids], device="cuda")
    with torch.inference_mode():
        truth, reference = exact(ids).logits[0], rounded(ids).logits[0].float()
    state = runner.begin(len(token_ids), None, 0)
    ours = torch.cat([runner.step([Feed(state, i, [token], wants_logits=True)]) for i, token in enumerate(token_ids)])
    assert (ours.float() - truth).abs().mean() <= 1.1 * (reference - truth).abs().mean()


async def test_chats_at_once_keep_within_memory(gpu_engine: TransformersEngine) -> None:
    async def one(i: int) -> int:
        request = GenerationRequest(
            [{"role": "user", "content": f"Tell me about the number {i}."}],
            SamplingParams(temperature=0.0, max_new_tokens=32),
            f"user{i}",
        )
        return sum([chunk.tokens async for chunk in gpu_engine.stream(request) if isinstance(chunk, Piece)])

    assert all(0 < n <= 32 for n in await asyncio.gather(*(one(i) for i in range(64))))
    load = gpu_engine.load
    assert 0 < load.kv_bytes <= load.kv_limit_bytes <= torch.cuda.get_device_properties(0).total_memory
    assert gpu_engine.facts.device.startswith("cuda")
