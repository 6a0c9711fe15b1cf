"""The one place that chooses implementations, from settings to running parts."""

import secrets
import uuid
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import structlog

from chatlab import telemetry
from chatlab.auditor import Auditor
from chatlab.cache.answers import AnswerCache
from chatlab.cache.stored import CacheLimits
from chatlab.chat import ChatService
from chatlab.clock import Clock, utc_now
from chatlab.comparison import Comparisons
from chatlab.completions import CompletionService
from chatlab.cross_encoder import CrossEncoderVerifier
from chatlab.embedding import Embedder
from chatlab.engines.base import Engine
from chatlab.errors import ConfigError
from chatlab.history import Recall
from chatlab.jobs import Jobs
from chatlab.problems import INTERRUPTED
from chatlab.settings import Settings, import_spaces
from chatlab.store import Store
from chatlab.telemetry import Metrics
from chatlab.vectors import QUESTIONS, Vectors

SECRET_FILE = "secret"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """Everything that serves a request, open until `wire` is left."""

    settings: Settings
    store: Store
    jobs: Jobs
    engine: Engine
    embedder: Embedder
    recall: Recall
    answers: AnswerCache
    metrics: Metrics
    chats: ChatService
    completions: CompletionService
    comparisons: Comparisons
    secret_key: str


@contextmanager
def wire(
    settings: Settings, engine: Engine | None = None, now: Callable[[], datetime] | None = None
) -> Generator[Parts]:
    """Build the parts and close them in the right order.

    Turns under way must have been closed (`parts.jobs.close()`, on their event loop) before this is left.

    Args:
        settings: As loaded.
        engine: Use this one instead of what the settings name; it is closed too.
        now: The time of day; the system's by default.

    Raises:
        ConfigError: The data dir is held, the model cannot be loaded, and the like.
    """
    with Store(settings.data_dir) as store:
        clock = Clock(store.latest_time(), now or utc_now)
        if interrupted := store.fail_live_turns(INTERRUPTED, clock()):
            log.warning("turns were interrupted when the last process ended", turns=interrupted)
        if discarded := store.purge_discarded():
            log.info("discarded chats were deleted", chats=discarded)
        engine = engine or make_engine(settings)
        embedder = Embedder(settings.embedder)
        vectors_uri = settings.vectors_uri or str(settings.data_dir / "vectors")
        vectors = Vectors(vectors_uri, embedder.name)
        questions = Vectors(vectors_uri, embedder.name, QUESTIONS)
        verifier = CrossEncoderVerifier(settings.cache_verifier) if settings.cache_verifier else None
        try:
            metrics = Metrics()
            jobs = Jobs(settings.queue_limit)
            metrics.watch(telemetry.LIVE_TURNS, lambda: jobs.n_live)
            metrics.watch(telemetry.ENGINE_RUNNING, lambda: engine.load.running)
            metrics.watch(telemetry.ENGINE_WAITING, lambda: engine.load.waiting)
            metrics.watch(telemetry.KV_BYTES, lambda: engine.load.kv_bytes)
            metrics.watch(telemetry.KV_LIMIT_BYTES, lambda: engine.load.kv_limit_bytes)
            metrics.watch(telemetry.PREEMPTED, lambda: engine.load.preempted)
            recall = Recall(embedder, vectors)
            answers = AnswerCache(store, embedder, questions, metrics, clock, cache_limits(settings), verifier)
            if vectors.made:  # somebody's chats are searched: the first question should not wait for the embedder
                embedder.preload()
            chats = ChatService(
                store,
                jobs,
                engine,
                recall,
                answers,
                metrics,
                clock,
                lambda: uuid.uuid4().hex,
                settings.max_message_chars,
                notes=settings.notes,
            )
            completions = CompletionService(
                jobs, engine, recall, answers, Auditor(engine, metrics), clock, lambda: uuid.uuid4().hex
            )
            facts = engine.facts
            yield Parts(
                settings=settings,
                store=store,
                jobs=jobs,
                engine=engine,
                embedder=embedder,
                recall=recall,
                answers=answers,
                metrics=metrics,
                chats=chats,
                completions=completions,
                comparisons=Comparisons(
                    chats,
                    completions,
                    store.votes,
                    facts.model,
                    facts.engine,
                    clock,
                    lambda: uuid.uuid4().hex,
                    settings.max_message_chars,
                ),
                secret_key=settings.secret_key or _kept_secret(settings.data_dir),
            )
            metrics.close()
        finally:
            vectors.close()
            questions.close()
            if verifier is not None:
                verifier.close()
            embedder.close()
            engine.close()


def cache_limits(settings: Settings) -> CacheLimits:
    """What the settings promise of the cache."""
    return CacheLimits(
        max_error=settings.cache_max_error,
        max_entries=settings.cache_max_entries,
        max_temperature=settings.cache_max_temperature,
        ttl=timedelta(hours=settings.cache_ttl_hours),
        writes_an_hour=settings.cache_writes_per_hour,
        audit_share=0.0 if settings.on_zero_gpu else settings.cache_audit_share,  # nobody's quota is for that
        similar=settings.cache_similar,
        shadow=settings.cache_shadow,
    )


def make_engine(settings: Settings) -> Engine:
    """The engine that the settings name, loaded; says what takes long."""
    if settings.engine == "echo":
        from chatlab.engines.echo import EchoEngine

        return EchoEngine(settings.echo_tokens_per_second)
    if settings.engine == "openai":
        return _openai_engine(settings)
    if settings.on_zero_gpu:
        return _zero_gpu_engine(settings)
    from chatlab.engines.models import find_model
    from chatlab.engines.runtime.loading import gpu_gib, pick_device
    from chatlab.engines.transformers import TransformersEngine

    try:
        device = pick_device(settings.device)
        memory_gib = gpu_gib(device)
    except (RuntimeError, AssertionError) as error:  # torch's own words for a device that is not there
        raise ConfigError(f"CHATLAB_DEVICE={settings.device!r}: {error}") from error
    source = find_model(settings.model, settings.data_dir, memory_gib, lambda line: log.info(line))
    log.info("loading the model", model=source.name, device=str(device))
    return TransformersEngine(source, device, settings.kv_cache_mb * 1_000_000, settings.threads)


def _zero_gpu_engine(settings: Settings) -> Engine:
    import torch

    from chatlab.engines.models import find_model
    from chatlab.engines.zerogpu import GPU_GIB, ZeroGpuEngine

    source = find_model(settings.model, settings.data_dir, GPU_GIB, lambda line: log.info(line))
    log.info("loading the model", model=source.name, device="ZeroGPU")
    return ZeroGpuEngine(source, import_spaces().GPU, torch.device("cuda"))


def _openai_engine(settings: Settings) -> Engine:
    from chatlab.engines.openai_compatible import OpenAICompatibleEngine
    from chatlab.engines.remote.server import Patience

    return OpenAICompatibleEngine(
        settings.openai_base_url,
        settings.openai_api_key.get_secret_value(),
        settings.model,
        settings.openai_tokenizer,
        settings.openai_context_tokens,
        settings.openai_concurrency,
        (settings.secret_key or _kept_secret(settings.data_dir)).encode(),
        Patience(first_token=settings.openai_first_token_seconds),
    )


def _kept_secret(data_dir: Path) -> str:
    """The data dir's own secret, made on first use and readable by its owner alone."""
    file = data_dir / SECRET_FILE
    if not file.exists():
        partial = file.with_suffix(".partial")
        partial.touch(mode=0o600)
        partial.write_text(secrets.token_urlsafe(32))
        partial.replace(file)
    return file.read_text()
