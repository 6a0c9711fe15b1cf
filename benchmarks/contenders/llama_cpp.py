"""llama.cpp by its own batches, with BF16 weights made from the bundled model's; greedy, the model's own end ignored.

One sequence has a context that lives on, so that what two prompts share is computed once, as `Llama.generate` does it.
Several sequences have a context made for them, without loss: its making is not timed.
"""

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks.contenders.contender import Job, Setup, Timeline, Unavailable, now

CONTEXT_TOKENS = 2_048  # of the lonely sequence
BATCH_CONTEXT_TOKENS = 256  # of each of several
BATCH_TOKENS = 2_048  # of a call; its default


def make(setup: Setup) -> "LlamaCpp":
    """The weights, on the GPU if there is one.

    Raises:
        Unavailable: No package, no weights, or no GPU in the package.
    """
    try:
        import llama_cpp
    except ImportError as error:
        raise Unavailable("llama-cpp-python is not installed") from error
    if setup.gguf is None:
        raise Unavailable("only the bundled model has weights for it")
    api: Any = llama_cpp
    on_gpu = setup.device.startswith("cuda")
    if on_gpu and not api.llama_supports_gpu_offload():
        raise Unavailable("llama-cpp-python is built without a GPU")
    return LlamaCpp(api, str(setup.gguf), setup.threads, on_gpu)


class LlamaCpp:
    """See `Contender`. All jobs begin together.

    Args:
        api: The module `llama_cpp`.
        gguf: The weights' file.
        threads: For prompts and answers.
        on_gpu: Whether all layers go to the GPU.
    """

    def __init__(self, api: Any, gguf: str, threads: int, on_gpu: bool) -> None:
        self._api = api
        self._threads = threads
        self._quiet = api.llama_log_callback(_say_nothing)  # kept: C calls it
        api.llama_log_set(self._quiet, None)
        params = api.llama_model_default_params()
        params.n_gpu_layers = 999 if on_gpu else 0
        self._model = api.llama_model_load_from_file(gguf.encode(), params)
        if not self._model:
            raise Unavailable(f"{gguf} cannot be loaded")
        self._n_vocab: int = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self._model))
        self._batch = api.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._context = self._make_context(1, CONTEXT_TOKENS)
        self._known: list[int] = []  # tokens of the lonely sequence that are computed

    def run(self, jobs: Sequence[Job], enough: int) -> list[Timeline]:
        """One sequence a job."""
        n_new = min(enough, *(job.max_new_tokens for job in jobs))
        if len(jobs) == 1:
            return [self._run_alone(jobs[0], n_new)]
        context = self._make_context(len(jobs), len(jobs) * BATCH_CONTEXT_TOKENS)
        try:
            return self._run_together(context, jobs, n_new)
        finally:
            self._api.llama_free(context)

    def close(self) -> None:
        """Free the weights."""
        self._api.llama_batch_free(self._batch)
        self._api.llama_free(self._context)
        self._api.llama_model_free(self._model)

    def _run_alone(self, job: Job, n_new: int) -> Timeline:
        timeline = Timeline(now(), [], tokens := [])
        n_known = 0
        for known, wanted in zip(self._known, job.token_ids[:-1], strict=False):
            if known != wanted:
                break
            n_known += 1
        self._api.llama_memory_seq_rm(self._api.llama_get_memory(self._context), 0, n_known, -1)
        feed = job.token_ids[n_known:]
        self._known = [*job.token_ids]
        position = n_known
        while len(tokens) < n_new:
            (token,) = self._decode(self._context, [(0, position + i, each) for i, each in enumerate(feed)])
            timeline.token_at.append(now())
            tokens.append(token)
            position += len(feed)
            feed = [token]
        self._known += tokens[:-1]
        return timeline

    def _run_together(self, context: Any, jobs: Sequence[Job], n_new: int) -> list[Timeline]:
        asked_at = now()
        answers: list[list[int]] = [[] for _ in jobs]
        moments: list[list[float]] = [[] for _ in jobs]
        for first in range(0, len(jobs), group := BATCH_TOKENS // max(len(job.token_ids) for job in jobs)):
            several = range(first, min(first + group, len(jobs)))
            prompts = [(s, i, token) for s in several for i, token in enumerate(jobs[s].token_ids)]
            for sequence, token in zip(several, self._decode(context, prompts), strict=True):
                answers[sequence].append(token)
                moments[sequence].append(now())
        for _ in range(n_new - 1):
            step = [(s, len(job.token_ids) + len(answers[s]) - 1, answers[s][-1]) for s, job in enumerate(jobs)]
            tokens = self._decode(context, step)
            at = now()
            for sequence, token in enumerate(tokens):
                answers[sequence].append(token)
                moments[sequence].append(at)
        return [Timeline(asked_at, token_at, answer) for token_at, answer in zip(moments, answers, strict=True)]

    def _decode(self, context: Any, parts: Sequence[tuple[int, int, int]]) -> list[int]:
        """Compute (sequence, position, token)s, a sequence's in a row; gives the next token of each sequence."""
        batch = self._batch
        batch.n_tokens = len(parts)
        ends: list[int] = []
        for row, (sequence, position, token) in enumerate(parts):
            batch.token[row], batch.pos[row] = token, position
            batch.n_seq_id[row], batch.seq_id[row][0] = 1, sequence
            is_end = row + 1 == len(parts) or parts[row + 1][0] != sequence
            batch.logits[row] = is_end
            if is_end:
                ends.append(row)
        if (failure := self._api.llama_decode(context, batch)) != 0:
            raise Unavailable(f"llama_decode gave {failure}")
        return [int(self._logits(context, row).argmax()) for row in ends]

    def _logits(self, context: Any, row: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        pointer = self._api.llama_get_logits_ith(context, row)  # waits for the computation
        return np.ctypeslib.as_array(ctypes.cast(pointer, ctypes.POINTER(ctypes.c_float)), (self._n_vocab,))

    def _make_context(self, n_sequences: int, n_tokens: int) -> Any:
        api = self._api
        params = api.llama_context_default_params()
        params.n_ctx, params.n_seq_max, params.n_batch = n_tokens, n_sequences, BATCH_TOKENS
        params.n_threads = params.n_threads_batch = self._threads
        params.flash_attn_type = api.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.kv_unified = False
        context = api.llama_init_from_model(self._model, params)
        if not context:
            raise Unavailable(f"no context for {n_sequences} sequences")
        return context


def _say_nothing(level: int, text: bytes, data: object) -> None:
    """The log goes nowhere."""
