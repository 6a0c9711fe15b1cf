"""The runtime below the Transformers engine: equal to Transformers, whoever else is answered, within its memory."""

import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    LogitsProcessorList,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chatlab.engines.runtime import llama
from chatlab.engines.runtime.arena import BLOCK_TOKENS, KvShape
from chatlab.engines.runtime.llama import LlamaRunner, made_from
from chatlab.engines.runtime.pace import STALE_STEPS, Pace
from chatlab.engines.runtime.prefixes import Prefixes
from chatlab.engines.runtime.products import FEW_ROWS, exact_in_fp16, product_with
from chatlab.engines.runtime.reference import ReferenceRunner
from chatlab.engines.runtime.runner import Feed, KvMemoryFull, Runner
from chatlab.engines.runtime.sampling import Sampler, candidates, sample, scores_of
from chatlab.engines.runtime.scheduler import Joined, Outcome, Scheduler, TokenSequence
from chatlab.errors import EngineError
from chatlab.messages import SamplingParams
from tests.conftest import ROOT

VOCAB = 512
GREEDY = SamplingParams(temperature=0.0)
LIMIT = 4_000_000
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2_048,
    "initializer_range": 0.2,  # so that the next tokens differ clearly
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 256,
}
FAMILY: dict[str, Callable[[], Any]] = {
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SHAPE)),
    "llama 3, untied, biased": lambda: LlamaForCausalLM(
        LlamaConfig(**SHAPE, rope_parameters=LLAMA3_ROPE, attention_bias=True, tie_word_embeddings=False)
    ),
    "mistral": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=None)),
    "qwen 2": lambda: Qwen2ForCausalLM(Qwen2Config(**SHAPE)),
    "qwen 3": lambda: Qwen3ForCausalLM(Qwen3Config(**SHAPE, head_dim=32)),
}
OTHERS: dict[str, Callable[[], Any]] = {
    "mistral, sliding": lambda: MistralForCausalLM(MistralConfig(**SHAPE, sliding_window=16)),
    "gemma 3": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SHAPE, head_dim=16, sliding_window=16)),
    "gpt-neox": lambda: GPTNeoXForCausalLM(
        GPTNeoXConfig(**{k: v for k, v in SHAPE.items() if k != "num_key_value_heads"})
    ),
}


