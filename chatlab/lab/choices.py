"""What a caller writes in Python, checked by the same rules as a REST body, with Python's names.

A strategy or a scope may be given by its name alone, each choice also as a dict or as the package's own value.
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from chatlab.api.identity import USER_ID
from chatlab.api.schemas import Body, CacheBody, HistoryBody, ParamsBody
from chatlab.errors import FieldError, InvalidInput
from chatlab.messages import CacheChoice, CacheScope, HistoryChoice, SamplingParams, StrategyName

History = StrategyName | HistoryChoice | Mapping[str, object]
Cache = CacheScope | CacheChoice | Mapping[str, object]
Params = SamplingParams | Mapping[str, object]

ALONE = {"history": "strategy", "cache": "scope"}  # what a choice that is a bare string names
NESTED: Mapping[str, type[BaseModel]] = {"history": HistoryBody, "cache": CacheBody, "params": ParamsBody}
AS_CALLED = {"user_message": "message"}  # parameters of ours that a body names otherwise

B = TypeVar("B", bound=Body)


def checked(body: type[B], **given: object) -> B:
    """A body from what a caller gave; None counts as not given.

    Raises:
        InvalidInput: Names every field that cannot be used and what would be right.
    """
    values = {name: _as_dict(name, value) for name, value in given.items() if value is not None}
    try:
        return body.model_validate(values, by_alias=False, by_name=True)
    except ValidationError as error:
        raise InvalidInput(*(_field_error(each) for each in error.errors())) from None


def checked_user(user_id: object) -> str:
    """A user id.

    Raises:
        InvalidInput: It is none; browsers' identities cannot be taken, either.
    """
    if not isinstance(user_id, str) or not USER_ID.fullmatch(user_id):
        raise InvalidInput(
            FieldError("user_id", f"must be 1 to 64 of the characters A-Z a-z 0-9 . _ -, got {user_id!r}")
        )
    return user_id


def _as_dict(name: str, value: object) -> object:
    if isinstance(value, str) and name in ALONE:
        return {ALONE[name]: value}
    if isinstance(value, HistoryChoice | CacheChoice | SamplingParams):
        value = asdict(value)
    if name == "params" and isinstance(value, Mapping):  # a tuple of stop strings is as good as a list
        return {key: list(each) if isinstance(each, tuple) else each for key, each in value.items()}
    return dict(value) if isinstance(value, Mapping) else value


def _field_error(error: Any) -> FieldError:
    """Pydantic's error in our words."""
    first, *rest = (str(part) for part in error["loc"])
    message = str(error["msg"]).removeprefix("Value error, ")
    if error["type"] == "extra_forbidden" and first in NESTED:
        message = f"no such field: use {', '.join(NESTED[first].model_fields)}"
    elif error["type"] in {"model_type", "model_attributes_type"} and first in NESTED:
        message = f"must be a dict with {', '.join(NESTED[first].model_fields)}"
        message += " or a name" if first in ALONE else ""
    return FieldError(".".join([AS_CALLED.get(first, first), *rest]), f"{message}, got {error['input']!r}")
