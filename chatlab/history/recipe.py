"""How a prompt is stored: by reference to turns, whose words never change, and in full what is nobody's words."""

from collections.abc import Mapping, Sequence

from chatlab.engines.base import ModelFacts
from chatlab.history.inert import make_inert
from chatlab.history.quotes import without_marks
from chatlab.messages import Message, StoredMessage, Turn


def stored_messages(
    recipe: Sequence[StoredMessage], turns: Mapping[str, Turn], facts: ModelFacts
) -> tuple[Message, ...]:
    """The messages of a prompt made again from its recipe.

    Args:
        recipe: `Turn.prompt`.
        turns: The chat's turns by id.
        facts: Of the model that the prompt is for.
    """
    messages: list[Message] = []
    for each in recipe:
        content = each.text or ""
        if each.turn_id is not None:
            turn = turns[each.turn_id]
            words = turn.user_message if each.role == "user" else turn.assistant_message or ""
            words = make_inert(words, facts)
            content += without_marks(words) if content else words  # after quotes
        messages.append({"role": each.role, "content": content})
    return tuple(messages)
