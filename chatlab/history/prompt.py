"""From a conversation to the message list that the model sees, within a budget and with its provenance.

    system | pinned turns | notes of old turns | newest turns, word for word | quotes of evicted ones, then the question

Knows turns and token counts, not where turns are stored nor which engine counts. Originals are never altered: what
is cut or made inert is so in the prompt only. The last message is always the question, and a system prompt is first.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ParamSpec, TypeVar

import structlog

from chatlab.errors import FieldError, ModelUnavailable, PromptTooLong, VectorsUnavailable
from chatlab.history.budget import Counter, estimated, prompt_budget
from chatlab.history.inert import make_inert
from chatlab.history.judge import Judge
from chatlab.history.note_writer import NoteWriter
from chatlab.history.notes import NOTING, Link, Piece, chain, due
from chatlab.history.passages import Passage
from chatlab.history.quotes import FOOT, HEAD, block, date_of, line_of, without_marks
from chatlab.history.recall import Recall
from chatlab.history.strategies import TAILS, Room, first_kept, first_kept_from_root, recalls
from chatlab.history.stretches import Stretch, Stretches, as_question, too_long
from chatlab.messages import (
    HistoryChoice,
    Message,
    Note,
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
        notes: Of the chat, on whatever branch.
    """

    system_prompt: str | None
    path: Sequence[Turn]
    question: str
    question_turn_id: str
    chat_id: str | None = None
    notes: Sequence[Note] = ()


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
class Outlook:
    """What the next prompt holds before its question is known.

    Attributes:
        tokens: With the least that a question takes, counted like a prompt.
        budget_tokens: It may have.
        n_noted: Turns that notes stand for.
        n_left_out: Turns that are not in it, noted ones apart.
    """

    strategy: StrategyName
    tokens: int
    budget_tokens: int
    n_noted: int = 0
    n_left_out: int = 0

    @property
    def share(self) -> float:
        """Of the budget; above 1 for what does not fit."""
        return self.tokens / self.budget_tokens


