"""The REST routes of turns: asking, following, stopping, looking inside."""

from typing import Annotated

from fastapi import APIRouter, Header, Response

from chatlab.api.identity import Caller
from chatlab.api.parameters import ID, problems
from chatlab.api.problems import problem_response, route_class
from chatlab.api.schemas import AttributionBody, NewFeedback, NewTurn, PromptBody, SimilarVerdict, TurnBody, TurnChange
from chatlab.api.sse import encode, stream_response
from chatlab.chat import NEWEST, ChatService, TurnRequest
from chatlab.messages import CacheChoice, Chat, SamplingParams
from chatlab.settings import Settings

MAX_EVENT_ID = 2**53
EVENTS = {"text/event-stream": {"schema": {"type": "string"}}}


def turns_router(chats: ChatService, settings: Settings) -> APIRouter:
    """The routes over a service."""
    router = APIRouter(route_class=route_class(problem_response, settings.max_body_bytes), tags=["turn"])

    @router.post(
        "/chat/{chatID}/completion",
        response_model=TurnBody,
        responses={
            200: {"content": EVENTS, "description": "The turn, or its events with `stream: true`"},
            202: {"model": TurnBody, "description": "Taken in, with `Prefer: respond-async`; follow `Location`"},
            **problems(404, 409, 413, 422, 429, 500, 502, 503),
        },
    )
    async def complete(
        user_id: Caller, chatID: ID, body: NewTurn, prefer: Annotated[str | None, Header()] = None
    ) -> Response:
        """Send a message and get its answer: as a turn, as events, or later."""
        known = await chats.conversation(user_id, chatID)
        turn = await chats.begin(user_id, chatID, turn_request(body, known.chat))
        location = {"Location": f"/completions/{turn.turn_id}"}
        if _asks_for_async(prefer):
            return _json(TurnBody.of(turn), 202, {**location, "Preference-Applied": "respond-async"})
        if body.stream:
            return stream_response(encode(await chats.events(user_id, turn.turn_id)), location)
        turn = await chats.wait(user_id, turn.turn_id)
        if turn.error is not None:
            return problem_response(turn.error, turn_id=turn.turn_id)
        return _json(TurnBody.of(turn), 200, location)

    @router.get("/completions/{turnID}", responses=problems(404, 422))
    async def get_turn(user_id: Caller, turnID: ID) -> TurnBody:
        """A turn, running or ended."""
        return TurnBody.of(await chats.turn(user_id, turnID))

    @router.get(
        "/completions/{turnID}/events",
        response_model=None,
        responses={200: {"content": EVENTS, "description": "The events"}, **problems(404, 422)},
    )
    async def get_events(
        user_id: Caller,
        turnID: ID,
        last_event_id: Annotated[int, Header(ge=0, le=MAX_EVENT_ID)] = 0,
    ) -> Response:
        """A turn's events after `Last-Event-ID` to the end; an ended turn replays."""
        return stream_response(encode(await chats.events(user_id, turnID, last_event_id)))

    @router.post("/completions/{turnID}/stop", responses=problems(404, 422))
    async def stop_turn(user_id: Caller, turnID: ID) -> TurnBody:
        """Stop a turn, keeping what was written; idempotent."""
        return TurnBody.of(await chats.stop(user_id, turnID))

    @router.post("/completions/{turnID}/similar", responses=problems(404, 413, 422))
    async def judge_similar(user_id: Caller, turnID: ID, body: SimilarVerdict) -> TurnBody:
        """Say whether the answer to the similar question of `status` will do: if so, it is this turn's answer."""
        return TurnBody.of(await chats.judge_similar(user_id, turnID, body.same))

    _add_inside_routes(router, chats)
    return router


def _add_inside_routes(router: APIRouter, chats: ChatService) -> None:
    """What is in a turn, and what a person says of it."""

    @router.get("/chat/{chatID}/turns/{turnID}/prompt", responses=problems(404, 422))
    async def get_prompt(user_id: Caller, chatID: ID, turnID: ID) -> PromptBody:
        """What the model saw."""
        seen = await chats.prompt(user_id, chatID, turnID)
        return PromptBody.of(seen.messages, seen.rendered, seen.prompt_tokens)

    @router.get("/chat/{chatID}/turns/{turnID}/attribution", responses=problems(404, 422, 502))
    async def get_attribution(user_id: Caller, chatID: ID, turnID: ID) -> AttributionBody:
        """What of its prompt mattered for an answer: how likely that is without each part. Takes a while."""
        return AttributionBody.of(await chats.attribution(user_id, chatID, turnID))

    @router.patch("/chat/{chatID}/turns/{turnID}", responses=problems(404, 413, 422))
    async def change_turn(user_id: Caller, chatID: ID, turnID: ID, body: TurnChange) -> TurnBody:
        """Pin a turn, or no longer: a pinned one stays in the prompt of every later one."""
        return TurnBody.of(await chats.pin(user_id, chatID, turnID, body.pinned))

    @router.post("/chat/{chatID}/turns/{turnID}/feedback", status_code=204, responses=problems(404, 413, 422))
    async def rate_turn(user_id: Caller, chatID: ID, turnID: ID, body: NewFeedback) -> None:
        """Say whether an answer was good (1) or not (-1)."""
        await chats.rate(user_id, chatID, turnID, body.rating, body.reason)


def turn_request(body: NewTurn, chat: Chat) -> TurnRequest:
    """A checked body as the package's value; what it leaves out of `history` is the chat's."""
    return TurnRequest(
        user_message=body.user_message,
        parent_turn_id=body.parent_turn_id if "parent_turn_id" in body.model_fields_set else NEWEST,
        params=body.params.to_params() if body.params else SamplingParams(),
        history=body.history.to_history(chat.history) if body.history else None,
        cache=CacheChoice(body.cache.scope) if body.cache and body.cache.scope else None,
        cache_bypass=body.cache.bypass if body.cache else False,
    )


def _json(body: TurnBody, status: int, headers: dict[str, str]) -> Response:
    return Response(body.model_dump_json(by_alias=True), status, headers, "application/json")


def _asks_for_async(prefer: str | None) -> bool:
    """Whether a `Prefer` header (RFC 7240) asks for an answer later."""
    return "respond-async" in [part.strip().lower() for part in (prefer or "").split(",")]
