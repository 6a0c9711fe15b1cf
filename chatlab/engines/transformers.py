"""The reference engine: Transformers weights in this process, one answer at a time, prefixes kept between turns.

Owns the generation thread; everything that touches the model runs there. Knows tokens, not chats. The tokens that
come out are those of `generate` with the same parameters.
"""

import asyncio
import inspect
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Iterator, Sequence
from contextlib import closing
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from tokenizers.decoders import DecodeStream
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LogitsProcessorList
from transformers.generation.logits_process import (
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from chatlab.engines.base import (
    Chunk,
    EngineLoad,
    Finished,
    GenerationRequest,
    ModelFacts,
    Piece,
    Started,
    answer_limit,
    check_room,
    default_answer_limit,
)
from chatlab.engines.fair_queue import FairQueue
from chatlab.engines.models import ModelSource
from chatlab.engines.prefixes import Prefix, PrefixStore
from chatlab.engines.template import ChatTemplate
from chatlab.engines.text import StopStrings
from chatlab.errors import ChatlabError, EngineError, ModelUnavailable
from chatlab.messages import FinishReason, Message, SamplingParams

PREFILL_CHUNK_TOKENS = 512  # a stop takes effect between chunks, too
MIN_TEMPERATURE = 1e-4  # below it, logits overflow: greedy is what it means


def pick_device(choice: str) -> torch.device:
    """The torch device for a setting; `auto` takes a GPU when there is one."""
    if choice == "auto":
        choice = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(choice)


def gpu_gib(device: torch.device) -> float:
    """Memory of a GPU, 0 for a CPU."""
    return torch.cuda.get_device_properties(device).total_memory / 2**30 if device.type == "cuda" else 0.0


@dataclass(eq=False, slots=True)
class GenerationJob:
    """A request on its way through the thread; chunks go to `out` on `loop`."""

    request: GenerationRequest
    loop: asyncio.AbstractEventLoop
    out: asyncio.Queue[Chunk | BaseException] = field(default_factory=asyncio.Queue)
    context: Context = field(default_factory=copy_context)  # the asker's: ZeroGPU finds its visitor there
    cancelled: bool = False  # set by the reader, read by the thread

    def post(self, item: Chunk | BaseException) -> None:
        """Hand an item to the reader; a reader whose loop is gone counts as cancelled."""
        try:
            self.loop.call_soon_threadsafe(self.out.put_nowait, item)
        except RuntimeError:
            self.cancelled = True


class TransformersEngine:
    """A causal language model and its tokenizer.

    Args:
        source: Where the model is.
        device: Where it runs; what exceeds one GPU is placed by `accelerate`.
        kv_cache_bytes: Memory for prefixes between turns.
        threads: CPU threads; 0 leaves torch's choice.
        slots: Answers computed at the same time, each by a thread; only one can keep prefixes.

    Raises:
        ModelUnavailable: The model cannot be loaded; says which and the ways out.
    """

    name: ClassVar = "transformers"
    spread_over_gpus: ClassVar = True
    writes_titles: ClassVar = True

    def __init__(
        self,
        source: ModelSource,
        device: torch.device,
        kv_cache_bytes: int = 512_000_000,
        threads: int = 0,
        slots: int = 1,
    ) -> None:
        assert slots == 1 or not kv_cache_bytes
        if threads:
            torch.set_num_threads(threads)
        self._tokenizer: Any
        self._model: Any
        self._tokenizer, self._model = _load(source, device, self.spread_over_gpus)
        self._template = ChatTemplate(self._tokenizer, source.name)
        self._defaults = _default_params(self._model.generation_config)
        self._eos_ids = _eos_ids(self._model.generation_config, self._tokenizer)
        self._last_logits_only = "logits_to_keep" in inspect.signature(self._model.forward).parameters
        context_tokens = _context_tokens(self._model.config)
        self._facts = ModelFacts(
            model=source.name,
            engine=self.name,
            device=str(self._model.device),
            context_tokens=context_tokens,
            default_max_new_tokens=default_answer_limit(context_tokens),
            control_tokens=self._template.control_tokens,
            slots=slots,
            writes_titles=self.writes_titles,
        )
        self._prefixes = PrefixStore(kv_cache_bytes if _croppable(self._model.config) else 0)
        self._queue: FairQueue[GenerationJob] = FairQueue()
        self._running: set[GenerationJob] = set()
        self._closed = False
        self._wake = threading.Condition()  # guards _queue, _running and _closed
        self._threads = [threading.Thread(target=self._work, name="generation", daemon=True) for _ in range(slots)]
        for thread in self._threads:
            thread.start()

    @property
    def facts(self) -> ModelFacts:
        """The model and its limits."""
        return self._facts

    @property
    def load(self) -> EngineLoad:
        """At most one running a slot."""
        with self._wake:
            return EngineLoad(running=len(self._running), waiting=len(self._queue))

    @property
    def alive(self) -> bool:
        """Whether the generation threads run."""
        return all(thread.is_alive() for thread in self._threads)

    def render(self, messages: Sequence[Message]) -> str:
        """The model's chat template, with the prompt for an answer.

        Raises:
            InvalidInput: The template does not take this list.
        """
        return self._template.render(messages)

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered prompt."""
        return self._template.count(messages)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """See `Engine.stream`."""
        job = GenerationJob(request, asyncio.get_running_loop())
        with self._wake:
            if self._closed:
                raise EngineError("the engine is closed")
            self._queue.put(request.user_id, job)
            self._wake.notify()
        try:
            while True:
                item = await job.out.get()
                if isinstance(item, BaseException):
                    raise item
                yield item
                if isinstance(item, Finished):
                    return
        finally:
            job.cancelled = True
            with self._wake:
                self._queue.remove(request.user_id, job)

    def close(self) -> None:
        """Stop what is running and wait for the threads."""
        with self._wake:
            self._closed = True
            for job in self._running:
                job.cancelled = True
            self._wake.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        """A generation thread: one job after the other until closed."""
        while True:
            with self._wake:
                while not self._queue and not self._closed:
                    self._wake.wait()
                if self._closed:
                    while self._queue:
                        self._queue.take().post(EngineError("the engine was closed"))
                    return
                job = self._queue.take()
                self._running.add(job)
            job.context.run(self._answer, job)
            with self._wake:
                self._running.remove(job)

    def _answer(self, job: GenerationJob) -> None:
        """Hand every chunk of an answer, or what went wrong, to its reader."""
        try:
            for chunk in self._generate(job):
                job.post(chunk)
            if job.cancelled:
                job.post(EngineError("the answer was stopped"))
        except ChatlabError as error:
            job.post(error)
        except Exception as error:  # noqa: BLE001 - the boundary of the thread: whatever the model raised ends this job only
            failed = EngineError(f"{type(error).__name__}: {error}")
            failed.__cause__ = error
            job.post(failed)

    @torch.inference_mode()
    def _generate(self, job: GenerationJob) -> Iterator[Chunk]:
        """Prefill what is not in memory, then one token after the other until the end or until cancelled."""
        # 1. The prompt, and what is known of it.
        prompt_ids, params, limit = self._prepare(job.request)
        key = (job.request.user_id, job.request.prefix_key or "")
        prefix = self._prefixes.take(key) if job.request.prefix_key else None
        prefix = prefix or self._empty_prefix()
        reused = prefix.cut_to_common(prompt_ids)
        yield Started(prompt_tokens=len(prompt_ids), reused_prefix_tokens=reused)

        # 2. The answer.
        tokens = self._tokens(prompt_ids, params, limit, prefix, lambda: job.cancelled)
        reason = yield from self._pieces(tokens, params, job)

        # 3. Keep the prefix for the chat's next turn.
        if job.request.prefix_key:
            self._prefixes.put(key, prefix)
        if reason is not None:
            yield Finished(reason)

    def _prepare(self, request: GenerationRequest) -> tuple[list[int], SamplingParams, int]:
        """The prompt's tokens, the sampling with nothing left open, and the answer's limit.

        Raises:
            PromptTooLong: They do not fit the context.
        """
        params = request.params.over(self._defaults)
        limit = answer_limit(self._facts, params)
        prompt_ids = self._template.encode(self.render(request.messages))
        check_room(self._facts, len(prompt_ids), limit)
        return prompt_ids, params, limit

    def _empty_prefix(self) -> Prefix:
        return Prefix([], DynamicCache(config=self._model.config))

    def _pieces(
        self, tokens: Generator[int], params: SamplingParams, job: GenerationJob
    ) -> Generator[Piece, None, FinishReason | None]:
        """The text of an answer from its tokens, which are closed when no more are wanted.

        Returns:
            Why it ended; None when the job was cancelled.
        """
        stops = StopStrings(params.stop or ())
        decoder = DecodeStream(skip_special_tokens=True)
        reason: FinishReason = "length"
        with closing(tokens):
            for token_id in tokens:
                if job.cancelled:
                    return None
                if token_id in self._eos_ids:
                    reason = "stop"
                    yield Piece("")  # the end token is one of the answer's tokens
                    break
                yield Piece(stops.feed(decoder.step(self._tokenizer.backend_tokenizer, token_id) or ""))
                if stops.hit:
                    reason = "stop"
                    break
        if job.cancelled:
            return None
        if held := stops.flush():
            yield Piece(held, tokens=0)
        return reason

    def _tokens(
        self, prompt_ids: list[int], params: SamplingParams, limit: int, prefix: Prefix, ended: Callable[[], bool]
    ) -> Generator[int]:
        """Token after token until an end token, the limit, or `ended`. Both halves feed what the cache lacks."""
        processors, sampled = _logits_processors(params)
        generator = torch.Generator(self._model.device)
        generator.manual_seed(params.seed) if params.seed is not None else generator.seed()
        token_ids = list(prompt_ids)
        for _ in range(limit):
            logits = self._feed(token_ids, prefix, ended)
            if logits is None:
                return
            if not torch.isfinite(logits).any() or torch.isnan(logits).any():
                raise EngineError("the model's logits are not numbers: its weights or its precision are broken")
            so_far: Any = torch.tensor([token_ids], device=logits.device)  # (1, n)
            scores: torch.Tensor = processors(so_far, logits)  # (1, vocab)
            if sampled:
                probabilities = scores.softmax(-1).to(generator.device)
                token_id = int(torch.multinomial(probabilities, 1, generator=generator))
            else:
                token_id = int(scores.argmax())
            yield token_id
            if token_id in self._eos_ids:
                return
            token_ids.append(token_id)

    def _feed(self, token_ids: list[int], prefix: Prefix, ended: Callable[[], bool]) -> torch.Tensor | None:
        """Compute the tokens that the cache lacks, in chunks.

        Returns:
            The logits after the last token, (1, vocab) float32; None when it ended on the way.
        """
        logits: torch.Tensor | None = None
        while len(prefix.token_ids) < len(token_ids):
            if ended():
                return None
            start = len(prefix.token_ids)
            chunk = token_ids[start : start + PREFILL_CHUNK_TOKENS]
            input_ids: Any = torch.tensor([chunk], device=self._model.device)  # (1, n)
            options: dict[str, Any] = {"logits_to_keep": 1} if self._last_logits_only else {}
            output = self._model(
                input_ids=input_ids,
                past_key_values=prefix.cache,
                use_cache=True,
                **options,
            )
            prefix.token_ids.extend(chunk)
            logits = output.logits[:, -1].float()
        return logits


def _load(source: ModelSource, device: torch.device, spread: bool) -> tuple[Any, Any]:
    """Tokenizer and model, ready to run; Transformers' own types are too loose to name.

    With `spread`, `accelerate` places what exceeds one GPU over all of them.
    """
    from httpx import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from safetensors import SafetensorError

    on_gpu = device.type == "cuda"
    bf16 = on_gpu or torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001 - torch offers no public question
    try:
        tokenizer = AutoTokenizer.from_pretrained(source.location)
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
    return tokenizer, model.eval()


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]


def _context_tokens(config: Any) -> int:
    """The model's window; the tokenizer's `model_max_length` is often a placeholder."""
    return int(getattr(config.get_text_config(), "max_position_embeddings", 0) or 2_048)


def _croppable(config: Any) -> bool:
    """Whether a cached prefix can be cut at any token: only where every layer attends to everything."""
    layer_types = getattr(config.get_text_config(), "layer_types", None)
    return layer_types is None or set(layer_types) == {"full_attention"}


def _eos_ids(generation_config: Any, tokenizer: Any) -> frozenset[int]:
    """Tokens that end an answer."""
    configured = generation_config.eos_token_id
    ids = [configured] if isinstance(configured, int) else list(configured or ())
    return frozenset([*ids, *([] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id])])


def _default_params(generation_config: Any) -> SamplingParams:
    """The model's own sampling; greedy where it asks for none."""
    if not generation_config.do_sample:
        return SamplingParams(temperature=0.0)
    return SamplingParams(
        temperature=1.0 if generation_config.temperature is None else generation_config.temperature,
        top_p=generation_config.top_p,
        top_k=generation_config.top_k,
        repetition_penalty=generation_config.repetition_penalty,
    )


def _logits_processors(params: SamplingParams) -> tuple[LogitsProcessorList, bool]:
    """Transformers' processors for the parameters, in its order, and whether to sample."""
    sampled = (params.temperature or 0.0) >= MIN_TEMPERATURE
    processors = LogitsProcessorList()
    if params.repetition_penalty and params.repetition_penalty != 1.0:
        processors.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if sampled:
        assert params.temperature is not None
        if params.temperature != 1.0:
            processors.append(TemperatureLogitsWarper(params.temperature))
        if params.top_k:
            processors.append(TopKLogitsWarper(params.top_k))
        if params.top_p is not None and params.top_p < 1.0:
            processors.append(TopPLogitsWarper(params.top_p))
    return processors, sampled
