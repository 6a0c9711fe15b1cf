"""The REST routes of notes: what stands in for old turns, to be read, corrected and deleted."""

from datetime import datetime
from typing import Self

from fastapi import APIRouter

from chatlab.api.identity import Caller
from chatlab.api.parameters import ID, problems
from chatlab.api.problems import problem_response, route_class
from chatlab.api.schemas import Answer, NoteChange
from chatlab.chat import ChatService
from chatlab.messages import Note, NoteKind, Role
from chatlab.settings import Settings


class StatementBody(Answer):
    """A turn's own words."""

    turn_id: str
    role: Role
    text: str


class NoteBody(Answer):
    """What stands in for some turns."""

    note_id: str
    chat_id: str
    user_id: str
    turn_ids: list[str]
    source_hash: str
    text: str
    statements: list[StatementBody]
    kind: NoteKind
    tokens_before: int
    tokens_after: int
    model: str
    prompt_version: int
    latency_ms: float
    created_at: datetime
    updated_at: datetime
    revision: int

    @classmethod
    def of(cls, note: Note) -> Self:
        """From the package's value."""
        return cls.model_validate(note)


class NoteList(Answer):
    """A chat's notes."""

    notes: list[NoteBody]


def notes_router(chats: ChatService, settings: Settings) -> APIRouter:
    """The routes over a service."""
    router = APIRouter(route_class=route_class(problem_response, settings.max_body_bytes), tags=["note"])

    @router.get("/chat/{chatID}/notes", responses=problems(404, 422))
    async def list_notes(user_id: Caller, chatID: ID) -> NoteList:
        """A chat's notes, on whatever branch, oldest first."""
        return NoteList(notes=[NoteBody.of(note) for note in await chats.notes(user_id, chatID)])

    @router.get("/chat/{chatID}/notes/{noteID}", responses=problems(404, 422))
    async def get_note(user_id: Caller, chatID: ID, noteID: ID) -> NoteBody:
        """A note."""
        return NoteBody.of(await chats.note(user_id, chatID, noteID))

    @router.put("/chat/{chatID}/notes/{noteID}", responses=problems(404, 413, 422))
    async def put_note(user_id: Caller, chatID: ID, noteID: ID, body: NoteChange) -> NoteBody:
        """Let a note say something else; from then on nothing but a person changes it."""
        return NoteBody.of(await chats.edit_note(user_id, chatID, noteID, body.text))

    @router.delete("/chat/{chatID}/notes/{noteID}", status_code=204, responses=problems(404, 422))
    async def delete_note(user_id: Caller, chatID: ID, noteID: ID) -> None:
        """Delete a note; nothing stands for its turns from then on, and no other note of them is written."""
        await chats.delete_note(user_id, chatID, noteID)

    return router
