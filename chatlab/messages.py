"""The words the parts of chatlab say to each other: frozen values, no behaviour beyond validation.

Times are timezone-aware UTC. Lengths named `*_tokens` are tokens of the model that answered, `*_ms` milliseconds of
wall clock. The JSON form on the wire is `chatlab.api.schemas`' business, the stored form `chatlab.store`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TypedDict

from chatlab.errors import FieldError, InvalidInput

Role = Literal["system", "user", "assistant"]
StrategyName = Literal["direct", "truncate", "summarize", "hybrid"]
NotesMode = Literal["auto", "ledger", "model"]
NoteKind = Literal["ledger", "model", "edited", "deleted"]
CacheScope = Literal["off", "user", "global"]
CacheOutcome = Literal["hit", "miss", "bypass", "off"]
LookupOutcome = Literal["hit", "miss", "bypass", "shadow"]
LabelSource = Literal["miss", "audit", "person"]
CacheTier = Literal["exact", "semantic"]
TurnStatus = Literal["queued", "running", "done", "stopped", "failed"]
Source = Literal["model", "cache"]
FinishReason = Literal["stop", "length"]
PartKind = Literal["system", "pinned", "summary", "verbatim", "retrieved", "question"]

UNKNOWN_TIME = datetime.min.replace(tzinfo=UTC)  # of turns that a caller brings along
LIVE: tuple[TurnStatus, ...] = ("queued", "running")


class Message(TypedDict):
    """One entry of the standard message list that every prompt is."""

    role: Role
    content: str


@dataclass(frozen=True, slots=True)
class Range:
    """An inclusive range of a sampling parameter."""

    low: float
    high: float

    def __str__(self) -> str:
        return " and ".join(f"{int(end) if end == int(end) else end:,}" for end in (self.low, self.high))


RANGES: Mapping[str, Range] = {
    "temperature": Range(0.0, 2.0),
    "top_p": Range(0.0, 1.0),
    "top_k": Range(0, 1_000),
    "max_new_tokens": Range(1, 1_000_000),
    "seed": Range(0, 2**63 - 1),
    "repetition_penalty": Range(0.5, 2.0),
}
MAX_STOP_STRINGS = 8
MAX_BUDGET_TOKENS = 10_000_000
MAX_STOP_CHARS = 200


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen; None leaves a parameter to the layer below (request, chat, model).

    `temperature` 0 is greedy. `top_k` 0 and `top_p` 1 switch their filter off.

    Raises:
        InvalidInput: A value is outside `RANGES`; every such field is named.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    max_new_tokens: int | None = None
    stop: tuple[str, ...] | None = None
    seed: int | None = None
    repetition_penalty: float | None = None

    def __post_init__(self) -> None:
        errors: list[FieldError] = []
        for name, allowed in RANGES.items():
            value = getattr(self, name)
            if value is not None and not (allowed.low <= value <= allowed.high):
                errors.append(FieldError(name, f"must be between {allowed}, got {value}"))
        if self.stop is not None:
            if len(self.stop) > MAX_STOP_STRINGS:
                errors.append(FieldError("stop", f"at most {MAX_STOP_STRINGS} strings, got {len(self.stop)}"))
            if not all(0 < len(text) <= MAX_STOP_CHARS for text in self.stop):
                errors.append(FieldError("stop", f"each string must have 1 to {MAX_STOP_CHARS} characters"))
        if errors:
            raise InvalidInput(*errors)

    def over(self, below: "SamplingParams") -> "SamplingParams":
        """These parameters, with what is unset here taken from `below`."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if getattr(self, f.name) is not None}
        return replace(below, **given)


@dataclass(frozen=True, slots=True)
class HistoryChoice:
    """Which part of the conversation the model sees; `budget_tokens` None is the model's window."""

    strategy: StrategyName = "truncate"
    budget_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class CacheChoice:
    """Whose stored answers may serve this chat."""

    scope: CacheScope = "user"


@dataclass(frozen=True, slots=True)
class Problem:
    """A failure as RFC 9457 describes one; `type` is a URI whose last part names the kind."""

    type: str
    title: str
    status: int
    detail: str


@dataclass(frozen=True, slots=True)
class CacheProvenance:
    """What the answer cache decided; `similarity` and `threshold` in [-1, 1]."""

    outcome: CacheOutcome = "off"
    tier: CacheTier | None = None
    similarity: float | None = None
    threshold: float | None = None
    matched_question: str | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """A stored answer.

    Attributes:
        entry_id: Of the words of its question and of all that must be equal for it to be served: a newer answer to the
            same takes its place.
        bucket: All that must be equal; the words may differ.
        chat_id: The chat that it is from, as `turn_id` and `user_id`: it goes with it. Empty for a stateless request.
        saved_tokens: That were computed for it, and are not for a hit.
        cost_ms: How long that took.
    """

    entry_id: str
    bucket: str
    question: str
    answer: str
    user_id: str
    chat_id: str
    turn_id: str
    saved_tokens: int
    cost_ms: float
    created_at: datetime
    expires_at: datetime
    hits: int = 0


