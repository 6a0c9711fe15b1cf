"""The OpenAI-compatible routes (https://platform.openai.com/docs/api-reference): chat completions, models, embeddings.

Stateless unless the body carries `chatlab`. Fields of OpenAI's that change nothing here are accepted and ignored;
those that would change the answer and cannot be honoured are refused.
"""

import base64
import struct
import time
import uuid
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, StrictInt
from starlette.convertors import Convertor, register_url_convertor

from chatlab.api.identity import Caller
from chatlab.api.problems import route_class
from chatlab.api.schemas import Number, Text, in_range
from chatlab.api.sse import stream_response
from chatlab.completions import CompletionService, Prepared
from chatlab.embedding import Embedder
from chatlab.engines.base import Chunk, Finished, ModelFacts, Piece, Started
from chatlab.errors import ChatlabError, FieldError, InvalidInput, NotFound
from chatlab.messages import (
    MAX_BUDGET_TOKENS,
    MAX_STOP_STRINGS,
    CacheProvenance,
    CacheScope,
    FinishReason,
    HistoryChoice,
    Message,
    Problem,
    SamplingParams,
    StrategyName,
    Usage,
)
from chatlab.problems import problem_of
from chatlab.settings import Settings

MAX_EMBEDDING_INPUTS = 2_048


def error_response(problem: Problem, errors: Sequence[FieldError] = ()) -> Response:
    """A problem in OpenAI's shape; its clients expect 400 where REST says 422."""
    status = 400 if problem.status == 422 else problem.status
    return JSONResponse({"error": _error(problem, errors)}, status)


def _error(problem: Problem, errors: Sequence[FieldError] = ()) -> dict[str, Any]:
    kinds = {404: "invalid_request_error", 413: "invalid_request_error", 422: "invalid_request_error"}
    kinds[429] = "rate_limit_error"
    code = problem.type.rpartition(":")[2].replace("-", "_")
    if any("exceed the context" in error.message for error in errors):
        code = "context_length_exceeded"
    return {
        "message": problem.detail,
        "type": kinds.get(problem.status, "server_error"),
        "param": errors[0].field if errors else None,
        "code": code,
    }


class Wire(BaseModel):
    """A body in OpenAI's naming; what it does not know it ignores, as OpenAI's own servers' peers do."""

    model_config = ConfigDict(extra="ignore")


class TextPart(Wire):
    """A piece of a message's content."""

    type: Literal["text"]
    text: Text


class InputMessage(Wire):
    """A message as clients send it."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(max_length=100)]

    def to_message(self) -> Message:
        """As the package's value."""
        text = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return Message(role="system" if self.role == "developer" else self.role, content=text)


class StreamOptions(Wire):
    """What a stream carries besides text."""

    include_usage: StrictBool = False


class HistoryExtra(Wire):
    """A history strategy for the messages sent."""

    model_config = ConfigDict(extra="forbid")

    strategy: StrategyName = "truncate"
    budget_tokens: StrictInt | None = Field(None, ge=1, le=MAX_BUDGET_TOKENS)


class CacheExtra(Wire):
    """The answer cache for this request."""

    model_config = ConfigDict(extra="forbid")

    scope: CacheScope = "user"


class ChatlabExtra(Wire):
    """What opts in to chatlab's own: history, cache and provenance."""

    model_config = ConfigDict(extra="forbid")

    history: HistoryExtra | None = None
    cache: CacheExtra | None = None
    user: Annotated[str, Field(pattern="^[A-Za-z0-9._-]{1,64}$")] | None = None


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


