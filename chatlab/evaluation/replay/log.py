"""What is replayed: chats as they were, with what their cache did, as far as that is known.

What a log does not tell is left open: a request's own settings where no lookup was stored, the answers of audits, and
whatever belonged to a chat that was deleted since.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cached_property
from pathlib import Path

import numpy as np

from chatlab.errors import ConfigError, DataDirHeld, ExchangeError
from chatlab.evaluation.readers.chats import is_data_dir
from chatlab.exchange import read_export
from chatlab.messages import CacheLookup, CacheScope, Chat, Turn
from chatlab.store import Store
from chatlab.store.recent import Conversation

Progress = Callable[[int, int], None]

TAKEN = "the person took the answer to a similar question"  # the reason of such a hit


@dataclass(frozen=True, slots=True)
class Logged:
    """A turn with what was before it.

    Attributes:
        path: The turns before it, root first.
        lookup: What the cache did, as it was stored.
    """

    turn: Turn
    chat: Chat
    path: Sequence[Turn]
    lookup: CacheLookup | None = None

    @property
    def by_model(self) -> bool:
        """Whether its answer is the model's."""
        return self.turn.source != "cache"

    @property
    def taken(self) -> bool:
        """Whether a person took the answer to a similar question for it."""
        return self.turn.provenance.cache.reason == TAKEN

    @property
    def bypass(self) -> bool:
        """Whether the model was to answer in any case."""
        return self.turn.provenance.cache.outcome == "bypass"

    @property
    def scope(self) -> CacheScope:
        """Of its lookup; without one, of its chat, unless chatlab answered it without a cache."""
        if self.lookup is not None:
            return self.lookup.scope
        ours = self.turn.provenance.model is not None
        return "off" if ours and self.turn.provenance.cache.outcome == "off" else self.chat.cache.scope

    @property
    def threshold(self) -> float | None:
        """In force when it was asked, where that is known."""
        return self.turn.provenance.cache.threshold

    @property
    def ended_at(self) -> datetime:
        """When its answer was there."""
        return self.turn.finished_at or self.turn.created_at


@dataclass(frozen=True)
class Log:
    """Chats, oldest turn first.

    Attributes:
        source: Where it is from.
        conversations: With their turns.
        lookups: What the cache did, by turn; also of turns that are not in these chats.
    """

    source: str
    conversations: Sequence[Conversation]
    lookups: Mapping[str, CacheLookup]

    @classmethod
    def of(cls, conversations: Iterable[Conversation], lookups: Iterable[CacheLookup] = (), source: str = "") -> "Log":
        """Chats and lookups, in any order."""
        return cls(source, [*_told_apart(conversations)], {each.turn_id: each for each in lookups})

    @cached_property
    def turns(self) -> Sequence[Logged]:
        """Those that have ended, in the order in which they were asked."""
        found = [
            Logged(_whole(turn), known.chat, path, self.lookups.get(turn.turn_id))
            for known in self.conversations
            for turn, path in _with_paths(known.turns)
            if not turn.live
        ]
        return sorted(found, key=lambda each: each.turn.created_at)

    @cached_property
    def stray(self) -> Sequence[CacheLookup]:
        """Lookups of turns that are not in these chats: of requests without a chat."""
        here = {each.turn.turn_id for each in self.turns}
        return [each for each in self.lookups.values() if each.turn_id not in here]

    @cached_property
    def answer_seconds(self) -> float:
        """The model took for an answer, at the median; 0 where that is not known."""
        known = [
            each.turn.provenance.timing.total_ms
            for each in self.turns
            if each.by_model and each.turn.provenance.timing.total_ms is not None
        ]
        return float(np.median(known)) / 1e3 if known else 0.0


def read_log(source: Path, progress: Progress | None = None) -> Log:
    """A data dir that nothing has open, or an export: chatlab's own, with what its cache did, or another tool's.

    Args:
        source: The folder or the file.
        progress: Told how many bytes of how many of a file were read.

    Raises:
        ConfigError: It cannot be read; says why.
    """
    if not source.exists():
        raise ConfigError(f"{source}: there is no such file or folder")
    if source.is_dir():
        return _read_data_dir(source)
    try:
        chats = [*read_export(source, progress)]
    except ExchangeError as error:
        raise ConfigError(f"{source}: {error}") from error
    lookups = (lookup for chat in chats for lookup in chat.lookups)
    return Log.of((chat.conversation for chat in chats), lookups, str(source))


def _read_data_dir(folder: Path) -> Log:
    if not is_data_dir(folder):
        raise ConfigError(f"{folder}: chatlab stores nothing in this folder")
    try:
        with Store(folder) as store:
            return Log.of(store.all_conversations(), store.all_lookups(), str(folder))
    except DataDirHeld as error:
        raise ConfigError(f"{error} Or replay an export of the server that runs on it.") from error


def _told_apart(conversations: Iterable[Conversation]) -> Iterator[Conversation]:
    """Conversations whose turns have ids of their own: other tools number the messages of each chat."""
    seen: set[str] = set()
    for known in conversations:
        if not seen.isdisjoint(turn.turn_id for turn in known.turns):
            known = replace(known, turns=tuple(_named_by(known.chat.chat_id, turn) for turn in known.turns))
        seen.update(turn.turn_id for turn in known.turns)
        yield known


def _named_by(chat_id: str, turn: Turn) -> Turn:
    parent = turn.parent_turn_id
    return replace(turn, turn_id=f"{chat_id}/{turn.turn_id}", parent_turn_id=parent and f"{chat_id}/{parent}")


def _with_paths(turns: Sequence[Turn]) -> Iterator[tuple[Turn, Sequence[Turn]]]:
    """Each turn with those before it; one whose parent is not there begins a branch."""
    paths: dict[str, tuple[Turn, ...]] = {}
    for turn in turns:
        path = paths.get(turn.parent_turn_id or "", ())
        paths[turn.turn_id] = (*path, turn)
        yield turn, path


def _whole(turn: Turn) -> Turn:
    """What another system answered says neither who did nor how it ended."""
    if turn.provenance.model is None and turn.status == "done" and turn.assistant_message:
        return replace(turn, source=turn.source or "model", finish_reason=turn.finish_reason or "stop")
    return turn
