"""From a conversation to the message list that the model sees, within a budget and with its provenance.

Knows turns and token counts, not where turns are stored nor which engine counts. Originals are never altered: what
is cut or made inert is so in the prompt only. The last message is always the question, and a system prompt is first.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Protocol

from chatlab.engines.base import ModelFacts
from chatlab.errors import FieldError, PromptTooLong
from chatlab.history.budget import cut_middle, prompt_budget
from chatlab.history.strategies import STRATEGIES
from chatlab.messages import (
    HistoryChoice,
    Message,
    PromptPart,
    PromptProvenance,
    SamplingParams,
    StoredMessage,
    Turn,
)

ZERO_WIDTH_SPACE = "\u200b"


class Counter(Protocol):
    """The part of an engine that history needs."""

    @property
    def facts(self) -> ModelFacts:
        """The model and its limits."""
        ...

    def count(self, messages: Sequence[Message]) -> int:
        """Exact tokens of the rendered prompt."""
        ...


@dataclass(frozen=True, slots=True)
class PromptInput:
    """What a prompt is made from.

    Attributes:
        system_prompt: Always kept.
        path: The turns before the question, root first.
        question: The user's new message.
        question_turn_id: The turn that it opens.
    """

    system_prompt: str | None
    path: Sequence[Turn]
    question: str
    question_turn_id: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, what it is made of, and how to make it again from the stored turns."""

    messages: tuple[Message, ...]
    recipe: tuple[StoredMessage, ...]
    provenance: PromptProvenance


class PromptBuilder:
    """Builds prompts for one model."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter

    def build(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> Prompt:
        """The prompt for a question.

        Raises:
            PromptTooLong: `direct` no longer fits, or the system prompt alone does not; names the field and the fix.
        """
        facts = self._counter.facts
        budget = prompt_budget(facts, params, choice.budget_tokens)
        strategy = STRATEGIES[choice.strategy]
        inert = [_inert_turn(turn, facts) for turn in given.path]
        answered = [turn for turn in inert if turn.messages]
        system: list[Message] = []
        if given.system_prompt:
            system = [{"role": "system", "content": make_inert(given.system_prompt, facts)}]
        asked: Message = {"role": "user", "content": make_inert(given.question, facts)}

        @cache
        def count(n_turns: int) -> int:
            """Tokens of the prompt with the newest `n_turns`."""
            kept = answered[len(answered) - n_turns :]
            return self._counter.count([*system, *(m for turn in kept for m in turn.messages), asked])

        n_kept = strategy(count, len(answered), budget)
        question, cut_question = asked, n_kept is None
        if n_kept is None:
            question, n_kept = self._cut(system, asked, budget), 0
        kept = answered[len(answered) - n_kept :]
        history = [message for turn in kept for message in turn.messages]
        messages = (*system, *history, question)

        recipe = [StoredMessage("system", text=message["content"]) for message in system]
        recipe += [StoredMessage(message["role"], turn.turn_id) for turn in kept for message in turn.messages]
        recipe += [
            StoredMessage("user", text=question["content"])
            if cut_question
            else StoredMessage("user", given.question_turn_id)
        ]
        kept_ids = {turn.turn_id for turn in kept}
        return Prompt(
            messages,
            tuple(recipe),
            PromptProvenance(
                strategy=choice.strategy,
                budget_tokens=budget,
                prompt_tokens=(total := self._counter.count(messages) if cut_question else count(n_kept)),
                parts=self._parts(system, kept, question, given.question_turn_id, total),
                dropped_turn_ids=tuple(turn.turn_id for turn in given.path if turn.turn_id not in kept_ids),
            ),
        )

    def _cut(self, system: list[Message], question: Message, budget: int) -> Message:
        """The question alone, its middle cut out until it fits."""

        def fits(text: str) -> bool:
            return self._counter.count([*system, {"role": "user", "content": text}]) <= budget

        if (shorter := cut_middle(question["content"], fits)) is None:
            fixed = self._counter.count([*system, {"role": "user", "content": ""}])
            raise PromptTooLong(
                FieldError(
                    "history.budgetTokens",
                    f"the system prompt and the template alone take {fixed} tokens of a budget of {budget}: "
                    "raise the budget, or shorten the system prompt",
                )
            )
        return {"role": "user", "content": shorter}

    def _parts(
        self, system: list[Message], kept: Sequence["_InertTurn"], question: Message, question_turn_id: str, total: int
    ) -> tuple[PromptPart, ...]:
        """The stretches of the prompt; their tokens add up to `total`. What a template adds goes to the first."""
        without_history = self._counter.count([*system, question]) if kept else total
        system_tokens = self._counter.count([*system, {"role": "user", "content": ""}]) if system else 0
        parts: list[PromptPart] = []
        if system:
            parts.append(PromptPart("system", (), system_tokens))
        if kept:
            parts.append(PromptPart("verbatim", tuple(turn.turn_id for turn in kept), total - without_history))
        parts.append(PromptPart("question", (question_turn_id,), without_history - system_tokens))
        return tuple(parts)


@dataclass(frozen=True, slots=True)
class _InertTurn:
    """A turn's messages as a prompt may carry them; none when there is no answer to show."""

    turn_id: str
    messages: tuple[Message, ...]


def _inert_turn(turn: Turn, facts: ModelFacts) -> _InertTurn:
    if not turn.assistant_message:
        return _InertTurn(turn.turn_id, ())
    return _InertTurn(
        turn.turn_id,
        (
            {"role": "user", "content": make_inert(turn.user_message, facts)},
            {"role": "assistant", "content": make_inert(turn.assistant_message, facts)},
        ),
    )


def make_inert(text: str, facts: ModelFacts) -> str:
    """The text with the template's control tokens broken by a zero-width space, so that they are only words."""
    for token in facts.control_tokens:
        if len(token) > 1:
            text = text.replace(token, token[0] + ZERO_WIDTH_SPACE + token[1:])
    return text


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
        if each.turn_id is None:
            assert each.text is not None
            messages.append({"role": each.role, "content": each.text})
        else:
            turn = turns[each.turn_id]
            text = turn.user_message if each.role == "user" else turn.assistant_message or ""
            messages.append({"role": each.role, "content": make_inert(text, facts)})
    return tuple(messages)
