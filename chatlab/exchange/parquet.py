"""Chats as a Parquet file: a row a turn, for pandas, Polars, DuckDB. Written in row groups, so memory stays small."""

from collections.abc import Iterable, Iterator
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from chatlab.exchange.exported import ExportedChat
from chatlab.messages import Turn
from chatlab.store.recent import Conversation

GROUP_ROWS = 20_000
GROUP_CHARS = 32_000_000

_TIME = pa.timestamp("us", tz="UTC")
SCHEMA = pa.schema(
    [
        pa.field("chat_id", pa.string(), nullable=False),
        pa.field("title", pa.string()),
        pa.field("turn_id", pa.string(), nullable=False),
        pa.field("parent_turn_id", pa.string()),
        pa.field("created_at", _TIME, nullable=False),
        pa.field("finished_at", _TIME),
        pa.field("user_message", pa.string(), nullable=False),
        pa.field("assistant_message", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("error", pa.string()),
        pa.field("pinned", pa.bool_(), nullable=False),
        pa.field("rating", pa.int8()),
        pa.field("rating_reason", pa.string()),
        pa.field("model", pa.string()),
        pa.field("engine", pa.string()),
        pa.field("cache_outcome", pa.string(), nullable=False),
        pa.field("cache_tier", pa.string()),
        pa.field("cache_similarity", pa.float64()),
        pa.field("cache_threshold", pa.float64()),
        pa.field("cache_reason", pa.string()),
        pa.field("strategy", pa.string()),
        pa.field("budget_tokens", pa.int64()),
        *(
            pa.field(name, pa.int64())
            for name in ("prompt_tokens", "completion_tokens", "reused_prefix_tokens", "saved_tokens")
        ),
        *(
            pa.field(name, pa.float64())
            for name in ("queue_ms", "cache_ms", "prompt_ms", "ttft_ms", "total_ms", "tokens_per_second")
        ),
    ]
)


def write(chats: Iterable[ExportedChat], file: IO[bytes]) -> None:
    """Write the file; `file` need not be seekable."""
    with pq.ParquetWriter(file, SCHEMA, compression="zstd") as writer:
        rows: list[dict[str, Any]] = []
        n_chars = 0
        for row in _rows(chats):
            rows.append(row)
            n_chars += len(row["user_message"]) + len(row["assistant_message"] or "")
            if len(rows) >= GROUP_ROWS or n_chars >= GROUP_CHARS:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows, n_chars = [], 0
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))


def _rows(chats: Iterable[ExportedChat]) -> Iterator[dict[str, Any]]:
    for exported in chats:
        for turn in exported.conversation.turns:
            yield _row(exported.conversation, turn)


def _row(known: Conversation, turn: Turn) -> dict[str, Any]:
    origin = turn.provenance
    prompt, usage, timing = origin.prompt, origin.usage, origin.timing
    return {
        "chat_id": turn.chat_id,
        "title": known.chat.title,
        "turn_id": turn.turn_id,
        "parent_turn_id": turn.parent_turn_id,
        "created_at": turn.created_at,
        "finished_at": turn.finished_at,
        "user_message": turn.user_message,
        "assistant_message": turn.assistant_message,
        "status": turn.status,
        "source": turn.source,
        "finish_reason": turn.finish_reason,
        "error": None if turn.error is None else turn.error.detail,
        "pinned": turn.pinned,
        "rating": None if turn.feedback is None else turn.feedback.rating,
        "rating_reason": None if turn.feedback is None else turn.feedback.reason,
        "model": origin.model,
        "engine": origin.engine,
        "cache_outcome": origin.cache.outcome,
        "cache_tier": origin.cache.tier,
        "cache_similarity": origin.cache.similarity,
        "cache_threshold": origin.cache.threshold,
        "cache_reason": origin.cache.reason,
        "strategy": None if prompt is None else prompt.strategy,
        "budget_tokens": None if prompt is None else prompt.budget_tokens,
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "reused_prefix_tokens": usage.reused_prefix_tokens,
        "saved_tokens": usage.saved_tokens,
        "queue_ms": timing.queue_ms,
        "cache_ms": timing.cache_ms,
        "prompt_ms": timing.prompt_ms,
        "ttft_ms": timing.ttft_ms,
        "total_ms": timing.total_ms,
        "tokens_per_second": timing.tokens_per_second,
    }
