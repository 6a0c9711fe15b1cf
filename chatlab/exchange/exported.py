"""A chat as a file holds it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from chatlab.messages import CacheLookup
from chatlab.store.recent import Conversation


@dataclass(frozen=True, slots=True)
class ExportedChat:
    """A chat of a file.

    Attributes:
        conversation: Read from a file, `user_id` is empty everywhere, times may lie in the future, turns may be live.
        lookups: What the cache did for its turns; only chatlab's own files have them.
        left_out: What of the entry has no place in chatlab, counted by kind.
    """

    conversation: Conversation
    lookups: tuple[CacheLookup, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict[str, int])
