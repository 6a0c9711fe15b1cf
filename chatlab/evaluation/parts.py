"""What a run needs of chatlab: an engine that renders and counts without weights, and a recall of its own.

Nothing of the data dir but the model is used, and nothing is left behind.
"""

import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import structlog

from chatlab.embedding import Embedder
from chatlab.engines.base import ModelFacts, default_answer_limit
from chatlab.engines.models import ModelSource, find_model
from chatlab.engines.template import ChatTemplate, load_template
from chatlab.errors import ConfigError
from chatlab.evaluation.prefixes import Tokenize, WordTokens
from chatlab.history import Recall
from chatlab.settings import Settings, variable
from chatlab.vectors import Vectors

FALLBACK_WINDOW = 2_048  # as the engine for Transformers takes it

log = structlog.get_logger(__name__)


class TemplateCounter:
    """What history needs of an engine.

    Args:
        template: Of the model.
        model: Its name.
        context_tokens: Its window.
    """

    def __init__(self, template: ChatTemplate, model: str, context_tokens: int) -> None:
        self.render = template.render
        self.count = template.count
        self.facts = ModelFacts(
            model=model,
            engine="template",
            device="none",
            context_tokens=context_tokens,
            default_max_new_tokens=default_answer_limit(context_tokens),
            control_tokens=template.control_tokens,
        )


@dataclass(frozen=True, slots=True)
class Counting:
    """What renders and counts, how to tokenize what it rendered, and where the weights would be.

    Attributes:
        engine: Renders and counts.
        tokenize: From rendered text to tokens.
        source: Of the model; None where its weights are not in this process.
    """

    engine: Any
    tokenize: Tokenize
    source: ModelSource | None = None


def counting_for(settings: Settings) -> Counting:
    """As the settings' engine counts.

    Raises:
        ConfigError: The model's tokenizer or template is not there.
    """
    if settings.engine == "echo":
        from chatlab.engines.echo import EchoEngine

        return Counting(EchoEngine(), WordTokens())
    if settings.engine == "openai":
        if not settings.openai_tokenizer:
            raise ConfigError(
                f"{variable('openai_tokenizer')}: needed to evaluate prompts for another server: a Hub id or folder"
            )
        template, window = load_template(settings.openai_tokenizer)
        return _counting(template, settings.model, settings.openai_context_tokens or window, None)
    source = find_model(settings.model, settings.data_dir, say=lambda line: log.info(line))
    template, window = load_template(source.location)
    return _counting(template, source.name, window, source)


def _counting(template: ChatTemplate, model: str, window: int | None, source: ModelSource | None) -> Counting:
    return Counting(TemplateCounter(template, model, window or FALLBACK_WINDOW), template.encode, source)


@contextmanager
def open_recall(settings: Settings) -> Generator[Recall]:
    """Search over vectors in a temporary folder; the embedder is loaded when it is first used."""
    with tempfile.TemporaryDirectory(prefix="chatlab-eval-") as folder:
        embedder = Embedder(settings.embedder)
        vectors = Vectors(folder, embedder.name)
        try:
            yield Recall(embedder, vectors)
        finally:
            vectors.close()
            embedder.close()
