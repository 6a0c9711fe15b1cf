"""Chats of a file into the store: all of them or none, as new chats of one user, at the times that the file says.

They are written out of sight, in parts, and brought into sight by one commit at the end. Whatever ends before, a wrong
entry or the process, leaves nothing to be seen, and what it wrote is deleted at once or at the next start. Every chat
and turn gets a new id: a file that is imported twice is there twice. The answer cache learns nothing from a file.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from chatlab.clock import Clock
from chatlab.exchange import ExportedChat
from chatlab.exchange.values import EPOCH
from chatlab.history.notes import source_hash
from chatlab.messages import Note, Problem, Turn
from chatlab.problems import INTERRUPTED
from chatlab.store import Store
from chatlab.store.recent import Conversation

TURNS_A_PART = 500
MAX_TITLE_CHARS = 200
LOOKUPS = "decisions of the cache (it learns from its own traffic only)"
TICK = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import brought.

    Attributes:
        left_out: What of the file has no place here, counted by kind.
    """

    chats: int
    turns: int
    left_out: Mapping[str, int]


async def import_chats(
    store: Store, clock: Clock, new_id: Callable[[], str], user_id: str, chats: Iterator[ExportedChat]
) -> Imported:
    """Store chats as a user's.

    Args:
        store: Open.
        clock: Times of the file that are later than this are brought forward.
        new_id: Unique ids.
        user_id: The owner.
        chats: Read in a thread, one at a time; what it raises ends the import, and nothing is stored.
    """
    now = clock()
    written: list[str] = []
    left_out: Counter[str] = Counter()
    n_turns = 0
    part: list[Conversation] = []
    try:
        while (exported := await asyncio.to_thread(next, chats, None)) is not None:
            known = owned(exported.conversation, user_id, now, new_id)
            left_out.update(exported.left_out)
            if exported.lookups:
                left_out[LOOKUPS] += len(exported.lookups)
            written.append(known.chat.chat_id)
            part.append(known)
            n_turns += len(known.turns)
            if sum(len(each.turns) for each in part) >= TURNS_A_PART:
                await store.add_hidden(part, now)
                part = []
        if part:
            await store.add_hidden(part, now)
        await store.show(written)
    except BaseException:
        with suppress(Exception):  # what is left is out of sight, and deleted at the next start
            await asyncio.shield(store.drop(written))
        raise
    return Imported(len(written), n_turns, dict(left_out))


def owned(known: Conversation, user_id: str, now: datetime, new_id: Callable[[], str]) -> Conversation:
    """A conversation as a new one of a user, with nothing in the future and nothing under way."""
    chat_id = new_id()
    ids = {turn.turn_id: new_id() for turn in known.turns}
    known = _in_time(known, now)
    turns = tuple(_turn(turn, chat_id, user_id, ids) for turn in known.turns)
    old = {turn.turn_id: turn for turn in known.turns}
    new = {turn.turn_id: turn for turn in turns}
    notes = tuple(
        _note(note, chat_id, user_id, ids, old, new, new_id())
        for note in known.notes
        if all(turn_id in ids for turn_id in note.turn_ids)
    )
    title = known.chat.title
    if title is not None and len(title) > MAX_TITLE_CHARS:
        title = title[: MAX_TITLE_CHARS - 1] + "…"
    return Conversation(replace(known.chat, chat_id=chat_id, user_id=user_id, title=title), turns, notes)


def _turn(turn: Turn, chat_id: str, user_id: str, ids: Mapping[str, str]) -> Turn:
    prompt = turn.provenance.prompt
    if prompt is not None:
        parts = tuple(
            replace(part, turn_ids=tuple(ids.get(each, each) for each in part.turn_ids)) for part in prompt.parts
        )
        dropped = tuple(ids.get(each, each) for each in prompt.dropped_turn_ids)
        prompt = replace(prompt, parts=parts, dropped_turn_ids=dropped)
    error: Problem | None = INTERRUPTED if turn.live else turn.error
    return replace(
        turn,
        turn_id=ids[turn.turn_id],
        chat_id=chat_id,
        user_id=user_id,
        parent_turn_id=None if turn.parent_turn_id is None else ids[turn.parent_turn_id],
        status="failed" if turn.live else turn.status,
        error=error,
        finished_at=turn.finished_at or turn.created_at,
        provenance=replace(turn.provenance, prompt=prompt),
        prompt=(),
    )


def _note(
    note: Note,
    chat_id: str,
    user_id: str,
    ids: Mapping[str, str],
    old: Mapping[str, Turn],
    new: Mapping[str, Turn],
    note_id: str,
) -> Note:
    """A note of the new turns; one that no longer stood for the old ones does not stand for these either."""
    turn_ids = tuple(ids[each] for each in note.turn_ids)
    stands = note.source_hash == source_hash([old[each] for each in note.turn_ids])
    return replace(
        note,
        note_id=note_id,
        chat_id=chat_id,
        user_id=user_id,
        turn_ids=turn_ids,
        source_hash=source_hash([new[each] for each in turn_ids]) if stands else note.source_hash,
        statements=tuple(replace(each, turn_id=ids.get(each.turn_id, each.turn_id)) for each in note.statements),
    )


def _in_time(known: Conversation, now: datetime) -> Conversation:
    """Without times later than `now`; the order stays. A chat without any time is one of now."""
    chat = known.chat
    if chat.created_at == EPOCH:
        known = _moved(known, now - max(chat.updated_at, chat.created_at))
        chat = known.chat
    turns: list[Turn] = []
    latest = now
    for turn in reversed(known.turns):
        created_at = min(turn.created_at, latest)
        latest = created_at - TICK
        finished_at = None if turn.finished_at is None else max(created_at, min(turn.finished_at, now))
        turns.append(replace(turn, created_at=created_at, finished_at=finished_at))
    notes = tuple(
        replace(note, created_at=min(note.created_at, now), updated_at=min(note.updated_at, now))
        for note in known.notes
    )
    chat = replace(chat, created_at=min(chat.created_at, now), updated_at=min(chat.updated_at, now))
    return Conversation(chat, tuple(reversed(turns)), notes)


def _moved(known: Conversation, by: timedelta) -> Conversation:
    turns = tuple(
        replace(turn, created_at=turn.created_at + by, finished_at=turn.finished_at and turn.finished_at + by)
        for turn in known.turns
    )
    chat = replace(known.chat, created_at=known.chat.created_at + by, updated_at=known.chat.updated_at + by)
    return Conversation(chat, turns, known.notes)
