"""The JSON of the REST API: camelCase, unknown fields refused, unset fields null.

Request bodies become the package's own values here (`to_*`), values become answers here (`*Body.of`): nothing else
knows both forms.
"""

from dataclasses import asdict, replace
from datetime import datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt, StrictStr

from chatlab.attribution import Attribution
from chatlab.messages import (
    MAX_BUDGET_TOKENS,
    MAX_STOP_CHARS,
    MAX_STOP_STRINGS,
    RANGES,
    CacheChoice,
    CacheScope,
    Chat,
    FinishReason,
    HistoryChoice,
    Message,
    PartKind,
    Problem,
    SamplingParams,
    Source,
    StrategyName,
    Turn,
    TurnStatus,
)
from chatlab.wire import camel

MAX_TITLE_CHARS = 200
MAX_SYSTEM_PROMPT_CHARS = 100_000
MAX_REASON_CHARS = 2_000


def _no_bool(value: object) -> object:
    if isinstance(value, bool | str):
        raise ValueError("must be a number")
    return value


def _text(value: object) -> object:
    if isinstance(value, str):
        if "\x00" in value:
            raise ValueError("must not contain the NUL character")
        try:
            value.encode()
        except UnicodeEncodeError:
            raise ValueError("must be valid Unicode, without lone surrogates") from None
    return value


def _said(value: str) -> str:
    if not value.strip():
        raise ValueError("must not be empty")
    return value


Text = Annotated[StrictStr, BeforeValidator(_text)]
Number = Annotated[float, BeforeValidator(_no_bool)]


def in_range(name: str) -> Any:
    """A pydantic field with a sampling parameter's range."""
    allowed = RANGES[name]
    return Field(None, ge=allowed.low, le=allowed.high)


class Body(BaseModel):
    """Both directions: camelCase by alias, nothing unknown."""

    model_config = ConfigDict(alias_generator=camel, extra="forbid", from_attributes=True, ser_json_inf_nan="null")


class ParamsBody(Body):
    """Sampling parameters; null leaves one to the chat, then the model."""

    temperature: Number | None = in_range("temperature")
    top_p: Number | None = in_range("top_p")
    top_k: StrictInt | None = in_range("top_k")
    max_new_tokens: StrictInt | None = in_range("max_new_tokens")
    stop: list[Annotated[Text, Field(min_length=1, max_length=MAX_STOP_CHARS)]] | None = Field(
        None, max_length=MAX_STOP_STRINGS
    )
    seed: StrictInt | None = in_range("seed")
    repetition_penalty: Number | None = in_range("repetition_penalty")

    def to_params(self) -> SamplingParams:
        """As the package's value."""
        values: dict[str, Any] = self.model_dump()
        values["stop"] = None if self.stop is None else tuple(self.stop)
        return SamplingParams(**values)


class HistoryBody(Body):
    """Which part of the conversation the model sees; `budgetTokens` null is the model's window."""

    strategy: StrategyName = "truncate"
    budget_tokens: StrictInt | None = Field(None, ge=1, le=MAX_BUDGET_TOKENS)

    def to_history(self, below: HistoryChoice) -> HistoryChoice:
        """As the package's value; what was not sent is taken from `below`."""
        return HistoryChoice(
            self.strategy if "strategy" in self.model_fields_set else below.strategy,
            self.budget_tokens if "budget_tokens" in self.model_fields_set else below.budget_tokens,
        )


class CacheBody(Body):
    """Whose stored answers may serve a chat."""

    scope: CacheScope = "user"

    def to_cache(self) -> CacheChoice:
        """As the package's value."""
        return CacheChoice(self.scope)


class TurnCacheBody(Body):
    """The cache for one turn; `bypass` asks the model in any case."""

    scope: CacheScope | None = None
    bypass: StrictBool = False


