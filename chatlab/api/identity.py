"""Who a REST caller is. With `open` the caller says so; the browser's identities cannot be said this way."""

import re
from typing import Annotated

from fastapi import Depends, Header

from chatlab.errors import FieldError, InvalidInput

HEADER = "X-User-ID"
DEFAULT_USER = "local"
USER_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


async def caller(x_user_id: Annotated[str | None, Header(pattern=f"^{USER_ID.pattern}$")] = None) -> str:
    """The caller's user id. Async, though it awaits nothing: FastAPI runs plain functions in a thread.

    Raises:
        InvalidInput: The header is malformed.
    """
    if x_user_id is None:
        return DEFAULT_USER
    if not USER_ID.fullmatch(x_user_id):
        raise InvalidInput(FieldError(HEADER, "must be 1 to 64 of the characters A-Z a-z 0-9 . _ -"))
    return x_user_id


Caller = Annotated[str, Depends(caller)]