def random_model(make: Callable[[], Any]) -> Any:
    """Random weights, norms and biases included, which are ones and zeros otherwise."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(torch.randn_like(weight) * 0.3 + (1.0 if "norm" in name else 0.0))
    return model


@pytest.fixture(scope="module")
def tiny() -> Any:
    return random_model(FAMILY["llama"])


def prompt(n_tokens: int, seed: int = 0) -> list[int]:
    return torch.randint(VOCAB, (n_tokens,), generator=torch.Generator().manual_seed(seed)).tolist()


def sequence(token_ids: Sequence[int], user_id: str = "ann", params: SamplingParams = GREEDY) -> TokenSequence:
    return TokenSequence(user_id, [*token_ids], Sampler(params, token_ids))


def expected(model: Any, token_ids: Sequence[int], n_tokens: int) -> list[int]:
    """What `generate` answers."""
    ids = torch.tensor([token_ids], device=model.device)
    out = model.generate(ids, do_sample=False, max_new_tokens=n_tokens, min_new_tokens=n_tokens)
    return out[0, len(token_ids) :].tolist()


def answered(scheduler: Scheduler[Any], sequences: Sequence[TokenSequence], n_tokens: int) -> list[list[Outcome]]:
    """Run them side by side until each has so many tokens or has failed; what came, without the starts."""
    came: dict[TokenSequence, list[Outcome]] = {each: [] for each in sequences}
    for each in sequences:
        scheduler.join(each)
    for _ in range(10_000):
        if not len(scheduler):
            return [*came.values()]
        for each, outcome in scheduler.step():
            if not isinstance(outcome, Joined):
                came[each].append(outcome)
                if len(came[each]) == n_tokens:
                    scheduler.leave(each)
    raise AssertionError("it does not end")


def joined(scheduler: Scheduler[Any], each: TokenSequence, n_tokens: int = 3) -> int:
    """Run one sequence to its end; how many tokens of its prompt were known."""
    outcomes: list[Outcome] = []
    scheduler.join(each)
    while len(outcomes) < 1 + n_tokens:
        outcomes += [outcome for _, outcome in scheduler.step()]
        if outcomes and isinstance(outcomes[-1], EngineError):
            break
    scheduler.leave(each)
    assert isinstance(outcomes[0], Joined)
    return outcomes[0].n_reused


class TestEqualToTransformers:
    @pytest.mark.parametrize("name", FAMILY)
    def test_the_family_by_our_own_layers(self, name: str) -> None:
        model = random_model(FAMILY[name])
        assert llama.supported(model.config)
        check_mixed(model, LlamaRunner(model, keep=True))
        assert made_from(model) is not None

    @pytest.mark.parametrize("name", OTHERS)
    def test_others_by_their_own_modules(self, name: str) -> None:
        model = random_model(OTHERS[name])
        assert not llama.supported(model.config)
        check_mixed(model, ReferenceRunner(model))

    def test_what_computes_differently_is_found_out(self) -> None:
        model = random_model(FAMILY["llama"])
        model.model.layers[1].mlp.act_fn = torch.nn.GELU()  # as an architecture that only looks alike
        assert made_from(model) is None

    def test_256_tokens_of_20_prompts_in_fp32(self, bundled_model: str) -> None:
        model: Any = AutoModelForCausalLM.from_pretrained(bundled_model, dtype=torch.float32).eval()
        tokenizer: Any = AutoTokenizer.from_pretrained(bundled_model)
        questions = [f"Write {i + 3} sentences about {TOPICS[i % len(TOPICS)]}." for i in range(20)]
        prompts: list[list[int]] = [
            tokenizer.apply_chat_template([{"role": "user", "content": q}], add_generation_prompt=True)["input_ids"]
            for q in questions
        ]
        scheduler = Scheduler(LlamaRunner(model, keep=True), max_bytes=2**31)
        answers = answered(scheduler, [sequence(p, f"user{i}") for i, p in enumerate(prompts)], 256)
        for token_ids, answer in zip(prompts, answers, strict=True):
            assert len(answer) == 256
            with torch.inference_mode():  # what greedy decoding would choose after each of our tokens
                logits = model(torch.tensor([[*token_ids, *answer]])).logits[0]
            assert logits[len(token_ids) - 1 : -1].argmax(-1).tolist() == answer

    @pytest.mark.parametrize("one_by_one", [False, True])
    def test_bf16_is_as_near_to_fp32_as_the_reference(self, bundled_model: str, one_by_one: bool) -> None:
        exact: Any = AutoModelForCausalLM.from_pretrained(bundled_model, dtype=torch.float32).eval()
        rounded: Any = AutoModelForCausalLM.from_pretrained(bundled_model, dtype=torch.bfloat16).eval()
        runner = LlamaRunner(rounded, keep=True)
        ours, theirs = [], []
        for seed in range(3):
            token_ids = torch.randint(10, 40_000, (96,), generator=torch.Generator().manual_seed(seed)).tolist()
            with torch.inference_mode():
                truth = exact(torch.tensor([token_ids])).logits[0]
                reference = rounded(torch.tensor([token_ids])).logits[0].float()
            state = runner.begin(len(token_ids), None, 0)
            ends = range(96) if one_by_one else range(7, 96, 8)
            for end in ends:
                start = end if one_by_one else end - 7
                logits = runner.step([Feed(state, start, token_ids[start : end + 1], wants_logits=True)])[0]
                ours.append((logits.float() - truth[end]).abs().mean())
                theirs.append((reference[end] - truth[end]).abs().mean())
            runner.end(state)
        assert torch.stack(ours).mean() <= 1.1 * torch.stack(theirs).mean()


TOPICS = ("the sea", "how bread is made", "a lighthouse", "the moon", "trains", "friendship", "an old library")


def check_mixed(model: Any, runner: Runner[Any]) -> None:
    """Prompts of all lengths, joining at once, computed in parts beside each other, with a token left over, too."""
    prompts = [prompt(n, seed=n) for n in (1, 2, 17, 40, 70, 300)]
    scheduler = Scheduler(runner, max_bytes=2**30, max_prompt_tokens=23)
    answers = answered(scheduler, [sequence(p, f"user{i}") for i, p in enumerate(prompts)], 20)
    assert answers == [expected(model, p, 20) for p in prompts]


class TestManyAtOnce:
    def test_64_answers_are_those_of_each_alone(self, tiny: Any) -> None:
        scheduler = Scheduler(LlamaRunner(tiny, keep=True), max_bytes=2**30)
        prompts = [prompt(5 + i % 40, seed=i) for i in range(64)]
        answers = answered(scheduler, [sequence(p, f"user{i}") for i, p in enumerate(prompts)], 30)
        assert answers == [expected(tiny, p, 30) for p in prompts]

    def test_answers_go_on_while_a_long_prompt_is_computed(self, tiny: Any) -> None:
        scheduler = Scheduler(LlamaRunner(tiny, keep=True), max_bytes=2**30)
        talking, long = sequence(prompt(10)), sequence(prompt(1_500), "bob")
        scheduler.join(talking)
        scheduler.step()
        scheduler.join(long)
        n_steps = 0
        while long.n_left > 1 or n_steps == 0:
            assert any(each is talking and isinstance(outcome, int) for each, outcome in scheduler.step())
            n_steps += 1
        assert n_steps > 3

    def test_a_short_prompt_does_not_wait_for_a_long_one(self, tiny: Any) -> None:
        scheduler = Scheduler(LlamaRunner(tiny, keep=True), max_bytes=2**30, max_prompt_tokens=64)
        long, short = sequence(prompt(1_500)), sequence(prompt(40), "bob")
        scheduler.join(long)
        scheduler.step()
        scheduler.join(short)
        for _ in range(3):
            if any(each is short and isinstance(outcome, int) for each, outcome in scheduler.step()):
                break
        else:
            pytest.fail("the short prompt waits")
        assert long.n_left > 1_000

    def test_a_thousand_come_and_go(self, tiny: Any) -> None:
        runner = LlamaRunner(tiny, keep=True)
        scheduler = Scheduler(runner, max_bytes=LIMIT)
        under_way: list[TokenSequence] = []
        for i in range(1_000):
            under_way.append(sequence(prompt(1 + 37 * i % 300, seed=i), f"user{i % 7}"))
            scheduler.join(under_way[-1])
            for each, outcome in scheduler.step():
                assert not isinstance(outcome, EngineError), each
            if i % 3:
                scheduler.leave(under_way.pop(i % len(under_way)))
            if len(under_way) > 12:
                scheduler.leave(under_way.pop(0))
            assert scheduler.n_bytes <= LIMIT
        for each in under_way:
            scheduler.leave(each)
        assert len(scheduler) == 0
        assert runner.n_bytes == 0
        assert scheduler.step() == []


class TestPrefixes:
    @pytest.fixture(params=["family", "any model"])
    def runner(self, request: pytest.FixtureRequest, tiny: Any) -> Runner[Any]:
        return LlamaRunner(tiny, keep=True) if request.param == "family" else ReferenceRunner(tiny)

    def test_a_user_s_prompts_begin_where_an_earlier_one_ended(self, runner: Runner[Any], tiny: Any) -> None:
        scheduler = Scheduler(runner, max_bytes=2**30)
        first = sequence(prompt(50))
        assert joined(scheduler, first) == 0
        goes_on = [*first.token_ids, *prompt(20, seed=1)]
        branches_off = [*first.token_ids[:30], *prompt(20, seed=2)]
        for token_ids, known in ((goes_on, len(first.token_ids) - 1), (branches_off, 30)):
            assert joined(scheduler, other := sequence(token_ids)) == known
            assert other.token_ids[len(token_ids) :] == expected(tiny, token_ids, 3), "the same answer as without"

    def test_never_another_user_s(self, runner: Runner[Any]) -> None:
        scheduler = Scheduler(runner, max_bytes=2**30)
        joined(scheduler, sequence(prompt(50), "ann"))
        assert joined(scheduler, sequence(prompt(50), "bob")) == 0
        assert joined(scheduler, sequence(prompt(50), "ann")) == 49

    def test_only_whole_ones_where_they_cannot_be_cut(self) -> None:
        model = random_model(OTHERS["mistral, sliding"])
        scheduler = Scheduler(ReferenceRunner(model), max_bytes=2**30)
        first = sequence(prompt(50))
        joined(scheduler, first)
        goes_on = [*first.token_ids, *prompt(20, seed=1)]
        assert joined(scheduler, other := sequence(goes_on)) == len(first.token_ids) - 1
        assert other.token_ids[len(goes_on) :] == expected(model, goes_on, 3)
        assert joined(scheduler, sequence([*first.token_ids[:30], 1])) == 0

    def test_the_longest_and_then_the_last_used_stay(self) -> None:
        prefixes = Prefixes(cuts=True)
        prefixes.put("ann", [1, 2, 3], "a", 10)
        prefixes.put("ann", [1, 2, 3, 4], "b", 10)  # makes the first superfluous
        prefixes.put("ann", [5, 6], "c", 10)
        assert (len(prefixes), prefixes.n_bytes) == (2, 20)
        best, n_known = prefixes.longest("ann", [1, 2, 3, 9])
        assert best is not None
        assert (best.kept, n_known) == ("b", 3)
        prefixes.drop_oldest()
        assert prefixes.longest("ann", [5, 6, 7]) == (None, 0)
        prefixes.drop_oldest()
        assert (len(prefixes), prefixes.n_bytes) == (0, 0)


class TestMemory:
    def test_kept_prefixes_give_way_first_and_oldest_first(self, tiny: Any) -> None:
        runner = LlamaRunner(tiny, keep=True)
        a_block = BLOCK_TOKENS * runner.bytes_per_token
        scheduler = Scheduler(runner, max_bytes=a_block + 700 * runner.bytes_per_token)
        for user in ("ann", "bob", "cem"):
            joined(scheduler, sequence(prompt(250), user))
        # Each is 252 tokens: with a block for running sequences there is room for two.
        assert joined(scheduler, sequence(prompt(250), "cem")) == 249
        assert joined(scheduler, sequence(prompt(250), "ann")) == 0
        assert scheduler.n_bytes <= a_block + 700 * runner.bytes_per_token

    def test_the_last_to_join_is_computed_again_when_there_is_room(self, tiny: Any) -> None:
        runner = LlamaRunner(tiny, keep=True)
        # Two blocks: enough for all at 256 tokens each, for four at 1,024 beside those that are still shorter.
        scheduler = Scheduler(runner, max_bytes=2 * BLOCK_TOKENS * runner.bytes_per_token)
        prompts = [prompt(250, seed=i) for i in range(10)]
        answers = answered(scheduler, [sequence(p, f"user{i}") for i, p in enumerate(prompts)], 300)
        assert scheduler.n_preempted > 0
        assert answers == [expected(tiny, p, 300) for p in prompts]

    def test_what_can_never_fit_fails_with_the_reason_and_the_rest_goes_on(self, tiny: Any) -> None:
        runner = LlamaRunner(tiny, keep=True)
        scheduler = Scheduler(runner, max_bytes=BLOCK_TOKENS * runner.bytes_per_token - 1)
        (failed,) = answered(scheduler, [sequence(prompt(1_500))], 3)
        assert isinstance(failed[0], EngineError)
        assert "CHATLAB_KV_CACHE_MB" in str(failed[0])
        assert runner.n_bytes == 0

    def test_out_of_memory_in_the_middle_fails_one_and_not_the_others(
        self, tiny: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runner = LlamaRunner(tiny, keep=True)
        scheduler = Scheduler(runner, max_bytes=2**30)
        empty = KvShape.empty

        def no_long_rows(shape: KvShape, rows: int, capacity: int) -> torch.Tensor:
            if capacity >= 512:
                raise KvMemoryFull(f"no memory for {capacity} tokens: DefaultCPUAllocator: can't allocate memory")
            return empty(shape, rows, capacity)

        monkeypatch.setattr(KvShape, "empty", no_long_rows)
        growing, short = sequence(prompt(240)), sequence(prompt(20), "bob")
        for each in (short, growing):
            scheduler.join(each)
        came: dict[TokenSequence, list[Outcome]] = {growing: [], short: []}
        for _ in range(60):
            for each, outcome in scheduler.step():
                came[each].append(outcome)
            if len(short.token_ids) == 60 and short.state is not None:
                scheduler.leave(short)
        assert isinstance(came[growing][-1], EngineError)
        assert "no memory" in str(came[growing][-1])
        assert came[short][1:] == expected(tiny, prompt(20), 40)
        assert runner.n_bytes == 0

    def test_a_state_that_cannot_grow_is_as_it_was(self, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        runner = LlamaRunner(tiny, keep=True)
        state = runner.begin(200, None, 0)
        before, n_bytes = state.kv.fill_(1.0).clone(), runner.n_bytes

        def none(*shape: Any, **options: Any) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        with monkeypatch.context() as patched:
            patched.setattr(torch, "zeros", none)
            with pytest.raises(KvMemoryFull, match="CUDA out of memory"):
                runner.grow(state, 300, 200)
        assert torch.equal(state.kv, before)
        assert runner.n_bytes == n_bytes


def warmed(scheduler: Scheduler[Any], token_ids: Sequence[int], user_id: str = "ann") -> int:
    """Compute a prompt's beginning while nothing is asked; in how many steps."""
    scheduler.warm(user_id, token_ids)
    for n_steps in range(10_000):
        if scheduler.warming is None:
            return n_steps
        assert scheduler.step() == [], "nobody gets a token of it"
    raise AssertionError("it does not end")


