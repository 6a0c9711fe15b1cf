"""What a configuration decides for one turn, and in what that differs from what was decided then."""

from dataclasses import dataclass

from chatlab.evaluation.replay.log import Logged
from chatlab.evaluation.replay.prompts import Sent
from chatlab.messages import CacheLookup, CacheProvenance

TOLERANCE = 1e-4  # of scores and similarities: vectors differ in their last digits by what is embedded together
NOT_REPEATED = (  # reasons of lookups that a server could not finish: nothing decides these again
    "the cache does not answer",
    "the embedder is being loaded",
    "nothing is stored",
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a turn.

    Attributes:
        cache: What the cache decides; `lookup` has more of it, unless its scope is off.
        sent: The prompt, where the cache does not serve and prompts are built.
        refused: Whether no prompt fits.
        right: Whether the answer that is served does, as far as that is known: by a label of the log, by the words of
            the question, or because the model said the same then.
        seconds: Until the answer is there, as far as the log tells.
        answer: Served, or given anew; None where it is the log's.
        beyond: Whether then the cache found what is not in the log.
    """

    logged: Logged
    cache: CacheProvenance
    lookup: CacheLookup | None
    sent: Sent | None
    refused: bool
    right: bool | None
    seconds: float
    answer: str | None = None
    beyond: bool = False

    @property
    def served(self) -> bool:
        """Whether the cache answers."""
        return self.cache.outcome == "hit"

    @property
    def prompt_tokens(self) -> int:
        """Sent to the model; none where the cache answers."""
        return 0 if self.sent is None else self.sent.provenance.prompt_tokens

    @property
    def computed_tokens(self) -> int:
        """Of these, those that were not in memory."""
        return 0 if self.sent is None else self.sent.computed_tokens

    @property
    def dropped_turns(self) -> int:
        """Of which nothing is in the prompt."""
        return 0 if self.sent is None else len(self.sent.provenance.dropped_turn_ids)


def differences(decision: Decision) -> tuple[str, ...]:
    """In what a decision of the cache is another than then, by name; none where all is the same."""
    then, now = decision.logged.turn.provenance.cache, decision.cache
    found = [
        name for name in ("outcome", "tier", "matched_question", "reason") if getattr(then, name) != getattr(now, name)
    ]
    found += [name for name in ("similarity", "threshold") if _apart(getattr(then, name), getattr(now, name))]
    logged, lookup = decision.logged.lookup, decision.lookup
    if logged is not None and lookup is not None:
        found += [
            name
            for name in ("scope", "outcome", "tier", "entry_id", "guard", "own")
            if name not in found and getattr(logged, name) != getattr(lookup, name)
        ]
        found += [
            name
            for name in ("score", "similarity", "threshold")
            if name not in found and _apart(getattr(logged, name), getattr(lookup, name))
        ]
    return tuple(found)


def _apart(one: float | None, other: float | None) -> bool:
    return (one is None) != (other is None) or abs((one or 0.0) - (other or 0.0)) > TOLERANCE