@dataclass(frozen=True, slots=True)
class CacheLookup:
    """What the cache did for a turn.

    Attributes:
        outcome: `shadow` is what would have been a hit.
        entry_id: The entry that was served, or the nearest; `own` tells whether it is the user's.
        similarity: Of its question, cosine in [-1, 1]; `score`, in [0, 1], and `guard`, that refused it, are its, too.
        saved_tokens: By a hit; `saved_ms` net of the lookup.
        verifier: That scored; scores of another one are not comparable.
        same: Whether its answer serves the question, where that is known.
        label_weight: Lookups that this knowledge stands for; `label_source` is where it is from.
        renewed: Whether what the model said in an audit serves the question from then on; None where it said the same.
    """

    turn_id: str
    chat_id: str
    user_id: str
    created_at: datetime
    scope: CacheScope
    outcome: LookupOutcome
    tier: CacheTier | None
    entry_id: str | None
    similarity: float | None
    score: float | None
    threshold: float | None
    guard: str | None
    lookup_ms: float
    saved_tokens: int
    saved_ms: float
    verifier: str = ""
    own: bool | None = None
    same: bool | None = None
    label_weight: float | None = None
    label_source: LabelSource | None = None
    renewed: bool | None = None


@dataclass(frozen=True, slots=True)
class Similar:
    """A user's earlier question that is too near to keep silent about and too far to be served.

    Attributes:
        similarity: Of the two questions, cosine in [-1, 1].
        score: How likely its answer serves both, in [0, 1].
    """

    question: str
    answer: str
    similarity: float
    score: float


@dataclass(frozen=True, slots=True)
class PromptPart:
    """A stretch of the prompt; the tokens of all parts add up to the prompt's."""

    kind: PartKind
    turn_ids: tuple[str, ...]
    tokens: int


@dataclass(frozen=True, slots=True)
class PromptProvenance:
    """How the prompt was put together and what it left out.

    Attributes:
        dropped_turn_ids: Past turns of which nothing is in the prompt.
        fault: Why the strategy is not the one that was asked for; None if it is.
    """

    strategy: StrategyName
    budget_tokens: int
    prompt_tokens: int
    parts: tuple[PromptPart, ...]
    dropped_turn_ids: tuple[str, ...] = ()
    fault: str | None = None

    def turn_ids_in(self, kind: PartKind) -> tuple[str, ...]:
        """The turns that parts of a kind are made from or stand for."""
        return tuple(turn_id for part in self.parts if part.kind == kind for turn_id in part.turn_ids)


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one turn; `reused_prefix_tokens` of the prompt were not computed again."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    reused_prefix_tokens: int | None = None
    saved_tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of one turn went; `tokens_per_second` counts from the first token on."""

    queue_ms: float | None = None
    cache_ms: float | None = None
    prompt_ms: float | None = None
    ttft_ms: float | None = None
    total_ms: float | None = None
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where an answer came from and what it cost."""

    cache: CacheProvenance = field(default_factory=CacheProvenance)
    prompt: PromptProvenance | None = None
    usage: Usage = field(default_factory=Usage)
    timing: Timing = field(default_factory=Timing)
    model: str | None = None
    engine: str | None = None


@dataclass(frozen=True, slots=True)
class Chat:
    """A conversation and its settings."""

    chat_id: str
    user_id: str
    title: str | None
    created_at: datetime
    updated_at: datetime
    pinned: bool = False
    archived: bool = False
    system_prompt: str | None = None
    history: HistoryChoice = field(default_factory=HistoryChoice)
    cache: CacheChoice = field(default_factory=CacheChoice)
    params: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, slots=True)
class Preset:
    """Settings under a name, for new chats of one user."""

    preset_id: str
    user_id: str
    name: str
    system_prompt: str | None
    history: HistoryChoice
    cache: CacheChoice
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Feedback:
    """A person's verdict on an answer; `rating` is 1 or -1, `at` when it was given, where that is known."""

    rating: int
    reason: str | None
    at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ChatSettings:
    """What a person chooses for a chat, and keeps as a preset."""

    system_prompt: str | None = None
    history: HistoryChoice = field(default_factory=HistoryChoice)
    cache: CacheChoice = field(default_factory=CacheChoice)
    params: SamplingParams = field(default_factory=SamplingParams)

    @classmethod
    def of(cls, chosen: "Chat | Preset") -> "ChatSettings":
        """Those of a chat or a preset."""
        return cls(chosen.system_prompt, chosen.history, chosen.cache, chosen.params)

    def apply(self, chat: Chat) -> Chat:
        """A chat with these settings."""
        return replace(
            chat, system_prompt=self.system_prompt, history=self.history, cache=self.cache, params=self.params
        )


