"""A model's chat template and tokenizer: from a message list to the text and the tokens that the model is given.

Needs the tokenizer, not the weights. Knows nothing of sampling or of where the model runs.
"""

import os.path
from collections.abc import Sequence
from typing import Any

from jinja2 import TemplateError

from chatlab.errors import ConfigError, FieldError, InvalidInput
from chatlab.messages import Message

PROBES = ("Why?", "how?")  # questions that no token begins alike


class ChatTemplate:
    """Renders and counts prompts as the model sees them. Safe to use from any thread.

    Args:
        tokenizer: A fast tokenizer of Transformers, with a chat template.
        model: The model's name, for error messages.
    """

    def __init__(self, tokenizer: Any, model: str) -> None:
        self._tokenizer = tokenizer
        self._model = model

    @property
    def control_tokens(self) -> tuple[str, ...]:
        """Every string that the tokenizer turns into a special token."""
        added = [str(token) for token in self._tokenizer.added_tokens_decoder.values() if token.special]
        return tuple(dict.fromkeys([*self._tokenizer.all_special_tokens, *added]))

    def render(self, messages: Sequence[Message]) -> str:
        """The text of the prompt, with the beginning of an answer.

        Raises:
            InvalidInput: The template does not take this list.
        """
        refused: TemplateError | None = None
        for attempt in (messages, _without_system(messages)):
            try:
                return self._render(attempt)
            except TemplateError as error:
                refused = refused or error
        field = FieldError("messages", f"the chat template of {self._model} does not take them: {refused}")
        raise InvalidInput(field) from refused

    def encode(self, rendered: str) -> list[int]:
        """The tokens of a rendered prompt."""
        return self._tokenizer.backend_tokenizer.encode(rendered, add_special_tokens=False).ids

    def count(self, messages: Sequence[Message]) -> int:
        """Tokens of the rendered prompt."""
        return len(self.encode(self.render(messages)))

    def prefix_ids(self, messages: Sequence[Message]) -> list[int]:
        """The tokens that a prompt of these messages and a question begins with, whatever the question.

        What two questions have in common: a template may write answers differently before another question, and the
        last token before a question may be one with the question's beginning.

        Raises:
            InvalidInput: The template does not take this list with a question after it.
        """
        prompts = [self.render([*messages, {"role": "user", "content": probe}]) for probe in PROBES]
        return [*os.path.commonprefix([self.encode(prompt) for prompt in prompts])]

    def _render(self, messages: Sequence[Message]) -> str:
        text = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        assert isinstance(text, str)
        return text


def load_template(location: str) -> tuple[ChatTemplate, int | None]:
    """The template and tokenizer of a model, and its window if its configuration is there, too.

    Args:
        location: A Hub id or a folder.

    Raises:
        ConfigError: There is none, or none for chats.
    """
    from httpx2 import HTTPError
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled
    from transformers import AutoConfig, AutoTokenizer

    unavailable = (OSError, ValueError, HTTPError, HfHubHTTPError, OfflineModeIsEnabled)
    wrong = f"CHATLAB_OPENAI_TOKENIZER={location!r}: "
    try:
        tokenizer = AutoTokenizer.from_pretrained(location)
    except unavailable as error:
        cause = (str(error) or repr(error)).splitlines()[0]
        raise ConfigError(wrong + f"no tokenizer can be loaded from there. Cause: {cause}") from error
    if not tokenizer.is_fast or not tokenizer.chat_template:
        raise ConfigError(wrong + "it has no fast version or no chat template; take that of the model that answers")
    try:
        config = AutoConfig.from_pretrained(location).get_text_config()
    except unavailable:
        config = None
    return ChatTemplate(tokenizer, location), getattr(config, "max_position_embeddings", None)


def _without_system(messages: Sequence[Message]) -> list[Message]:
    """The same prompt for templates that know no system role: its text opens the first user message."""
    if not messages or messages[0]["role"] != "system":
        return [*messages]
    system, rest = messages[0]["content"], [*messages[1:]]
    if not rest:
        return [{"role": "user", "content": system}]
    first: Message = {"role": rest[0]["role"], "content": f"{system}\n\n{rest[0]['content']}"}
    return [first, *rest[1:]]