class NewChat(Body):
    """Body of `POST /chat`."""

    title: Text | None = Field(None, max_length=MAX_TITLE_CHARS)
    system_prompt: Text | None = Field(None, max_length=MAX_SYSTEM_PROMPT_CHARS)
    history: HistoryBody | None = None
    cache: CacheBody | None = None
    params: ParamsBody | None = None


class ChatChange(NewChat):
    """Body of `PATCH /chat/{chatID}`: what is sent is changed, null resets it."""

    pinned: StrictBool = False
    archived: StrictBool = False

    def apply(self, chat: Chat, default_scope: CacheScope) -> Chat:
        """The chat with what was sent."""
        changes: dict[str, Any] = {}
        for name in self.model_fields_set:
            match name:
                case "history":
                    changes[name] = self.history.to_history(chat.history) if self.history else HistoryChoice()
                case "cache":
                    changes[name] = self.cache.to_cache() if self.cache else CacheChoice(default_scope)
                case "params":
                    changes[name] = self.params.to_params() if self.params else SamplingParams()
                case _:
                    changes[name] = getattr(self, name)
        return replace(chat, **changes)


class NewTurn(Body):
    """Body of `POST /chat/{chatID}/completion`; `parentTurnID` left out follows the newest turn, null is a new root."""

    user_message: Annotated[Text, AfterValidator(_said), Field(min_length=1)]
    stream: StrictBool = False
    params: ParamsBody | None = None
    history: HistoryBody | None = None
    cache: TurnCacheBody | None = None
    parent_turn_id: Text | None = None


class TurnChange(Body):
    """Body of `PATCH /chat/{chatID}/turns/{turnID}`: a pinned turn stays in the prompt of every later one."""

    pinned: StrictBool


class NoteChange(Body):
    """Body of `PUT /chat/{chatID}/notes/{noteID}`: lines, `user: …`, `assistant: …`, or about both."""

    text: Annotated[Text, AfterValidator(_said), Field(min_length=1)]


class NewFeedback(Body):
    """Body of the feedback route."""

    rating: Literal[1, -1]
    reason: Text | None = Field(None, max_length=MAX_REASON_CHARS)


class SimilarVerdict(Body):
    """Body of `POST /completions/{turnID}/similar`: whether the answer to the similar question will do."""

    same: StrictBool


class Answer(Body):
    """What we send: everything is set."""

    model_config = ConfigDict(extra="ignore", populate_by_name=True, json_schema_serialization_defaults_required=True)


class ProblemBody(Answer):
    """A problem as RFC 9457 describes it."""

    type: str
    title: str
    status: int
    detail: str
    turn_id: str | None = None


class FieldErrorBody(Answer):
    """An unusable field and the fix."""

    field: str
    message: str


class InvalidBody(ProblemBody):
    """A problem with the fields that cause it."""

    errors: list[FieldErrorBody]


class ParamsAnswer(Answer):
    """Sampling parameters as set; null is unset."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    max_new_tokens: int | None
    stop: list[str] | None
    seed: int | None
    repetition_penalty: float | None


class HistoryAnswer(Answer):
    """A chat's history choice."""

    strategy: StrategyName
    budget_tokens: int | None


class CacheAnswer(Answer):
    """A chat's cache choice."""

    scope: CacheScope


class ChatBody(Answer):
    """A chat."""

    chat_id: str
    user_id: str
    title: str | None
    created_at: datetime
    updated_at: datetime
    pinned: bool
    archived: bool
    system_prompt: str | None
    history: HistoryAnswer
    cache: CacheAnswer
    params: ParamsAnswer

    @classmethod
    def of(cls, chat: Chat) -> Self:
        """From the package's value."""
        return cls.model_validate(chat)


class CacheProvenanceBody(Answer):
    """What the answer cache decided."""

    outcome: Literal["hit", "miss", "bypass", "off"]
    tier: Literal["exact", "semantic"] | None
    similarity: float | None
    threshold: float | None
    matched_question: str | None
    reason: str | None


class PromptPartBody(Answer):
    """A stretch of the prompt."""

    kind: PartKind
    turn_ids: list[str]
    tokens: int


