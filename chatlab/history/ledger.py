"""Statements of a conversation that are worth keeping, word for word: what is left of turns when there is little room.

A statement is a clause of a turn. They are chosen greedily by how likely each is something to remember and by what it
adds to those chosen before, for its length (budgeted maximum coverage, Lin and Bilmes 2010), so that saying the same
twice takes no room. What a later statement replaces goes; the one that replaces it is as sure to stay as either was.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chatlab.history.lexical import terms
from chatlab.history.sentences import clauses
from chatlab.history.succession import log_odds as log_odds_of_succession
from chatlab.history.updates import Subject
from chatlab.messages import Role, Statement, Turn

NOVELTY = 0.7  # exponent of the share of a statement's words that no chosen one has
BREVITY = 0.7  # exponent of its tokens
LEAST_LIKENESS = 0.2  # cosine; what is less alike is not compared
SUCCEEDS = 0.5  # log odds; a pair too many costs a fact, one too few a value that no longer holds
FLOOR = 0.025  # what is less likely is not kept even where there is room

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
            context = frozenset(filter(None, (around, marked, asked)))
            yield Said(turn.turn_id, role, clause.text, context=context)


@dataclass(frozen=True, slots=True)
class Replacement:
    """Places of a statement and of the one that says it anew."""

    old: int
    new: int


def choose(
    found: Sequence[Statement],
    likelihoods: Sequence[float],
    room: int,
    size: Callable[[str], int],
    replaced: Iterable[Replacement] | None = None,
) -> tuple[int, ...]:
    """The places of the statements that say most in so many tokens, in order.

    Args:
        found: In the order in which they were said.
        likelihoods: That each is worth remembering.
        room: In tokens.
        size: Tokens of a text.
        replaced: Those of `found` that others of them replace; None to have them found by the words.
    """
    worth = [*likelihoods]
    for each in replacements(found, found) if replaced is None else replaced:
        if each.old < each.new:
            worth[each.new], worth[each.old] = 1 - (1 - worth[each.new]) * (1 - worth[each.old]), 0.0
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
    return tuple(sorted(chosen))


def superseded(older: Sequence[Statement], newer: Sequence[Statement]) -> frozenset[Statement]:
    """Those of `older` which a statement of `newer` replaces, by their words."""
    return frozenset(older[each.old] for each in replacements(older, newer))


def replacements(
    older: Sequence[Statement], newer: Sequence[Statement], likeness: NDArray[np.float32] | None = None
) -> Iterator[Replacement]:
    """What says anew what was said before, if it came after it.

    Args:
        older: May be the same as `newer`.
        newer: Later statements.
        likeness: Cosines of their embeddings, (older, newer), 0 where there is none; None to go by the words alone.
    """
    before = [Subject.of(each.text) for each in older]
    for new, now in enumerate(newer):
        subject = Subject.of(now.text)
        by_words = subject.changed or subject.form
        for old, was in enumerate(before):
            if older[old].role == now.role and (
                (by_words and subject.replaces(was))
                or (
                    likeness is not None
                    and likeness[old, new] >= LEAST_LIKENESS
                    and log_odds_of_succession(older[old].text, now.text, float(likeness[old, new])) > SUCCEEDS
                )
            ):
                yield Replacement(old, new)