class CompletionRequest(Wire):
    """Body of `POST /v1/chat/completions`."""

    model: Text
    messages: Annotated[list[InputMessage], Field(min_length=1)]
    stream: StrictBool | None = False
    stream_options: StreamOptions | None = None
    temperature: Number | None = in_range("temperature")
    top_p: Number | None = in_range("top_p")
    top_k: StrictInt | None = in_range("top_k")
    max_tokens: StrictInt | None = in_range("max_new_tokens")
    max_completion_tokens: StrictInt | None = in_range("max_new_tokens")
    seed: StrictInt | None = in_range("seed")
    repetition_penalty: Number | None = in_range("repetition_penalty")
    stop: Annotated[list[Text], BeforeValidator(_as_list), Field(max_length=MAX_STOP_STRINGS)] | None = None
    n: Literal[1] | None = 1
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    logprobs: Literal[False] | None = False
    chatlab: ChatlabExtra | None = None

    def to_params(self) -> SamplingParams:
        """As the package's value."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            max_new_tokens=self.max_completion_tokens or self.max_tokens,
            stop=tuple(self.stop) if self.stop else None,
            seed=self.seed,
            repetition_penalty=self.repetition_penalty,
        )


class EmbeddingRequest(Wire):
    """Body of `POST /v1/embeddings`."""

    model: Text
    input: Annotated[
        list[Annotated[Text, Field(min_length=1)]],
        BeforeValidator(_as_list),
        Field(min_length=1, max_length=MAX_EMBEDDING_INPUTS),
    ]
    encoding_format: Literal["float", "base64"] | None = "float"
    dimensions: None = None


class Model(Wire):
    """A model that this server answers with."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "chatlab"
    max_model_len: int | None = None  # the context window, under vLLM's name; of a model that answers


class ModelList(Wire):
    """All models of this server."""

    object: Literal["list"] = "list"
    data: list[Model]


class ErrorBody(Wire):
    """A failure in OpenAI's shape."""

    error: dict[str, Any]


ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody, "description": "OpenAI's error shape"} for code in (400, 404, 413, 429, 500, 502, 503)
}


def openai_router(
    completions: CompletionService, facts: ModelFacts, embedder: Embedder, settings: Settings
) -> APIRouter:
    """The routes over the stateless service."""
    router = APIRouter(prefix="/v1", route_class=route_class(error_response, settings.max_body_bytes), tags=["openai"])
    started = int(time.time())
    _add_model_routes(
        router,
        [
            Model(id=facts.model, created=started, max_model_len=facts.context_tokens),
            Model(id=embedder.name, created=started),
        ],
    )

    @router.post("/chat/completions", response_model=None, responses=ERRORS)
    async def chat_completions(request: Request, user_id: Caller, body: CompletionRequest) -> Response:
        """Answer a conversation that the caller keeps."""
        if body.model != facts.model:
            raise NotFound("model", body.model)
        _check_size(body, settings)
        extra = body.chatlab
        history = extra.history if extra else None
        prepared = await completions.prepare(
            (extra and extra.user) or user_id,
            [message.to_message() for message in body.messages],
            body.to_params(),
            HistoryChoice(history.strategy, history.budget_tokens) if history else None,
            extra.cache.scope if extra and extra.cache else None,
        )
        answer = _Answer(prepared, facts, with_provenance=extra is not None)
        chunks = completions.stream(prepared)
        first = await anext(chunks)  # what fails before the first token is an HTTP status, not an event
        if body.stream:
            with_usage = body.stream_options is not None and body.stream_options.include_usage
            return stream_response(answer.events(first, chunks, with_usage))
        async with aclosing(chunks):
            answer.take(first)
            async for chunk in chunks:
                answer.take(chunk)
                if await request.is_disconnected():
                    break
        return JSONResponse(answer.whole())

    @router.post("/embeddings", response_model=None, responses=ERRORS)
    async def embeddings(user_id: Caller, body: EmbeddingRequest) -> Response:
        """Vectors of texts, unit norm."""
        if body.model != embedder.name:
            raise NotFound("embedding model", body.model)
        long = [i for i, text in enumerate(body.input) if len(text) > settings.max_message_chars]
        if long:
            raise InvalidInput(FieldError(f"input.{long[0]}", f"longer than {settings.max_message_chars} characters"))
        with completions.slot():
            embedded = await embedder.embed(body.input)
        as_base64 = body.encoding_format == "base64"
        data = [
            {"object": "embedding", "index": i, "embedding": _base64(row) if as_base64 else row}
            for i, row in enumerate(embedded.vectors.tolist())
        ]
        usage = {"prompt_tokens": embedded.tokens, "total_tokens": embedded.tokens}
        return JSONResponse({"object": "list", "data": data, "model": body.model, "usage": usage})

    return router


class _AnyText(Convertor[str]):
    """The rest of a path, slashes and line ends too, so that every wrong name gets our answer."""

    regex = r"[\s\S]*"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