class PromptProvenanceBody(Answer):
    """How the prompt was put together."""

    strategy: StrategyName
    budget_tokens: int
    prompt_tokens: int
    parts: list[PromptPartBody]
    dropped_turn_ids: list[str]
    fault: str | None


class UsageBody(Answer):
    """Tokens of a turn."""

    prompt_tokens: int | None
    completion_tokens: int | None
    reused_prefix_tokens: int | None
    saved_tokens: int | None


class TimingBody(Answer):
    """Where the time went, in milliseconds."""

    queue_ms: float | None
    cache_ms: float | None
    prompt_ms: float | None
    ttft_ms: float | None
    total_ms: float | None
    tokens_per_second: float | None


class ProvenanceBody(Answer):
    """Where an answer came from and what it cost."""

    cache: CacheProvenanceBody
    prompt: PromptProvenanceBody | None
    usage: UsageBody
    timing: TimingBody
    model: str | None
    engine: str | None


class FeedbackBody(Answer):
    """A person's verdict on an answer."""

    rating: Literal[1, -1]
    reason: str | None


class TurnBody(Answer):
    """A turn."""

    turn_id: str
    chat_id: str
    user_id: str
    parent_turn_id: str | None
    user_message: str
    assistant_message: str | None
    status: TurnStatus
    source: Source | None
    error: ProblemBody | None
    created_at: datetime
    finished_at: datetime | None
    finish_reason: FinishReason | None
    provenance: ProvenanceBody
    feedback: FeedbackBody | None
    pinned: bool

    @classmethod
    def of(cls, turn: Turn) -> Self:
        """From the package's value."""
        return cls.model_validate(turn)


class ChatWithTurns(ChatBody):
    """A chat and all its turns, oldest first."""

    turns: list[TurnBody]


class ChatPage(Answer):
    """Some of a user's chats."""

    chats: list[ChatBody]
    next_cursor: str | None


class ImportedBody(Answer):
    """What an import brought; `leftOut` counts what has no place here, by kind."""

    chats: int
    turns: int
    left_out: dict[str, int]


class MessageBody(Answer):
    """A message of a prompt."""

    role: Literal["system", "user", "assistant"]
    content: str


class PromptBody(Answer):
    """What the model saw; `rendered` is null when another model is loaded now."""

    messages: list[MessageBody]
    rendered: str | None
    prompt_tokens: int

    @classmethod
    def of(cls, messages: tuple[Message, ...], rendered: str | None, prompt_tokens: int) -> Self:
        """From the package's values."""
        return cls(
            messages=[MessageBody(**message) for message in messages], rendered=rendered, prompt_tokens=prompt_tokens
        )


class EffectBody(Answer):
    """What leaving a part of the prompt out does to the answer's log-likelihood, in nats."""

    kind: PartKind
    turn_ids: list[str]
    tokens: int
    change: float


class AttributionBody(Answer):
    """What of its prompt mattered for an answer."""

    parts: list[EffectBody]
    log_likelihood: float
    tokens: int
    model: str
    ms: float

    @classmethod
    def of(cls, found: Attribution) -> Self:
        """From the package's value."""
        return cls.model_validate(asdict(found))


class SimilarBody(Answer):
    """An earlier question of the caller's that is near, and its answer."""

    question: str
    answer: str
    similarity: float
    score: float


class StatusEventBody(Answer):
    """Data of the event `status`; `similar` may do until the answer is there, and is left out where there is none."""

    turn_id: str
    chat_id: str
    state: TurnStatus
    position: int
    similar: SimilarBody | None


class Health(Answer):
    """Whether the process is up, or ready; `checks` names each part."""

    status: Literal["ok", "unavailable"]
    checks: dict[str, str]


def problem_body(problem: Problem, turn_id: str | None = None) -> ProblemBody:
    """A problem as JSON, with the turn that it ended."""
    return ProblemBody(
        type=problem.type, title=problem.title, status=problem.status, detail=problem.detail, turn_id=turn_id
    )