@dataclass(frozen=True, slots=True)
class _Plan:
    """A prompt but for what is recalled; `evicted` turns are not in it."""

    given: PromptInput
    strategy: StrategyName
    budget: int
    stretches: tuple[Stretch, ...]  # system, pinned, notes, verbatim
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
    """Builds prompts for one model, of its `stretches`, with notes of its `writer`.

    Args:
        counter: Its engine.
        recall: Searches evicted turns.
        patient: Whether notes wait for the embedder to be loaded.
    """

    def __init__(self, counter: Counter, recall: Recall, patient: bool = False) -> None:
        self._counter = counter
        self._recall = recall
        self.stretches = Stretches(counter)
        self.writer = NoteWriter(self.stretches, Judge(recall.embedder, patient))

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

    async def outlook(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> Outlook:
        """How full the next prompt will be, whatever will be asked: `given.question` is ignored.

        Raises:
            PromptTooLong: What always stays does not fit; not for a conversation that `direct` can no longer send.
        """
        return await _run(True, self._outlook, replace(given, question="?"), choice, params)

    def _outlook(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> Outlook:
        if choice.strategy == "direct":
            answered = [turn for turn in given.path if turn.assistant_message]
            whole = [
                *self.stretches.system(given.system_prompt).messages,
                *self.stretches.turns("verbatim", answered).messages,
                as_question(given.question),
            ]
            budget = prompt_budget(self._counter.facts, params, choice.budget_tokens)
            return Outlook("direct", self._counter.count(whole), budget)
        plan = self._plan(given, choice, params)
        messages = [*plan.before_question, as_question(plan.question)]
        noted = {turn_id for stretch in plan.stretches if stretch.kind == "summary" for turn_id in stretch.turn_ids}
        left_out = {turn.turn_id for turn in plan.evicted} - noted
        return Outlook(plan.strategy, self._counter.count(messages), plan.budget, len(noted), len(left_out))

    async def due(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> Piece | None:
        """What is to be noted before long; None where nothing is. `given.question` is ignored.

        Raises:
            PromptTooLong: As `build`.
        """
        return await _run(True, self._due, given, choice, params) if choice.strategy in NOTING else None

    def _due(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> Piece | None:
        facts = self._counter.facts
        answered = [turn for turn in given.path if turn.assistant_message]
        budget = prompt_budget(facts, params, choice.budget_tokens)
        stays = self.stretches.system(given.system_prompt).tokens
        stays += sum(self.stretches.size(turn) for turn in answered if turn.pinned)
        return due(
            NOTING[choice.strategy],
            chain(given.notes, answered),
            answered,
            lambda place: 0 if answered[place].pinned else self.stretches.size(answered[place]),
            self.stretches.link_tokens,
            int((1 - QUESTION_SHARE) * budget) - stays,
        )

    def _plan(self, given: PromptInput, choice: HistoryChoice, params: SamplingParams) -> _Plan:
        """All but what is recalled."""
        # 1. What always stays.
        facts = self._counter.facts
        budget = prompt_budget(facts, params, choice.budget_tokens)
        answered = [turn for turn in given.path if turn.assistant_message]
        system = self.stretches.system(given.system_prompt)
        pinned = [turn for turn in answered if turn.pinned]
        stays = system.tokens + sum(map(self.stretches.size, pinned))
        question = make_inert(given.question, facts)
        tokens = self.stretches.question_tokens(system, question)
        cut = stays + tokens > budget and choice.strategy != "direct"
        if cut:
            before = [*system.messages, *self.stretches.turns("pinned", pinned).messages]
            question = self.stretches.cut_question(before, question, budget)
            tokens = self.stretches.question_tokens(system, question)

        # 2. The newest turns, from the first one that is kept, and notes of those before; if no turn is kept, the
        # newest cut down.
        room = budget - stays - tokens
        notes = Stretch("summary")
        if choice.strategy == "direct":
            self._check_whole(system, answered, question, budget)
            begin = newest_room = 0
        else:
            tail = TAILS[choice.strategy]
            typical = int((1 - QUESTION_SHARE) * budget) - stays
            known = _kept_before(given.path, answered, choice.strategy, budget)
            links = chain(given.notes, answered) if choice.strategy in NOTING else ()
            noting = NOTING.get(choice.strategy)
            if noting is None or noting.swap is None:
                begin = self._first_kept(answered, Room.of(tail, room), Room.of(tail, typical), known)
                links = tuple(link for link in links if link.begin < begin)
                notes = self.stretches.notes(links, answered, room)
            else:
                n_links = _noted_before(given.path, links, choice.strategy, budget)
                begin, notes = self._swapped(links, n_links, answered, room, typical, noting.swap)
                if self._sum(answered, begin) > (left := room - notes.tokens):  # nobody waits for a note
                    n_noted, typical = begin, typical - notes.tokens
                    begin = self._first_kept(
                        answered[begin:], Room.of(tail, left), Room.of(tail, typical), known and max(0, known - begin)
                    )
                    begin += n_noted
            newest_room = Room.of(tail, room - notes.tokens).newest
        front = self.stretches.turns("pinned", [turn for turn in answered[:begin] if turn.pinned])
        kept = self.stretches.turns("verbatim", answered[begin:])
        if answered and begin == len(answered) and newest_room >= MIN_TURN_TOKENS:
            before = [*system.messages, *front.messages, *notes.messages]
            most = budget - room + notes.tokens + newest_room
            kept = self.stretches.cut_turn(answered[-1], before, as_question(question), most) or kept

        there = {*front.turn_ids, *kept.turn_ids}
        evicted = tuple(turn for turn in answered if turn.turn_id not in there)
        return _Plan(given, choice.strategy, budget, (system, front, notes, kept), question, cut, tokens, evicted)

    def _swapped(
        self, links: Sequence[Link], n_links: int, answered: Sequence[Turn], room: int, typical: int, swap: float
    ) -> tuple[int, Stretch]:
        """The first turn that no note stands for, and the notes: as many as before, more only if it grows too full.

        That goes by what is typical: with the question, what was computed before it came would be of no use.
        """
        while True:
            begin = links[n_links - 1].end if n_links else 0
            notes = self.stretches.notes(links[:n_links], answered, min(room, typical))
            if n_links == len(links) or notes.tokens + self._sum(answered, begin) <= min(room, swap * typical):
                return begin, notes
            n_links += 1

    def _sum(self, answered: Sequence[Turn], begin: int) -> int:
        """Tokens of the turns from one on; pinned ones are counted elsewhere."""
        return sum(self.stretches.size(turn) for turn in answered[begin:] if not turn.pinned)

    def _first_kept(self, answered: Sequence[Turn], room: Room, typical: Room, known: int | None) -> int:
        """The place of the first turn that is kept, as before if that still fits.

        Args:
            answered: Turns that a prompt can carry.
            room: For turns, with this question.
            typical: For turns, whatever the question.
            known: The place that it had in the last prompt, if that is known.
        """

        def size(place: int) -> int:
            return 0 if answered[place].pinned else self.stretches.size(answered[place])

        if known is None:
            roughly = size if self._counter.facts.counting == "here" else lambda place: estimated(answered[place])
            known = first_kept_from_root(roughly, len(answered), typical)
        return first_kept(size, len(answered), room, known)

    def _check_whole(self, system: Stretch, answered: Sequence[Turn], question: str, budget: int) -> None:
        """Raise PromptTooLong unless the whole conversation fits."""
        here = self._counter.facts.counting == "here"
        tokens = system.tokens + sum(map(self.stretches.size, answered)) if here else budget
        if tokens + self.stretches.question_tokens(system, question) > budget:
            whole = [*system.messages, *self.stretches.turns("verbatim", answered).messages, as_question(question)]
            _check_direct(self._counter.count(whole), budget)

    def _compose(self, plan: _Plan, found: Sequence[Passage]) -> Prompt:
        """The prompt of a plan, with as much of what was found, best first, as there is room for."""
        system, pinned, notes, kept = plan.stretches
        chosen = self._chosen(found, plan.budget - plan.tokens)
        places = {turn.turn_id: place for place, turn in enumerate(plan.evicted)}
        while True:
            quotes = block(sorted(chosen, key=lambda passage: _order(passage, places))) if chosen else ""
            quotes = make_inert(quotes, self._counter.facts)
            asked = as_question(quotes + (without_marks(plan.question) if quotes else plan.question))
            messages = (*system.messages, *pinned.messages, *notes.messages, *kept.messages, asked)
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
                raise too_long(total - plan.question_tokens, plan.budget)
        question_id = plan.given.question_turn_id
        if plan.question_cut:
            last = StoredMessage("user", None, asked["content"])
        else:
            last = StoredMessage("user", question_id, quotes or None)
        quoted = tuple(sorted({passage.ref.turn_id for passage in chosen}, key=places.__getitem__))
        spare = total - system.tokens - pinned.tokens - notes.tokens - plan.question_tokens  # of the rest
        kept_tokens = kept.tokens if chosen else spare
        parts = [
            *(PromptPart(each.kind, each.turn_ids, each.tokens) for each in (system, pinned, notes) if each.messages),
            *([PromptPart("verbatim", kept.turn_ids, kept_tokens)] if kept.messages else []),
            *([PromptPart("retrieved", quoted, spare - kept_tokens)] if chosen else []),
        ]
        asked_tokens = total - sum(part.tokens for part in parts)
        there = {turn_id for part in parts for turn_id in part.turn_ids}
        return Prompt(
            messages,
            (*system.recipe, *pinned.recipe, *notes.recipe, *kept.recipe, last),
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
        room -= self.stretches.line_tokens(HEAD) + self.stretches.line_tokens(FOOT)
        chosen: list[Passage] = []
        dates: set[str] = set()
        misses = 0
        for passage in found:
            date = date_of(passage)
            cost = self.stretches.line_tokens(line_of(passage))
            cost += 0 if date in dates else self.stretches.line_tokens(date)
            if cost <= room:
                room -= cost
                chosen.append(passage)
                dates.add(date)
                misses = 0
            elif (misses := misses + 1) == MAX_MISSES:
                break
        return chosen


def _kept_before(path: Sequence[Turn], answered: Sequence[Turn], strategy: StrategyName, budget: int) -> int | None:
    """The place of the first turn that the last prompt kept; None unless it was made in the same way."""
    for turn in reversed(path):
        if (seen := turn.provenance.prompt) is not None:
            if (seen.strategy, seen.budget_tokens) != (strategy, budget):
                return None
            first = next(iter(seen.turn_ids_in("verbatim")), turn.turn_id)
            return next((place for place, each in enumerate(answered) if each.turn_id == first), None)
    return None


def _noted_before(path: Sequence[Turn], links: Sequence[Link], strategy: StrategyName, budget: int) -> int:
    """How many notes of the chain stood in the last prompt; none unless it was made in the same way."""
    for turn in reversed(path):
        if (seen := turn.provenance.prompt) is not None:
            if (seen.strategy, seen.budget_tokens) != (strategy, budget):
                return 0
            noted = set(seen.turn_ids_in("summary"))
            there = [i for i, link in enumerate(links, 1) if noted.issuperset(link.note.turn_ids)]
            return max(there, default=0)
    return 0


def _check_direct(tokens: int, budget: int) -> None:
    if tokens > budget:
        raise PromptTooLong(
            FieldError(
                "history.strategy",
                f"'direct' sends the whole conversation, and its {tokens} tokens exceed the budget of {budget}: "
                "use 'truncate' or 'hybrid', raise history.budgetTokens, or start a new chat",
            )
        )


def _order(passage: Passage, places: dict[str, int]) -> tuple[int, bool, int]:
    return places[passage.ref.turn_id], passage.ref.role == "assistant", passage.ref.part


def _n_chars(given: PromptInput) -> int:
    n_chars = len(given.question) + len(given.system_prompt or "")
    return n_chars + sum(len(turn.user_message) + len(turn.assistant_message or "") for turn in given.path)


async def _run(aside: bool, work: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
    """Call `work`, `aside` in a thread."""
    return await asyncio.to_thread(work, *args, **kwargs) if aside else work(*args, **kwargs)
