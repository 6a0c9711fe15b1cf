"""The engine for Transformers weights in this process: many answers at once, prefixes kept between turns.

Owns the generation thread; everything that touches the model runs there, its loading, too. OpenMP keeps a team of
threads for each thread that ever computed in parallel, and where the teams together have more threads than there are
cores, each of them sleeps between two operations instead of waiting for a moment: a token takes 25 ms instead of 15.
"""

import asyncio
import threading
from collections import OrderedDict
from concurrent.futures import Future
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar

import structlog
import torch

from chatlab.engines.base import EngineLoad, Finished, GenerationRequest, Started
from chatlab.engines.in_process import GenerationJob, InProcessEngine, Outbox
from chatlab.engines.models import ModelSource
from chatlab.engines.runtime.loading import Described, make_runner
from chatlab.engines.runtime.memory import default_kv_bytes
from chatlab.engines.runtime.runner import Runner
from chatlab.engines.runtime.sampling import Given, Sampler
from chatlab.engines.runtime.scheduler import Joined, Outcome, Scheduler, TokenSequence
from chatlab.engines.text import AnswerText
from chatlab.messages import SamplingParams

log = structlog.get_logger(__name__)

SLOTS = 64
MAX_WARMS = 64  # conversations whose next prompt's beginning is still to be computed
PROMPT_TOKENS_CPU, PROMPT_TOKENS_GPU = 512, 2_048  # of prompts in one step; more make it no quicker


