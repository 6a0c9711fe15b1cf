"""Chats, turns, notes and presets as table rows and back. Nested values are JSON; times are UTC without a zone."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import TypeAdapter

from chatlab.errors import FieldError, InvalidInput
from chatlab.messages import (
    CacheChoice,
    Chat,
    Feedback,
    HistoryChoice,
    Note,
    Preset,
    Problem,
    Provenance,
    SamplingParams,
    Statement,
    StoredMessage,
    Turn,
)

SETTINGS_COLUMNS = ("system_prompt", "history", "cache", "params")  # of a chat and of a preset
CHAT_COLUMNS = ("chat_id", "user_id", "title", "created_at", "updated_at", "pinned", "archived", *SETTINGS_COLUMNS)
PRESET_COLUMNS = ("preset_id", "user_id", "name", *SETTINGS_COLUMNS)
TURN_COLUMNS = (
    "turn_id", "chat_id", "user_id", "parent_turn_id", "user_message", "created_at", "assistant_message", "status",
    "source", "error", "finished_at", "finish_reason", "provenance", "prompt", "pinned",
)  # fmt: skip
NOTE_COLUMNS = (
    "note_id", "chat_id", "user_id", "turn_ids", "source_hash", "text", "statements", "kind", "tokens_before",
    "tokens_after", "model", "prompt_version", "latency_ms", "created_at", "updated_at", "revision",
)  # fmt: skip

_history = TypeAdapter(HistoryChoice)
_cache = TypeAdapter(CacheChoice)
_params = TypeAdapter(SamplingParams)
_problem = TypeAdapter(Problem)
_provenance = TypeAdapter(Provenance)
_prompt = TypeAdapter(tuple[StoredMessage, ...])
_turn_ids = TypeAdapter(tuple[str, ...])
_statements = TypeAdapter(tuple[Statement, ...])


@dataclass(frozen=True, slots=True)
class Page:
    """Some chats and where the next ones begin; `next_cursor` None is the end."""

    chats: tuple[Chat, ...]
    next_cursor: str | None


def _dump(adapter: TypeAdapter[Any], value: object) -> str:
    return adapter.dump_json(value, exclude_none=True).decode()


def to_db_time(time: datetime) -> datetime:
    """An aware time as the stored one."""
    return time.astimezone(UTC).replace(tzinfo=None)


def from_db_time(time: datetime) -> datetime:
    """A stored time as an aware one."""
    return time.replace(tzinfo=UTC)


def chat_row(chat: Chat) -> tuple[Any, ...]:
    """In the order of CHAT_COLUMNS."""
    return (
        chat.chat_id,
        chat.user_id,
        chat.title,
        to_db_time(chat.created_at),
        to_db_time(chat.updated_at),
        chat.pinned,
        chat.archived,
        *_settings_row(chat),
    )


def chat_from(row: Sequence[Any]) -> Chat:
    """From the order of CHAT_COLUMNS."""
    return Chat(
        chat_id=row[0],
        user_id=row[1],
        title=row[2],
        created_at=from_db_time(row[3]),
        updated_at=from_db_time(row[4]),
        pinned=row[5],
        archived=row[6],
        **_settings_from(row[7:]),
    )


def preset_row(preset: Preset) -> tuple[Any, ...]:
    """In the order of PRESET_COLUMNS."""
    return (preset.preset_id, preset.user_id, preset.name, *_settings_row(preset))


def preset_from(row: Sequence[Any]) -> Preset:
    """From the order of PRESET_COLUMNS."""
    return Preset(preset_id=row[0], user_id=row[1], name=row[2], **_settings_from(row[3:]))


def _settings_row(chosen: Chat | Preset) -> tuple[Any, ...]:
    """In the order of SETTINGS_COLUMNS."""
    return (
        chosen.system_prompt,
        _dump(_history, chosen.history),
        _dump(_cache, chosen.cache),
        _dump(_params, chosen.params),
    )


def _settings_from(row: Sequence[Any]) -> dict[str, Any]:
    """From the order of SETTINGS_COLUMNS; what comes after is left alone."""
    return {
        "system_prompt": row[0],
        "history": _history.validate_json(row[1]),
        "cache": _cache.validate_json(row[2]),
        "params": _params.validate_json(row[3]),
    }


def turn_row(turn: Turn) -> tuple[Any, ...]:
    """In the order of TURN_COLUMNS."""
    return (
        turn.turn_id,
        turn.chat_id,
        turn.user_id,
        turn.parent_turn_id,
        turn.user_message,
        to_db_time(turn.created_at),
        turn.assistant_message,
        turn.status,
        turn.source,
        None if turn.error is None else _dump(_problem, turn.error),
        None if turn.finished_at is None else to_db_time(turn.finished_at),
        turn.finish_reason,
        _dump(_provenance, turn.provenance),
        _dump(_prompt, turn.prompt),
        turn.pinned,
    )


def turn_from(row: Sequence[Any]) -> Turn:
    """From the order of TURN_COLUMNS, then perhaps the rating, the reason and the time of a verdict."""
    rating, reason, rated_at = (*row[len(TURN_COLUMNS) :], None, None, None)[:3]
    return Turn(
        turn_id=row[0],
        chat_id=row[1],
        user_id=row[2],
        parent_turn_id=row[3],
        user_message=row[4],
        created_at=from_db_time(row[5]),
        assistant_message=row[6],
        status=row[7],
        source=row[8],
        error=None if row[9] is None else _problem.validate_json(row[9]),
        finished_at=None if row[10] is None else from_db_time(row[10]),
        finish_reason=row[11],
        provenance=_provenance.validate_json(row[12]),
        prompt=_prompt.validate_json(row[13]),
        pinned=row[14],
        feedback=None if rating is None else Feedback(rating, reason, rated_at and from_db_time(rated_at)),
    )


def note_row(note: Note) -> tuple[Any, ...]:
    """In the order of NOTE_COLUMNS."""
    return (
        note.note_id,
        note.chat_id,
        note.user_id,
        _dump(_turn_ids, note.turn_ids),
        note.source_hash,
        note.text,
        _dump(_statements, note.statements),
        note.kind,
        note.tokens_before,
        note.tokens_after,
        note.model,
        note.prompt_version,
        note.latency_ms,
        to_db_time(note.created_at),
        to_db_time(note.updated_at),
        note.revision,
    )


def note_from(row: Sequence[Any]) -> Note:
    """From the order of NOTE_COLUMNS."""
    return Note(
        note_id=row[0],
        chat_id=row[1],
        user_id=row[2],
        turn_ids=_turn_ids.validate_json(row[3]),
        source_hash=row[4],
        text=row[5],
        statements=_statements.validate_json(row[6]),
        kind=row[7],
        tokens_before=row[8],
        tokens_after=row[9],
        model=row[10],
        prompt_version=row[11],
        latency_ms=row[12],
        created_at=from_db_time(row[13]),
        updated_at=from_db_time(row[14]),
        revision=row[15],
    )


def problem_json(problem: Problem) -> str:
    """A problem as the error column holds it."""
    return _dump(_problem, problem)


def cursor_of(chat: Chat) -> str:
    """An opaque place in the list of chats, right after `chat`."""
    return cursor_at(chat.updated_at, chat.chat_id)


def cursor_at(time: datetime, thing_id: str) -> str:
    """An opaque place in a list by time and id, right after these."""
    place = f"{to_db_time(time).isoformat()}|{thing_id}"
    return base64.urlsafe_b64encode(place.encode()).decode().rstrip("=")


def place_of(cursor: str) -> tuple[datetime, str]:
    """The stored time and the id that a cursor stands for.

    Raises:
        InvalidInput: It is no cursor of ours.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        updated_at, _, chat_id = base64.b64decode(padded, altchars=b"-_", validate=True).decode().partition("|")
        return to_db_time(datetime.fromisoformat(updated_at + "+00:00")), chat_id
    except (ValueError, binascii.Error, OverflowError) as error:
        raise InvalidInput(FieldError("cursor", "use the nextCursor of an earlier answer, unchanged")) from error
