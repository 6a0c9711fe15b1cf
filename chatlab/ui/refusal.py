"""What the page does not do, in the words of the person who asked."""

from collections.abc import Mapping

from chatlab.errors import ChatBusy, ChatlabError, InvalidInput, NotFound, QueueFull
from chatlab.problems import problem_of

# Names of fields as a person knows them.
_FIELDS: Mapping[str, str] = {
    "userMessage": "Your message",
    "parentTurnID": "The message before",
    "history.budgetTokens": "Budget",
    "history.strategy": "History",
    "cache.scope": "Answer cache",
    "systemPrompt": "System prompt",
    "params.maxNewTokens": "Longest answer",
    "max_new_tokens": "Longest answer",
    "temperature": "Temperature",
    "top_p": "Top p",
    "top_k": "Top k",
    "repetition_penalty": "Repetition penalty",
    "seed": "Seed",
    "stop": "Stop strings",
    "question": "Question",
    "configurations": "Configurations",
    "vote": "The vote",
    "name": "The name",
    "text": "The note",
}


class Refused(Exception):
    """A handler could not do what was asked; the message is for the person."""


def refusal(error: ChatlabError) -> Refused:
    """An error in the words of the page, with what to do next."""
    match error:
        case InvalidInput():
            return Refused(" ".join(f"{_FIELDS.get(each.field, each.field)}: {each.message}." for each in error.errors))
        case ChatBusy():
            return Refused("This chat is still answering: stop it (Esc), or wait for its end.")
        case QueueFull():
            return Refused(
                f"Too many answers are under way here. Try again in {error.retry_after_seconds} s; your message stays."
            )
        case NotFound():
            return Refused("This is no longer here: reload the page.")
        case _:
            return Refused(problem_of(error).detail)