class Watched:
    """What each step of a runner computes: (start, tokens) of each sequence."""

    def __init__(self, runner: Any) -> None:
        self.steps: list[list[tuple[int, list[int]]]] = []
        self._step = runner.step
        self.fails = False
        runner.step = self

    def __call__(self, feeds: Sequence[Feed[Any]]) -> torch.Tensor:
        self.steps.append([(feed.start, [*feed.token_ids]) for feed in feeds])
        if self.fails:
            raise RuntimeError("no")
        return self._step(feeds)


class TestWarming:
    @pytest.fixture(params=["family", "any model"])
    def runner(self, request: pytest.FixtureRequest, tiny: Any) -> Runner[Any]:
        return LlamaRunner(tiny, keep=True) if request.param == "family" else ReferenceRunner(tiny)

    def test_a_prompt_begins_where_it_ends_with_the_same_answer(self, runner: Runner[Any], tiny: Any) -> None:
        scheduler = Scheduler(runner, max_bytes=2**30, max_prompt_tokens=32)
        beginning = prompt(100)
        assert warmed(scheduler, beginning) > 1, "in parts"
        goes_on = [*beginning, *prompt(20, seed=1)]
        assert joined(scheduler, other := sequence(goes_on)) == len(beginning)
        assert other.token_ids[len(goes_on) :] == expected(tiny, goes_on, 3)

    def test_only_what_is_missing_is_computed(self, runner: Runner[Any]) -> None:
        scheduler = Scheduler(runner, max_bytes=2**30)
        first = sequence(prompt(50))
        joined(scheduler, first)
        watched = Watched(runner)
        beginning = [*first.token_ids, *prompt(5, seed=1)]
        warmed(scheduler, beginning)
        assert watched.steps == [[(52, beginning[52:])]]
        n_bytes = scheduler.n_bytes
        for again in (beginning, beginning[:30]):
            warmed(scheduler, again)
        assert len(watched.steps) == 1
        assert scheduler.n_bytes == n_bytes

    def test_never_for_another_user(self, runner: Runner[Any]) -> None:
        scheduler = Scheduler(runner, max_bytes=2**30)
        warmed(scheduler, prompt(50), "ann")
        assert joined(scheduler, sequence(prompt(60), "bob")) == 0

    def test_who_joins_is_in_the_next_step_and_alone(self, runner: Runner[Any], tiny: Any) -> None:
        scheduler = Scheduler(runner, max_bytes=2**30, max_prompt_tokens=32)
        beginning, asked = prompt(300), prompt(20, seed=1)
        scheduler.warm("ann", beginning)
        for _ in range(3):
            scheduler.step()
        watched = Watched(runner)
        scheduler.join(bob := sequence(asked, "bob"))
        assert [type(outcome) for _, outcome in scheduler.step()] == [Joined, int]
        for _ in range(2):
            scheduler.step()
        assert watched.steps[0] == [(0, asked)]
        assert all(len(step) == 1 for step in watched.steps)
        assert scheduler.warming == "ann"
        scheduler.leave(bob)
        assert bob.token_ids[20:] == expected(tiny, asked, 3)
        scheduler.step()
        ((start, _),) = watched.steps[-1]
        assert start >= 48, "it goes on where it was"
        while scheduler.warming:
            scheduler.step()
        assert joined(scheduler, sequence([*beginning, 1])) == 300

    def test_who_continues_it_profits_from_what_is_done(self, runner: Runner[Any], tiny: Any) -> None:
        scheduler = Scheduler(runner, max_bytes=2**30, max_prompt_tokens=16)
        scheduler.warm("ann", prompt(300))
        for _ in range(4):
            scheduler.step()
        goes_on = [*prompt(300), 1, 2]
        assert joined(scheduler, ann := sequence(goes_on)) == 64
        assert ann.token_ids[len(goes_on) :] == expected(tiny, goes_on, 3)
        watched = Watched(runner)
        scheduler.step()
        assert scheduler.warming is None
        assert watched.steps == [], "the request has done it all"

    def test_the_limit_holds(self, runner: Runner[Any]) -> None:
        joined(Scheduler(runner, max_bytes=2**30), sequence(prompt(2)))  # "any model" knows a token's size now
        limit = (BLOCK_TOKENS + 700) * runner.bytes_per_token
        scheduler = Scheduler(runner, max_bytes=limit, max_prompt_tokens=64)
        for i in range(60):
            scheduler.warm(f"user{i}", prompt(250, seed=i))
            while scheduler.warming:
                scheduler.step()
                assert scheduler.n_bytes <= limit
        assert joined(scheduler, sequence([*prompt(250, seed=59), 1], "user59")) == 250
        assert joined(scheduler, sequence([*prompt(250, seed=0), 1], "user0")) == 0

    def test_what_does_not_fit_is_forgotten_and_drops_nothing(self, tiny: Any) -> None:
        runner = LlamaRunner(tiny, keep=True)
        scheduler = Scheduler(runner, max_bytes=(BLOCK_TOKENS + 700) * runner.bytes_per_token)
        joined(scheduler, sequence(prompt(50)))
        warmed(scheduler, prompt(5_000))
        assert runner.n_bytes == 0
        assert joined(scheduler, sequence(prompt(50))) == 49

    def test_a_machine_without_memory(self, tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        runner = LlamaRunner(tiny, keep=True)
        scheduler = Scheduler(runner, max_bytes=2**30)
        joined(scheduler, sequence(prompt(50)))

        def none(*shape: Any, **options: Any) -> torch.Tensor:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

        with monkeypatch.context() as patched:
            patched.setattr(torch, "zeros", none)
            warmed(scheduler, prompt(300, seed=1))
        assert joined(scheduler, sequence(prompt(50))) == 49

    def test_a_failure_is_forgotten(self, runner: Runner[Any], tiny: Any) -> None:
        scheduler = Scheduler(runner, max_bytes=2**30, max_prompt_tokens=16)
        watched = Watched(runner)
        scheduler.warm("ann", prompt(100))
        scheduler.step()
        watched.fails = True
        scheduler.step()
        assert scheduler.warming is None
        assert scheduler.n_bytes == 0
        watched.fails = False
        assert joined(scheduler, ann := sequence(prompt(110))) == 0, "nothing of it is kept"
        assert ann.token_ids[110:] == expected(tiny, prompt(110), 3)

    def test_what_is_not_numbers_is_not_kept(self, tiny: Any) -> None:
        runner = LlamaRunner(tiny, keep=True)
        scheduler = Scheduler(runner, max_bytes=2**30)
        step = runner.step
        runner.step = lambda feeds: step(feeds) * torch.nan  # type: ignore[method-assign]
        warmed(scheduler, prompt(50))
        runner.step = step  # type: ignore[method-assign]
        assert joined(scheduler, sequence(prompt(60))) == 0

    def test_a_thousand_with_requests_between_leave_nothing(self, tiny: Any) -> None:
        runner = LlamaRunner(tiny, keep=True)
        scheduler = Scheduler(runner, max_bytes=LIMIT, max_prompt_tokens=32)
        for i in range(1_000):
            scheduler.warm(f"user{i % 7}", prompt(1 + 37 * i % 300, seed=i))
            for _ in range(i % 4):
                scheduler.step()
            if i % 3 == 0:
                scheduler.join(asked := sequence(prompt(9, seed=i), f"user{i % 5}"))
                scheduler.step()
                scheduler.leave(asked)
            assert scheduler.n_bytes <= LIMIT
        while scheduler.warming:
            scheduler.step()
        assert len(scheduler) == 0
        assert runner.n_bytes == 0
        assert scheduler.step() == []

    def test_where_prefixes_cannot_be_cut(self) -> None:
        model = random_model(OTHERS["mistral, sliding"])
        scheduler = Scheduler(ReferenceRunner(model), max_bytes=2**30, max_prompt_tokens=16)
        beginning = prompt(100)
        warmed(scheduler, beginning)
        goes_on = [*beginning, *prompt(20, seed=1)]
        assert joined(scheduler, other := sequence(goes_on)) == len(beginning)
        assert other.token_ids[len(goes_on) :] == expected(model, goes_on, 3)


class TestFaults:
    def test_a_step_that_fails_is_due_to_one(self, tiny: Any) -> None:
        runner = LlamaRunner(tiny, keep=True)
        scheduler = Scheduler(runner, max_bytes=2**30)
        step = runner.step

        def failing(feeds: Sequence[Feed[Any]]) -> torch.Tensor:
            if any(511 in feed.token_ids for feed in feeds):
                raise RuntimeError("this token is too much")
            return step(feeds)

        runner.step = failing  # type: ignore[method-assign]
        prompts = [[*prompt(10, seed=i)] for i in range(3)]
        prompts[1][5] = 511
        answers = answered(scheduler, [sequence(p, f"user{i}") for i, p in enumerate(prompts)], 1)
        assert isinstance(answers[1][0], EngineError)
        assert "this token is too much" in str(answers[1][0])
        assert [answers[0], answers[2]] == [expected(tiny, prompts[0], 1), expected(tiny, prompts[2], 1)]

    def test_logits_that_are_not_numbers_fail_their_own(self, tiny: Any) -> None:
        runner = LlamaRunner(tiny, keep=True)
        scheduler = Scheduler(runner, max_bytes=2**30)
        step = runner.step

        def broken(feeds: Sequence[Feed[Any]]) -> torch.Tensor:
            logits = step(feeds).clone()
            wanting = [feed for feed in feeds if feed.wants_logits]
            for row, feed in zip(logits, wanting, strict=True):
                if feed.start == 12:
                    row[3] = torch.nan
            return logits

        runner.step = broken  # type: ignore[method-assign]
        fine, bad = sequence(prompt(20), "ann"), sequence(prompt(10, seed=1), "bob")
        answers = answered(scheduler, [fine, bad], 6)
        assert answers[0] == expected(tiny, prompt(20), 6)
        assert len(answers[1]) == 4
        assert "not numbers" in str(answers[1][-1])
        assert joined(scheduler, sequence(prompt(10, seed=1), "bob")) == 0, "nothing of it is kept"


class TestSampling:
    @settings(max_examples=60, deadline=None)
    @given(
        temperature=st.floats(0.05, 2.0),
        top_k=st.sampled_from([None, 1, 5, 300, 1_000]),
        top_p=st.sampled_from([None, 0.05, 0.5, 0.9, 0.999, 1.0]),
        penalty=st.sampled_from([None, 1.3]),
        spread=st.sampled_from([0.01, 1.0, 5.0]),
    )
    def test_the_distributions_are_those_of_transformers(
        self, temperature: float, top_k: int | None, top_p: float | None, penalty: float | None, spread: float
    ) -> None:
        torch.manual_seed(1)
        logits = torch.randn(2, 2_000) * spread
        seen = [3, 5, 5, 1_999]
        processors = LogitsProcessorList()
        if penalty:
            processors.append(RepetitionPenaltyLogitsProcessor(penalty))
        processors.append(TemperatureLogitsWarper(temperature))
        if top_k:
            processors.append(TopKLogitsWarper(top_k))
        if top_p is not None and top_p < 1.0:
            processors.append(TopPLogitsWarper(top_p))
        so_far: Any = torch.tensor([seen, seen])
        theirs: Any = processors(so_far, logits.clone()).softmax(-1)
        params = SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, repetition_penalty=penalty)
        samplers = [Sampler(params, seen)] * 2
        scores = scores_of(logits.clone(), samplers)
        ours = torch.zeros_like(theirs)
        for k in (256, 2_000):
            found = candidates(scores, samplers, k)
            if found.enough.all():
                ours = torch.zeros_like(theirs).scatter(1, found.token_ids, found.probabilities)
                ours /= ours.sum(-1, keepdim=True)
                break
        # A token on the border of top-p may fall to either side by rounding.
        assert (ours - theirs).abs().sum(-1).max() < 2e-3

    def test_frequencies_follow_the_probabilities(self) -> None:
        probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
        samplers = [Sampler(SamplingParams(temperature=1.0, seed=seed), []) for seed in range(4_000)]
        drawn = sample(probabilities.log().expand(4_000, -1), samplers)
        counts = torch.bincount(torch.tensor(drawn), minlength=4) / 4_000
        assert (counts - probabilities).abs().max() < 0.03

    def test_a_seed_gives_the_same_tokens_whoever_else_is_there(self, tiny: Any) -> None:
        params = SamplingParams(temperature=1.0, top_p=0.9, seed=7)
        alone, crowded = (Scheduler(LlamaRunner(tiny, keep=True), max_bytes=2**30) for _ in range(2))
        (first,) = answered(alone, [sequence(prompt(9), "ann", params)], 12)
        others = [sequence(prompt(9, seed=i), f"user{i}", SamplingParams(temperature=1.0)) for i in range(5)]
        assert answered(crowded, [*others, sequence(prompt(9), "ann", params)], 12)[-1] == first

    @pytest.mark.parametrize("params", [{}, {"top_p": 0.9}, {"top_k": 900}, {"top_k": 900, "top_p": 0.5}])
    def test_a_flat_distribution_needs_more_than_the_first_candidates(self, params: dict[str, Any]) -> None:
        logits = torch.randn(1, 5_000, generator=torch.Generator().manual_seed(1)) * 0.01
        samplers = [Sampler(SamplingParams(temperature=1.0, seed=seed, **params), []) for seed in range(500)]
        drawn = sample(logits.expand(500, -1), samplers)
        n_possible = min(params.get("top_k", 5_000), 5_000) * params.get("top_p", 1.0)
        ranks = logits[0].argsort(descending=True).argsort()[torch.tensor(drawn)]
        assert ranks.max() < n_possible * 1.03
        assert abs(ranks.float().mean() / n_possible - 0.5) < 0.05

    def test_greedy_and_sampled_side_by_side(self) -> None:
        logits = torch.zeros(3, 50)
        logits[:, 7], logits[:, 8] = 1.0, 0.9
        samplers = [
            Sampler(GREEDY, []),
            Sampler(SamplingParams(temperature=0.0, repetition_penalty=2.0), [7]),
            Sampler(SamplingParams(temperature=1.0, top_k=1), []),
        ]
        chosen = sample(logits, samplers)
        assert chosen == [7, 8, 7]