def _add_model_routes(router: APIRouter, models: list[Model]) -> None:
    @router.get("/models", responses={500: ERRORS[500]})
    async def list_models(user_id: Caller) -> ModelList:
        """The models of this server: the one that answers, the one that embeds."""
        return ModelList(data=models)

    register_url_convertor("any", _AnyText())

    @router.get("/models/{model:any}", responses={404: ERRORS[404]})
    async def get_model(user_id: Caller, model: str) -> Model:
        """One model."""
        for each in models:
            if each.id == model:
                return each
        raise NotFound("model", model)


def _check_size(body: CompletionRequest, settings: Settings) -> None:
    if len(body.messages) > settings.max_messages:
        raise InvalidInput(FieldError("messages", f"{len(body.messages)} messages of at most {settings.max_messages}"))
    for i, message in enumerate(body.messages):
        if (n := len(message.to_message()["content"])) > settings.max_message_chars:
            raise InvalidInput(
                FieldError(f"messages.{i}.content", f"{n} characters of at most {settings.max_message_chars}")
            )


def _base64(row: list[float]) -> str:
    return base64.b64encode(struct.pack(f"<{len(row)}f", *row)).decode()


class _Answer:
    """One answer in OpenAI's shape, whole or as chunks."""

    def __init__(self, prepared: Prepared, facts: ModelFacts, with_provenance: bool) -> None:
        self._prepared = prepared
        self._facts = facts
        self._with_provenance = with_provenance
        self._head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": facts.model}
        self._text: list[str] = []
        self._n_tokens = 0
        self._reused = 0
        self._counted: Usage | None = None
        self._reason: FinishReason | None = None

    def take(self, chunk: Chunk) -> str:
        """Account for a chunk; its text."""
        match chunk:
            case Started():
                self._reused = chunk.reused_prefix_tokens
            case Piece():
                self._n_tokens += chunk.tokens
                self._text.append(chunk.text)
                return chunk.text
            case Finished():
                self._reason, self._counted = chunk.reason, chunk.usage
        return ""

    def whole(self) -> dict[str, Any]:
        """The object `chat.completion`."""
        message = {"role": "assistant", "content": "".join(self._text), "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._reason}
        return {**self._head, "object": "chat.completion", "choices": [choice], **self._end(), "usage": self._usage()}

    async def events(self, first: Chunk, chunks: AsyncGenerator[Chunk], with_usage: bool) -> AsyncGenerator[bytes]:
        """Objects `chat.completion.chunk` as server-sent events; a failure on the way is an event, too."""
        async with aclosing(chunks):
            try:
                yield self._chunk({"role": "assistant", "content": ""}, with_usage)
                if text := self.take(first):
                    yield self._chunk({"content": text}, with_usage)
                async for chunk in chunks:
                    if text := self.take(chunk):
                        yield self._chunk({"content": text}, with_usage)
                yield self._chunk({}, with_usage, last=True)
                if with_usage:
                    yield self._event(
                        {**self._head, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()}
                    )
            except ChatlabError as error:
                yield self._event({"error": _error(problem_of(error))})
            yield b"data: [DONE]\n\n"

    def _chunk(self, delta: dict[str, str], with_usage: bool, last: bool = False) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": self._reason if last else None}
        usage = {"usage": None} if with_usage else {}
        end = self._end() if last else {}
        return self._event({**self._head, "object": "chat.completion.chunk", "choices": [choice], **end, **usage})

    def _event(self, content: dict[str, Any]) -> bytes:
        return b"data: " + JSONResponse(content).body + b"\n\n"

    def _usage(self) -> dict[str, Any]:
        usage = self._counted or Usage(self._prepared.prompt_tokens, self._n_tokens, self._reused)
        prompt, completion = usage.prompt_tokens or 0, usage.completion_tokens or 0
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": usage.reused_prefix_tokens or 0},
        }

    def _end(self) -> dict[str, Any]:
        """Where the answer came from, for callers that opted in."""
        if not self._with_provenance:
            return {}
        lookup = self._prepared.lookup
        provenance = {
            "cache": asdict(lookup.provenance if lookup else CacheProvenance()),
            "prompt": None if self._prepared.prompt is None else asdict(self._prepared.prompt),
            "saved_tokens": lookup.entry.saved_tokens if lookup and lookup.entry else None,
            "model": self._facts.model,
            "engine": self._facts.engine,
        }
        return {"chatlab": {"source": "cache" if lookup and lookup.entry else "model", "provenance": provenance}}
