"""The REST routes of chats. Thin: parse, call the service, shape the answer."""

from dataclasses import replace
from typing import Annotated

from fastapi import APIRouter, Query

from chatlab.api.identity import Caller
from chatlab.api.parameters import ID, problems
from chatlab.api.problems import problem_response, route_class
from chatlab.api.schemas import ChatBody, ChatChange, ChatPage, ChatWithTurns, NewChat, TurnBody
from chatlab.chat import ChatService
from chatlab.messages import CacheChoice, Chat, HistoryChoice, SamplingParams
from chatlab.settings import Settings

MAX_PAGE = 100
DEFAULT_PAGE = 50
MAX_QUERY_CHARS = 200


def chats_router(chats: ChatService, settings: Settings) -> APIRouter:
    """The routes over a service."""
    router = APIRouter(route_class=route_class(problem_response, settings.max_body_bytes), tags=["chat"])

    @router.post("/chat", status_code=201, responses=problems(413, 422))
    async def create_chat(user_id: Caller, body: NewChat) -> ChatBody:
        """Begin a chat."""

        def fill(chat: Chat) -> Chat:
            return replace(
                chat,
                title=body.title,
                system_prompt=body.system_prompt,
                history=body.history.to_history(HistoryChoice()) if body.history else HistoryChoice(),
                cache=body.cache.to_cache() if body.cache else CacheChoice(settings.cache_scope),
                params=body.params.to_params() if body.params else SamplingParams(),
            )

        return ChatBody.of(await chats.create_chat(fill, user_id))

    @router.get("/chats", responses=problems(422))
    async def list_chats(
        user_id: Caller,
        limit: Annotated[int, Query(ge=1, le=MAX_PAGE)] = DEFAULT_PAGE,
        cursor: Annotated[str | None, Query(max_length=200)] = None,
        q: Annotated[str | None, Query(max_length=MAX_QUERY_CHARS)] = None,
        archived: bool | None = None,
        pinned: bool | None = None,
    ) -> ChatPage:
        """The caller's chats, newest `updatedAt` first; `q` searches titles and messages."""
        page = await chats.chats(user_id, limit, cursor, q, archived, pinned)
        return ChatPage(chats=[ChatBody.of(chat) for chat in page.chats], next_cursor=page.next_cursor)

    @router.get("/chat/{chatID}", responses=problems(404, 422))
    async def get_chat(user_id: Caller, chatID: ID) -> ChatWithTurns:
        """A chat with its turns, all branches, oldest first."""
        known = await chats.conversation(user_id, chatID)
        body = ChatBody.of(known.chat)
        return ChatWithTurns(**body.model_dump(), turns=[TurnBody.of(turn) for turn in known.turns])

    @router.patch("/chat/{chatID}", responses=problems(404, 413, 422))
    async def change_chat(user_id: Caller, chatID: ID, body: ChatChange) -> ChatBody:
        """Change a chat: fields that are left out stay, null resets one."""
        return ChatBody.of(
            await chats.change_chat(user_id, chatID, lambda chat: body.apply(chat, settings.cache_scope))
        )

    @router.delete("/chat/{chatID}", status_code=204, responses=problems(404, 422))
    async def delete_chat(user_id: Caller, chatID: ID) -> None:
        """Delete a chat and everything that belongs to it."""
        await chats.delete_chat(user_id, chatID)

    return router
