"""One lookup of the answer cache: what is asked, and what was found for it. Knows no store and no embedder."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from chatlab.cache.decision import Judgement
from chatlab.cache.evidence import Question
from chatlab.cache.recalibration import Label
from chatlab.messages import (
    CacheEntry,
    CacheLookup,
    CacheOutcome,
    CacheProvenance,
    CacheScope,
    CacheTier,
    HistoryChoice,
    SamplingParams,
    Similar,
    Turn,
)


@dataclass(frozen=True, slots=True)
class Ask:
    """A question with all that its answer depends on.

    Attributes:
        path: The turns before it.
        bypass: Whether the model is to answer in any case.
        model: That would answer, and what runs it.
        history: What of the path the model would see.
        peek: Whether nothing is to be kept of it, not even that it was asked.
    """

    user_id: str
    chat_id: str
    turn_id: str
    scope: CacheScope
    question: str
    path: Sequence[Turn]
    system_prompt: str | None
    params: SamplingParams
    model: str
    bypass: bool = False
    history: HistoryChoice | None = None
    peek: bool = False


@dataclass(slots=True)
class Lookup:
    """What was found for a question.

    Attributes:
        entry: What is served; None is a miss.
        entry_id: Under which an answer to the question is stored; None where it is not.
        nearest: The judgement of the entry that is served, or of the nearest.
        matched: That entry.
        shadow: Whether it would be served, were this not shadow mode.
        similar: That entry for a person to look at, where it is too near to keep silent about.
        taken: Whether the person took its answer.
        label: Whether its answer serves the question, once that is known.
        noted: Whether the lookup is stored.
        indexed: Whether the question's vector is stored already, from an earlier answer.
        following: The same question under way: what it stores serves this one, too.
        leading: For those that follow this one.
    """

    ask: Ask
    outcome: CacheOutcome
    entry: CacheEntry | None = None
    tier: CacheTier | None = None
    entry_id: str | None = None
    bucket: str = ""
    question: Question | None = None
    nearest: Judgement | None = None
    matched: CacheEntry | None = None
    threshold: float | None = None
    reason: str | None = None
    shadow: bool = False
    similar: Similar | None = None
    taken: bool = False
    label: Label | None = None
    noted: bool = False
    ms: float = 0.0
    indexed: bool = False
    following: asyncio.Future[CacheEntry | None] | None = None
    leading: asyncio.Future[CacheEntry | None] | None = None

    def serve(self, entry: CacheEntry) -> None:
        """Make it a hit of the exact tier."""
        self.outcome, self.tier, self.entry, self.matched, self.reason = "hit", "exact", entry, entry, None

    def serve_matched(self, reason: str) -> None:
        """Make the nearest entry a hit of the semantic tier."""
        self.outcome, self.tier, self.entry, self.reason = "hit", "semantic", self.matched, reason

    def withhold(self) -> None:
        """Let the model answer what would have been a hit."""
        self.shadow, self.outcome, self.entry = True, "miss", None
        self.reason = f"shadow mode: the {self.tier} tier would have answered"

    @property
    def provenance(self) -> CacheProvenance:
        """As a turn shows it; a question that is not served is not shown: its chat may go before this one."""
        similarity = 1.0 if self.tier == "exact" else self.nearest and round(self.nearest.similarity, 4)
        return CacheProvenance(
            outcome=self.outcome,
            tier=self.tier,
            similarity=similarity,
            threshold=self.threshold,
            matched_question=self.entry.question if self.entry is not None else None,
            reason=self.reason,
        )

    def record(self, at: datetime, verifier: str) -> CacheLookup:
        """As it is stored; for a question that was looked up, and scored by a verifier."""
        assert self.outcome != "off"
        nearest, entry, label = self.nearest, self.matched, self.label
        exact = self.tier == "exact"
        served = entry if self.entry is not None or self.shadow else None
        return CacheLookup(
            turn_id=self.ask.turn_id,
            chat_id=self.ask.chat_id,
            user_id=self.ask.user_id,
            created_at=at,
            scope=self.ask.scope,
            outcome="shadow" if self.shadow else self.outcome,
            tier=self.tier,
            entry_id=entry and entry.entry_id,
            similarity=1.0 if exact else nearest and nearest.similarity,
            score=1.0 if exact else nearest and nearest.score,
            threshold=self.threshold,
            guard=nearest and nearest.guard,
            lookup_ms=self.ms,
            saved_tokens=served.saved_tokens if served else 0,
            saved_ms=max(0.0, served.cost_ms - self.ms) if served else 0.0,
            verifier=verifier,
            own=entry and entry.user_id == self.ask.user_id,
            same=label and label.same,
            label_weight=label and label.weight,
            label_source=label and label.source,
        )