class PassageRef(NamedTuple):
    """A passage of a turn: the `part`-th, from 0, of the message with this role."""

    turn_id: str
    role: Role
    part: int

    @property
    def key(self) -> str:
        """In one word; unique within a chat."""
        return f"{self.turn_id}/{self.role}/{self.part}"


@dataclass(frozen=True, slots=True)
class Statement:
    """A sentence or a clause of a turn, word for word.

    Attributes:
        replaces: Texts of earlier statements of the same role, which no longer hold where this one is known.
    """

    turn_id: str
    role: Role
    text: str
    replaces: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Note:
    """What stands in for some turns of a chat that follow each other.

    Attributes:
        turn_ids: Those turns, the oldest first.
        source_hash: Of their words; the note counts only where it is still theirs.
        text: A line a statement, `user: …` or `assistant: …`; lines without a role are about both.
        statements: Those of the text that are a turn's own words.
        kind: `ledger` has nothing but statements, `model` a summary by the model, too; what a person edited is theirs,
            and what a person deleted is empty and stays so.
        tokens_before: Of the turns, in a prompt.
        tokens_after: Of the note, in a prompt.
        model: That wrote the summary, or counted the tokens.
        prompt_version: Of the rules and the instruction that it was written by.
        latency_ms: How long it took to write; nobody waited.
        revision: Counts its changes, from 1.
    """

    note_id: str
    chat_id: str
    user_id: str
    turn_ids: tuple[str, ...]
    source_hash: str
    text: str
    statements: tuple[Statement, ...]
    kind: NoteKind
    tokens_before: int
    tokens_after: int
    model: str
    prompt_version: int
    latency_ms: float
    created_at: datetime
    updated_at: datetime
    revision: int = 1


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A prompt message by reference: the text, then the named turn's own words, made inert for the model."""

    role: Role
    turn_id: str | None = None
    text: str | None = None


@dataclass(frozen=True, slots=True)
class Turn:
    """A user's message and its answer.

    `parent_turn_id` None is a root: turns form a tree, and the path from a root to a turn is one branch.
    `assistant_message` holds the partial text while the turn runs and after it was stopped or failed.
    `pinned` turns stay in the prompt of every later turn. `prompt` is the recipe of what the model saw, empty until it
    was built, and in the turns of a conversation: recipes grow with the square of a chat's length, so they are read one
    at a time.
    """

    turn_id: str
    chat_id: str
    user_id: str
    parent_turn_id: str | None
    user_message: str
    created_at: datetime
    assistant_message: str | None = None
    status: TurnStatus = "queued"
    source: Source | None = None
    error: Problem | None = None
    finished_at: datetime | None = None
    finish_reason: FinishReason | None = None
    provenance: Provenance = field(default_factory=Provenance)
    prompt: tuple[StoredMessage, ...] = ()
    feedback: Feedback | None = None
    pinned: bool = False

    @property
    def live(self) -> bool:
        """Whether the answer is still to come."""
        return self.status in LIVE


@dataclass(frozen=True, slots=True)
class StatusEvent:
    """The first event of a turn; `position` counts the answers ahead of it.

    `similar` is what may do until the answer is there; it is not stored with the turn.
    """

    turn_id: str
    chat_id: str
    state: TurnStatus
    position: int
    similar: Similar | None = None


@dataclass(frozen=True, slots=True)
class DeltaEvent:
    """More text of the answer."""

    text: str


@dataclass(frozen=True, slots=True)
class RestartEvent:
    """Discard the text received so far; it comes again."""


@dataclass(frozen=True, slots=True)
class DoneEvent:
    """The end: the turn as stored (also when stopped)."""

    turn: Turn


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """The end of a failed turn: the turn as far as it came, and why it ended."""

    turn: Turn
    problem: Problem


EventBody = StatusEvent | DeltaEvent | RestartEvent | DoneEvent | ErrorEvent


@dataclass(frozen=True, slots=True)
class Event:
    """One event of a turn; `id` counts from 1."""

    id: int
    body: EventBody

    @property
    def last(self) -> bool:
        """Whether nothing follows."""
        return isinstance(self.body, DoneEvent | ErrorEvent)


def path_to(turns: Sequence[Turn], turn_id: str | None) -> tuple[Turn, ...]:
    """The branch that ends in `turn_id`, root first; empty for None.

    Args:
        turns: All turns of one chat, in any order.
        turn_id: The last turn of the branch.
    """
    by_id = {turn.turn_id: turn for turn in turns}
    path: list[Turn] = []
    while turn_id is not None:
        turn = by_id[turn_id]
        path.append(turn)
        turn_id = turn.parent_turn_id
    return tuple(reversed(path))
