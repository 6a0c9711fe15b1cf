"""What the REST routes of chats and turns share: parameters and documented failures."""

from typing import Annotated, Any

from fastapi import Path

from chatlab.api.problems import MEDIA_TYPE
from chatlab.api.schemas import InvalidBody, ProblemBody

ID = Annotated[str, Path(min_length=1, max_length=64, pattern="^[A-Za-z0-9._-]+$")]


def problems(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The failures of a route, for the OpenAPI document."""
    return {
        code: {
            "description": "Problem details (RFC 9457)",
            "model": InvalidBody if code == 422 else ProblemBody,
            "content": {MEDIA_TYPE: {}},
        }
        for code in codes
    }
