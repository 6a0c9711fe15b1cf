"""Statements of a conversation that are worth keeping, word for word: what is left of turns when there is little room.

A statement is a clause of a turn. They are chosen greedily by how likely each is something to remember and by what it
adds to those chosen before, for its length (budgeted maximum coverage, Lin and Bilmes 2010), so that saying the same
twice takes no room. What a later statement replaces goes; the one that replaces it is as sure to stay as either was.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from chatlab.history.lexical import terms
from chatlab.history.sentences import clauses
from chatlab.history.updates import Subject
from chatlab.messages import Role, Statement, Turn

NOVELTY = 0.7  # exponent of the share of a statement's words that no chosen one has
BREVITY = 0.7  # exponent of its tokens
FLOOR = 0.04  # what is less likely is not kept even where there is room

ACKNOWLEDGED = re.compile(
    r"\b(?:noted|understood|got it|(?:make|made|taken?) (?:a )?note|good to know|(?:will|'ll) (?:remember|keep|bear)|"
    r"(?:thanks|thank you) for (?:telling|letting|sharing|the (?:info|detail|update|heads)))\b",
    re.IGNORECASE,
)
GENERAL = re.compile(
    r"\bhow (?:do|does|can|should|would|to) (?:i|one|you|we)\b|\b(?:tell|give|show|help|teach|write|make|explain to) me"
    r"\b",
    re.IGNORECASE,
)
PERSONAL = re.compile(r"\b(?:i|i'm|i've|my|me|mine|we|our|us)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Said(Statement):
    """A statement with what stands around it, in the words of `chatlab.history.salience`."""

    context: frozenset[str] = frozenset()


def statements(turn: Turn) -> Iterator[Said]:
    """What a turn states, in order, the question's first."""
    answer = turn.assistant_message or ""
    acknowledged = "acknowledged" if ACKNOWLEDGED.search(answer) else None
    answers_own = "answers_own" if PERSONAL.search(GENERAL.sub("", turn.user_message)) else None
    sides: tuple[tuple[Role, str, str | None], ...] = (
        ("user", turn.user_message, acknowledged),
        ("assistant", answer, answers_own),
    )
    for role, message, around in sides:
        for clause in clauses(message):
            marked = "marked" if clause.marked and role == "user" else None
            asked = "asked" if clause.asked else None
            yield Said(turn.turn_id, role, clause.text, frozenset(filter(None, (around, marked, asked))))


def choose(
    found: Sequence[Statement], likelihoods: Sequence[float], room: int, size: Callable[[str], int]
) -> tuple[Statement, ...]:
    """The statements that say most in so many tokens, in order.

    Args:
        found: In the order in which they were said.
        likelihoods: That each is worth remembering.
        room: In tokens.
        size: Tokens of a text.
    """
    worth = [*likelihoods]
    for old, new in _replacements(found, found):
        if old < new:
            worth[new], worth[old] = 1 - (1 - worth[new]) * (1 - worth[old]), 0.0
    words = [frozenset(terms(each.text)) for each in found]
    left = {place: size(found[place].text) for place, value in enumerate(worth) if value >= FLOOR and words[place]}
    chosen: list[int] = []
    covered: set[str] = set()

    def gain(place: int) -> float:
        novelty = len(words[place] - covered) / len(words[place])
        return worth[place] * novelty**NOVELTY / left[place] ** BREVITY

    while left := {place: tokens for place, tokens in left.items() if tokens <= room and words[place] - covered}:
        best = max(left, key=gain)
        chosen.append(best)
        covered |= words[best]
        room -= left[best]
    return tuple(found[place] for place in sorted(chosen))


def replacing(older: Sequence[Statement], newer: Sequence[Statement]) -> frozenset[int]:
    """The places of those of `newer` that replace a statement of `older`."""
    return frozenset(new for _, new in _replacements(older, newer))


def superseded(older: Sequence[Statement], newer: Sequence[Statement]) -> frozenset[Statement]:
    """Those of `older` which a statement of `newer` replaces."""
    return frozenset(older[old] for old, _ in _replacements(older, newer))


def _replacements(older: Sequence[Statement], newer: Sequence[Statement]) -> Iterator[tuple[int, int]]:
    """Places in `older` and `newer` of a statement and of one that would replace it, if it came after it."""
    before = [Subject.of(each.text) for each in older]
    for new, now in enumerate(newer):
        subject = Subject.of(now.text)
        if subject.changed or subject.form:
            for old, was in enumerate(before):
                if older[old].role == now.role and subject.replaces(was):
                    yield old, new