class TestPace:
    def test_parts_of_prompts_keep_the_gap(self) -> None:
        pace = Pace(max_tokens=512)
        assert pace.prompt_tokens(0) == 512
        n_tokens = 0
        for _ in range(20):
            pace.took(1, 0, 0.015)
            n_tokens = pace.prompt_tokens(1)
            pace.took(1, n_tokens, 0.015 + 0.001 * n_tokens)
        assert (n_tokens + 1) % 16 == 0
        assert 0.015 + 0.001 * n_tokens <= 4 * 0.015

    def test_a_step_that_nobody_waits_for_is_short(self) -> None:
        pace = Pace(max_tokens=512)
        assert pace.idle_tokens() == 16, "nothing is measured"
        pace.took(0, 100, 0.1)
        assert pace.idle_tokens() == 96
        for seconds, n_tokens in ((1e-6, 512), (1.0, 16)):
            pace.token_s = seconds
            assert pace.idle_tokens() == n_tokens

    def test_answers_alone_are_measured_again(self) -> None:
        pace = Pace(max_tokens=512)
        pace.took(1, 0, 0.015)
        for _ in range(STALE_STEPS):
            assert pace.prompt_tokens(1) > 0
            pace.took(1, 16, 0.03)
        assert pace.prompt_tokens(1) == 0
        pace.took(1, 0, 0.015)
        assert pace.prompt_tokens(1) > 0


