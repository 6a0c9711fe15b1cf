"""From a conversation to the message list that the model sees, within a budget and with its provenance.

    system | pinned turns | newest turns, word for word | quotes of evicted turns, then the question

Knows turns and token counts, not where turns are stored nor which engine counts. Originals are never altered: what
is cut or made inert is so in the prompt only. The last message is always the question, and a system prompt is first.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import structlog

from chatlab.errors import FieldError, ModelUnavailable, PromptTooLong, VectorsUnavailable
from chatlab.history.budget import Counter, TokenCounts, cut_middle, estimated, prompt_budget
from chatlab.history.inert import make_inert
from chatlab.history.passages import Passage
from chatlab.history.quotes import FOOT, HEAD, block, date_of, line_of, without_marks
from chatlab.history.recall import Recall
from chatlab.history.strategies import TAILS, Room, first_kept, first_kept_from_root, recalls
from chatlab.messages import (
    HistoryChoice,
    Message,
    PartKind,
    PromptPart,
    PromptProvenance,
    SamplingParams,
    StoredMessage,
    StrategyName,
    Turn,
)

LONG_CHARS = 4_000  # above this, tokenising is worth a thread
QUESTION_SHARE = 0.1  # of the budget, assumed where the question must not matter
MIN_TURN_TOKENS = 64  # a turn that does not fit is not cut down to less
MAX_MISSES = 10  # passages in a row that no longer fit

log = structlog.get_logger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class PromptInput:
    """What a prompt is made from.

    Attributes:
        system_prompt: Always kept.
        path: The turns before the question, root first.
        question: The user's new message.
        question_turn_id: The turn that it opens.
        chat_id: The chat, whose vectors are searched; None has none.
    """

    system_prompt: str | None
    path: Sequence[Turn]
    question: str
    question_turn_id: str
    chat_id: str | None = None


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt, what it is made of, and how to make it again from the stored turns.

    Attributes:
        quoted_chars: Of the last message, before the question.
    """

    messages: tuple[Message, ...]
    recipe: tuple[StoredMessage, ...]
    provenance: PromptProvenance
    quoted_chars: int = 0


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Messages of one kind: how to make them again, whose they are, what they add to the prompt."""

    kind: PartKind
    messages: tuple[Message, ...] = ()
    recipe: tuple[StoredMessage, ...] = ()
    turn_ids: tuple[str, ...] = ()
    tokens: int = 0


@dataclass(frozen=True, slots=True)
class _Plan:
    """A prompt but for what is recalled; `evicted` turns are not in it."""

    given: PromptInput
    strategy: StrategyName
    budget: int
    stretches: tuple[_Stretch, ...]  # system, pinned, verbatim
    question: str
    question_cut: bool
    question_tokens: int
    evicted: tuple[Turn, ...]
    fault: str | None = None

    @property
    def before_question(self) -> tuple[Message, ...]:
        return tuple(message for stretch in self.stretches for message in stretch.messages)

    @property
    def tokens(self) -> int:
        return sum(stretch.tokens for stretch in self.stretches) + self.question_tokens


class PromptBuilder:
    """Builds prompts for one model.

    Args:
        counter: Its engine.
        recall: Searches evicted turns.
    """

    def __init__(self, counter: Counter, recall: Recall) -> None:
        self._counter = counter
        self._recall = recall
        self._tokens = TokenCounts(counter)

    async def build(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> Prompt:
        """The prompt for a question. What takes long is done in a thread, so that streams keep moving.

        Where evicted turns cannot be searched, the prompt is that of `truncate`, and its provenance says why.

        Raises:
            PromptTooLong: `direct` no longer fits, or what always stays does not; names the field and the fix.
        """
        aside = _n_chars(given) >= LONG_CHARS or self._counter.facts.counting == "remote"
        plan = await _run(aside, self._plan, given, choice, params)
        found: Sequence[Passage] = ()
        if plan.evicted and recalls(choice.strategy):
            try:
                found = await self._recall.search(given.chat_id, plan.evicted, given.question)
            except (VectorsUnavailable, ModelUnavailable) as error:
                log.warning("evicted turns could not be searched", chat_id=given.chat_id, reason=str(error))
                what = "the embedder cannot be loaded" if isinstance(error, ModelUnavailable) else str(error)
                plan = await _run(aside, self._plan, given, replace(choice, strategy="truncate"), params)
                plan = replace(plan, fault=f"{choice.strategy}: {what}")
        return await _run(aside, self._compose, plan, found)

    async def upcoming(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> tuple[Message, ...]:
        """What the prompt of the next question begins with, whatever will be asked: `given.question` is ignored.

        Raises:
            PromptTooLong: As `build`.
        """
        plan = await _run(True, self._plan, replace(given, question="?"), choice, params)
        return plan.before_question

    def _plan(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> _Plan:
        """All but what is recalled."""
        # 1. What always stays.
        facts = self._counter.facts
        budget = prompt_budget(facts, params, choice.budget_tokens)
        answered = [turn for turn in given.path if turn.assistant_message]
        system = self._system(given.system_prompt)
        pinned = [turn for turn in answered if turn.pinned]
        stays = system.tokens + sum(map(self._size, pinned))
        question = make_inert(given.question, facts)
        tokens = self._question_tokens(system, question)
        cut = stays + tokens > budget and choice.strategy != "direct"
        if cut:
            question = self._cut_question([*system.messages, *self._turns("pinned", pinned).messages], question, budget)
            tokens = self._question_tokens(system, question)

        # 2. The newest turns, from the first one that is kept; if that is none, the newest cut down.
        room = budget - stays - tokens
        if choice.strategy == "direct":
            self._check_whole(system, answered, question, budget)
            begin = newest_room = 0
        else:
            turns_room = Room.of(TAILS[choice.strategy], room)
            typical = Room.of(TAILS[choice.strategy], int((1 - QUESTION_SHARE) * budget) - stays)
            begin = self._first_kept(given.path, answered, choice.strategy, budget, turns_room, typical)
            newest_room = turns_room.newest
        front = self._turns("pinned", [turn for turn in answered[:begin] if turn.pinned])
        kept = self._turns("verbatim", answered[begin:])
        if answered and begin == len(answered) and newest_room >= MIN_TURN_TOKENS:
            before = [*system.messages, *front.messages]
            kept = self._cut_turn(answered[-1], before, _asked(question), budget - room + newest_room) or kept

        there = {*front.turn_ids, *kept.turn_ids}
        evicted = tuple(turn for turn in answered if turn.turn_id not in there)
        return _Plan(given, choice.strategy, budget, (system, front, kept), question, cut, tokens, evicted)

    def _first_kept(
        self,
        path: Sequence[Turn],
        answered: Sequence[Turn],
        strategy: StrategyName,
        budget: int,
        room: Room,
        typical: Room,
    ) -> int:
        """The place of the first turn that is kept, as before if that still fits.

        Args:
            path: All turns.
            answered: Those that a prompt can carry.
            strategy: Of the prompt.
            budget: Of the prompt.
            room: For turns, with this question.
            typical: For turns, whatever the question.
        """

        def size(place: int) -> int:
            return 0 if answered[place].pinned else self._size(answered[place])

        known = _kept_before(path, answered, strategy, budget)
        if known is None:
            roughly = size if self._counter.facts.counting == "here" else lambda place: estimated(answered[place])
            known = first_kept_from_root(roughly, len(answered), typical)
        return first_kept(size, len(answered), room, known)

    def _check_whole(self, system: _Stretch, answered: Sequence[Turn], question: str, budget: int) -> None:
        """Raise PromptTooLong unless the whole conversation fits."""
        here = self._counter.facts.counting == "here"
        if (
            not here
            or system.tokens + sum(map(self._size, answered)) + self._question_tokens(system, question) > budget
        ):
            whole = [*system.messages, *self._turns("verbatim", answered).messages, _asked(question)]
            _check_direct(self._counter.count(whole), budget)

    def _compose(self, plan: _Plan, found: Sequence[Passage]) -> Prompt:
        """The prompt of a plan, with as much of what was found, best first, as there is room for."""
        system, pinned, kept = plan.stretches
        chosen = self._chosen(found, plan.budget - plan.tokens)
        places = {turn.turn_id: place for place, turn in enumerate(plan.evicted)}
        while True:
            quotes = block(sorted(chosen, key=lambda passage: _order(passage, places))) if chosen else ""
            quotes = make_inert(quotes, self._counter.facts)
            asked = _asked(quotes + (without_marks(plan.question) if quotes else plan.question))
            messages = (*system.messages, *pinned.messages, *kept.messages, asked)
            if (total := self._counter.count(messages)) <= plan.budget:
                break
            # Only where a template counts a message by what stands around it.
            if chosen:
                chosen = chosen[: -max(1, len(chosen) // 8)]
            elif kept.messages and plan.strategy != "direct":
                kept = replace(kept, messages=kept.messages[2:], recipe=kept.recipe[2:], turn_ids=kept.turn_ids[1:])
            else:
                if plan.strategy == "direct":
                    _check_direct(total, plan.budget)
                raise _too_long(total - plan.question_tokens, plan.budget)
        question_id = plan.given.question_turn_id
        if plan.question_cut:
            last = StoredMessage("user", None, asked["content"])
        else:
            last = StoredMessage("user", question_id, quotes or None)
        quoted = tuple(sorted({passage.ref.turn_id for passage in chosen}, key=places.__getitem__))
        spare = total - system.tokens - pinned.tokens - plan.question_tokens  # of the rest
        kept_tokens = kept.tokens if chosen else spare
        parts = [
            *(PromptPart(each.kind, each.turn_ids, each.tokens) for each in (system, pinned) if each.messages),
            *([PromptPart("verbatim", kept.turn_ids, kept_tokens)] if kept.messages else []),
            *([PromptPart("retrieved", quoted, spare - kept_tokens)] if chosen else []),
        ]
        asked_tokens = total - sum(part.tokens for part in parts)
        there = {turn_id for part in parts for turn_id in part.turn_ids}
        return Prompt(
            messages,
            (*system.recipe, *pinned.recipe, *kept.recipe, last),
            PromptProvenance(
                strategy=plan.strategy,
                budget_tokens=plan.budget,
                prompt_tokens=total,
                parts=(*parts, PromptPart("question", (question_id,), asked_tokens)),
                dropped_turn_ids=tuple(turn.turn_id for turn in plan.given.path if turn.turn_id not in there),
                fault=plan.fault,
            ),
            len(quotes),
        )

    def _chosen(self, found: Sequence[Passage], room: int) -> list[Passage]:
        """The passages that are quoted, best first."""
        room -= self._tokens.of_line(HEAD) + self._tokens.of_line(FOOT)
        chosen: list[Passage] = []
        dates: set[str] = set()
        misses = 0
        for passage in found:
            date = date_of(passage)
            cost = self._tokens.of_line(line_of(passage)) + (0 if date in dates else self._tokens.of_line(date))
            if cost <= room:
                room -= cost
                chosen.append(passage)
                dates.add(date)
                misses = 0
            elif (misses := misses + 1) == MAX_MISSES:
                break
        return chosen

    def _system(self, text: str | None) -> _Stretch:
        if not text:
            return _Stretch("system")
        message: Message = {"role": "system", "content": make_inert(text, self._counter.facts)}
        tokens = self._counter.count([message, _asked("")])  # what a template adds to any prompt counts here
        return _Stretch("system", (message,), (StoredMessage("system", text=message["content"]),), (), tokens)

    def _turns(self, kind: PartKind, turns: Sequence[Turn]) -> _Stretch:
        facts = self._counter.facts
        messages: list[Message] = []
        recipe: list[StoredMessage] = []
        for turn in turns:
            messages.append({"role": "user", "content": make_inert(turn.user_message, facts)})
            messages.append({"role": "assistant", "content": make_inert(turn.assistant_message or "", facts)})
            recipe += (StoredMessage("user", turn.turn_id), StoredMessage("assistant", turn.turn_id))
        turn_ids = tuple(turn.turn_id for turn in turns)
        return _Stretch(kind, tuple(messages), tuple(recipe), turn_ids, sum(map(self._size, turns)))

    def _size(self, turn: Turn) -> int:
        facts = self._counter.facts
        return self._tokens.of_turn(
            turn.user_message, turn.assistant_message or "", lambda text: make_inert(text, facts)
        )

    def _question_tokens(self, system: _Stretch, question: str) -> int:
        return self._counter.count([*system.messages, _asked(question)]) - system.tokens

    def _cut_question(self, before: Sequence[Message], question: str, budget: int) -> str:
        """The question with its middle cut out until it fits after what always stays."""
        shorter = cut_middle(question, lambda text: self._counter.count([*before, _asked(text)]) <= budget)
        if shorter is None:
            raise _too_long(self._counter.count([*before, _asked("")]), budget)
        return shorter

    def _cut_turn(self, turn: Turn, before: Sequence[Message], asked: Message, budget: int) -> _Stretch | None:
        """A turn that does not fit, with the middle of its longer message cut out; None if that is not enough."""
        whole = self._turns("verbatim", [turn])
        user, assistant = (message["content"] for message in whole.messages)

        def shortened(text: str) -> tuple[Message, Message]:
            pair = (text, assistant) if len(user) > len(assistant) else (user, text)
            return {"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}

        def tokens(text: str) -> int:
            return self._counter.count([*before, *shortened(text), asked])

        if (text := cut_middle(max(user, assistant, key=len), lambda text: tokens(text) <= budget)) is None:
            return None
        messages = shortened(text)
        recipe = tuple(StoredMessage(message["role"], None, message["content"]) for message in messages)
        added = tokens(text) - self._counter.count([*before, asked])
        return _Stretch("verbatim", messages, recipe, whole.turn_ids, added)


def _kept_before(path: Sequence[Turn], answered: Sequence[Turn], strategy: StrategyName, budget: int) -> int | None:
    """The place of the first turn that the last prompt kept; None unless it was made in the same way."""
    for turn in reversed(path):
        if (seen := turn.provenance.prompt) is not None:
            if (seen.strategy, seen.budget_tokens) != (strategy, budget):
                return None
            first = next((part.turn_ids[0] for part in seen.parts if part.kind == "verbatim"), turn.turn_id)
            return next((place for place, each in enumerate(answered) if each.turn_id == first), None)
    return None


def _check_direct(tokens: int, budget: int) -> None:
    if tokens > budget:
        raise PromptTooLong(
            FieldError(
                "history.strategy",
                f"'direct' sends the whole conversation, and its {tokens} tokens exceed the budget of {budget}: "
                "use 'truncate' or 'hybrid', raise history.budgetTokens, or start a new chat",
            )
        )


def _too_long(tokens: int, budget: int) -> PromptTooLong:
    """What always stays, without the question, takes so many tokens."""
    what = f"the system prompt, pinned turns and the template alone take {tokens} tokens of a budget of {budget}"
    fix = "raise the budget, shorten the system prompt, or unpin turns"
    if tokens <= budget:
        what += ", and the rest does not hold the question, however much of it is cut"
    return PromptTooLong(FieldError("history.budgetTokens", f"{what}: {fix}"))


def _asked(text: str) -> Message:
    return {"role": "user", "content": text}


def _order(passage: Passage, places: dict[str, int]) -> tuple[int, bool, int]:
    return places[passage.ref.turn_id], passage.ref.role == "assistant", passage.ref.part


def _n_chars(given: PromptInput) -> int:
    n_chars = len(given.question) + len(given.system_prompt or "")
    return n_chars + sum(len(turn.user_message) + len(turn.assistant_message or "") for turn in given.path)


async def _run(aside: bool, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `work`, `aside` in a thread."""
    return await asyncio.to_thread(work, *args, **kwargs) if aside else work(*args, **kwargs)
