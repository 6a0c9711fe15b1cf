"""Everything that can go wrong, as one tree.

    ChatlabError
    ├── InvalidInput       the caller sent something that cannot be used (422); names each field
    │   ├── PromptTooLong  the prompt does not fit the budget
    │   └── ExchangeError  a file of chats cannot be read; names the entry and the place
    ├── NotFound           not there, or not yours: the two are never told apart (404)
    ├── ChatBusy           the chat is answering another message (409)
    ├── QueueFull          too many answers are waiting (429)
    ├── EngineError        the engine failed while answering (502)
    ├── VectorsUnavailable the vector store does not answer; a turn does without
    └── ConfigError        a setting is wrong; raised at start, naming the variable
        ├── ModelUnavailable
        └── DataDirHeld    the data dir is open already

`chatlab.lab.TurnFailed`, which carries a turn, belongs to it, too.
The HTTP status of an error is decided in `chatlab.api.problems`, the words a person reads in `chatlab.ui`.
"""

from dataclasses import dataclass


class ChatlabError(Exception):
    """The root of the tree."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One unusable input field.

    Attributes:
        field: The field's name as the caller wrote it, dotted for nesting (`params.topP`).
        message: What is wrong and what would be right.
    """

    field: str
    message: str


class InvalidInput(ChatlabError):
    """The caller's input cannot be used; `errors` names every field and the fix."""

    def __init__(self, *errors: FieldError) -> None:
        super().__init__("; ".join(f"{error.field}: {error.message}" for error in errors))
        self.errors = errors


class PromptTooLong(InvalidInput):
    """The prompt does not fit its token budget under the chosen strategy."""


class ExchangeError(InvalidInput):
    """A file of chats cannot be used.

    Attributes:
        place: In the file, like `conversations[3].mapping["x"].message.content`.
        problem: What is wrong there and what would be right.
        entry: Which chat of the file that is, for a person; empty where the file itself is wrong.
    """

    def __init__(self, place: str, problem: str, entry: str = "") -> None:
        super().__init__(FieldError(place, f"{problem} ({entry})" if entry else problem))
        self.place = place
        self.problem = problem
        self.entry = entry


class NotFound(ChatlabError):
    """The thing is not there or belongs to somebody else."""

    def __init__(self, what: str, thing_id: str) -> None:
        super().__init__(f"no {what} {thing_id!r}")


class ChatBusy(ChatlabError):
    """The chat is answering; one running completion a chat."""

    def __init__(self, chat_id: str, turn_id: str) -> None:
        super().__init__(f"chat {chat_id!r} is answering turn {turn_id!r}: stop it or wait for it to end")
        self.turn_id = turn_id


class QueueFull(ChatlabError):
    """Too many answers are under way.

    Attributes:
        retry_after_seconds: When trying again makes sense.
    """

    def __init__(self, limit: int, retry_after_seconds: int) -> None:
        super().__init__(f"{limit} answers are already under way: try again in {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


class EngineError(ChatlabError):
    """The engine could not answer."""


class VectorsUnavailable(ChatlabError):
    """The vector store cannot be read or written; the message says why."""


class ConfigError(ChatlabError):
    """A setting is wrong; the message names the variable, its value and what would be right."""


class ModelUnavailable(ConfigError):
    """The model cannot be loaded; the message names the id and the ways out."""


class DataDirHeld(ConfigError):
    """The data dir is open already; the message names the process."""


def check_text(field: str, text: str, max_chars: int) -> None:
    """Raise InvalidInput for a text that cannot be stored or answered, whichever way it came."""
    wrong = ""
    if not text.strip():
        wrong = "must not be empty"
    elif len(text) > max_chars:
        wrong = f"has {len(text)} characters of at most {max_chars}"
    elif "\x00" in text or not text.isprintable() and any("\ud800" <= c <= "\udfff" for c in text):
        wrong = "must be text without NUL characters and lone surrogates"
    if wrong:
        raise InvalidInput(FieldError(field, wrong))
