"""The stretches that a prompt is made of, each with what it adds to the prompt's tokens.

Every text passes through `make_inert` here. What a stretch adds is counted once and remembered.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from chatlab.errors import FieldError, PromptTooLong
from chatlab.history.budget import Counter, TokenCounts, cut_middle
from chatlab.history.inert import make_inert
from chatlab.history.notes import MAX_SHARE, Link, exchange
from chatlab.history.replacements import Replacements
from chatlab.messages import Message, PartKind, StoredMessage, Turn


@dataclass(frozen=True, slots=True)
class Stretch:
    """Messages of one kind: how to make them again, whose they are, what they add to the prompt."""

    kind: PartKind
    messages: tuple[Message, ...] = ()
    recipe: tuple[StoredMessage, ...] = ()
    turn_ids: tuple[str, ...] = ()
    tokens: int = 0


class Stretches:
    """Makes and measures stretches for one model. Safe to use from any thread."""

    def __init__(self, counter: Counter) -> None:
        self._counter = counter
        self._tokens = TokenCounts(counter)
        self._replacements = Replacements()

    def note_tokens(self, text: str, first: bool) -> int:
        """What a note with this text adds to a prompt, as the first one or after others."""
        said = exchange(text, first=first)
        return 0 if said is None else self._of_exchange(*said)

    def link_tokens(self, link: Link) -> int:
        """What a note of a chain adds to a prompt that has those before."""
        return self.note_tokens(link.note.text, not link.begin)

    def line_tokens(self, text: str) -> int:
        """What a line adds to a message."""
        return self._tokens.of_line(text)

    def notes(self, links: Sequence[Link], answered: Sequence[Turn], room: int) -> Stretch:
        """Notes as exchanges, the newest that there is room for; without what later turns or notes replace."""
        facts = self._counter.facts
        messages: list[Message] = []
        turn_ids: list[str] = []
        tokens = 0
        left = int(MAX_SHARE * room)
        first = next((i for i in range(len(links)) if sum(map(self.link_tokens, links[i:])) <= left), len(links))
        for i, link in enumerate(links[first:], first):
            struck = self._replacements.in_note(
                link.note, [each.note for each in links[i + 1 :]], answered[links[-1].end :]
            )
            if (said := exchange(link.note.text, struck, not messages)) is not None:
                tokens += self._of_exchange(*said)
                user, assistant = (make_inert(text, facts) for text in said)
                messages.append({"role": "user", "content": user})
                messages.append({"role": "assistant", "content": assistant})
                turn_ids += link.note.turn_ids
        recipe = tuple(StoredMessage(message["role"], None, message["content"]) for message in messages)
        return Stretch("summary", tuple(messages), recipe, tuple(turn_ids), tokens)

    def _of_exchange(self, user: str, assistant: str) -> int:
        facts = self._counter.facts
        return self._tokens.of_turn(user, assistant, lambda text: make_inert(text, facts))

    def system(self, text: str | None) -> Stretch:
        """The system prompt."""
        if not text:
            return Stretch("system")
        message: Message = {"role": "system", "content": make_inert(text, self._counter.facts)}
        tokens = self._counter.count([message, as_question("")])  # what a template adds to any prompt counts here
        return Stretch("system", (message,), (StoredMessage("system", text=message["content"]),), (), tokens)

    def turns(self, kind: PartKind, turns: Sequence[Turn]) -> Stretch:
        """Turns word for word."""
        facts = self._counter.facts
        messages: list[Message] = []
        recipe: list[StoredMessage] = []
        for turn in turns:
            messages.append({"role": "user", "content": make_inert(turn.user_message, facts)})
            messages.append({"role": "assistant", "content": make_inert(turn.assistant_message or "", facts)})
            recipe += (StoredMessage("user", turn.turn_id), StoredMessage("assistant", turn.turn_id))
        turn_ids = tuple(turn.turn_id for turn in turns)
        return Stretch(kind, tuple(messages), tuple(recipe), turn_ids, sum(map(self.size, turns)))

    def size(self, turn: Turn) -> int:
        """What a turn adds to a prompt."""
        facts = self._counter.facts
        return self._tokens.of_turn(
            turn.user_message, turn.assistant_message or "", lambda text: make_inert(text, facts)
        )

    def question_tokens(self, system: Stretch, question: str) -> int:
        """What a question adds to a system prompt."""
        return self._counter.count([*system.messages, as_question(question)]) - system.tokens

    def cut_question(self, before: Sequence[Message], question: str, budget: int) -> str:
        """The question with its middle cut out until it fits after what always stays."""
        shorter = cut_middle(question, lambda text: self._counter.count([*before, as_question(text)]) <= budget)
        if shorter is None:
            raise too_long(self._counter.count([*before, as_question("")]), budget)
        return shorter

    def cut_turn(self, turn: Turn, before: Sequence[Message], question: Message, budget: int) -> Stretch | None:
        """A turn that does not fit, with the middle of its longer message cut out; None if that is not enough."""
        whole = self.turns("verbatim", [turn])
        user, assistant = (message["content"] for message in whole.messages)

        def shortened(text: str) -> tuple[Message, Message]:
            pair = (text, assistant) if len(user) > len(assistant) else (user, text)
            return {"role": "user", "content": pair[0]}, {"role": "assistant", "content": pair[1]}

        def tokens(text: str) -> int:
            return self._counter.count([*before, *shortened(text), question])

        if (text := cut_middle(max(user, assistant, key=len), lambda text: tokens(text) <= budget)) is None:
            return None
        messages = shortened(text)
        recipe = tuple(StoredMessage(message["role"], None, message["content"]) for message in messages)
        added = tokens(text) - self._counter.count([*before, question])
        return Stretch("verbatim", messages, recipe, whole.turn_ids, added)


def too_long(tokens: int, budget: int) -> PromptTooLong:
    """What always stays, without the question, takes so many tokens."""
    what = f"the system prompt, pinned turns and the template alone take {tokens} tokens of a budget of {budget}"
    fix = "raise the budget, shorten the system prompt, or unpin turns"
    if tokens <= budget:
        what += ", and the rest does not hold the question, however much of it is cut"
    return PromptTooLong(FieldError("history.budgetTokens", f"{what}: {fix}"))


def as_question(text: str) -> Message:
    """What the prompt ends with."""
    return {"role": "user", "content": text}