@pytest.mark.parametrize("n_rows", [1, 3, 4, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_that_of_torch(n_rows: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    weight, bias = torch.randn(96, 64, dtype=dtype), torch.randn(96, dtype=dtype)
    x = torch.randn(n_rows, 64)
    wide = exact_in_fp16(weight)
    for each in (None, bias):
        product = product_with(weight.clone(), each, wide)
        for rows in (x.to(dtype), x) if wide and n_rows <= FEW_ROWS else (x.to(dtype),):
            wanted = rows.double() @ weight.double().T + (0 if each is None else bias.double())
            reference = torch.nn.functional.linear(rows.to(dtype), weight, each)
            assert (product(rows).double() - wanted).abs().max() <= 1.5 * (reference - wanted).abs().max() + 1e-5


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="Linux only")
def test_huge_pages_change_nothing_but_where_it_lies() -> None:
    """In a process that has nothing else, so that what it takes more is due to them."""
    code = (
        "import psutil, torch\n"
        "from chatlab.engines.runtime.memory import use_huge_pages\n"
        "weights = torch.arange(30_000_000, dtype=torch.int32)\n"
        "before = psutil.Process().memory_info().rss\n"
        "use_huge_pages()\n"
        "assert psutil.Process().memory_info().rss - before < 50_000_000\n"
        "assert torch.equal(weights, torch.arange(30_000_000, dtype=torch.int32))\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True, timeout=60)


def test_weights_that_fp16_cannot_hold_are_found() -> None:
    assert not exact_in_fp16(torch.tensor([[1e30]], dtype=torch.bfloat16))
    assert not exact_in_fp16(torch.zeros(4, 4))
