"""Text from people and models as a prompt may carry it: words, and nothing that the template or we act on."""

from chatlab.engines.base import ModelFacts

ZERO_WIDTH_SPACE = "\u200b"


def make_inert(text: str, facts: ModelFacts) -> str:
    """The text with the template's control tokens broken by a zero-width space, so that they are only words."""
    for token in facts.control_tokens:
        if len(token) > 1:
            text = text.replace(token, token[0] + ZERO_WIDTH_SPACE + token[1:])
    return text
