"""The panel of settings: one component a setting, each with a line on what it does and costs. And presets."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from chatlab.engines.base import ModelFacts
from chatlab.errors import FieldError, InvalidInput
from chatlab.messages import (
    MAX_BUDGET_TOKENS,
    CacheChoice,
    CacheScope,
    ChatSettings,
    HistoryChoice,
    SamplingParams,
    StrategyName,
)
from chatlab.ui.view import plain

STRATEGIES: list[tuple[str, StrategyName]] = [
    ("Truncate: the newest turns that fit", "truncate"),
    ("Summarize: notes of old turns, and the newest", "summarize"),
    ("Hybrid: notes, the newest turns, and earlier ones that bear on the question", "hybrid"),
    ("Direct: the whole chat, an error when it no longer fits", "direct"),
]
SCOPES: list[tuple[str, CacheScope]] = [
    ("Off", "off"),
    ("My chats", "user"),
    ("Everybody's chats", "global"),
]
DEFAULT = "model's default"
MAX_SYSTEM_PROMPT_CHARS = 100_000


class Panel:
    """The components, in the order of their values. Built inside `gr.Blocks`."""

    def __init__(self, facts: ModelFacts, defaults: ChatSettings) -> None:
        estimated = ", by an estimate" if facts.counting == "estimate" else ""
        gr.Dropdown(
            [facts.model],
            value=facts.model,
            label="Model",
            info=f"On {facts.device}; sees up to {facts.context_tokens:,} tokens{estimated}. "
            "Chosen at start: CHATLAB_MODEL.",
            interactive=True,
            elem_id="model",
        )
        self.system_prompt = gr.Textbox(
            defaults.system_prompt or "",
            label="System prompt",
            info="Said to the model before every question; costs its length in tokens each time.",
            lines=3,
            max_lines=8,
            elem_id="system-prompt",
        )
        self.strategy = gr.Radio(
            STRATEGIES,
            value=defaults.history.strategy,
            label="History",
            info="What the model sees of the conversation. Direct costs the most and forgets nothing.",
        )
        self.budget_tokens = _number_box(
            defaults.history.budget_tokens,
            "Budget, in tokens",
            "Longest prompt. Less is faster and cheaper, and forgets sooner.",
            placeholder="model's window",
        )
        self.cache_scope = gr.Radio(
            SCOPES,
            value=defaults.cache.scope,
            label="Answer cache",
            info="Whose earlier answers may serve a question asked again. Each answer says when one did.",
        )
        params = defaults.params
        self.max_new_tokens = _number_box(
            params.max_new_tokens, "Longest answer, in tokens", "Longer ones are cut; you can continue them."
        )
        self.temperature = _number_box(
            params.temperature,
            "Temperature",
            "0 always gives the likeliest answer; 1 varies; above 1 rambles. Costs nothing.",
            step=0.1,
        )
        self.top_p = _number_box(
            params.top_p,
            "Top p",
            "Only the likeliest words that make up this share are considered; 1 considers all.",
            step=0.05,
        )
        self.top_k = _number_box(params.top_k, "Top k", "Only this many of the likeliest words are considered; 0: all.")
        self.repetition_penalty = _number_box(
            params.repetition_penalty,
            "Repetition penalty",
            "Above 1, words already used become less likely.",
            step=0.05,
        )
        self.seed = _number_box(
            params.seed, "Seed", "The same seed and settings give the same answer.", placeholder="random"
        )
        self.stop = gr.Textbox(
            "\n".join(params.stop or ()),
            label="Stop strings, one a line",
            info="An answer ends before the first of these.",
            lines=1,
            max_lines=4,
        )

    @property
    def components(self) -> list[Any]:
        """All of them; values come and go in this order."""
        return [
            self.system_prompt, self.strategy, self.budget_tokens, self.cache_scope, self.max_new_tokens,
            self.temperature, self.top_p, self.top_k, self.repetition_penalty, self.seed, self.stop,
        ]  # fmt: skip


def _number_box(
    value: float | None, label: str, info: str, *, step: float | None = None, placeholder: str = DEFAULT
) -> gr.Number:
    """For whole numbers; with a `step`, for any."""
    precision = 0 if step is None else None
    return gr.Number(value, label=label, info=info, precision=precision, step=step or 1, placeholder=placeholder)


def chosen_from(values: Sequence[Any]) -> ChatSettings:
    """The settings that the components' values stand for, whoever sent them.

    Raises:
        InvalidInput: A value cannot be used; names the field.
    """
    system_prompt, strategy, budget, scope, max_new, temperature, top_p, top_k, penalty, seed, stop = values
    if strategy not in [name for _, name in STRATEGIES]:
        raise InvalidInput(FieldError("history.strategy", "choose one of those offered"))
    if scope not in [name for _, name in SCOPES]:
        raise InvalidInput(FieldError("cache.scope", "choose one of those offered"))
    if (budget := _integer_from(budget, "history.budgetTokens")) is not None and not 1 <= budget <= MAX_BUDGET_TOKENS:
        raise InvalidInput(FieldError("history.budgetTokens", f"must be between 1 and {MAX_BUDGET_TOKENS:,}"))
    return ChatSettings(
        _text_from(system_prompt, "systemPrompt") or None,
        HistoryChoice(strategy, budget),
        CacheChoice(scope),
        SamplingParams(
            temperature=_number_from(temperature, "temperature"),
            top_p=_number_from(top_p, "top_p"),
            top_k=_integer_from(top_k, "top_k"),
            max_new_tokens=_integer_from(max_new, "max_new_tokens"),
            stop=tuple(line for line in _text_from(stop, "stop").splitlines() if line) or None,
            seed=_integer_from(seed, "seed"),
            repetition_penalty=_number_from(penalty, "repetition_penalty"),
        ),
    )


def _text_from(value: object, field: str) -> str:
    text = value.strip() if isinstance(value, str) else ""
    if len(text) > MAX_SYSTEM_PROMPT_CHARS:
        raise InvalidInput(FieldError(field, f"has {len(text):,} characters of at most {MAX_SYSTEM_PROMPT_CHARS:,}"))
    return plain(text)


def _number_from(value: object, field: str) -> float | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InvalidInput(FieldError(field, "must be a number"))
    return value


def _integer_from(value: object, field: str) -> int | None:
    number = _number_from(value, field)
    if number is not None and number != number // 1:
        raise InvalidInput(FieldError(field, "must be a whole number"))
    return None if number is None else int(number)


def values_of(chosen: ChatSettings) -> list[Any]:
    """Settings as the components' values."""
    params = chosen.params
    return [
        chosen.system_prompt or "", chosen.history.strategy, chosen.history.budget_tokens, chosen.cache.scope,
        params.max_new_tokens, params.temperature, params.top_p, params.top_k, params.repetition_penalty, params.seed,
        "\n".join(params.stop or ()),
    ]  # fmt: skip
