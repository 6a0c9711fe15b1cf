"""What is wrong in a file of chats: the entry, the place in it, and the fix."""

from chatlab.errors import ExchangeError

EXPORT_AGAIN = "it was cut off or changed: export or download it again"


def fault(place: str, message: str) -> ExchangeError:
    """An error at a place of the file, like `conversations[3].mapping["x"].message`."""
    return ExchangeError(place or "file", message)


def kind_of(value: object) -> str:
    """A JSON value's type, as a person knows it."""
    match value:
        case None:
            return "null"
        case bool():
            return "true or false"
        case str():
            return "a text"
        case dict():
            return "an object"
        case list():
            return "a list"
        case _:
            return "a number"
