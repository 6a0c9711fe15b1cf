"""What an engine promises: exact token counts, a stream that can be left at any token, facts about its model.

An engine knows prompts and tokens. It does not know chats, users' rights, storage or HTTP. It queues by itself,
fairly between users, so that callers may start as many streams as they like.
"""

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

from chatlab.errors import FieldError, PromptTooLong
from chatlab.messages import FinishReason, Message, SamplingParams, Usage

MAX_ANSWER_TOKENS = 1_024  # default limit of an answer, where the context allows

# How an engine counts: exactly in this process, exactly by asking another one (not on an event loop), or too high
# rather than too low, because nothing here knows the model's tokens.
Counting = Literal["here", "remote", "estimate"]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of the model that an engine runs.

    Attributes:
        model: The model's public name.
        engine: The engine's name.
        device: Where it runs.
        context_tokens: Prompt and answer together fit in these.
        default_max_new_tokens: The answer's limit when the caller sets none.
        control_tokens: Strings that mean something to the template; text from people must not contain them.
        slots: Answers computed at the same time; more wait.
        writes_titles: Whether it makes sense to ask it for the title of a conversation.
        counting: What `count` and `render` are worth.
    """

    model: str
    engine: str
    device: str
    context_tokens: int
    default_max_new_tokens: int
    control_tokens: tuple[str, ...] = ()
    slots: int = 1
    writes_titles: bool = True
    counting: Counting = "here"


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt to answer.

    Attributes:
        messages: The prompt, as the standard message list.
        params: Sampling; unset fields take the model's defaults.
        user_id: Whose turn it is in the queue; kept prefixes are shared between a user's requests, never between users.
        quoted_chars: At the beginning of the last message, before the user's own words.
    """

    messages: Sequence[Message]
    params: SamplingParams = field(default_factory=SamplingParams)
    user_id: str = "local"
    quoted_chars: int = 0


@dataclass(frozen=True, slots=True)
class Started:
    """The request left the queue; `reused_prefix_tokens` of its `prompt_tokens` are known to be in memory."""

    prompt_tokens: int
    reused_prefix_tokens: int


@dataclass(frozen=True, slots=True)
class Piece:
    """More text, made of `tokens` tokens; the text may be empty while a character or stop string is incomplete."""

    text: str
    tokens: int = 1


@dataclass(frozen=True, slots=True)
class Finished:
    """The answer is complete: `stop` by the model or a stop string, `length` by the limit.

    `usage` is what the model's server counted, where it says so at the end; it replaces the counts given on the way.
    """

    reason: FinishReason
    usage: Usage | None = None


Chunk = Started | Piece | Finished


@dataclass(frozen=True, slots=True)
class EngineLoad:
    """What an engine has under way.

    Attributes:
        running: Requests being computed.
        waiting: Requests that wait.
        kv_bytes: Memory of keys and values, those of kept prefixes included; 0 where another process has them.
        kv_limit_bytes: The most they may take.
        preempted: Answers that had to be computed again for lack of that memory, since the start.
    """

    running: int
    waiting: int
    kv_bytes: int = 0
    kv_limit_bytes: int = 0
    preempted: int = 0


class Engine(Protocol):
    """A model that answers prompts. Safe to use from any thread; `stream` belongs to one event loop."""

    @property
    def facts(self) -> ModelFacts:
        """The model and its limits."""
        ...

    @property
    def load(self) -> EngineLoad:
        """What is under way now."""
        ...

    @property
    def alive(self) -> bool:
        """Whether it can answer."""
        ...

    def render(self, messages: Sequence[Message]) -> str:
        """The text that the model would be given, generation prompt included; a transcript if counts are estimates."""
        ...

    def count(self, messages: Sequence[Message]) -> int:
        """The exact number of tokens of `render(messages)`, unless `facts.counting` says that it is an estimate."""
        ...

    def stream(self, request: GenerationRequest) -> AsyncGenerator[Chunk]:
        """Answer a prompt: one `Started`, any number of `Piece`, one `Finished`.

        Closing the generator cancels: the computation ends within one token and frees its slot.

        Raises:
            PromptTooLong: Prompt and answer limit exceed the context; nothing was computed.
            EngineError: The model failed.
        """
        ...

    def warm(self, request: GenerationRequest) -> None:
        """Compute the beginning of a prompt that may come, when nothing else is to be done, and keep it.

        It serves the user's next prompts, nobody else's. Returns at once; forgotten when anything fails, when there is
        no room, or when the user's next warm comes. Takes no slot and is no part of `load`, but for the memory.

        Args:
            request: A conversation so far, which ends with an answer: the next question is not known yet.
        """
        ...

    def close(self) -> None:
        """Stop what is running and free the model; idempotent."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """An engine that can also say how likely an answer is. Not every one can: a server may not tell."""

    async def score(self, request: GenerationRequest, answer: str, most_tokens: int) -> tuple[float, ...]:
        """How likely each token of an answer is after a prompt and the tokens before it: natural logarithms.

        It takes a place like an answer; cancelling frees it. The request's sampling is ignored.

        Args:
            request: The prompt.
            answer: Not empty.
            most_tokens: Longer answers are scored as far as this.

        Raises:
            PromptTooLong: Prompt and answer exceed the context.
            EngineError: The model failed.
        """
        ...


def default_answer_limit(context_tokens: int) -> int:
    """The limit of an answer for which the caller sets none: a quarter of the context at most."""
    return min(MAX_ANSWER_TOKENS, context_tokens // 4)


def answer_limit(facts: ModelFacts, params: SamplingParams) -> int:
    """Most tokens the answer may have."""
    return facts.default_max_new_tokens if params.max_new_tokens is None else params.max_new_tokens


def check_room(facts: ModelFacts, prompt_tokens: int, limit: int) -> None:
    """Raise PromptTooLong unless a prompt and an answer of `limit` tokens fit the context.

    An estimate refuses no prompt: the model's server counts for itself.
    """
    if facts.counting == "estimate":
        prompt_tokens = min(prompt_tokens, 1)
    if prompt_tokens + limit > facts.context_tokens:
        raise PromptTooLong(
            FieldError(
                "messages",
                f"{prompt_tokens} prompt and {limit} answer tokens exceed the context of {facts.context_tokens}: "
                "shorten the prompt or lower the answer's limit",
            )
        )
