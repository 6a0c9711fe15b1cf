"""Puts our routes into an app; what else the app serves is not ours to know."""

from fastapi import APIRouter, FastAPI

from chatlab.api.cache import cache_router
from chatlab.api.chats import chats_router
from chatlab.api.insights import insights_router
from chatlab.api.notes import notes_router
from chatlab.api.openai import openai_router
from chatlab.api.service import docs_router, service_router
from chatlab.api.transfer import transfer_router
from chatlab.api.turns import turns_router
from chatlab.wiring import Parts


def install(app: FastAPI, parts: Parts) -> None:
    """Add every route of the API to an app, before anything is mounted at `/`."""
    ours = APIRouter()
    ours.include_router(chats_router(parts.chats, parts.settings))
    ours.include_router(transfer_router(parts.chats, parts.settings))
    ours.include_router(turns_router(parts.chats, parts.settings))
    ours.include_router(notes_router(parts.chats, parts.settings))
    ours.include_router(cache_router(parts.answers, parts.settings))
    ours.include_router(insights_router(parts.store.insights, parts.settings))
    ours.include_router(openai_router(parts.completions, parts.engine.facts, parts.embedder, parts.settings))
    ours.include_router(
        service_router(parts.store, parts.metrics, lambda: "ok" if parts.engine.alive else "not answering")
    )
    app.include_router(ours)
    app.include_router(docs_router(ours.routes))