class TransformersEngine(InProcessEngine):
    """A causal language model and its tokenizer.

    Args:
        source: Where the model is.
        device: Where it runs; what exceeds one GPU is placed by `accelerate`.
        kv_cache_bytes: For the keys and values of running answers and kept prefixes; 0 takes a share of the memory.
        threads: CPU threads; 0 leaves torch's choice.
        slots: Answers computed at the same time.

    Raises:
        ModelUnavailable: The model cannot be loaded; says which and the ways out.
    """

    name: ClassVar[str] = "transformers"

    def __init__(
        self,
        source: ModelSource,
        device: torch.device,
        kv_cache_bytes: int = 0,
        threads: int = 0,
        slots: int = SLOTS,
    ) -> None:
        made: Future[tuple[Described, Runner[Any]]] = Future()
        ready = threading.Event()

        def generate() -> None:
            torch.set_num_threads(threads or torch.get_num_threads())
            try:
                made.set_result(make_runner(source, device))
            except BaseException as error:  # noqa: BLE001 - it is raised in the thread that waits
                made.set_exception(error)
            else:
                ready.wait()
                self._run()

        thread = threading.Thread(target=generate, name="generation", daemon=True)
        thread.start()
        described, runner = made.result()
        super().__init__(source, described, str(device), slots)
        self._threads = [thread]
        self._max_bytes = kv_cache_bytes or default_kv_bytes(device)
        at_once = PROMPT_TOKENS_CPU if device.type == "cpu" else PROMPT_TOKENS_GPU
        self._scheduler: Scheduler[Any] = Scheduler(runner, self._max_bytes, at_once)
        self._answers: dict[TokenSequence, GenerationJob] = {}  # the thread's own
        self._warms: OrderedDict[str, GenerationRequest] = OrderedDict()  # by user, oldest first; guarded by _wake
        self._kv_bytes = 0
        ready.set()

    @property
    def load(self) -> EngineLoad:
        """With the memory of keys and values."""
        return replace(
            super().load,
            kv_bytes=self._kv_bytes,
            kv_limit_bytes=self._max_bytes,
            preempted=self._scheduler.n_preempted,
        )

    async def score(self, request: GenerationRequest, answer: str, most_tokens: int) -> tuple[float, ...]:
        """See `Scorer.score`: the answer is computed like any other, but for the choice of its tokens."""
        loop = asyncio.get_running_loop()
        job = await asyncio.to_thread(self._scoring, request, answer, most_tokens, loop)
        async with aclosing(self._chunks(job)) as chunks:
            async for _ in chunks:
                pass
        return tuple(job.log_likelihoods)

    def _scoring(
        self, request: GenerationRequest, answer: str, most_tokens: int, loop: asyncio.AbstractEventLoop
    ) -> GenerationJob:
        given_ids = self._template.encode(answer)[:most_tokens]
        if not given_ids:
            raise ValueError("an empty answer has no likelihood")
        params = SamplingParams(temperature=0.0, max_new_tokens=len(given_ids))
        text = AnswerText(self._tokenizer, frozenset(), (), len(given_ids))  # whatever it holds does not end it
        return replace(self._job(replace(request, params=params), loop), given_ids=given_ids, text=text)

    def warm(self, request: GenerationRequest) -> None:
        """See `Engine.warm`; where too many wait, the oldest is forgotten."""
        with self._wake:
            self._warms.pop(request.user_id, None)
            self._warms[request.user_id] = request
            if len(self._warms) > MAX_WARMS:
                self._warms.popitem(last=False)
            self._wake.notify()

    def _work(self) -> None:
        """Step after step, while there is anything to answer or to warm; requests join and leave between them."""
        outbox = Outbox()
        while (joining := self._joining()) is not None:
            for job in joining:
                chosen_by = Sampler(job.params, job.prompt_ids)
                if job.given_ids:
                    chosen_by = Given(job.given_ids, job.log_likelihoods)
                sequence = TokenSequence(job.user_id, [*job.prompt_ids], chosen_by)
                self._answers[sequence] = job
                self._scheduler.join(sequence)
            if not self._answers and self._begin_warming():
                continue  # requests that came meanwhile go first
            for sequence, outcome in self._scheduler.step():
                self._report(sequence, outcome, outbox)
            self._kv_bytes = self._scheduler.n_bytes
            outbox.send()

    def _joining(self) -> list[GenerationJob] | None:
        """Let cancelled answers leave, then wait for work and take what there are places for; None when closed."""
        for sequence in [sequence for sequence, job in self._answers.items() if job.cancelled]:
            self._leave(sequence)
        with self._wake:
            while not (self._queue or self._running or self._closed or self._warms) and self._scheduler.warming is None:
                self._wake.wait()
            if self._closed:
                return None
            joining: list[GenerationJob] = []
            while self._queue and len(self._running) < self._facts.slots:
                joining.append(self._queue.take())
                self._running.add(joining[-1])
            return joining

    def _begin_warming(self) -> bool:
        """Render the next conversation to warm, if the last one is done or its user has a newer one; whether it was so.

        Not rendered before: where much is asked, most are forgotten.
        """
        warming = self._scheduler.warming
        with self._wake:
            if warming is not None and warming in self._warms:
                request = self._warms.pop(warming)
            elif warming is None and self._warms:
                _, request = self._warms.popitem(last=False)
            else:
                return False
        try:
            token_ids = self._template.prefix_ids(request.messages)
        except Exception:
            log.warning("a prompt's beginning could not be rendered ahead", exc_info=True)
        else:
            if len(token_ids) < self._facts.context_tokens:
                self._scheduler.warm(request.user_id, token_ids)
        return True

    def _report(self, sequence: TokenSequence, outcome: Outcome, outbox: Outbox) -> None:
        """Tell the reader what became of its sequence in a step, and end it when its text does."""
        job = self._answers[sequence]
        if isinstance(outcome, Joined):
            outbox.put(job, Started(prompt_tokens=len(job.prompt_ids), reused_prefix_tokens=outcome.n_reused))
        elif isinstance(outcome, int):
            outbox.put(job, job.text.feed(outcome))
            if job.text.reason is not None:
                outbox.put(job, Finished(job.text.reason))
                self._leave(sequence)
        else:
            outbox.put(job, outcome)
            self._leave(sequence)

    def _leave(self, sequence: TokenSequence) -> None:
        """Free the place of an answer."""
        self._scheduler.leave(sequence)
        self._kv_bytes = self._scheduler.n_bytes
        job = self._answers.pop(sequence)
        with self._wake:
            self._running.discard(job)
