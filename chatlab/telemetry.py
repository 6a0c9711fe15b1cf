"""What chatlab says about itself: log lines and metrics. Every name that leaves the process is in this file.

Names follow OpenTelemetry's semantic conventions for generative AI where they have one (`gen_ai.*`); ours begin with
`chatlab.`. The Prometheus form replaces dots by underscores.
"""

import logging
import sys
from collections.abc import Callable

import structlog
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import CallbackOptions, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.view import ExplicitBucketHistogramAggregation, View
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from chatlab.messages import Turn

TURNS = "chatlab.turns"
LIVE_TURNS = "chatlab.turns.live"
FAULTS = "chatlab.faults"
ENGINE_RUNNING = "chatlab.engine.running"
ENGINE_WAITING = "chatlab.engine.waiting"
KV_BYTES = "chatlab.engine.kv.usage"
KV_LIMIT_BYTES = "chatlab.engine.kv.limit"
PREEMPTED = "chatlab.engine.preempted"
TTFT = "gen_ai.server.time_to_first_token"
DURATION = "gen_ai.server.request.duration"
TOKENS = "gen_ai.client.token.usage"

ATTR_SOURCE = "chatlab.source"
ATTR_STATUS = "chatlab.status"
ATTR_PART = "chatlab.part"
ATTR_MODEL = "gen_ai.request.model"
ATTR_TOKEN_TYPE = "gen_ai.token.type"

GAUGES = {  # unit and description
    LIVE_TURNS: ("", "Turns under way"),
    ENGINE_RUNNING: ("", "Answers being computed"),
    ENGINE_WAITING: ("", "Answers that wait for the engine"),
    KV_BYTES: ("By", "Attention keys and values in memory, those of kept prefixes included"),
    KV_LIMIT_BYTES: ("By", "The most that keys and values may take"),
    PREEMPTED: ("", "Answers computed again for lack of that memory, since the start"),
}

SECONDS_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKEN_BUCKETS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144)


def configure_logging(level: str, as_json: bool) -> None:
    """Log to standard error: text for people, or one JSON object a line."""
    shared = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    final = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(
            colors=sys.stderr.isatty(),
            exception_formatter=structlog.dev.plain_traceback,  # others print locals: messages and secrets
        )
    )
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, final] if as_json else [*shared, final],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=False,
    )


class Metrics:
    """The counters and histograms of one process, with a registry of their own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        reader = PrometheusMetricReader(registry=self._registry)
        seconds, tokens = (ExplicitBucketHistogramAggregation(b) for b in (SECONDS_BUCKETS, TOKEN_BUCKETS))
        self._provider = MeterProvider(
            [reader],
            Resource({"service.name": "chatlab"}),
            views=[
                View(instrument_name=TTFT, aggregation=seconds),
                View(instrument_name=DURATION, aggregation=seconds),
                View(instrument_name=TOKENS, aggregation=tokens),
            ],
        )
        self._meter = meter = self._provider.get_meter("chatlab")
        self._turns = meter.create_counter(TURNS, description="Turns that ended, by source and status")
        self._faults = meter.create_counter(FAULTS, description="Faults that did not fail a turn, by part")
        self._ttft = meter.create_histogram(TTFT, "s", "From the request to the first token")
        self._duration = meter.create_histogram(DURATION, "s", "From the request to the end of the answer")
        self._tokens = meter.create_histogram(TOKENS, "{token}", "Tokens of a turn, by type (input, output)")

    def turn_ended(self, turn: Turn) -> None:
        """Count a turn with its times and tokens."""
        provenance = turn.provenance
        model = {ATTR_MODEL: provenance.model or "none"}
        self._turns.add(1, {ATTR_SOURCE: turn.source or "none", ATTR_STATUS: turn.status, **model})
        if provenance.timing.ttft_ms is not None:
            self._ttft.record(provenance.timing.ttft_ms / 1e3, model)
        if provenance.timing.total_ms is not None:
            self._duration.record(provenance.timing.total_ms / 1e3, model)
        usage = {"input": provenance.usage.prompt_tokens, "output": provenance.usage.completion_tokens}
        for token_type, tokens in usage.items():
            if tokens is not None:
                self._tokens.record(tokens, {ATTR_TOKEN_TYPE: token_type, **model})

    def fault(self, part: str) -> None:
        """Count a fault of a part that the turn survived."""
        self._faults.add(1, {ATTR_PART: part})

    def watch(self, gauge: str, value: Callable[[], int]) -> None:
        """Report a number, one of `GAUGES`, as it is when somebody looks."""
        unit, description = GAUGES[gauge]

        def observe(options: CallbackOptions) -> list[Observation]:
            return [Observation(value())]

        self._meter.create_observable_gauge(gauge, [observe], unit, description)

    def prometheus(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def close(self) -> None:
        """Stop collecting."""
        self._provider.shutdown()
